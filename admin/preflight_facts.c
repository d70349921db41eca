/* SPDX-License-Identifier: Apache-2.0 */
/* What a node is, for `tessera preflight`: configuration, identities, interfaces, disks, corosync.conf. Read only, but for the trial of
 * reservations, which is made on a disk that carries nothing and has no registration. Must never happen: a byte written to, or a key
 * registered on, a disk with anything on it; a secret among the facts (the corosync key goes as a keyed hash). */
#include "admin/daemon.h"
#include "admin/preflight.h"
#include "fs/format.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define ISID_LOOK   0x7423 /* not the daemon's: its session stays */
#define ISID_SECOND 0x7421
#define PROBE_NODE  0xfffeu /* no node has these numbers: their keys are swept away if we die over it */
#define PROBE_OFF   (800u << 10)

int64_t preflight_wall_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- disks -------------------------------------------------------------------------------------------------------------------- */

struct look {
	const struct conf *c;
	struct ts_exec *exec;
	struct ts_loop *loop;
	struct ts_group *group;
	const char *url;
	json_t *row;
	bool probe;
	uint64_t incarnation;
};

static int open_as(struct look *k, const char *suffix, uint64_t isid, struct nsd_dev **dev, char *why, size_t n)
{
	char name[sizeof(k->c->initiator) + 8];
	snprintf(name, sizeof(name), "%s%s", k->c->initiator, suffix);
	struct nsd_open_args a = {.exec = k->exec, .url = k->url, .initiator_name = name, .isid = isid, .incarnation = k->incarnation};
	return nsd_open(&a, dev, why, n);
}

/* What this disk is told to be worth: by trying, when it carries nothing and nobody is registered. */
static const char *tried(struct look *k, struct nsd_dev *dev, char *why, size_t n)
{
	struct nsd_pr_state *s = ts_alloc(sizeof(*s));
	struct nsd_dev *second = NULL;
	uint32_t able = 0;
	int rc = s ? nsd_pr_read(dev, s) : -ENOMEM;
	bool busy = rc == 0 && (s->nkeys || s->type != NSD_PR_NONE);
	ts_free(s);
	if (busy)
		return "in use";
	if (rc == 0)
		rc = open_as(k, ":probe", ISID_SECOND, &second, why, n);
	if (rc == 0) {
		rc = nsd_able_probe(dev, key_of(NULL, PROBE_NODE, k->incarnation), second, key_of(NULL, PROBE_NODE + 1, k->incarnation), PROBE_OFF, &able,
				    why, n);
		nsd_close(second);
	}
	if (rc && !why[0])
		snprintf(why, n, "%s", strerror(-rc));
	return rc ? "failed" : able & NSD_ABLE_ENFORCES ? "enforces" : "does not enforce";
}

static void look_open(struct look *k, struct nsd_dev *dev)
{
	struct nsd_label_disk *label = ts_alloc(sizeof(*label));
	enum nsd_label_state state = NSD_LABEL_BROKEN;
	char what[128] = "", why[256] = "", uuid[33] = "";
	const struct nsd_info *i = nsd_info(dev);
	int rc = label ? nsd_label_read(dev, label, &state, what, sizeof(what)) : -ENOMEM;
	bool ours = rc == 0 && state == NSD_LABEL_OK;
	uint32_t flags = ours ? le32_get(label->flags) : 0;
	const char *fence = !i->has_reservations ? "none" : ours && flags & NSD_ABLE_PROBED ? (flags & NSD_ABLE_ENFORCES ? "enforces" : "does not enforce") : "not tried";
	if (rc == 0 && i->has_reservations && state == NSD_LABEL_NONE && k->probe)
		fence = tried(k, dev, why, sizeof(why));
	if (ours)
		sodium_bin2hex(uuid, sizeof(uuid), label->disk_uuid, 16);
	text_make_utf8(what);
	text_make_utf8(why);
	json_object_update_new(k->row, json_pack("{s:b,s:I,s:s,s:s,s:s,s:s,s:s,s:s,s:i}", "open", rc == 0, "size", (json_int_t)i->size_bytes, "serial", i->serial,
						 "label", rc ? "unreadable" : disk_label_word(state), "contents", ours ? label->fs_name : what, "uuid", uuid, "fence",
						 fence, "why", why, "format", ours ? (int)le32_get(label->version) : 0));
	if (rc)
		json_object_set_new(k->row, "error", json_sprintf("label: %s", strerror(-rc)));
	ts_free(label);
}

