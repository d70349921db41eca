/* SPDX-License-Identifier: Apache-2.0 */
/* Job: disks that join, are drained, go and are filled evenly while files are written; every state that a power failure may leave in the
 * middle of it. One node (the other nodes' part is the simulator's); the writes are recorded, and each prefix of them, with any part of what
 * was not flushed, is checked and mounted. */
#include "fs_harness.h"
#include "fs/disks.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define BYTES	(32ull << 20)
#define FORMATTED 3
#define SPARE	3
#define FILES	12
#define FILE_LEN (700u << 10)

static const struct fs_cred cred;

/* ---- a node ---------------------------------------------------------------------------------------------------------- */
struct node {
	struct fsh *h;
	unsigned opened, closed;
	int open_rc;
	bool mounted_with_spare;
};

static int disk_open(void *arg, unsigned no, const uint8_t uuid[16], const char *url, struct nsd_dev **out)
{
	struct node *n = arg;

	if (n->open_rc)
		return n->open_rc;
	assert_string_equal(url, "sim://3");
	*out = n->h->devs[SPARE];
	n->opened++;
	return 0;
}

static void disk_close(void *arg, unsigned no, struct nsd_dev *dev)
{
	struct node *n = arg;

	assert_ptr_equal(dev, n->h->devs[no < SPARE ? no : SPARE]);
	n->closed++;
}

static struct nsd_dev *given[FSH_DISKS];
static void mount_fiber(void *arg)
{
	struct node *n = arg;
	struct fsh *h = n->h;
	struct fs_disk_info *v;
	unsigned k;
	struct fs_mount_args a = {.exec = h->x, .disks = given, .net = h->net, .quorum = h->quorum, .disk_open = disk_open,
				  .disk_close = disk_close, .disk_arg = n, .times = {2000, 400, 500, 150}, .page_pool_bytes = 16u << 20,
				  .meta_pool_bytes = 8u << 20};
	char err[256] = "";
	int rc = fs_disks_list(h->devs[0], &v, &k);

	assert_int_equal(rc, 0);
	for (unsigned i = 0; i < k; i++)
		given[i] = !strcmp(fs_disk_state_name(v[i].state), "gone") ? NULL : h->devs[i];
	n->mounted_with_spare = k > SPARE && given[SPARE];
	a.ndisks = k;
	ts_free(v);
	rc = fs_mount(&a, &h->fs, err, sizeof(err));
	if (rc)
		TS_PANIC("mount: %d %s", rc, err);
}

static struct fs *node_mount(struct node *n)
{
	fsw_reset();
	return fsh_mount_by(n->h, mount_fiber, n);
}

static struct fsh *world(unsigned meta_disks)
{
	struct fsh *h = fsh_new(FORMATTED + 1, BYTES);
	struct fs_format_args a = {.name = "test", .block_size = 64 << 10, .log_slots = 3, .log_bytes = 1 << 20, .meta_disks = meta_disks};

	h->ndisks = FORMATTED;
	fsh_format_args(h, &a);
	h->ndisks = FORMATTED + 1;
	return h;
}

/* ---- files ------------------------------------------------------------------------------------------------------------ */
static uint8_t byte_of(unsigned file, uint64_t off)
{
	return (uint8_t)(ts_hash_2(file, off / 512) + off);
}

static uint64_t inode_of[FILES];
static void files_write(void *arg)
{
	struct fsh *h = arg;
	uint8_t *buf = ts_xalloc(FILE_LEN);
	char value[3000];

	for (unsigned i = 0; i < FILES; i++) {
		char name[16];
		struct fs_file *f;
		struct fs_attr at;
		int len = snprintf(name, sizeof(name), "file%u", i);

		for (unsigned k = 0; k < FILE_LEN; k++)
			buf[k] = byte_of(i, k);
		assert_int_equal(fs_create(h->fs, &cred, FS_ROOT_INO, name, (size_t)len, 0644, O_RDWR, &f, &at), 0);
		inode_of[i] = at.ino;
		assert_int_equal(fs_write(h->fs, f, buf, FILE_LEN, 0, false, false, NULL), FILE_LEN);
		if (i % 4 == 0)
			assert_int_equal(fs_fallocate(h->fs, f, FS_FALLOC_KEEP_SIZE, FILE_LEN, 200 << 10, false), 0);
		assert_int_equal(fs_fsync(h->fs, f, false), 0);
		fs_release(h->fs, f);
		memset(value, 'a' + (int)i, sizeof(value));
		for (unsigned k = 0; i % 3 == 0 && k < 3; k++) {
			snprintf(name, sizeof(name), "user.x%u", k);
			assert_int_equal(fs_setxattr(h->fs, &cred, at.ino, name, value, sizeof(value), 0), 0);
		}
	}
	assert_int_equal(fs_sync(h->fs), 0);
	ts_free(buf);
}

