/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the configuration and keeps the two numbers that must never go back: incarnation and view. */
#include "admin/conf.h"
#include "admin/verbs.h"
#include "net/net.h"
#include "quorum/quorum.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int text(char *dst, size_t size, const char *v)
{
	if (!*v || strlen(v) >= size)
		return -EINVAL;
	strcpy(dst, v);
	return 0;
}

static int number(const char *v, uint64_t min, uint64_t max, unsigned *out)
{
	char *end;
	unsigned long n = strtoul(v, &end, 10);
	if (!isdigit((unsigned char)*v) || *end || n < min || n > max)
		return -EINVAL;
	*out = (unsigned)n;
	return 0;
}

static int set_disk(struct conf *c, const char *v)
{
	if (c->ndisks == CONF_MAX_DISKS || (strncmp(v, "iscsi://", 8) && strncmp(v, "nvme-tcp://", 11) && strncmp(v, "file:///", 8)))
		return -EINVAL;
	c->disks[c->ndisks] = strdup(v);
	return c->disks[c->ndisks++] ? 0 : -ENOMEM;
}

/* NODE PROGRAM FILE, both absolute. */
static int set_agent(struct conf *c, const char *v)
{
	struct conf_agent a;
	int end = -1;
	if (c->nagents == TS_ARRAY_LEN(c->agents) || sscanf(v, "%u %255s %255s %n", &a.node, a.program, a.file, &end) != 3 || end < 0 || v[end] ||
	    !a.node || a.node >= NET_MAX_NODES || a.program[0] != '/' || a.file[0] != '/')
		return -EINVAL;
	for (unsigned i = 0; i < c->nagents; i++)
		if (c->agents[i].node == a.node)
			return -EINVAL;
	c->agents[c->nagents++] = a;
	return 0;
}

/* ADDRESS:PORT, or off. */
static int set_metrics(struct conf *c, const char *v)
{
	char host[48];
	unsigned port;
	const char *colon = strrchr(v, ':');
	if (!strcmp(v, "off"))
		return text(c->metrics, sizeof(c->metrics), v);
	if (!colon || (size_t)(colon - v) >= sizeof(host) || number(colon + 1, 1, 65535, &port))
		return -EINVAL;
	memcpy(host, v, (size_t)(colon - v));
	host[colon - v] = 0;
	struct in_addr a;
	return inet_pton(AF_INET, host, &a) == 1 ? text(c->metrics, sizeof(c->metrics), v) : -EINVAL;
}

static int set_web(struct conf *c, const char *v)
{
	return !strcmp(v, "local") || !strcmp(v, "yes") || !strcmp(v, "no") ? text(c->web, sizeof(c->web), v) : -EINVAL;
}

static int set_hooks(struct conf *c, const char *v)
{
	return v[0] == '/' ? text(c->hooks_dir, sizeof(c->hooks_dir), v) : -EINVAL;
}

#define TEXT(f)	 CONF_TEXT, offsetof(struct conf, f), sizeof(((struct conf *)0)->f)
#define UINT(f)	 CONF_UINT, offsetof(struct conf, f), sizeof(((struct conf *)0)->f)
#define BYTES(f) CONF_SIZE, offsetof(struct conf, f), sizeof(((struct conf *)0)->f)
#define BOOL(f)	 CONF_BOOL, offsetof(struct conf, f), sizeof(((struct conf *)0)->f)

