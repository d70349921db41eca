/* SPDX-License-Identifier: Apache-2.0 */
/* `tessera cluster backup` and `restore`: what a node needs to be itself again after its system disk is gone, in a tar file: configuration, keys,
 * corosync's files, files of fence agents, the tiebreaker's name, the number of its last life. Works without a daemon. Data is not in it: that
 * is on the shared disks.
 *
 * Must never happen: a backup that others can read, or one made over a file that was there; a file of the node replaced without --force; a restore
 * that writes some files before it has judged all. */
#include "admin/cli.h"
#include "admin/daemon.h"
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sodium.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DIR_IN_TAR "tessera-backup/"
#define MANIFEST   "manifest.json"
#define ITEMS_MAX  64
#define ITEM_BYTES (1u << 20)

struct item {
	char name[64], path[PATH_MAX];
	char *text;
	size_t len;
	unsigned mode;
	bool secret; /* left out by --no-keys */
	bool must;   /* a backup without it is refused */
};
struct bundle {
	struct item v[ITEMS_MAX];
	unsigned n;
	json_t *manifest;
};

static void bundle_free(struct bundle *b)
{
	for (unsigned i = 0; i < b->n; i++) {
		if (b->v[i].text)
			sodium_memzero(b->v[i].text, b->v[i].len);
		free(b->v[i].text);
	}
	json_decref(b->manifest);
}

/* ---- backup ------------------------------------------------------------------------------------------------------------------- */