static void files_check(void *arg)
{
	struct fsh *h = arg;
	uint8_t *buf = ts_xalloc(FILE_LEN);
	char value[3001];

	for (unsigned i = 0; i < FILES; i++) {
		struct fs_file *f;

		assert_int_equal(fs_open(h->fs, &cred, inode_of[i], O_RDONLY, &f), 0);
		assert_int_equal(fs_read(h->fs, f, buf, FILE_LEN, 0), FILE_LEN);
		for (unsigned k = 0; k < FILE_LEN; k++)
			if (buf[k] != byte_of(i, k))
				fail_msg("file %u, byte %u: %u, not %u", i, k, buf[k], byte_of(i, k));
		fs_release(h->fs, f);
		if (i % 3 == 0) {
			assert_int_equal(fs_getxattr(h->fs, &cred, inode_of[i], "user.x2", value, sizeof(value)), 3000);
			assert_int_equal(value[0], 'a' + (int)i);
			assert_int_equal(value[2999], 'a' + (int)i);
		}
	}
	ts_free(buf);
}

/* ---- looks ------------------------------------------------------------------------------------------------------------- */
struct look {
	struct fsh *h;
	struct fs_disks_status s;
	int rc;
	struct fs_check_result r;
	char first[256], err[256];
	bool repair;
	unsigned state; /* of the spare, on disk */
	unsigned uneven; /* permille */
};

static void status_fiber(void *arg)
{
	struct look *l = arg;

	assert_int_equal(fs_disks_status(l->h->fs, &l->s), 0);
	l->uneven = 0;
	double used = 0, room = 0;
	for (unsigned i = 0; i < l->s.ndisks; i++) {
		if (l->s.disk[i].state != FS_DISK_READY)
			continue;
		used += (double)l->s.disk[i].used_bytes;
		room += (double)l->s.disk[i].room_bytes;
	}
	for (unsigned i = 0; i < l->s.ndisks; i++) {
		double d = (double)l->s.disk[i].used_bytes / (double)l->s.disk[i].room_bytes - used / room;

		if (l->s.disk[i].state == FS_DISK_READY)
			l->uneven = TS_MAX(l->uneven, (unsigned)((d < 0 ? -d : d) * 1000));
	}
}

static unsigned state_of(struct fsh *h, unsigned no)
{
	struct look l = {.h = h};
	unsigned s;

	fsh_run(h, status_fiber, &l);
	s = no < l.s.ndisks ? l.s.disk[no].state : FS_DISK_GONE;
	ts_free(l.s.disk);
	return s;
}

static unsigned uneven(struct fsh *h)
{
	struct look l = {.h = h};

	fsh_run(h, status_fiber, &l);
	ts_free(l.s.disk);
	return l.uneven;
}

static void finding(void *arg, const char *text, bool repaired)
{
	struct look *l = arg;

	if (getenv("TEST_VERBOSE"))
		fprintf(stderr, "finding: %s\n", text);
	if (!l->first[0])
		snprintf(l->first, sizeof(l->first), "%s", text);
}