/* Name, setter where the kind does not say all; the rest is for `tessera config`, tesserad.conf(5) and the checks of numbers. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
const struct conf_key conf_keys[] = {
	{"cluster_name", NULL, TEXT(cluster_name), .unit = "name", .must = true, .help = "The cluster's name, the same on every node and in corosync.conf."},
	{"node_id", NULL, UINT(node_id), 1, NET_MAX_NODES - 1, .unit = "number", .must = true, .help = "This node's number, as corosync has it."},
	{"state_dir", NULL, TEXT(state_dir), .unit = "directory", .must = true,
	 .help = "What must outlive a restart: incarnation, view. Of root's, on a local disk."},
	{"run_dir", NULL, TEXT(run_dir), .unit = "directory", .must = true, .help = "Where the socket is."},
	{"cluster_key_file", NULL, TEXT(key_file), .unit = "file", .must = true, .secret = true,
	 .help = "32 bytes or 64 hex digits that all nodes share; of root's, mode 0600. The key itself is never shown."},
	{"port", NULL, UINT(port), 1, 65535, .unit = "TCP port", .def = "7420", .help = "For the other nodes."},
	{"initiator_name", NULL, TEXT(initiator), .unit = "iSCSI name", .def = "made of cluster_name and node_id",
	 .help = "This node's own name at the targets. Two nodes with one name cannot be told apart by a target, and none can be fenced."},
	{"encrypt", NULL, BOOL(encrypt), .unit = "yes or no", .def = "no",
	 .help = "Encrypt what goes to and comes from the other nodes; one node that wants it is enough, and those too old for it are then refused. Without it messages are "
		 "authenticated, not secret."},
	{"log_level", NULL, UINT(log_level), TS_LOG_ERR, TS_LOG_DEBUG, .unit = "syslog level", .def = "6", .live = true,
	 .help = "3 errors, 4 warnings, 5 notices, 6 information, 7 debugging."},
	{"page_pool", NULL, BYTES(page_pool_bytes), 4u << 20, 1ULL << 40, .unit = "bytes, K, M, G", .def = "256M",
	 .help = "Memory for file data of one file system."},
	{"meta_pool", NULL, BYTES(meta_pool_bytes), 4u << 20, 1ULL << 40, .unit = "bytes, K, M, G", .def = "128M",
	 .help = "Memory for metadata of one file system."},
	{"disk", set_disk, CONF_LIST, .unit = "URL", .many = true,
	 .help = "A shared disk: iscsi://HOST:PORT/IQN/LUN, nvme-tcp://HOST:PORT/NQN?ns=N or file:///PATH. One line a disk, at most 256."},
	{"fault_points", NULL, BOOL(fault_points), .unit = "yes or no", .def = "no", .help = "Serve `tessera diag fault`: tests only."},
	{"lease_ms", NULL, UINT(lease_ms), 1000, 60000, .unit = "ms", .def = "2000",
	 .help = "How long a node may work without being heard; the same on every node. To change it, stop all daemons first."},
	{"fence_agent", set_agent, CONF_LIST, .unit = "NODE PROGRAM FILE", .many = true,
	 .help = "The power switch of a node: a fence agent, and the file whose lines it gets on stdin. One line a node."},
	{"metrics", set_metrics, TEXT(metrics), .unit = "IPv4 address:port, or off", .def = "127.0.0.1:7421", .live = true,
	 .help = "Where GET /metrics is answered in the Prometheus text format. Nobody is asked who he is: keep it on the loopback, or behind a firewall."},
	{"web", set_web, TEXT(web), .unit = "local, yes or no", .def = "local", .live = true,
	 .help = "The page of `tessera web`, where metrics are: local serves it on the loopback only, yes also beyond. Nobody is asked who he is."},
	{"hooks_dir", set_hooks, TEXT(hooks_dir), .unit = "directory", .def = "none", .live = true,
	 .help = "Programs there are run on events, with no capability; see tessera(8), events."},
	{"warn_space", NULL, UINT(warn_space), 1, 100, .unit = "percent", .def = "90", .live = true,
	 .help = "A file system with so much of its space or inodes used is a condition of `tessera health`."},
	{"warn_log", NULL, UINT(warn_log), 1, 100, .unit = "percent", .def = "90", .live = true, .help = "The same for a node's log."},
	{"warn_wait_ms", NULL, UINT(warn_wait_ms), 100, 3600000, .unit = "ms", .def = "3000", .live = true,
	 .help = "Whoever waits longer for a token, a disk or a recovery is a condition of `tessera health`."},
	{"warn_disk_ms", NULL, UINT(warn_disk_ms), 1, 60000, .unit = "ms", .def = "500", .live = true,
	 .help = "A disk whose slowest answer within 10 s took longer is a condition of `tessera health`."},
	{"warn_clock_ms", NULL, UINT(warn_clock_ms), 10, 3600000, .unit = "ms", .def = "1000", .live = true,
	 .help = "Nodes whose clocks differ by more are a condition of `tessera health`."},
};
const size_t conf_key_count = TS_ARRAY_LEN(conf_keys);

const struct conf_key *conf_key_find(const char *name)
{
	for (size_t i = 0; i < conf_key_count; i++)
		if (!strcmp(conf_keys[i].name, name))
			return &conf_keys[i];
	return NULL;
}

int conf_key_set(struct conf *c, const struct conf_key *k, const char *v)
{
	char *at = (char *)c + k->off;
	if (k->set)
		return k->set(c, v);
	switch (k->kind) {
	case CONF_TEXT:
		return text(at, k->size, v);
	case CONF_UINT:
		return number(v, k->min, k->max, (unsigned *)(void *)at);
	case CONF_SIZE: {
		uint64_t n;
		int rc = verb_size_parse(v, &n);
		if (rc || n < k->min || n > k->max)
			return -EINVAL;
		*(uint64_t *)(void *)at = n;
		return 0;
	}
	case CONF_BOOL:
		*(bool *)at = !strcmp(v, "yes");
		return *(bool *)at || !strcmp(v, "no") ? 0 : -EINVAL;
	case CONF_LIST:
		break;
	}
	return -EINVAL;
}

void conf_key_get(const struct conf *c, const struct conf_key *k, char *buf, size_t n)
{
	const char *at = (const char *)c + k->off;
	buf[0] = 0;
	switch (k->size ? k->kind : CONF_LIST) {
	case CONF_TEXT:
		snprintf(buf, n, "%s", at);
		break;
	case CONF_UINT:
		snprintf(buf, n, "%u", *(const unsigned *)(const void *)at);
		break;
	case CONF_SIZE:
		if (*(const uint64_t *)(const void *)at)
			snprintf(buf, n, "%llu", (unsigned long long)*(const uint64_t *)(const void *)at);
		break;
	case CONF_BOOL:
		snprintf(buf, n, "%s", *(const bool *)at ? "yes" : "no");
		break;
	case CONF_LIST:
		break;
	}
	if (!buf[0] && k->def)
		snprintf(buf, n, "%s", k->def);
}

static char *trim(char *s)
{
	while (isspace((unsigned char)*s))
		s++;
	char *e = s + strlen(s);
	while (e > s && isspace((unsigned char)e[-1]))
		*--e = 0;
	return s;
}

static int line_parse(struct conf *c, char *line)
{
	char *s = trim(line);
	if (!*s || *s == '#')
		return 0;
	char *eq = strchr(s, '=');
	if (!eq)
		return -EINVAL;
	*eq = 0;
	char *k = trim(s), *v = trim(eq + 1);
	const struct conf_key *key = conf_key_find(k);
	return key ? conf_key_set(c, key, v) : -ENOENT;
}

static int hexval(int ch)
{
	return isdigit(ch) ? ch - '0' : isxdigit(ch) ? tolower(ch) - 'a' + 10 : -1;
}

int conf_key_read(const char *path, uint8_t key[32], char *errmsg, size_t errlen)
{
	uint8_t buf[80];
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); /* a FIFO must not hold up the start */
	if (fd < 0 || fstat(fd, &st)) {
		int err = errno;
		snprintf(errmsg, errlen, "cluster key %s: %s; copy the key of the cluster there, mode 0600", path, strerror(err));
		if (fd >= 0)
			close(fd);
		return -err;
	}
	ssize_t n = S_ISREG(st.st_mode) ? read(fd, buf, sizeof(buf)) : -1;
	close(fd);
	if (st.st_uid != 0 && st.st_uid != geteuid()) {
		snprintf(errmsg, errlen, "cluster key %s: belongs to user %u, who could change it; chown it to root", path, st.st_uid);
		return -EPERM;
	}
	if (st.st_mode & 077) {
		snprintf(errmsg, errlen, "cluster key %s: readable by others (mode %03o); chmod 600 it", path, st.st_mode & 0777u);
		return -EPERM;
	}
	if (n == 32) {
		memcpy(key, buf, 32);
		return 0;
	}
	bool ok = n == 64 || (n == 65 && buf[64] == '\n');
	for (int i = 0; ok && i < 32; i++) {
		int h = hexval(buf[2 * i]), l = hexval(buf[2 * i + 1]);
		ok = h >= 0 && l >= 0;
		key[i] = ok ? (uint8_t)(h << 4 | l) : 0;
	}
	if (ok)
		return 0;
	snprintf(errmsg, errlen, "cluster key %s: neither 32 bytes nor 64 hex digits; make one with: openssl rand -hex 32", path);
	return -EINVAL;
}

