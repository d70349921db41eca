/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the configuration and keeps the two numbers that must never go back: incarnation and view. */
#include "admin/conf.h"
#include "admin/verbs.h"
#include "net/net.h"
#include "quorum/quorum.h"
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

struct conf_key {
	const char *name;
	int (*set)(struct conf *c, const char *v);
};

static int text(char *dst, size_t size, const char *v)
{
	if (!*v || strlen(v) >= size)
		return -EINVAL;
	strcpy(dst, v);
	return 0;
}

static int number(const char *v, unsigned min, unsigned max, unsigned *out)
{
	char *end;
	unsigned long n = strtoul(v, &end, 10);
	if (!*v || *end || n < min || n > max)
		return -EINVAL;
	*out = (unsigned)n;
	return 0;
}

static int set_cluster(struct conf *c, const char *v) { return text(c->cluster_name, sizeof(c->cluster_name), v); }
static int set_node(struct conf *c, const char *v) { return number(v, 1, NET_MAX_NODES - 1, &c->node_id); }
static int set_state(struct conf *c, const char *v) { return text(c->state_dir, sizeof(c->state_dir), v); }
static int set_run(struct conf *c, const char *v) { return text(c->run_dir, sizeof(c->run_dir), v); }
static int set_keyfile(struct conf *c, const char *v) { return text(c->key_file, sizeof(c->key_file), v); }
static int set_port(struct conf *c, const char *v) { return number(v, 1, 65535, &c->port); }
static int set_initiator(struct conf *c, const char *v) { return text(c->initiator, sizeof(c->initiator), v); }
static int set_loglevel(struct conf *c, const char *v) { return number(v, TS_LOG_ERR, TS_LOG_DEBUG, &c->log_level); }
static int set_lease(struct conf *c, const char *v) { return number(v, 1000, 60000, &c->lease_ms); }
static int set_faults(struct conf *c, const char *v)
{
	c->fault_points = !strcmp(v, "yes");
	return c->fault_points || !strcmp(v, "no") ? 0 : -EINVAL;
}
static int set_pagepool(struct conf *c, const char *v) { return verb_size_parse(v, &c->page_pool_bytes); }
static int set_metapool(struct conf *c, const char *v) { return verb_size_parse(v, &c->meta_pool_bytes); }
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

static const struct conf_key keys[] = {
	{"cluster_name", set_cluster}, {"node_id", set_node},	     {"state_dir", set_state},
	{"run_dir", set_run},	       {"cluster_key_file", set_keyfile}, {"port", set_port},
	{"initiator_name", set_initiator}, {"log_level", set_loglevel}, {"page_pool", set_pagepool},
	{"meta_pool", set_metapool},   {"disk", set_disk},	     {"fault_points", set_faults},
	{"lease_ms", set_lease},       {"fence_agent", set_agent},
};

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
	for (size_t i = 0; i < TS_ARRAY_LEN(keys); i++)
		if (!strcmp(keys[i].name, k))
			return keys[i].set(c, v);
	return -ENOENT;
}

static int hexval(int ch)
{
	return isdigit(ch) ? ch - '0' : isxdigit(ch) ? tolower(ch) - 'a' + 10 : -1;
}

static int key_load(struct conf *c, char *errmsg, size_t errlen)
{
	uint8_t buf[80];
	struct stat st;
	int fd = open(c->key_file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); /* a FIFO must not hold up the start */
	if (fd < 0 || fstat(fd, &st)) {
		int err = errno;
		snprintf(errmsg, errlen, "cluster key %s: %s; copy the key of the cluster there, mode 0600", c->key_file, strerror(err));
		if (fd >= 0)
			close(fd);
		return -err;
	}
	ssize_t n = S_ISREG(st.st_mode) ? read(fd, buf, sizeof(buf)) : -1;
	close(fd);
	if (st.st_uid != 0 && st.st_uid != geteuid()) {
		snprintf(errmsg, errlen, "cluster key %s: belongs to user %u, who could change it; chown it to root", c->key_file, st.st_uid);
		return -EPERM;
	}
	if (st.st_mode & 077) {
		snprintf(errmsg, errlen, "cluster key %s: readable by others (mode %03o); chmod 600 it", c->key_file, st.st_mode & 0777u);
		return -EPERM;
	}
	if (n == 32) {
		memcpy(c->key, buf, 32);
		return 0;
	}
	bool ok = n == 64 || (n == 65 && buf[64] == '\n');
	for (int i = 0; ok && i < 32; i++) {
		int h = hexval(buf[2 * i]), l = hexval(buf[2 * i + 1]);
		ok = h >= 0 && l >= 0;
		c->key[i] = ok ? (uint8_t)(h << 4 | l) : 0;
	}
	if (ok)
		return 0;
	snprintf(errmsg, errlen, "cluster key %s: neither 32 bytes nor 64 hex digits; make one with: openssl rand -hex 32", c->key_file);
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
	if (!c->initiator[0])
		snprintf(c->initiator, sizeof(c->initiator), "iqn.2026-11.io.tessera:%s-n%u", c->cluster_name, c->node_id);
	return key_load(c, errmsg, errlen);
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