static void check_fiber(void *arg)
{
	struct look *l = arg;
	struct fsh *h = l->h;
	struct fs_disk_info *v;
	unsigned n;
	struct nsd_dev *devs[FSH_DISKS];
	struct fs_check_args a = {.disks = devs, .env = &h->env, .finding = finding, .arg = l, .repair = l->repair};

	l->rc = fs_disks_list(h->devs[0], &v, &n);
	for (unsigned i = 0; l->rc == -EUCLEAN && i < h->ndisks; i++) { /* then the labels are all there is */
		devs[i] = h->devs[i];
		a.ndisks = i + 1;
	}
	if (l->rc) {
		if (a.ndisks)
			l->rc = fs_check(&a, true, &l->r, l->err, sizeof(l->err));
		return;
	}
	for (unsigned i = 0; i < n; i++)
		devs[i] = v[i].state == FS_DISK_GONE || v[i].state == FS_DISK_JOINING ? NULL : h->devs[i];
	l->state = n > SPARE ? v[SPARE].state : FS_DISK_GONE;
	a.ndisks = n;
	ts_free(v);
	l->rc = fs_check(&a, true, &l->r, l->err, sizeof(l->err));
}

static unsigned expect_clean(struct fsh *h, const char *when)
{
	struct look l = {.h = h};

	fsh_run(h, check_fiber, &l);
	if (l.rc || l.r.findings)
		fail_msg("%s: rc %d %s, %llu findings, first: %s", when, l.rc, l.err, (unsigned long long)l.r.findings, l.first);
	return l.state;
}

/* ---- verbs -------------------------------------------------------------------------------------------------------------- */
struct verb {
	struct node *n;
	int rc;
	unsigned no;
	unsigned stop_at, step;
	bool cancel;
	char err[512];
};
static int step(void *arg, const char *what)
{
	struct verb *v = arg;

	return ++v->step == v->stop_at ? -ECANCELED : 0;
}

static void add_fiber(void *arg)
{
	struct verb *v = arg;
	struct fs_disk_add a = {.dev = v->n->h->devs[SPARE], .url = "sim://3", .failure_group = 9, .step = step, .arg = v};

	v->rc = fs_disk_add(v->n->h->fs, &a, &v->no, v->err, sizeof(v->err));
}

static void drain_fiber(void *arg)
{
	struct verb *v = arg;

	v->rc = fs_disk_drain(v->n->h->fs, v->no, v->cancel, 0, v->err, sizeof(v->err));
}

static void remove_fiber(void *arg)
{
	struct verb *v = arg;

	v->rc = fs_disk_remove(v->n->h->fs, v->no, v->err, sizeof(v->err));
}

static void rebalance_fiber(void *arg)
{
	struct verb *v = arg;

	v->rc = fs_disk_rebalance(v->n->h->fs, false, 0, v->err, sizeof(v->err));
}

static struct verb run_verb(struct node *n, ts_fn fn, unsigned no, unsigned stop_at)
{
	struct verb v = {.n = n, .no = no, .stop_at = stop_at};

	fsh_run(n->h, fn, &v);
	return v;
}

static void wait_state(struct fsh *h, unsigned no, unsigned state)
{
	for (unsigned i = 0; state_of(h, no) != state; i++) {
		if (i == 120)
			fail_msg("disk %u is %s after a minute, not %s", no, fs_disk_state_name(state_of(h, no)), fs_disk_state_name(state));
		fsh_settle(h, 500 * TS_NS_PER_MS);
	}
}

static void wait_even(struct fsh *h)
{
	for (unsigned i = 0; h->fs->super.move; i++) {
		if (i == 120)
			fail_msg("not even after a minute: %u permille", uneven(h));
		fsh_settle(h, 500 * TS_NS_PER_MS);
	}
}