static int complete(const char *path, struct conf *c, char *errmsg, size_t errlen)
{
	const struct {
		const char *name;
		bool have;
	} need[] = {{"cluster_name", c->cluster_name[0]}, {"node_id", c->node_id},	     {"state_dir", c->state_dir[0]},
		    {"run_dir", c->run_dir[0]},		  {"cluster_key_file", c->key_file[0]}};
	for (size_t i = 0; i < TS_ARRAY_LEN(need); i++)
		if (!need[i].have) {
			snprintf(errmsg, errlen, "%s: %s is not set; add a line `%s = ...`", path, need[i].name, need[i].name);
			return -EINVAL;
		}
	if (!c->port)
		c->port = NET_PORT_DEFAULT;
	if (!c->log_level)
		c->log_level = TS_LOG_INFO;
	if (!c->lease_ms)
		c->lease_ms = quorum_times_default.lease_ms;
	const struct {
		unsigned *at, def;
	} warns[] = {{&c->warn_space, 90}, {&c->warn_log, 90}, {&c->warn_wait_ms, 3000}, {&c->warn_disk_ms, 500}, {&c->warn_clock_ms, 1000}};
	for (size_t i = 0; i < TS_ARRAY_LEN(warns); i++)
		if (!*warns[i].at)
			*warns[i].at = warns[i].def;
	if (!c->web[0])
		strcpy(c->web, "local");
	if (!c->metrics[0])
		strcpy(c->metrics, "127.0.0.1:7421");
	if (!c->initiator[0])
		snprintf(c->initiator, sizeof(c->initiator), "iqn.2026-11.io.tessera:%s-n%u", c->cluster_name, c->node_id);
	return conf_key_read(c->key_file, c->key, errmsg, errlen);
}

