/* SPDX-License-Identifier: Apache-2.0 */
/* Job: two nodes with real tokens work on the same directories while everything that reaches their disk is recorded. Then, for
 * every point of the record, the power of both fails: the disk is put into the state of that prefix and into some of the
 * others it could be in, and is replayed by a mount (prefixes: and once more by fsck); everything that was promised stable
 * is there, nothing is garbage, and fsck finds nothing.
 *
 * crash_two_nodes [--quick|--long] [SEED]: --quick takes as many points as 20 s allow, evenly; --long ten seeds. A failure prints
 * seed, point and state. First the same is done on disks that lose flushed writes or ignore flushes: it must fail, or
 * this test could not. */
#include "attrs.h"
#include "stream.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BYTES	(64u << 20)
#define DIRS	3
#define FILES	3000
#define PROMISES 4
#define NEVER	SIZE_MAX

#define SUBSETS 2 /* of the un-flushed writes, at each point that has some */
#define WRITES	2000 /* at least so many are recorded */
#define PROCESSES 16u
#define QUICK_SECONDS 20

static uint64_t seed = 1, seconds; /* 0: every point of the record, whatever it takes */

struct file { /* content follows from the number; it only grows */
	char name[24];
	unsigned dir;
	size_t gone_from; /* an unlink or rename of this name began */
	unsigned renamed; /* 1 + number of the file that it became */
	size_t promised_at[PROMISES]; /* point from which size is stable */
	uint64_t promised[PROMISES];
	unsigned attrs_promised[PROMISES], attrs;
	unsigned npromises, content;
	uint64_t size;
	bool busy, made;
};
struct node {
	struct fsh *h;
	unsigned id;
	uint64_t incarnation;
	struct net *net;
	struct quorum *quorum;
	struct fs *fs;
	int rc;
	char err[256];
	bool mounted;
};
struct world {
	struct fsh *h;
	struct node node[3];
	struct stream stream;
	uint64_t dir[DIRS];
	struct file f[FILES];
	unsigned n, running;
	bool stop;
};
static const struct fs_cred root = {.umask = 022};