static void look_fiber(void *arg)
{
	struct look *k = arg;
	struct nsd_dev *dev = NULL;
	char why[256] = "";
	int rc = open_as(k, "", ISID_LOOK, &dev, why, sizeof(why));
	if (rc == 0) {
		look_open(k, dev);
		nsd_close(dev);
	} else {
		text_make_utf8(why);
		json_object_update_new(k->row, json_pack("{s:b,s:s}", "open", 0, "error", why[0] ? why : strerror(-rc)));
	}
	ts_group_done(k->group, 0);
}

struct looks {
	struct look *v;
	unsigned n;
	struct ts_group group;
	struct ts_loop *loop;
};

static void all_fiber(void *arg)
{
	struct looks *all = arg;
	for (unsigned i = 0; i < all->n; i++) {
		ts_group_add(&all->group);
		if (ts_fiber_spawn(all->v[i].exec, "look at a disk", look_fiber, &all->v[i])) {
			json_object_update_new(all->v[i].row, json_pack("{s:b,s:s}", "open", 0, "error", "out of memory"));
			ts_group_done(&all->group, 0);
		}
	}
	if (ts_group_wait(&all->group, "disks"))
		ts_debug("preflight: some disks were not looked at"); /* their rows say so */
	ts_loop_stop(all->loop);
}

static json_t *disks(const struct conf *c, bool probe)
{
	json_t *rows = json_array();
	struct ts_exec *x = ts_exec_new(&ts_env_real);
	struct looks all = {.v = ts_xalloc((c->ndisks + 1) * sizeof(*all.v)), .n = c->ndisks, .loop = x ? ts_loop_new(x) : NULL};
	uint64_t inc = quorum_incarnation_make(c->node_id, (uint64_t)preflight_wall_ms());
	ts_group_init(&all.group);
	for (unsigned i = 0; i < c->ndisks; i++) {
		char *shown = url_masked(c->disks[i]);
		all.v[i] = (struct look){.c = c, .exec = x, .loop = all.loop, .group = &all.group, .url = c->disks[i], .probe = probe, .incarnation = inc,
					 .row = json_pack("{s:s}", "url", shown ? shown : "(masked)")};
		json_array_append_new(rows, all.v[i].row);
		free(shown);
	}
	if (all.loop && ts_fiber_spawn(x, "disks", all_fiber, &all) == 0)
		ts_loop_run(all.loop);
	ts_free(all.v);
	return rows; /* the executor ends with the process */
}

/* ---- corosync.conf ------------------------------------------------------------------------------------------------------------ */

struct cs {
	char path[300], cluster[64], transport[16], cipher[32], hash[32], key[256], token[16], two_node[4];
	json_t *nodes, *node;
};

static void cs_pair(struct cs *s, const char *section, const char *k, const char *v)
{
	const struct {
		const char *section, *key;
		char *to;
		size_t size;
	} rows[] = {
		{"totem", "cluster_name", s->cluster, sizeof(s->cluster)}, {"totem", "transport", s->transport, sizeof(s->transport)},
		{"totem", "crypto_cipher", s->cipher, sizeof(s->cipher)},  {"totem", "crypto_hash", s->hash, sizeof(s->hash)},
		{"totem", "keyfile", s->key, sizeof(s->key)},		   {"totem", "token", s->token, sizeof(s->token)},
		{"quorum", "two_node", s->two_node, sizeof(s->two_node)},
	};
	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++)
		if (!strcmp(section, rows[i].section) && !strcmp(k, rows[i].key))
			snprintf(rows[i].to, rows[i].size, "%s", v);
	if (s->node && !strcmp(section, "node") && !strcmp(k, "nodeid"))
		json_object_set_new(s->node, "id", json_integer(atoi(v)));
	if (s->node && !strcmp(section, "node") && !strcmp(k, "ring0_addr"))
		json_object_set_new(s->node, "addr", json_string(v));
}

static char *trimmed(char *p)
{
	p += strspn(p, " \t");
	for (char *e = p + strlen(p); e > p && isspace((unsigned char)e[-1]);)
		*--e = 0;
	return p;
}

