/* SPDX-License-Identifier: Apache-2.0 */
/* Job: reads from corosync's configuration map which node this is and its address. Must never happen: an error that does
 * not say which piece of configuration is missing. */
#include "quorum/cs_int.h"

#include <corosync/cmap.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static int resolve(const char *name, char out[48], char *errmsg, size_t errlen)
{
	struct addrinfo *ai = NULL;
	int rc = getaddrinfo(name, NULL, &(struct addrinfo){.ai_socktype = SOCK_STREAM}, &ai);

	if (!rc)
		rc = getnameinfo(ai->ai_addr, ai->ai_addrlen, out, 48, NULL, 0, NI_NUMERICHOST);
	if (ai)
		freeaddrinfo(ai);
	if (rc) {
		snprintf(errmsg, errlen, "corosync.conf: ring0_addr %s of this node: %s", name, gai_strerror(rc));
		return -EADDRNOTAVAIL;
	}
	return 0;
}

/* nodelist.node.N.nodeid names the entry that is ours. */
static int find_addr(cmap_handle_t h, unsigned self, char **addr)
{
	cmap_iter_handle_t it;
	char key[CMAP_KEYNAME_MAXLEN + 1], want[64];
	unsigned pos;
	uint32_t id;
	int rc = -ENOENT;

	if (cmap_iter_init(h, "nodelist.node.", &it) != CS_OK)
		return -ENOENT;
	while (rc && cmap_iter_next(h, it, key, NULL, NULL) == CS_OK) {
		if (sscanf(key, "nodelist.node.%u.", &pos) != 1)
			continue;
		snprintf(want, sizeof(want), "nodelist.node.%u.nodeid", pos);
		if (cmap_get_uint32(h, want, &id) != CS_OK || id != self)
			continue;
		snprintf(want, sizeof(want), "nodelist.node.%u.ring0_addr", pos);
		if (cmap_get_string(h, want, addr) == CS_OK)
			rc = 0;
	}
	cmap_iter_finalize(h, it);
	return rc;
}

void cs_nodelist_get(uint64_t bits[4])
{
	cmap_handle_t h;
	cmap_iter_handle_t it;
	char key[CMAP_KEYNAME_MAXLEN + 1], tail[64];
	unsigned pos;
	uint32_t id;

	memset(bits, 0, 4 * sizeof(*bits));
	if (cmap_initialize(&h) != CS_OK)
		return;
	if (cmap_iter_init(h, "nodelist.node.", &it) == CS_OK) {
		while (cmap_iter_next(h, it, key, NULL, NULL) == CS_OK)
			if (sscanf(key, "nodelist.node.%u.%63s", &pos, tail) == 2 && !strcmp(tail, "nodeid") &&
			    cmap_get_uint32(h, key, &id) == CS_OK && id < Q_NODE_IDS)
				bits[id / 64] |= 1ULL << id % 64;
		cmap_iter_finalize(h, it);
	}
	cmap_finalize(h);
}

int cs_local_get(struct cs_local *out, char *errmsg, size_t errlen)
{
	cmap_handle_t h;
	uint32_t self = 0;
	char *addr = NULL;
	cs_error_t rc;
	int err;

	CS_TRY(rc, cmap_initialize(&h));
	if (rc != CS_OK) {
		snprintf(errmsg, errlen, "corosync does not answer (cmap: %s): is corosync running on this node?",
			 cs_strerror(rc));
		return -ENOTCONN;
	}
	if (cmap_get_uint32(h, "runtime.votequorum.this_node_id", &self) != CS_OK || !self) {
		snprintf(errmsg, errlen, "corosync runs without votequorum: set quorum.provider to corosync_votequorum in corosync.conf");
		cmap_finalize(h);
		return -ENOENT;
	}
	if (self >= Q_NODE_IDS) {
		snprintf(errmsg, errlen, "corosync.conf gives this node the id %u: ids must be 1 to %u", self, Q_NODE_IDS - 1);
		cmap_finalize(h);
		return -ERANGE;
	}
	err = find_addr(h, self, &addr);
	cmap_finalize(h);
	if (err) {
		snprintf(errmsg, errlen, "corosync.conf has no nodelist entry with nodeid %u and a ring0_addr", self);
		return err;
	}
	out->node = self;
	err = resolve(addr, out->addr, errmsg, errlen);
	free(addr);
	return err;
}