#define MUST(what)                                                                                                                  \
	do {                                                                                                                        \
		int64_t rc_ = (what);                                                                                               \
		if (rc_ < 0)                                                                                                        \
			TS_PANIC("seed %lu: %s: %ld", seed, #what, rc_);                                                            \
	} while (0)

/* ---- nodes -------------------------------------------------------------------------------------------------------- */

static void view(void *arg, const struct quorum_group_view *v)
{
	struct node *n = arg;

	if (n->fs)
		fs_group_view(n->fs, v);
}

static void node_new(struct node *n, struct fsh *h, unsigned id, uint64_t incarnation)
{
	*n = (struct node){.h = h, .id = id, .incarnation = incarnation};
	n->net = fsw_net_new(h->x, id, incarnation);
	n->quorum = fsw_quorum_new(h->x, id, incarnation);
	fsw_quorum_views(n->quorum, view, n);
}

static void node_mount(void *arg)
{
	struct node *n = arg;
	struct fs_mount_args a = {.exec = n->h->x, .disks = n->h->devs, .ndisks = 1, .net = n->net, .quorum = n->quorum,
				  .times = {200, 40, 50, 15}, .page_pool_bytes = 16u << 20, .meta_pool_bytes = 4u << 20, .net_group = 7};

	n->rc = fs_mount(&a, &n->fs, n->err, sizeof(n->err));
	if (n->rc)
		TS_PANIC("seed %lu: mount: %d %s", seed, n->rc, n->err);
	n->mounted = true;
}

static void node_free(struct node *n)
{
	fsw_quorum_free(n->quorum);
	net_close(n->net);
	*n = (struct node){0};
}

/* ---- work --------------------------------------------------------------------------------------------------------- */

static uint8_t byte_at(unsigned content, uint64_t off)
{
	return (uint8_t)(1 + (content * 31 + off * 7 + (off >> 9)) % 255); /* never 0 */
}

static void extend(struct world *w, struct fs *fs, struct fs_file *h, struct file *f, uint64_t by)
{
	uint8_t *buf = ts_xalloc(by);

	for (uint64_t i = 0; i < by; i++)
		buf[i] = byte_at(f->content, f->size + i);
	MUST(fs_write(fs, h, buf, by, f->size, false, false, NULL));
	f->size += by;
	ts_free(buf);
}

static void promise(struct world *w, struct file *f)
{
	unsigned i = f->npromises < PROMISES ? f->npromises++ : PROMISES - 1;

	f->promised_at[i] = w->stream.n;
	f->promised[i] = f->size;
	f->attrs_promised[i] = f->attrs;
}

static uint64_t random_size(struct world *w)
{
	switch (fsh_random(w->h) % 8) {
	case 0:
		return 1 + fsh_random(w->h) % 150000;
	case 1:
	case 2:
		return 1 + fsh_random(w->h) % 20000;
	default:
		return 1 + fsh_random(w->h) % 1500;
	}
}

static void make_file(struct world *w, struct fs *fs)
{
	struct file *f;
	struct fs_attr attr;
	struct fs_file *h;

	if (w->n == FILES || w->stream.nwrites >= WRITES) {
		w->stop = true;
		return;
	}
	f = &w->f[w->n];
	*f = (struct file){.dir = (unsigned)(fsh_random(w->h) % DIRS), .gone_from = NEVER, .content = w->n, .busy = true};
	snprintf(f->name, sizeof(f->name), "file-%u", w->n++);
	MUST(fs_create(fs, &root, w->dir[f->dir], f->name, strlen(f->name), S_IFREG | 0644, O_RDWR | O_EXCL, &h, &attr));
	if (fsh_random(w->h) % 8)
		extend(w, fs, h, f, random_size(w));
	if (fsh_random(w->h) % 2) {
		MUST(fs_fsync(fs, h, false));
		promise(w, f);
	}
	fs_release(fs, h);
	f->made = true;
	f->busy = false;
}

static struct file *pick(struct world *w)
{
	struct file *f = w->n ? &w->f[fsh_random(w->h) % w->n] : NULL;

	if (!f || f->busy || !f->made || f->gone_from != NEVER)
		return NULL;
	f->busy = true;
	return f;
}

static struct fs_file *open_file(struct world *w, struct fs *fs, struct file *f)
{
	struct fs_attr attr;
	struct fs_file *h;

	MUST(fs_lookup(fs, &root, w->dir[f->dir], f->name, strlen(f->name), &attr));
	MUST(fs_open(fs, &root, attr.ino, O_RDWR, &h));
	return h;
}

static void append_file(struct world *w, struct fs *fs, struct file *f)
{
	struct fs_file *h = open_file(w, fs, f);

	extend(w, fs, h, f, random_size(w));
	if (fsh_random(w->h) % 2) {
		MUST(fs_fsync(fs, h, true));
		promise(w, f);
	}
	fs_release(fs, h);
	f->busy = false;
}

static void set_attrs(struct world *w, struct fs *fs, struct file *f)
{
	struct fs_file *h = open_file(w, fs, f);

	for (uint64_t n = 1 + fsh_random(w->h) % 12; n--; f->attrs++)
		MUST(attrs_add(fs, &root, fs_file_ino(h), f->content, f->attrs + 1));
	if (fsh_random(w->h) % 2) {
		MUST(fs_fsync(fs, h, false));
		promise(w, f);
	}
	fs_release(fs, h);
	f->busy = false;
}

static void check_content(struct fs *fs, struct fs_file *h, const struct file *f, uint64_t size, bool whole)
{
	uint8_t *buf = ts_xalloc(size + 1);

	MUST(fs_read(fs, h, buf, size + 1, 0));
	for (uint64_t i = 0; i < size; i++)
		if (buf[i] != byte_at(f->content, i) && (whole || buf[i]))
			TS_PANIC("seed %lu: %s: byte %lu of %lu is %#x, not %#x", seed, f->name, i, size, buf[i], byte_at(f->content, i));
	ts_free(buf);
}

static void read_file(struct world *w, struct fs *fs, struct file *f)
{
	struct fs_file *h = open_file(w, fs, f);

	check_content(fs, h, f, f->size, true);
	fs_release(fs, h);
	f->busy = false;
}

static void unlink_file(struct world *w, struct fs *fs, struct file *f)
{
	f->gone_from = w->stream.n;
	MUST(fs_unlink(fs, &root, w->dir[f->dir], f->name, strlen(f->name)));
	if (fsh_random(w->h) % 4 == 0)
		MUST(fs_sync(fs));
}

static void rename_file(struct world *w, struct fs *fs, struct file *f)
{
	struct file *t;

	if (w->n == FILES) {
		f->busy = false;
		return;
	}
	t = &w->f[w->n++];
	*t = *f;
	t->dir = (unsigned)(fsh_random(w->h) % DIRS);
	snprintf(t->name, sizeof(t->name), "moved-%u", w->n - 1);
	t->npromises = 0;
	f->gone_from = w->stream.n;
	f->renamed = w->n; /* until it is stable, one of the two names is there */
	MUST(fs_rename(fs, &root, w->dir[f->dir], f->name, strlen(f->name), w->dir[t->dir], t->name, strlen(t->name), 0));
	if (fsh_random(w->h) % 2) {
		MUST(fs_sync(fs));
		promise(w, t);
	}
	t->busy = false;
}

static void worker(void *arg)
{
	struct node *n = arg;
	struct world *w = TS_CONTAINER(n - n->id, struct world, node);

	while (!w->stop) {
		uint64_t r = fsh_random(w->h) % 100;
		struct file *f = r < 50 ? NULL : pick(w);

		if (r < 50)
			make_file(w, n->fs);
		else if (f && r < 60)
			append_file(w, n->fs, f);
		else if (f && r < 65)
			set_attrs(w, n->fs, f);
		else if (f && r < 78)
			read_file(w, n->fs, f);
		else if (f && r < 90)
			unlink_file(w, n->fs, f);
		else if (f)
			rename_file(w, n->fs, f);
		ts_sleep_until(w->h->now_ns + fsh_random(w->h) % (r == 77 ? 6 * TS_NS_PER_S : 3 * TS_NS_PER_MS));
	}
	w->running--;
}

static void begin(void *arg)
{
	struct world *w = arg;
	struct fs_attr attr;
	char name[8];

	for (unsigned i = 1; i <= 2; i++)
		node_mount(&w->node[i]);
	for (unsigned i = 0; i < DIRS; i++) {
		snprintf(name, sizeof(name), "dir%u", i);
		MUST(fs_mknod(w->node[1].fs, &root, FS_ROOT_INO, name, strlen(name), S_IFDIR | 0755, 0, NULL, &attr));
		w->dir[i] = attr.ino;
	}
	MUST(fs_sync(w->node[1].fs));
}

static void work(void *arg)
{
	struct world *w = arg;

	for (unsigned i = 0; i < 6; i++) {
		w->running++;
		MUST(ts_fiber_spawn(w->h->x, "worker", worker, &w->node[1 + i % 2]));
	}
	while (w->running)
		ts_sleep_until(w->h->now_ns + 10 * TS_NS_PER_MS);
}

/* ---- after the crash ---------------------------------------------------------------------------------------------- */

struct verdict {
	struct world *w;
	struct walker *k;
	struct node *n;
	uint64_t state;
	bool by_fsck;
	uint64_t seen;
};

static void finding(void *arg, const char *text, bool repaired)
{
	struct verdict *v = arg;

	fprintf(stderr, "seed %lu point %zu state %lu %s: fsck: %s\n", seed, v->k->at, v->state, v->by_fsck ? "fsck first" : "mount first", text);
	v->seen++;
}

static void check(struct verdict *v, bool repair)
{
	struct fs_check_args a = {.disks = v->k->h->devs, .ndisks = 1, .repair = repair, .memory_bound = 64u << 20, .threads = 4,
				  .env = &v->k->h->env, .finding = finding, .arg = v};
	struct fs_check_result r = {0};
	char err[256] = "";
	int rc = fs_check(&a, true, &r, err, sizeof(err));

	if (rc || r.findings)
		TS_PANIC("seed %lu point %zu state %lu: fsck: %d %s, %lu findings", seed, v->k->at, v->state, rc, err, r.findings);
}

/* Size, or -ENOENT. */
static int64_t look(struct verdict *v, const struct file *f, bool whole_to, uint64_t want, unsigned attrs)
{
	struct fs *fs = v->n->fs;
	struct fs_attr attr;
	struct fs_file *h;
	const char *wrong;
	int rc = fs_lookup(fs, &root, v->w->dir[f->dir], f->name, strlen(f->name), &attr);

	if (rc == -ENOENT)
		return rc;
	MUST(rc);
	MUST(fs_open(fs, &root, attr.ino, O_RDONLY, &h));
	if (whole_to && attr.size >= want)
		check_content(fs, h, f, want, true);
	check_content(fs, h, f, attr.size, false);
	wrong = attrs_wrong(fs, &root, attr.ino, f->content, attrs);
	if (wrong)
		TS_PANIC("seed %lu point %zu state %lu: %s, %u attributes were stable: %s", seed, v->k->at, v->state, f->name, attrs, wrong);
	fs_release(fs, h);
	return (int64_t)attr.size;
}

static void verify_file(struct verdict *v, unsigned i)
{
	const struct file *f = &v->w->f[i];
	size_t at = v->k->at;
	uint64_t want = 0;
	unsigned attrs = 0;
	bool promised = false;
	int64_t size;

	for (unsigned p = 0; p < f->npromises; p++)
		if (f->promised_at[p] <= at) {
			promised = true;
			want = TS_MAX(want, f->promised[p]);
			attrs = TS_MAX(attrs, f->attrs_promised[p]);
		}
	size = look(v, f, promised, want, attrs);
	for (unsigned to = f->renamed; promised && size == -ENOENT && to; to = v->w->f[to - 1].renamed) {
		size = look(v, &v->w->f[to - 1], true, want, attrs);
		if (size == -ENOENT && v->w->f[to - 1].gone_from <= at && !v->w->f[to - 1].renamed)
			return; /* renamed, then unlinked */
	}
	if (promised && (f->gone_from > at || f->renamed) && (size < 0 || (uint64_t)size < want))
		TS_PANIC("seed %lu point %zu state %lu: %s was stable with %lu bytes, now %ld", seed, at, v->state, f->name, want, size);
}

static void verdict(void *arg)
{
	struct verdict *v = arg;

	if (v->by_fsck)
		check(v, true);
	node_mount(v->n);
	for (unsigned i = 0; i < v->w->n; i++)
		verify_file(v, i);
	MUST(fs_unmount(v->n->fs, false));
	v->n->fs = NULL;
	check(v, false);
}

static void one_state(struct world *w, struct walker *k, uint64_t state, bool by_fsck)
{
	static uint64_t incarnation = 1000;
	struct node n;
	struct verdict v = {.w = w, .k = k, .n = &n, .state = state, .by_fsck = by_fsck};

	walker_state(k, state);
	node_new(&n, k->h, 1, ++incarnation);
	fsh_run(k->h, verdict, &v);
	node_free(&n);
}

static uint64_t clock_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec;
}