static void cs_line(struct cs *s, char *line, char sections[8][32], unsigned *depth)
{
	char *p = trimmed(line), *colon = strchr(p, ':'), *brace = strchr(p, '{');
	if (*p == '#' || !*p)
		return;
	if (*p == '}') {
		if (*depth && !strcmp(sections[*depth - 1], "node"))
			s->node = NULL;
		*depth -= *depth > 0;
	} else if (brace && !colon && *depth < 8) {
		*brace = 0;
		snprintf(sections[(*depth)++], 32, "%s", trimmed(p));
		if (!strcmp(sections[*depth - 1], "node") && json_array_size(s->nodes) < 256) {
			s->node = json_object();
			json_array_append_new(s->nodes, s->node);
		}
	} else if (colon && *depth) {
		*colon = 0;
		cs_pair(s, sections[*depth - 1], trimmed(p), trimmed(colon + 1));
	}
}

static void key_hash(const struct conf *c, const char *path, char hex[33])
{
	uint8_t buf[4096], h[16];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf));
	if (fd >= 0)
		close(fd);
	hex[0] = 0;
	if (n <= 0)
		return;
	crypto_generichash(h, sizeof(h), buf, (size_t)n, c->key, sizeof(c->key));
	sodium_memzero(buf, sizeof(buf));
	sodium_bin2hex(hex, 33, h, sizeof(h));
}

static json_t *corosync_facts(const struct conf *c, const char *path)
{
	struct cs s = {.transport = "knet", .cipher = "none", .hash = "none", .key = "/etc/corosync/authkey", .token = "3000", .nodes = json_array()};
	char line[512], sections[8][32], hex[33];
	unsigned depth = 0;
	FILE *f = fopen(path, "re");
	if (!f) {
		json_decref(s.nodes);
		return json_pack("{s:b,s:s,s:s}", "there", 0, "path", path, "error", strerror(errno));
	}
	while (fgets(line, sizeof(line), f)) {
		text_make_utf8(line);
		cs_line(&s, line, sections, &depth);
	}
	fclose(f);
	key_hash(c, s.key, hex);
	return json_pack("{s:b,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:b,s:o}", "there", 1, "path", path, "cluster", s.cluster, "transport", s.transport, "cipher", s.cipher, "hash",
			 s.hash, "key", hex, "token", atoi(s.token), "two_node", !strcmp(s.two_node, "1"), "nodes", s.nodes);
}

/* ---- the machine -------------------------------------------------------------------------------------------------------------- */

static json_t *addresses(void)
{
	json_t *a = json_array();
	struct ifaddrs *list = NULL;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (getifaddrs(&list))
		list = NULL;
	for (struct ifaddrs *i = list; i; i = i->ifa_next) {
		char text[48];
		struct ifreq r = {0};
		if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || !(i->ifa_flags & IFF_UP))
			continue;
		inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr, text, sizeof(text));
		snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", i->ifa_name);
		json_array_append_new(a, json_pack("{s:s,s:s,s:i}", "addr", text, "dev", i->ifa_name, "mtu", fd >= 0 && !ioctl(fd, SIOCGIFMTU, &r) ? r.ifr_mtu : 0));
	}
	freeifaddrs(list);
	if (fd >= 0)
		close(fd);
	return a;
}

static void line_of(const char *path, char *buf, size_t n)
{
	FILE *f = fopen(path, "re");
	buf[0] = 0;
	if (f && !fgets(buf, (int)n, f))
		buf[0] = 0;
	if (f)
		fclose(f);
	buf[strcspn(buf, "\r\n")] = 0;
	text_make_utf8(buf);
}

json_t *preflight_facts(const struct conf *c, const char *corosync, bool probe)
{
	struct utsname u;
	char machine[80];
	if (uname(&u))
		memset(&u, 0, sizeof(u));
	line_of("/etc/machine-id", machine, sizeof(machine));
	return json_pack("{s:i,s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:b,s:s,s:s,s:s,s:s,s:o,s:o,s:o}", "node", (int)c->node_id, "cluster", c->cluster_name, "version",
			 TESSERA_VERSION, "proto_min", NET_PROTO_MIN, "proto_max", NET_PROTO_MAX, "format", FS_FORMAT_VERSION, "lease_ms", (int)c->lease_ms, "port",
			 (int)c->port, "encrypt", c->encrypt, "initiator", c->initiator, "machine_id", machine, "host", u.nodename, "kernel", u.release, "addrs",
			 addresses(), "corosync", corosync_facts(c, corosync), "disks", disks(c, probe));
}

unsigned preflight_mtu_of(const json_t *facts, const char *addr)
{
	json_t *x;
	size_t i;
	json_array_foreach(json_object_get(facts, "addrs"), i, x)
		if (!strcmp(json_string_value(json_object_get(x, "addr")), addr))
			return (unsigned)json_integer_value(json_object_get(x, "mtu"));
	return 0;
}