/* ---- the life of a disk --------------------------------------------------------------------------------------------------- */
static void life(void **state)
{
	struct fsh *h = world(1);
	struct node n = {.h = h};
	struct verb v;
	unsigned before;

	node_mount(&n);
	fsh_run(h, files_write, h);
	assert_true(uneven(h) < 120);
	v = run_verb(&n, add_fiber, 0, 0);
	if (v.rc)
		fail_msg("add: %d %s", v.rc, v.err);
	assert_int_equal(v.no, SPARE);
	assert_int_equal(n.opened, 1);
	assert_int_equal(state_of(h, SPARE), FS_DISK_READY);
	v = run_verb(&n, add_fiber, 0, 0);
	assert_int_equal(v.rc, -EEXIST);
	before = uneven(h);
	assert_true(before > 50);
	v = run_verb(&n, rebalance_fiber, 0, 0);
	assert_int_equal(v.rc, 0);
	wait_even(h);
	if (uneven(h) >= 50)
		fail_msg("rebalanced: %u permille from the mean, before %u", uneven(h), before);
	fsh_run(h, files_check, h);
	/* What cannot be. */
	v = run_verb(&n, drain_fiber, 0, 0);
	assert_int_equal(v.rc, -EOPNOTSUPP);
	assert_non_null(strstr(v.err, "metadata"));
	v = run_verb(&n, drain_fiber, 17, 0);
	assert_int_equal(v.rc, -ENOENT);
	v = run_verb(&n, remove_fiber, 1, 0);
	assert_int_equal(v.rc, -EBUSY);
	/* Away with one that was formatted, and with the one that came. */
	v = run_verb(&n, drain_fiber, 1, 0);
	if (v.rc)
		fail_msg("drain: %d %s", v.rc, v.err);
	wait_state(h, 1, FS_DISK_EMPTY);
	fsh_run(h, files_check, h);
	v = (struct verb){.n = &n, .no = 1, .cancel = true};
	fsh_run(h, drain_fiber, &v);
	assert_int_equal(v.rc, 0);
	assert_int_equal(state_of(h, 1), FS_DISK_READY);
	v = run_verb(&n, drain_fiber, SPARE, 0);
	assert_int_equal(v.rc, 0);
	wait_state(h, SPARE, FS_DISK_EMPTY);
	v = run_verb(&n, remove_fiber, SPARE, 0);
	if (v.rc)
		fail_msg("remove: %d %s", v.rc, v.err);
	assert_int_equal(n.closed, 1);
	assert_int_equal(state_of(h, SPARE), FS_DISK_GONE);
	fsh_run(h, files_check, h);
	fsh_unmount(h);
	expect_clean(h, "after the life of a disk");
	node_mount(&n);
	assert_false(n.mounted_with_spare);
	fsh_run(h, files_check, h);
	v = run_verb(&n, add_fiber, 0, 0); /* it comes back as a new one */
	assert_int_equal(v.rc, 0);
	assert_int_equal(v.no, SPARE + 1);
	fsh_unmount(h);
	fsh_free(h);
}

/* A node that cannot open it: nothing changed. Here it is the adding node itself. */
static void cannot_open(void **state)
{
	struct fsh *h = world(1);
	struct node n = {.h = h, .open_rc = -ENODEV};
	struct verb v;

	node_mount(&n);
	v = run_verb(&n, add_fiber, 0, 0);
	assert_int_equal(v.rc, -ENODEV);
	assert_non_null(strstr(v.err, "node 1"));
	assert_int_equal(state_of(h, SPARE), FS_DISK_GONE);
	n.open_rc = 0;
	v = run_verb(&n, add_fiber, 0, 0);
	assert_int_equal(v.rc, 0);
	assert_int_equal(v.no, SPARE);
	fsh_unmount(h);
	expect_clean(h, "after a disk that could not be opened at first");
	fsh_free(h);
}

/* A disk whose label cannot be read, or not looked at for want of memory, may be one that is in use: it is not written to. */
static void label_unknown(void **state)
{
	struct fsh *h = world(1);
	struct node n = {.h = h};
	struct verb v;
	unsigned refused = 0;

	node_mount(&n);
	v = run_verb(&n, add_fiber, 0, 0);
	assert_int_equal(v.rc, 0);
	for (unsigned nth = 1; nth < 40; nth++) {
		ts_alloc_fail_nth(nth);
		v = run_verb(&n, add_fiber, 0, 0);
		ts_alloc_fail_nth(0);
		assert_true(v.rc == -EEXIST || v.rc == -ENOMEM);
		refused += v.rc == -ENOMEM;
	}
	assert_true(refused > 0);
	h->disk[SPARE]->fail_op = NSD_READ;
	h->disk[SPARE]->fail_nth = 1;
	h->disk[SPARE]->fail_on = true;
	h->disk[SPARE]->fail_rc = -EIO;
	v = run_verb(&n, add_fiber, 0, 0);
	h->disk[SPARE]->fail_on = false;
	h->disk[SPARE]->fail_nth = 0;
	assert_int_equal(v.rc, -EIO);
	assert_non_null(strstr(v.err, "label"));
	assert_int_equal(state_of(h, SPARE), FS_DISK_READY);
	fsh_unmount(h);
	expect_clean(h, "after a disk that was to be added again");
	fsh_free(h);
}