/* ---- all of it ---------------------------------------------------------------------------------------------------- */

static uint8_t *record_run(struct world *w)
{
	struct fs_format_args a = {.block_size = 64 << 10, .log_slots = 3, .log_bytes = 1 << 20};
	uint8_t *base = ts_xalloc(BYTES);

	w->h = fsh_new(1, BYTES);
	w->h->rng = seed;
	memset(w->h->disk[0]->now, 0xa5, BYTES); /* what was never written is no zero: a block without its data is seen */
	memset(w->h->disk[0]->stable, 0xa5, BYTES);
	fsh_format_args(w->h, &a);
	for (unsigned i = 1; i <= 2; i++)
		node_new(&w->node[i], w->h, i, 100 + i);
	fsh_run(w->h, begin, w);
	w->h->disk[0]->write_ns = 200000;
	w->h->disk[0]->flush_ns = 900000;
	w->h->disk[0]->read_ns = 100000;
	memcpy(base, w->h->disk[0]->now, BYTES);
	fsh_disk_settle(w->h->disk[0]);
	w->stream.first_write = w->h->disk[0]->unstable_seq;
	w->h->record = stream_record;
	w->h->record_arg = &w->stream;
	fsh_run(w->h, work, w);
	w->h->record = NULL;
	for (unsigned i = 1; i <= 2; i++)
		w->node[i].mounted = false;
	ts_exec_kill(w->h->x);
	for (unsigned i = 1; i <= 2; i++) {
		fs_kill(w->node[i].fs);
		node_free(&w->node[i]);
	}
	return base;
}