static int item_read(struct item *k)
{
	struct stat st;
	int fd = open(k->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int rc = fd < 0 || fstat(fd, &st) ? -errno : !S_ISREG(st.st_mode) || st.st_size > ITEM_BYTES ? -EFBIG : 0;
	if (rc == 0) {
		k->mode = st.st_mode & 07777;
		k->text = calloc(1, (size_t)st.st_size + 1);
		ssize_t n = k->text ? read(fd, k->text, (size_t)st.st_size) : -1;
		rc = n < 0 ? -EIO : 0;
		k->len = n < 0 ? 0 : (size_t)n;
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

static int add(struct bundle *b, const char *name, bool secret, bool must, const char *path)
{
	if (b->n == ITEMS_MAX)
		return fail(VERB_REFUSED, "cluster backup: more than %d files; leave some fence agents out", ITEMS_MAX);
	struct item *k = &b->v[b->n];
	*k = (struct item){.secret = secret, .must = must};
	snprintf(k->name, sizeof(k->name), "%s", name);
	if (path[0] == '/' || !realpath(path, k->path)) /* by the name that the configuration has */
		snprintf(k->path, sizeof(k->path), "%s", path);
	int rc = item_read(k);
	if (rc && (must || rc != -ENOENT))
		return fail(VERB_REFUSED, "cluster backup: %s: %s; a node cannot be made again without it", path, strerror(-rc));
	if (rc)
		free(k->text);
	else
		b->n++;
	return 0;
}

static void corosync_key(const char *conf, char *path, size_t n)
{
	char line[512], value[400];
	FILE *f = fopen(conf, "re");
	snprintf(path, n, "/etc/corosync/authkey");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, " keyfile : %399s", value) == 1 || sscanf(line, " keyfile: %399s", value) == 1)
			snprintf(path, n, "%s", value);
	if (f)
		fclose(f);
}

/* In the copy that has no secrets the passwords of disks are gone, too. */
static void mask(struct item *k)
{
	char *out = calloc(1, k->len + 1024 * 64), *save = NULL;
	for (char *l = out ? strtok_r(k->text, "\n", &save) : NULL; l; l = strtok_r(NULL, "\n", &save)) {
		char *shown = strncmp(l + strspn(l, " \t"), "disk", 4) ? NULL : url_masked(l);
		if (strlen(out) + strlen(l) + 32 < k->len + 1024 * 64) {
			strcat(out, shown ? shown : l);
			strcat(out, "\n");
		}
		free(shown);
	}
	if (!out)
		return;
	sodium_memzero(k->text, k->len);
	free(k->text);
	k->text = out;
	k->len = strlen(out);
}

static int gather(struct bundle *b, const struct conf *c, const char *conf, const char *cs, bool keys)
{
	static const char *const parts[] = {"", ".next", ".old", ".retired"};
	char path[PATH_MAX], name[64];
	int rc = add(b, "tesserad.conf", false, true, conf);
	for (size_t i = 0; rc == 0 && i < TS_ARRAY_LEN(parts); i++) {
		snprintf(path, sizeof(path), "%s%s", c->key_file, parts[i]);
		snprintf(name, sizeof(name), "cluster.key%s", parts[i]);
		rc = add(b, name, true, i == 0, path);
	}
	if (rc == 0)
		rc = add(b, "corosync.conf", false, true, cs);
	corosync_key(cs, path, sizeof(path));
	if (rc == 0)
		rc = add(b, "corosync.key", true, false, path);
	for (unsigned i = 0; rc == 0 && i < c->nagents; i++) {
		snprintf(name, sizeof(name), "fence-agent-%u", c->agents[i].node);
		rc = add(b, name, true, false, c->agents[i].file);
	}
	static const char *const state[] = {"tiebreaker", "incarnation"};
	for (size_t i = 0; rc == 0 && i < TS_ARRAY_LEN(state); i++) {
		snprintf(path, sizeof(path), "%s/%s", c->state_dir, state[i]);
		rc = add(b, state[i], false, false, path);
	}
	for (unsigned i = 0; rc == 0 && !keys && i < b->n; i++)
		if (!strcmp(b->v[i].name, "tesserad.conf"))
			mask(&b->v[i]);
	return rc;
}

static json_t *manifest(const struct bundle *b, const struct conf *c, bool keys)
{
	json_t *files = json_array(), *disks = json_array();
	for (unsigned i = 0; i < b->n; i++)
		if (keys || !b->v[i].secret)
			json_array_append_new(files, json_pack("{s:s,s:s,s:i}", "name", b->v[i].name, "path", b->v[i].path, "mode", (int)b->v[i].mode));
	for (unsigned i = 0; i < c->ndisks; i++) {
		char *s = url_masked(c->disks[i]);
		json_array_append_new(disks, json_string(s ? s : "(masked)"));
		free(s);
	}
	return json_pack("{s:i,s:s,s:i,s:s,s:I,s:b,s:o,s:o}", "format", 1, "cluster", c->cluster_name, "node", (int)c->node_id, "version", TESSERA_VERSION, "time",
			 (json_int_t)time(NULL), "keys", keys, "files", files, "disks", disks);
}

static int bundle_write(struct bundle *b, const char *path, bool keys)
{
	static const char end[1024];
	char name[128];
	time_t now = time(NULL);
	FILE *f = cli_tar_new(path);
	if (!f)
		return fail(VERB_REFUSED, "cluster backup: %s: %s; name a file that is not there", path, strerror(errno));
	char *text = json_dumps(b->manifest, JSON_INDENT(1));
	bool ok = text && cli_tar_member(f, DIR_IN_TAR MANIFEST, text, strlen(text), now);
	free(text);
	for (unsigned i = 0; ok && i < b->n; i++)
		if (keys || !b->v[i].secret) {
			snprintf(name, sizeof(name), DIR_IN_TAR "%s", b->v[i].name);
			ok = cli_tar_member(f, name, b->v[i].text, b->v[i].len, now);
		}
	ok = ok && fwrite(end, sizeof(end), 1, f) == 1 && !fflush(f) && !fsync(fileno(f));
	int err = errno;
	ok &= !fclose(f);
	if (ok)
		return 0;
	unlink(path);
	return fail(VERB_REFUSED, "cluster backup: %s: %s; make room, or write it elsewhere", path, strerror(err));
}

int cli_backup(json_t *pos, json_t *opt)
{
	static struct bundle b;
	static struct conf c;
	const char *path = json_string_value(json_array_get(pos, 0)), *conf = cli_file(opt, "config"), *cs = cli_file(opt, "corosync");
	bool keys = !json_object_get(opt, "no-keys");
	char err[512];
	if (sodium_init() < 0 || conf_load(conf, &c, err, sizeof(err)))
		return fail(VERB_REFUSED, "cluster backup: %s", err);
	int rc = gather(&b, &c, conf, cs, keys);
	if (rc == 0) {
		b.manifest = manifest(&b, &c, keys);
		rc = bundle_write(&b, path, keys);
	}
	if (rc == 0 && want_json) {
		json_dumpf(b.manifest, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (rc == 0)
		printf("%s: node %u of %s, %zu files%s\n", path, c.node_id, c.cluster_name, json_array_size(json_object_get(b.manifest, "files")),
		       keys ? "; the keys are in it: keep it where only root can read" : "; without keys and passwords");
	bundle_free(&b);
	return rc;
}

/* ---- restore ------------------------------------------------------------------------------------------------------------------ */

static struct item *find(struct bundle *b, const char *name)
{
	for (unsigned i = 0; i < b->n; i++)
		if (!strcmp(b->v[i].name, name))
			return &b->v[i];
	return NULL;
}

static bool path_ok(const char *p)
{
	return *p == '/' && strlen(p) < PATH_MAX - 16 && !strstr(p, "/../") && !strstr(p, "//") && p[strlen(p) - 1] != '/' && strcmp(p + strlen(p) - 3, "/..") != 0;
}

/* Every member of the tar, each once; then what the manifest says of them. */
static int bundle_read(struct bundle *b, const char *file, char *err, size_t errlen)
{
	FILE *f = fopen(file, "re");
	int rc = f ? 0 : -errno;
	while (rc == 0) {
		struct item *k = &b->v[b->n];
		char name[101];
		if (b->n == ITEMS_MAX) {
			rc = -EFBIG;
			break;
		}
		*k = (struct item){0};
		rc = cli_tar_next(f, name, &k->text, &k->len, ITEM_BYTES);
		if (rc <= 0)
			break;
		rc = strncmp(name, DIR_IN_TAR, strlen(DIR_IN_TAR)) || strlen(name) - strlen(DIR_IN_TAR) >= sizeof(k->name) ? -EINVAL : 0;
		snprintf(k->name, sizeof(k->name), "%.60s", rc ? "?" : name + strlen(DIR_IN_TAR));
		if (rc == 0 && find(b, k->name))
			rc = -EINVAL;
		b->n++;
	}
	if (f)
		fclose(f);
	struct item *m = rc ? NULL : find(b, MANIFEST);
	b->manifest = m ? json_loadb(m->text, m->len, 0, NULL) : NULL;
	if (rc == 0 && (!json_is_object(b->manifest) || json_integer_value(json_object_get(b->manifest, "format")) != 1))
		rc = -EINVAL;
	json_t *x;
	size_t i;
	json_array_foreach(rc ? NULL : json_object_get(b->manifest, "files"), i, x) {
		const char *name = json_string_value(json_object_get(x, "name")), *path = json_string_value(json_object_get(x, "path"));
		struct item *k = name ? find(b, name) : NULL;
		if (!k || !path || !path_ok(path) || !strcmp(name, MANIFEST)) {
			rc = -EINVAL;
			break;
		}
		snprintf(k->path, sizeof(k->path), "%s", path);
		k->mode = (unsigned)json_integer_value(json_object_get(x, "mode")) & 0755;
	}
	if (rc == 0 && (!find(b, "tesserad.conf") || !find(b, "corosync.conf")))
		rc = -EINVAL;
	if (rc)
		snprintf(err, errlen, "%s: %s; nothing was changed", file, rc == -EINVAL ? "is no backup of `tessera cluster backup`, or is damaged" : strerror(-rc));
	return rc;
}

static int dirs_make(const char *path)
{
	char dir[PATH_MAX];
	snprintf(dir, sizeof(dir), "%s", path);
	for (char *p = dir + 1; (p = strchr(p, '/')); p++) {
		*p = 0;
		if (mkdir(dir, 0755) && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return 0;
}

static int item_write(const struct item *k)
{
	char tmp[PATH_MAX + 16];
	snprintf(tmp, sizeof(tmp), "%s.restore", k->path);
	int rc = dirs_make(k->path);
	if (rc)
		return rc;
	unlink(tmp);
	int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	rc = fd < 0 ? -errno : write(fd, k->text, k->len) != (ssize_t)k->len || fchmod(fd, k->mode) || fsync(fd) ? -(errno ? errno : EIO) : 0;
	if (fd >= 0)
		close(fd);
	if (rc == 0 && rename(tmp, k->path))
		rc = -errno;
	if (rc && fd >= 0)
		unlink(tmp);
	return rc;
}

/* What is there already, and is not the same. */
static const char *in_the_way(const struct bundle *b)
{
	for (unsigned i = 0; i < b->n; i++) {
		struct item now = {0};
		const struct item *k = &b->v[i];
		if (!*k->path)
			continue;
		snprintf(now.path, sizeof(now.path), "%s", k->path);
		int rc = item_read(&now);
		bool same = rc == -ENOENT || rc == -ENOTDIR || (rc == 0 && now.len == k->len && !memcmp(now.text, k->text, k->len));
		free(now.text);
		if (!same && strcmp(k->name, "incarnation") != 0)
			return k->path;
	}
	return NULL;
}

int cli_restore(json_t *pos, json_t *opt)
{
	static struct bundle b;
	static struct conf c;
	const char *file = json_string_value(json_array_get(pos, 0)), *busy;
	char err[512];
	unsigned written = 0;
	int rc = sodium_init() < 0 || bundle_read(&b, file, err, sizeof(err)) ? fail(VERB_REFUSED, "cluster restore: %s; see `tessera help cluster restore`", err) : 0;
	if (rc == 0 && !json_object_get(opt, "force") && (busy = in_the_way(&b)))
		rc = fail(VERB_REFUSED, "cluster restore: %s is there, and is not what was saved; use --force to replace it; nothing was changed", busy);
	for (unsigned i = 0; rc == 0 && i < b.n; i++) {
		if (!*b.v[i].path || (!strcmp(b.v[i].name, "incarnation") && access(b.v[i].path, F_OK) == 0)) /* that number never goes back */
			continue;
		int e = item_write(&b.v[i]);
		if (e)
			rc = fail(VERB_REFUSED, "cluster restore: %s: %s; %u files were written, say it again with --force", b.v[i].path, strerror(-e), written);
		written += e == 0;
	}
	json_t *files = json_object_get(b.manifest, "files");
	if (rc == 0 && conf_load(find(&b, "tesserad.conf")->path, &c, err, sizeof(err)))
		fprintf(stderr, "tessera: cluster restore: not complete yet: %s\n", err);
	else if (rc == 0 && mkdir(c.state_dir, 0700) && errno == EEXIST && chmod(c.state_dir, 0700))
		fprintf(stderr, "tessera: cluster restore: %s: %s; make it root's, mode 0700\n", c.state_dir, strerror(errno));
	if (rc == 0 && want_json) {
		json_dumpf(b.manifest, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (rc == 0)
		printf("node %lld of %s: %u of %zu files written; now start corosync and tesserad\n", (long long)json_integer_value(json_object_get(b.manifest, "node")),
		       json_string_value(json_object_get(b.manifest, "cluster")), written, json_array_size(files));
	bundle_free(&b);
	return rc;
}