/* The node dies in front of each step; the next one begins anew or goes on, and ends well. */
static void dies_at_step(void **state)
{
	for (unsigned at = 1;; at++) {
		struct fsh *h = world(1);
		struct node n = {.h = h};
		struct verb v;

		node_mount(&n);
		v = run_verb(&n, add_fiber, 0, at);
		if (!v.rc) {
			assert_true(at > 5);
			fsh_unmount(h);
			fsh_free(h);
			return;
		}
		assert_int_equal(v.rc, -ECANCELED);
		fsh_crash(h, at * 77);
		expect_clean(h, "after a death while a disk was added");
		node_mount(&n);
		v = run_verb(&n, add_fiber, 0, 0);
		if (v.rc)
			fail_msg("add again after a death at step %u: %d %s", at, v.rc, v.err);
		assert_int_equal(state_of(h, v.no), FS_DISK_READY);
		fsh_unmount(h);
		expect_clean(h, "after the second try");
		fsh_free(h);
	}
}

/* ---- every state a power failure may leave --------------------------------------------------------------------------------- */
struct rec {
	struct ts_list link;
	unsigned disk;
	uint64_t off, len;
	bool flush;
	uint64_t covers; /* flush: writes of the disk before it */
	uint8_t data[];
};
static struct ts_list recs;
static uint64_t nwrites[FSH_DISKS];

static void on_write(void *arg, unsigned disk, enum nsd_op op, uint64_t off, const void *data, uint64_t len)
{
	struct rec *r = ts_xalloc(sizeof(*r) + (op == NSD_FLUSH ? 0 : len)); /* NSD_ZERO: zeros */

	*r = (struct rec){.disk = disk, .off = off, .len = len, .flush = op == NSD_FLUSH, .covers = off};
	if (op == NSD_WRITE) {
		memcpy(r->data, data, len);
		nwrites[disk]++;
	}
	ts_list_push_back(&recs, &r->link);
}

struct states {
	struct fsh *base;	   /* disks as they were when recording began */
	uint64_t first[FSH_DISKS]; /* writes completed before, as the harness counts */
	uint8_t *stable[FSH_DISKS];
	struct ts_list pending[FSH_DISKS];
	uint64_t done[FSH_DISKS], applied[FSH_DISKS];
};

static void states_begin(struct states *s, struct fsh *h)
{
	memset(s, 0, sizeof(*s));
	s->base = h;
	ts_list_init(&recs);
	for (unsigned d = 0; d < h->ndisks; d++) {
		fsh_disk_settle(h->disk[d]);
		s->first[d] = h->disk[d]->writes;
		s->stable[d] = ts_xalloc(BYTES);
		memcpy(s->stable[d], h->disk[d]->now, BYTES);
		ts_list_init(&s->pending[d]);
	}
	h->record = on_write;
}

/* One more record: *state is one that it makes possible. */
static void states_next(struct states *s, struct rec *r)
{
	struct ts_list *l;

	ts_list_del(&r->link);
	if (!r->flush) {
		s->done[r->disk]++;
		ts_list_push_back(&s->pending[r->disk], &r->link);
		return;
	}
	while (s->applied[r->disk] < s->done[r->disk] && s->applied[r->disk] < r->covers - TS_MIN(r->covers, s->first[r->disk]) &&
	       (l = ts_list_pop_front(&s->pending[r->disk]))) {
		struct rec *w = ts_list_entry(l, struct rec, link);

		memcpy(s->stable[r->disk] + w->off, w->data, w->len);
		s->applied[r->disk]++;
		ts_free(w);
	}
	ts_free(r);
}