/* What one process did; each does every so many-th point of the record. */
struct share {
	uint64_t points, prefixes, subsets;
};

/* How many points to go on by: 1, or with a limit of time what lets the rest of the record fit into the rest of it. */
static uint64_t pace(const struct walker *k, const struct share *s, uint64_t began)
{
	uint64_t spent = clock_s() - began, left;

	if (!seconds || s->points % 20 || spent < 1)
		return 0;
	left = spent < seconds ? seconds - spent : 0;
	return (k->s->n - k->at) * spent / (s->points * TS_MAX(left, (uint64_t)1)) + 1;
}

static struct share walk(struct world *w, const uint8_t *base, enum walker_fault fault, unsigned first, unsigned stride)
{
	struct walker *k = walker_new(&w->stream, base, BYTES);
	uint64_t began = clock_s(), step = stride, next = first;
	struct share s = {0};

	k->fault = fault;
	for (;; walker_step(k)) { /* at 0: nothing but what was there before; at n: all of it */
		if (k->at == next) {
			one_state(w, k, 0, false);
			one_state(w, k, 0, true);
			s.prefixes++;
			s.points++;
			for (unsigned i = 0; i < SUBSETS && walker_unflushed(k); i++, s.subsets++)
				one_state(w, k, ts_hash_2(seed + i, k->at) % 1000000 + 1, i % 2);
			step = TS_MAX(step, pace(k, &s, began));
			next += step;
		}
		if (k->at == w->stream.n)
			break;
	}
	walker_free(k);
	return s;
}