/* All that depends on the lease keeps its proportion. */
struct quorum_times conf_times(const struct conf *c)
{
	struct quorum_times t = quorum_times_default;
	t.renew_ms = (uint32_t)((uint64_t)t.renew_ms * c->lease_ms / t.lease_ms);
	t.margin_ms = (uint32_t)((uint64_t)t.margin_ms * c->lease_ms / t.lease_ms);
	t.lease_ms = c->lease_ms;
	return t;
}

int conf_load(const char *path, struct conf *c, char *errmsg, size_t errlen)
{
	char line[1024];
	unsigned no = 0;
	memset(c, 0, sizeof(*c));
	FILE *f = fopen(path, "re");
	if (!f) {
		int err = errno;
		snprintf(errmsg, errlen, "configuration %s: %s", path, strerror(err));
		return -err;
	}
	while (fgets(line, sizeof(line), f)) {
		no++;
		/* The rest of a line that is too long must not be taken for the next one. */
		int rc = strchr(line, '\n') || feof(f) ? line_parse(c, line) : -EINVAL;
		if (rc) {
			snprintf(errmsg, errlen, "%s line %u: %s", path, no,
				 rc == -ENOENT ? "unknown key; see tesserad.conf(5)" : "not a valid `key = value`; see tesserad.conf(5)");
			fclose(f);
			return -EINVAL;
		}
	}
	fclose(f);
	return complete(path, c, errmsg, errlen);
}

void conf_free(struct conf *c)
{
	for (unsigned i = 0; i < c->ndisks; i++)
		free(c->disks[i]);
	c->ndisks = 0;
}

/* Up to n numbers of a file of numbers; what is missing is 0. */
static void numbers_load(const struct conf *c, const char *name, uint64_t *v, unsigned n)
{
	char path[320];
	snprintf(path, sizeof(path), "%s/%s", c->state_dir, name);
	memset(v, 0, n * sizeof(*v));
	FILE *f = fopen(path, "re");
	if (!f)
		return;
	for (unsigned i = 0; i < n; i++) {
		unsigned long long x;
		if (fscanf(f, "%llu", &x) != 1)
			break;
		v[i] = x;
	}
	fclose(f);
}

/* New file, fsync, rename, fsync of the directory: the numbers are the old or the new ones after any crash. */
static int numbers_store(const struct conf *c, const char *name, const uint64_t *v, unsigned n)
{
	char path[320], tmp[328];
	bool bad = false;
	snprintf(path, sizeof(path), "%s/%s", c->state_dir, name);
	snprintf(tmp, sizeof(tmp), "%s.new", path);
	FILE *f = fopen(tmp, "we");
	if (!f)
		return -errno;
	for (unsigned i = 0; i < n; i++)
		bad |= fprintf(f, "%llu\n", (unsigned long long)v[i]) < 0;
	bad |= fflush(f) || fsync(fileno(f));
	if (fclose(f) || bad)
		return -EIO;
	if (rename(tmp, path))
		return -errno;
	int d = open(c->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d < 0)
		return -errno;
	int rc = fsync(d) ? -errno : 0;
	close(d);
	return rc;
}

int conf_incarnation_next(const struct conf *c, uint64_t wall_ns, uint64_t *out, char *errmsg, size_t errlen)
{
	uint64_t last, now = wall_ns / TS_NS_PER_MS;
	numbers_load(c, "incarnation", &last, 1);
	*out = quorum_incarnation_make(c->node_id, TS_MAX(quorum_incarnation_counter(last) + 1, now));
	int rc = numbers_store(c, "incarnation", out, 1);
	if (rc)
		snprintf(errmsg, errlen, "%s/incarnation: %s; the daemon cannot join without a durable incarnation", c->state_dir, strerror(-rc));
	return rc;
}

void conf_durable_load(const struct conf *c, uint64_t v[CONF_DURABLE])
{
	numbers_load(c, "view", v, CONF_DURABLE);
}

int conf_durable_store(const struct conf *c, const uint64_t v[CONF_DURABLE])
{
	return numbers_store(c, "view", v, CONF_DURABLE);
}