/* A machine with the disks as they may be: of what is not flushed each write is there or not, or half. */
static struct fsh *states_world(struct states *s, uint64_t seed)
{
	struct fsh *h = fsh_new(s->base->ndisks, BYTES);

	memcpy(h->fs_id, s->base->fs_id, sizeof(h->fs_id));
	h->incarnation = s->base->incarnation + 100;
	for (unsigned d = 0; d < h->ndisks; d++) {
		memcpy(h->disk[d]->now, s->stable[d], BYTES);
		ts_list_for(l, &s->pending[d]) {
			struct rec *w = ts_list_entry(l, struct rec, link);
			uint64_t dice = seed ? ts_hash_2(seed, w->off + d) % 5 : 4;

			if (dice >= 2)
				memcpy(h->disk[d]->now + w->off, w->data, dice == 2 ? TS_ALIGN_DOWN(w->len / 2, 512) : w->len);
		}
		fsh_disk_settle(h->disk[d]);
	}
	return h;
}

static void states_end(struct states *s)
{
	for (unsigned d = 0; d < s->base->ndisks; d++) {
		struct ts_list *l;

		while ((l = ts_list_pop_front(&s->pending[d])))
			ts_free(ts_list_entry(l, struct rec, link));
		ts_free(s->stable[d]);
	}
}

static void add_states(void **state)
{
	struct fsh *h = world(1);
	struct node n = {.h = h};
	struct states s;
	struct ts_list *l;
	unsigned seen[FS_DISK_STATES] = {0}, last = FS_DISK_GONE, count = 0, mounts = 0;

	node_mount(&n);
	states_begin(&s, h);
	assert_int_equal(run_verb(&n, add_fiber, 0, 0).rc, 0);
	h->record = NULL;
	fsh_unmount(h);
	while (!ts_list_empty(&recs)) {
		bool table;

		l = recs.next;
		table = ts_list_entry(l, struct rec, link)->disk == 0; /* what decides; the rest is looked at here and there */
		states_next(&s, ts_list_entry(l, struct rec, link));
		if (++count % 8 && !table)
			continue;
		for (unsigned k = 0; k < (table ? 2 : 1); k++) {
			struct fsh *w = states_world(&s, k ? 0 : count);

			last = expect_clean(w, "a power failure while a disk was added");
			seen[last]++;
			if (!k && ++mounts % 8 == 0) { /* and it goes on from there */
				struct node m = {.h = w};
				struct verb v;

				node_mount(&m);
				v = run_verb(&m, add_fiber, 0, 0);
				if (last == FS_DISK_READY ? v.rc != -EEXIST : v.rc)
					fail_msg("add after a power failure: %d %s", v.rc, v.err);
				fsh_unmount(w);
				expect_clean(w, "after the second try");
			}
			fsh_free(w);
		}
	}
	assert_true(seen[FS_DISK_GONE] && seen[FS_DISK_JOINING] && seen[FS_DISK_READY]);
	assert_int_equal(last, FS_DISK_READY);
	print_message("%u writes and flushes; states: none %u, joining %u, ready %u\n", count, seen[FS_DISK_GONE], seen[FS_DISK_JOINING], seen[FS_DISK_READY]);
	states_end(&s);
	fsh_free(h);
}