static unsigned processes(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > PROCESSES ? PROCESSES : (unsigned)n;
}

/* Forks: each process has an image of its own. Returns how many of them met something wrong and ended. */
static unsigned walk_all(struct world *w, const uint8_t *base, enum walker_fault fault, struct share *sum)
{
	unsigned n = processes(), bad = 0;
	int fd[PROCESSES][2];
	pid_t pid[PROCESSES];

	fflush(NULL);
	for (unsigned i = 0; i < n; i++) {
		struct share s;

		TS_ASSERT(pipe(fd[i]) == 0);
		pid[i] = fork();
		TS_ASSERT(pid[i] >= 0);
		if (pid[i])
			continue;
		s = walk(w, base, fault, i, n);
		_exit(write(fd[i][1], &s, sizeof(s)) == sizeof(s) ? 0 : 1);
	}
	for (unsigned i = 0; i < n; i++) {
		struct share s = {0};
		int status;

		close(fd[i][1]);
		if (waitpid(pid[i], &status, 0) != pid[i] || status || read(fd[i][0], &s, sizeof(s)) != sizeof(s))
			bad++;
		close(fd[i][0]);
		sum->prefixes += s.prefixes;
		sum->subsets += s.subsets;
	}
	return bad;
}

static bool all(enum walker_fault fault)
{
	struct world *w = ts_xalloc(sizeof(*w));
	uint8_t *base = record_run(w);
	struct share sum = {0};
	size_t entries = w->stream.n;
	unsigned bad;

	if (w->stream.nwrites < WRITES)
		TS_PANIC("seed %lu: %zu writes recorded, fewer than %u", seed, w->stream.nwrites, WRITES);
	bad = walk_all(w, base, fault, &sum);
	printf("seed %lu: %u names, %zu writes and %zu flushes recorded; %lu of %zu prefixes, %lu subsets; findings: %u\n", seed, w->n,
	       w->stream.nwrites, entries - w->stream.nwrites, sum.prefixes, entries + 1, sum.subsets, bad);
	if (!bad && !seconds && sum.prefixes != entries + 1)
		TS_PANIC("seed %lu: not every prefix was tried", seed);
	stream_free(&w->stream);
	fsh_free(w->h);
	ts_free(base);
	ts_free(w);
	return !bad;
}

/* In a process of its own, and without what the finding prints. */
static bool planted_fault_is_found(enum walker_fault fault)
{
	pid_t child;
	int status = 0;

	fflush(NULL);
	child = fork();
	if (child == 0) {
		if (!freopen("/dev/null", "w", stderr) || !freopen("/dev/null", "w", stdout))
			_exit(0);
		seconds = QUICK_SECONDS;
		_exit(all(fault) ? 0 : 1);
	}
	return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

int main(int argc, char **argv)
{
	static const struct { enum walker_fault fault; const char *what; } planted[] = {
		{WALKER_LOSES, "a disk that loses some flushed writes"},
		{WALKER_LIES, "a disk that ignores flushes"},
	};
	unsigned seeds = 1;
	bool good = true;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--quick"))
			seconds = QUICK_SECONDS;
		else if (!strcmp(argv[i], "--long"))
			seeds = 10;
		else
			seed = strtoull(argv[i], NULL, 0);
	}
	ts_log_level_set(TS_LOG_ERR);
	for (size_t i = 0; i < TS_ARRAY_LEN(planted); i++) {
		if (!planted_fault_is_found(planted[i].fault)) {
			printf("FAILED: %s goes unnoticed\n", planted[i].what);
			return 1;
		}
		printf("planted: %s is noticed\n", planted[i].what);
	}
	for (; good && seeds; seeds--, seed++)
		good = all(WALKER_HONEST);
	if (!good)
		printf("FAILED: seed, point and state are above\n");
	return good ? 0 : 1;
}
