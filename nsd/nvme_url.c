/* SPDX-License-Identifier: Apache-2.0 */
/* Job: nvme-tcp://host[:port]/[nqn][?ns=N|uuid=U][&hdgst=1][&ddgst=1][&queues=N] taken apart, the host resolved, and who we are to the
 * target. Must never happen: two lives of a node under one host identity, or the same identity for two nodes: neither could be fenced. */
#include "nsd/nvme_int.h"

#include <netdb.h>
#include <stdio.h>

static int bad(char *errmsg, size_t errlen, const char *part)
{
	snprintf(errmsg, errlen, "NVMe URL: %s (nvme-tcp://host[:port]/nqn?ns=1, or ?uuid=...; and hdgst=1, ddgst=1, queues=1..%u)", part,
		 NVME_QUEUES_MAX);
	return -EINVAL;
}

static bool number(const char *p, size_t n, unsigned long max, unsigned long *out)
{
	*out = 0;
	if (!n || n > 10)
		return false;
	for (; n; n--, p++) {
		if (*p < '0' || *p > '9')
			return false;
		*out = *out * 10 + (unsigned long)(*p - '0');
	}
	return *out <= max;
}

static int parse_host(struct nvme_target *t, const char *p, size_t n, char *errmsg, size_t errlen)
{
	const char *text, *wrong = nsd_url_host(p, n, t->host, sizeof(t->host), &text);
	unsigned long port;

	if (wrong)
		return bad(errmsg, errlen, wrong);
	if (!text)
		return 0;
	if (!number(text, (size_t)(p + n - text), 65535, &port) || !port)
		return bad(errmsg, errlen, "port is not a number");
	snprintf(t->port, sizeof(t->port), "%lu", port);
	return 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool hex_uuid(const char *p, size_t n, uint8_t out[16])
{
	unsigned digits = 0;

	memset(out, 0, 16);
	for (size_t i = 0; i < n; i++) {
		int x = hex_digit(p[i]);

		if (p[i] == '-')
			continue;
		if (x < 0 || digits == 32)
			return false;
		out[digits / 2] = (uint8_t)(out[digits / 2] << 4 | x);
		digits++;
	}
	return digits == 32;
}

/* One NAME=VALUE. */
static int parse_option(struct nvme_target *t, const char *p, size_t n, char *errmsg, size_t errlen)
{
	const char *eq = memchr(p, '=', n), *v;
	size_t name, len;
	unsigned long x;

	if (!eq)
		return bad(errmsg, errlen, "an option without a value");
	name = (size_t)(eq - p);
	v = eq + 1;
	len = n - name - 1;
#define IS(s) (name == sizeof(s) - 1 && !memcmp(p, s, name))
	if (IS("ns") && number(v, len, UINT32_MAX - 1, &x) && x)
		t->nsid = (uint32_t)x;
	else if (IS("uuid") && hex_uuid(v, len, t->uuid))
		t->by_uuid = true;
	else if (IS("hdgst") && number(v, len, 1, &x))
		t->dgst = (t->dgst & ~NVME_DGST_HDR) | (x ? NVME_DGST_HDR : 0);
	else if (IS("ddgst") && number(v, len, 1, &x))
		t->dgst = (t->dgst & ~NVME_DGST_DATA) | (x ? NVME_DGST_DATA : 0);
	else if (IS("queues") && number(v, len, NVME_QUEUES_MAX, &x) && x)
		t->queues = (unsigned)x;
	else if (IS("ns") || IS("uuid") || IS("hdgst") || IS("ddgst") || IS("queues"))
		return bad(errmsg, errlen, "an option's value is wrong");
	else
		return bad(errmsg, errlen, "an unknown option");
#undef IS
	return 0;
}

static int parse_options(struct nvme_target *t, const char *p, char *errmsg, size_t errlen)
{
	int rc = 0;

	while (!rc && *p) {
		size_t n = strcspn(p, "&");

		rc = parse_option(t, p, n, errmsg, errlen);
		p += n + (p[n] == '&');
	}
	if (!rc && t->by_uuid && t->nsid)
		return bad(errmsg, errlen, "either ns or uuid names the namespace");
	return rc;
}

int nvme_url_parse(const char *url, struct nvme_target *t, char *errmsg, size_t errlen)
{
	const char *p = url + strlen("nvme-tcp://");
	size_t host = strcspn(p, "/?"), n;
	int rc;

	memset(t, 0, sizeof(*t));
	t->queues = NVME_QUEUES_USUAL;
	rc = parse_host(t, p, host, errmsg, errlen);
	if (rc)
		return rc;
	p += host;
	p += *p == '/';
	n = strcspn(p, "?");
	if (n && (!nsd_url_copy(t->nqn, sizeof(t->nqn), p, n) || strncmp(t->nqn, "nqn.", 4)))
		return bad(errmsg, errlen, "the subsystem's name does not begin with nqn., or is longer than 223 characters");
	p += n;
	if (!t->port[0])
		snprintf(t->port, sizeof(t->port), "%s", t->nqn[0] ? "4420" : "8009");
	return parse_options(t, p + (*p == '?'), errmsg, errlen);
}

int nvme_resolve(struct nvme_target *t, char *errmsg, size_t errlen)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *ai = NULL;
	int rc = getaddrinfo(t->host, t->port, &hints, &ai);

	if (rc || ai->ai_addrlen > sizeof(t->addr)) {
		snprintf(errmsg, errlen, "NVMe target %s: %s", t->host, rc ? gai_strerror(rc) : "no address");
		if (ai)
			freeaddrinfo(ai);
		return -ENOENT;
	}
	memcpy(t->addr, ai->ai_addr, ai->ai_addrlen);
	t->addrlen = ai->ai_addrlen;
	snprintf(t->where, sizeof(t->where), strchr(t->host, ':') ? "[%s]:%s" : "%s:%s", t->host, t->port);
	freeaddrinfo(ai);
	return 0;
}

/* The name is the node's, so that a target can be told whom to let in. The id is the life's: what a dead life had under way at the
 * target must not pass for the next one's. */
int nvme_identity(const struct nsd_open_args *args, char nqn[NVME_NQN_MAX + 1], uint8_t hostid[16])
{
	const char *name = args->initiator_name ? args->initiator_name : "";
	uint64_t h[2];
	int n;

	if (!strncmp(name, "iqn.", 4) || !strncmp(name, "nqn.", 4))
		n = snprintf(nqn, NVME_NQN_MAX + 1, "nqn.%s", name + 4);
	else
		n = snprintf(nqn, NVME_NQN_MAX + 1, "nqn.2026-11.io.tessera:%s", name);
	if (!name[0] || n > NVME_NQN_MAX)
		return -EINVAL;
	h[0] = htole64(ts_csum64(name, strlen(name), args->isid));
	h[1] = htole64(ts_csum64(name, strlen(name), ts_hash_u64(args->incarnation + 1) ^ args->isid));
	memcpy(hostid, h, 16);
	hostid[0] |= 1; /* never all zero */
	return 0;
}