static void drain_states(void **state)
{
	struct fsh *h = world(1);
	struct node n = {.h = h};
	struct states s;
	unsigned count = 0, mounted = 0, nrecs = 0;

	node_mount(&n);
	fsh_run(h, files_write, h);
	states_begin(&s, h);
	assert_int_equal(run_verb(&n, drain_fiber, 2, 0).rc, 0);
	wait_state(h, 2, FS_DISK_EMPTY);
	assert_int_equal(run_verb(&n, remove_fiber, 2, 0).rc, 0);
	h->record = NULL;
	fsh_run(h, files_check, h);
	fsh_unmount(h);
	ts_list_for(l, &recs)
		nrecs++;
	while (!ts_list_empty(&recs)) {
		states_next(&s, ts_list_entry(recs.next, struct rec, link));
		if (++count % TS_MAX(nrecs / 60, 1u))
			continue;
		struct fsh *w = states_world(&s, count);
		struct node m = {.h = w};

		expect_clean(w, "a power failure while a disk was drained");
		if (count % TS_MAX(nrecs / 12, 1u) < TS_MAX(nrecs / 60, 1u)) { /* and the drain goes on by itself */
			node_mount(&m);
			fsh_run(w, files_check, w);
			if (state_of(w, 2) == FS_DISK_DRAINING)
				wait_state(w, 2, FS_DISK_EMPTY);
			fsh_run(w, files_check, w);
			fsh_unmount(w);
			expect_clean(w, "after a drain that went on");
			mounted++;
		}
		fsh_free(w);
	}
	print_message("%u writes and flushes, %u states mounted\n", count, mounted);
	assert_true(mounted > 5);
	states_end(&s);
	fsh_free(h);
}

/* ---- planted faults: the checkers see them ----------------------------------------------------------------------------------- */
struct plant {
	struct fsh *h;
	unsigned no, state;
};
static void plant_fiber(void *arg)
{
	struct plant *p = arg;
	struct fs_disk_edit e = {.no = p->no, .ent = p->h->fs->disks[p->no].ent};

	e.ent.state = (uint8_t)p->state;
	assert_int_equal(fs_disks_write(p->h->fs, &e), 0);
}

/* A disk with files on it is called empty, or gone: fsck does not believe that nothing is there. */
static void called_empty(void **state)
{
	static const unsigned lie[] = {FS_DISK_JOINING, FS_DISK_EMPTY, FS_DISK_GONE};

	for (unsigned i = 0; i < TS_ARRAY_LEN(lie); i++) {
		struct fsh *h = world(1);
		struct node n = {.h = h};
		struct plant p = {h, 1, lie[i]};
		struct look l = {.h = h};

		node_mount(&n);
		fsh_run(h, files_write, h);
		fsh_run(h, plant_fiber, &p);
		fsh_unmount(h);
		fsh_run(h, check_fiber, &l);
		if (!l.rc && !l.r.findings)
			fail_msg("a disk with files on it is called %s, and fsck finds nothing", fs_disk_state_name(lie[i]));
		fsh_free(h);
	}
}

/* Its copies on the other disks are older, or newer, than that of disk 0. */
static void copies(void **state)
{
	struct fsh *h = world(1);
	struct node n = {.h = h};
	uint8_t *before = ts_xalloc(FS_SUB);
	struct look l = {.h = h};

	node_mount(&n);
	memcpy(before, h->disk[1]->now + FS_DISKTAB_SUB * FS_SUB, FS_SUB);
	assert_int_equal(run_verb(&n, add_fiber, 0, 0).rc, 0);
	fsh_unmount(h);
	memcpy(h->disk[1]->now + FS_DISKTAB_SUB * FS_SUB, before, FS_SUB);
	expect_clean(h, "an older copy");
	h->disk[0]->now[FS_DISKTAB_SUB * FS_SUB + 80] ^= 1; /* half written: that is why there is another */
	expect_clean(h, "one of two copies");
	h->disk[0]->now[FS_DISKTAB_SUB2 * FS_SUB + 80] ^= 1;
	fsh_run(h, check_fiber, &l);
	assert_int_equal(l.rc, 0);
	assert_int_equal(l.r.findings, 2);
	l = (struct look){.h = h, .repair = true};
	fsh_run(h, check_fiber, &l);
	assert_int_equal(l.rc, 0);
	expect_clean(h, "repaired");
	node_mount(&n);
	assert_int_equal(state_of(h, SPARE), FS_DISK_READY);
	fsh_unmount(h);
	ts_free(before);
	fsh_free(h);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(life),		cmocka_unit_test(cannot_open), cmocka_unit_test(label_unknown),	cmocka_unit_test(dies_at_step), cmocka_unit_test(add_states),
		cmocka_unit_test(drain_states), cmocka_unit_test(called_empty), cmocka_unit_test(copies),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
