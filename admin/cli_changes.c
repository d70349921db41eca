/* SPDX-License-Identifier: Apache-2.0 */
/* `tessera fs changes`: what has changed since a time, for backups: a walk over the mounted file system by several threads, each entry's ctime asked of
 * the cluster. The format keeps no parents of files, so that paths can only be found from above; the walk reads directories and inodes, no data.
 * Must never happen: an entry that was there all the time and changed, and is not listed; the stamp moved on though something could not be read. */
#include "admin/cli.h"
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define THREADS	  4
#define MARGIN_MS 2000

struct dir {
	struct dir *next;
	char path[];
};
struct walk {
	int root;
	dev_t dev;
	int64_t since_ns;
	char end; /* behind a path */
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct dir *todo; /* the newest first: what waits stays small */
	unsigned working;
	uint64_t entries, dirs, changed, errors;
	char error[PATH_MAX + 64]; /* the first */
	json_t *rows;
	int64_t shown_ns;
};

static int64_t ns_of(struct timespec t)
{
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t clock_ns(clockid_t c)
{
	struct timespec t;
	clock_gettime(c, &t);
	return ns_of(t);
}

static void broke(struct walk *w, const char *path, int err)
{
	pthread_mutex_lock(&w->lock);
	if (!w->errors++)
		snprintf(w->error, sizeof(w->error), "%s: %s", *path ? path : ".", strerror(err));
	pthread_mutex_unlock(&w->lock);
}

/* ---- what is found ------------------------------------------------------------------------------------------------------------- */

static const char *type_of(mode_t m)
{
	return S_ISDIR(m) ? "directory" : S_ISREG(m) ? "file" : S_ISLNK(m) ? "symlink" : "other";
}

/* A name that is no UTF-8 goes in hexadecimal. */
static json_t *row_of(const char *path, const struct stat *st)
{
	json_t *name = json_string(path), *o = json_pack("{s:s,s:I,s:I,s:I,s:I}", "type", type_of(st->st_mode), "ino", (json_int_t)st->st_ino, "size", (json_int_t)st->st_size,
							 "ctime_ns", (json_int_t)ns_of(st->st_ctim), "mtime_ns", (json_int_t)ns_of(st->st_mtim));
	if (name)
		json_object_set_new(o, "path", name);
	else {
		char hex[2 * PATH_MAX + 1];
		size_t n = 0;
		for (const char *p = path; *p && n + 2 < sizeof(hex); p++, n += 2)
			snprintf(hex + n, 3, "%02x", (unsigned char)*p);
		json_object_set_new(o, "path_hex", json_string(hex));
	}
	return o;
}

static void found(struct walk *w, const char *path, const struct stat *st)
{
	if (ns_of(st->st_ctim) < w->since_ns)
		return;
	pthread_mutex_lock(&w->lock);
	w->changed++;
	if (w->rows)
		json_array_append_new(w->rows, row_of(path, st));
	else {
		fputs(path, stdout);
		putchar(w->end);
	}
	pthread_mutex_unlock(&w->lock);
}

/* ---- the walk ----------------------------------------------------------------------------------------------------------------- */

static void push(struct walk *w, const char *path)
{
	size_t n = strlen(path) + 1;
	struct dir *d = malloc(sizeof(*d) + n);
	if (!d) {
		broke(w, path, ENOMEM);
		return;
	}
	memcpy(d->path, path, n);
	pthread_mutex_lock(&w->lock);
	d->next = w->todo;
	w->todo = d;
	pthread_cond_signal(&w->more);
	pthread_mutex_unlock(&w->lock);
}

static void one_entry(struct walk *w, DIR *dir, const char *above, const char *name)
{
	char path[PATH_MAX];
	struct stat st;
	if (snprintf(path, sizeof(path), "%s%s%s", above, *above ? "/" : "", name) >= (int)sizeof(path)) {
		broke(w, above, ENAMETOOLONG);
		return;
	}
	if (fstatat(dirfd(dir), name, &st, AT_SYMLINK_NOFOLLOW)) {
		if (errno != ENOENT) /* else it went while we looked */
			broke(w, path, errno);
		return;
	}
	if (st.st_dev != w->dev)
		return; /* something else is mounted there */
	found(w, path, &st);
	if (S_ISDIR(st.st_mode))
		push(w, path);
}

static void progress(struct walk *w)
{
	int64_t now = clock_ns(CLOCK_MONOTONIC);
	if (!isatty(2) || isatty(1) || now < w->shown_ns + 500000000)
		return;
	w->shown_ns = now;
	fprintf(stderr, "\r\033[K%llu entries, %llu changed", (unsigned long long)w->entries, (unsigned long long)w->changed);
}

static void one_dir(struct walk *w, const char *path)
{
	int fd = openat(w->root, *path ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW | O_NOATIME);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	uint64_t n = 0;
	if (!dir) {
		if (errno != ENOENT)
			broke(w, path, errno);
		if (fd >= 0)
			close(fd);
		return;
	}
	while (errno = 0, (e = readdir(dir)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) {
			one_entry(w, dir, path, e->d_name);
			n++;
		}
	if (errno)
		broke(w, path, errno);
	closedir(dir);
	pthread_mutex_lock(&w->lock);
	w->entries += n;
	w->dirs++;
	progress(w);
	pthread_mutex_unlock(&w->lock);
}

static void *worker(void *arg)
{
	struct walk *w = arg;
	pthread_mutex_lock(&w->lock);
	for (;;) {
		while (!w->todo && w->working)
			pthread_cond_wait(&w->more, &w->lock);
		struct dir *d = w->todo;
		if (!d)
			break; /* nobody works who could find more */
		w->todo = d->next;
		w->working++;
		pthread_mutex_unlock(&w->lock);
		one_dir(w, d->path);
		free(d);
		pthread_mutex_lock(&w->lock);
		w->working--;
		pthread_cond_broadcast(&w->more);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static void walk_all(struct walk *w, unsigned n)
{
	pthread_t t[64];
	struct stat st;
	unsigned started = 0;
	push(w, "");
	if (fstat(w->root, &st) == 0)
		found(w, ".", &st);
	for (; started + 1 < n; started++)
		if (pthread_create(&t[started], NULL, worker, w))
			break; /* those there are will do */
	worker(w);
	for (unsigned i = 0; i < started; i++)
		pthread_join(t[i], NULL);
	if (w->shown_ns)
		fprintf(stderr, "\r\033[K");
}

/* ---- since when, and where ---------------------------------------------------------------------------------------------------- */

/* @SECONDS; N followed by s, m, h, d: so long ago; YYYY-MM-DD, with HH:MM or HH:MM:SS behind it, local time. */
static int since_parse(const char *s, int64_t now_ns, int64_t *out)
{
	static const struct {
		char unit;
		int64_t s;
	} units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
	static const char *const forms[] = {"%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"};
	const char *p = s + (*s == '@');
	char *end;
	errno = 0;
	long long n = isdigit((unsigned char)*p) ? strtoll(p, &end, 10) : -1;
	if (n >= 0 && n < 100000000000LL && !errno) {
		if (*s == '@' && !*end) {
			*out = n * 1000000000;
			return n < 9000000000LL ? 0 : -EINVAL;
		}
		for (size_t i = 0; *s != '@' && i < TS_ARRAY_LEN(units); i++)
			if (*end == units[i].unit && !end[1] && n < 100000) {
				*out = now_ns - n * units[i].s * 1000000000;
				return 0;
			}
	}
	for (size_t i = 0; i < TS_ARRAY_LEN(forms); i++) {
		struct tm tm = {.tm_isdst = -1};
		const char *e = strptime(s, forms[i], &tm);
		if (e && !*e && tm.tm_year >= 70 && tm.tm_year < 300) {
			*out = (int64_t)mktime(&tm) * 1000000000;
			return 0;
		}
	}
	return -EINVAL;
}

/* Where the daemon of this node has it mounted. 0 or an exit status; then a line was printed. */
static int mount_of(const char *name, char dir[PATH_MAX])
{
	json_t *pos = json_array(), *opt = json_object(), *o = NULL, *x;
	size_t i;
	int rc = cli_ask(verb_by_name("status"), pos, opt, NULL, NULL, &o);
	dir[0] = 0;
	json_array_foreach(json_object_get(json_object_get(o, "data"), "mounts"), i, x)
		if (!strcmp(json_string_value(json_object_get(x, "name")), name) && !strcmp(json_string_value(json_object_get(x, "state")), "mounted"))
			snprintf(dir, PATH_MAX, "%s", json_string_value(json_object_get(x, "dir")));
	json_decref(pos);
	json_decref(opt);
	json_decref(o);
	if (rc == 0 && !dir[0])
		rc = fail(VERB_REFUSED, "fs changes: %s is not mounted on this node; mount it, see `tessera fs list`", name);
	return rc;
}

static int stamp_set(const char *file, int64_t ns)
{
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {ns / 1000000000, ns % 1000000000}};
	int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	int rc = fd < 0 || futimens(fd, t) ? -errno : 0;
	if (fd >= 0)
		close(fd);
	return rc;
}

static const char *text(json_t *opt, const char *key)
{
	return json_string_value(json_object_get(opt, key));
}

int cli_changes(json_t *pos, json_t *opt)
{
	const char *name = json_string_value(json_array_get(pos, 0)), *since = text(opt, "since"), *stamp = text(opt, "since-file"), *threads = text(opt, "threads");
	int64_t begun = clock_ns(CLOCK_REALTIME) - MARGIN_MS * 1000000LL;
	struct walk w = {.since_ns = INT64_MIN, .end = json_object_get(opt, "null") ? '\0' : '\n', .rows = want_json ? json_array() : NULL};
	char dir[PATH_MAX];
	struct stat st;
	if (!since == !stamp)
		return fail(VERB_USAGE, "fs changes: needs --since TIME or --since-file FILE, one of them; see `tessera help fs changes`");
	if (since && since_parse(since, begun, &w.since_ns))
		return fail(VERB_USAGE, "fs changes: --since '%.80s': no time; write '2026-11-27 10:00', 12h, 3d or @SECONDS", since);
	if (stamp && stat(stamp, &st) == 0)
		w.since_ns = ns_of(st.st_mtim);
	else if (stamp && errno != ENOENT)
		return fail(VERB_REFUSED, "fs changes: %s: %s; name another file", stamp, strerror(errno));
	int rc = mount_of(name, dir);
	if (rc)
		return rc;
	w.root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (w.root < 0 || fstat(w.root, &st))
		return fail(VERB_REFUSED, "fs changes: %s: %s; see `tessera health`", dir, strerror(errno));
	w.dev = st.st_dev;
	pthread_mutex_init(&w.lock, NULL);
	pthread_cond_init(&w.more, NULL);
	walk_all(&w, threads ? (unsigned)atoi(threads) : THREADS);
	close(w.root);
	if (w.rows) {
		json_t *o = json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:o}", "name", name, "dir", dir, "next_since_ns", (json_int_t)begun, "entries", (json_int_t)w.entries, "dirs",
				      (json_int_t)w.dirs, "errors", (json_int_t)w.errors, "changed", w.rows);
		json_dumpf(o, stdout, JSON_INDENT(1));
		putchar('\n');
		json_decref(o);
	}
	if (fflush(stdout) || ferror(stdout))
		return fail(VERB_REFUSED, "fs changes: the list could not be written: %s; nothing was stamped", strerror(errno));
	if (w.errors)
		return fail(VERB_REFUSED, "fs changes: %s%s; the list is not complete", w.error, w.errors > 1 ? ", and others" : "");
	rc = stamp ? stamp_set(stamp, begun) : 0;
	return rc ? fail(VERB_REFUSED, "fs changes: %s: %s; the next list will begin where this one did", stamp, strerror(-rc)) : 0;
}
