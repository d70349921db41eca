/* SPDX-License-Identifier: Apache-2.0 */
/* Job: executor, clock, disks, format and a bare node for the unit tests of fs/. See fs_harness.h. */
#include "fs_harness.h"

#include <stdio.h>
#include <sys/mman.h>

#define SECTOR 512u

struct unstable {
	struct ts_list link;
	uint64_t off, len, seq;
	uint8_t data[];
};
struct job { /* one request in flight */
	struct ts_list link;
	struct nsd_req *r;
	struct fsh_disk *d;
	struct ts_timer timer;
	uint8_t *copy; /* of a write's bytes when it was submitted */
	uint64_t flush_seq; /* flush: writes completed at submission */
	int rc;
};

/* ---- environment ------------------------------------------------------------------------------------------------ */

static uint64_t env_now(void *arg)
{
	return ((struct fsh *)arg)->now_ns;
}
static uint64_t env_wall(void *arg)
{
	return ((struct fsh *)arg)->now_ns + 1700000000 * TS_NS_PER_S;
}
uint64_t fsh_random(struct fsh *h)
{
	h->rng += 0x9e3779b97f4a7c15ULL;
	return ts_hash_u64(h->rng);
}
static uint64_t env_random(void *arg)
{
	return fsh_random(arg);
}
static const struct ts_env_ops env_ops = {.now_ns = env_now, .wall_ns = env_wall, .random = env_random};

/* ---- disks ------------------------------------------------------------------------------------------------------ */

static uint8_t *image_new(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	TS_ASSERT(p != MAP_FAILED);
	return p;
}

static uint8_t *gather(const struct nsd_req *r)
{
	uint8_t *p = ts_xalloc(r->len), *q = p;

	for (int i = 0; i < r->iovcnt; i++) {
		memcpy(q, r->iov[i].iov_base, r->iov[i].iov_len);
		q += r->iov[i].iov_len;
	}
	return p;
}

static void do_read(struct fsh_disk *d, struct nsd_req *r)
{
	uint64_t off = r->off;

	for (int i = 0; i < r->iovcnt; i++) {
		memcpy(r->iov[i].iov_base, d->now + off, r->iov[i].iov_len);
		off += r->iov[i].iov_len;
	}
}

static void do_write(struct job *j)
{
	struct fsh_disk *d = j->d;
	struct unstable *u = ts_xalloc(sizeof(*u) + j->r->len);

	if (j->r->op == NSD_WRITE) {
		uint8_t *again = gather(j->r);

		if (memcmp(again, j->copy, j->r->len))
			TS_PANIC("disk %u offset %#lx: the buffer changed while its write was in flight", d->no, j->r->off);
		ts_free(again);
		memcpy(u->data, j->copy, j->r->len);
	}
	u->off = j->r->off;
	u->len = j->r->len;
	u->seq = ++d->unstable_seq;
	memcpy(d->now + u->off, u->data, u->len);
	ts_list_push_back(&d->unstable, &u->link);
}

static void do_flush(struct fsh_disk *d, uint64_t seq)
{
	while (!ts_list_empty(&d->unstable)) {
		struct unstable *u = ts_list_entry(d->unstable.next, struct unstable, link);

		if (u->seq > seq)
			break;
		ts_list_del(&u->link);
		memcpy(d->stable + u->off, u->data, u->len);
		ts_free(u);
	}
}

static void job_end(void *arg)
{
	struct job *j = arg;
	struct fsh_disk *d = j->d;
	struct nsd_req *r = j->r;
	struct fsh *h = d->h;

	if (!j->rc) {
		switch (r->op) {
		case NSD_READ: d->reads++; do_read(d, r); break;
		case NSD_FLUSH: d->flushes++; do_flush(d, j->flush_seq); break;
		default: d->writes++; do_write(j); break;
		}
		if (h->record && r->op != NSD_READ)
			h->record(h->record_arg, d->no, r->op, r->op == NSD_FLUSH ? j->flush_seq : r->off, j->copy, r->len);
	}
	nsd_complete(r, j->rc);
	ts_list_del(&j->link);
	ts_free(j->copy);
	ts_free(j);
}

void fsh_disk_settle(struct fsh_disk *d)
{
	do_flush(d, UINT64_MAX);
}

static void disk_submit(struct nsd_dev *dev, struct nsd_req *r)
{
	struct fsh_disk *d = nsd_dev_priv(dev);
	struct job *j = ts_xalloc(sizeof(*j));
	uint64_t ns = r->op == NSD_READ ? d->read_ns : r->op == NSD_FLUSH ? d->flush_ns : d->write_ns;

	j->r = r;
	j->d = d;
	if (r->op == NSD_WRITE)
		j->copy = gather(r);
	j->flush_seq = d->unstable_seq;
	ts_list_push_back(&d->jobs, &j->link);
	if (d->fail_nth && d->fail_op == r->op && --d->fail_nth == 0) {
		j->rc = d->fail_rc;
		d->fail_nth = d->fail_on;
	}
	if (ns)
		ts_timer_arm(d->h->x, &j->timer, d->h->now_ns + ns, job_end, j);
	else
		job_end(j);
}

static void disk_close(struct nsd_dev *dev)
{
}
static int disk_size(struct nsd_dev *dev, uint64_t *bytes)
{
	*bytes = ((struct fsh_disk *)nsd_dev_priv(dev))->bytes;
	return 0;
}

static const struct nsd_ops disk_ops = {.submit = disk_submit, .close = disk_close, .size = disk_size};

static bool gate(void *arg)
{
	return ((struct fsh *)arg)->may_write;
}

static void disk_new(struct fsh *h, unsigned no, uint64_t bytes)
{
	struct fsh_disk *d = ts_xalloc(sizeof(*d));
	struct nsd_info info = {.size_bytes = bytes, .sector_bytes = SECTOR, .max_io_bytes = 4u << 20, .transport = "sim"};
	struct nsd_gate g = {.may_write = gate, .arg = h};
	char url[32];

	snprintf(url, sizeof(url), "sim://%u", no);
	d->h = h;
	d->no = no;
	d->bytes = bytes;
	d->now = image_new(bytes);
	d->stable = image_new(bytes);
	ts_list_init(&d->unstable);
	ts_list_init(&d->jobs);
	for (uint64_t off = 64 << 10; off < bytes; off += 64 << 10) { /* not all zero: garbage here and there, the same in both */
		memset(d->now + off, 0xa5, 64);
		memset(d->stable + off, 0xa5, 64);
	}
	d->dev = nsd_dev_new(h->x, &disk_ops, d, &info, &g, url);
	TS_ASSERT(d->dev);
	h->disk[no] = d;
	h->devs[no] = d->dev;
}

/* ---- the harness -------------------------------------------------------------------------------------------------- */

struct fsh *fsh_new(unsigned ndisks, uint64_t bytes_each)
{
	struct fsh *h = ts_xalloc(sizeof(*h));

	TS_ASSERT(ndisks && ndisks <= FSH_DISKS);
#ifndef FSH_REAL_TOKENS /* tests/crash has the real ones */
	TS_ASSERT(fs_tok_stub_pins() == 0);
#endif
	h->now_ns = TS_NS_PER_S;
	h->rng = 1;
	h->env = (struct ts_env){.ops = &env_ops, .arg = h};
	h->x = ts_exec_new(&h->env);
	TS_ASSERT(h->x);
	h->ndisks = ndisks;
	h->may_write = true;
	h->incarnation = 100;
	for (unsigned i = 0; i < ndisks; i++)
		disk_new(h, i, bytes_each);
	return h;
}

struct running {
	ts_fn fn;
	void *arg;
	bool ended;
};
static void run_fiber(void *arg)
{
	struct running *r = arg;

	r->fn(r->arg);
	r->ended = true;
}

static void show_waiter(void *arg, const char *name, const char *what, uint64_t a, uint64_t b, uint64_t since)
{
	fprintf(stderr, "  %s waits for %s %#lx %#lx since %llu ms\n", name, what, a, b, since / TS_NS_PER_MS);
}

void fsh_run(struct fsh *h, ts_fn fn, void *arg)
{
	struct running r = {.fn = fn, .arg = arg};
	uint64_t limit = h->now_ns + 24 * 3600 * TS_NS_PER_S;

	TS_ASSERT(ts_fiber_spawn(h->x, "test", run_fiber, &r) == 0);
	while (!r.ended) {
		bool more = ts_exec_run(h->x, 10000);
		uint64_t next = ts_exec_next_timer(h->x);

		if (more || r.ended)
			continue;
		if (next == UINT64_MAX || next > limit) {
			ts_fiber_each_waiting(h->x, show_waiter, NULL);
			TS_PANIC("everything waits and no timer is armed (or a day has passed)");
		}
		h->now_ns = TS_MAX(h->now_ns, next);
	}
}

static void sleeper(void *arg)
{
	ts_sleep_until(*(uint64_t *)arg);
}
void fsh_settle(struct fsh *h, uint64_t ns)
{
	uint64_t until = h->now_ns + ns;

	fsh_run(h, sleeper, &until);
}

/* ---- format, a bare node, power failure ------------------------------------------------------------------------- */

struct format_call {
	struct fsh *h;
	struct fs_format_args *a;
};
static void format_fiber(void *arg)
{
	struct format_call *c = arg;
	char err[256] = "";
	int rc = fs_format(c->a, c->h->fs_id, err, sizeof(err));

	if (rc)
		TS_PANIC("format: %d %s", rc, err);
}

void fsh_format_args(struct fsh *h, struct fs_format_args *a)
{
	struct format_call c = {h, a};

	a->disks = h->devs;
	a->ndisks = h->ndisks;
	a->env = &h->env;
	if (!a->name)
		a->name = "test";
	fsh_run(h, format_fiber, &c);
}

void fsh_format(struct fsh *h, uint32_t block_size)
{
	struct fs_format_args a = {.block_size = block_size, .log_slots = 4, .log_bytes = 1 << 20};

	fsh_format_args(h, &a);
}

static int never_void(struct fs *fs, fs_addr a, uint64_t version, bool *skip)
{
	*skip = false;
	return 0;
}

static void core_fiber(void *arg)
{
	struct fsh *h = arg;
	struct fs_bare_args a = {.exec = h->x, .disks = h->devs, .ndisks = h->ndisks, .meta_pool_bytes = 8 << 20,
				 .record_void = never_void};
	char err[256] = "";
	int rc = fs_bare_new(&a, &h->fs, err, sizeof(err));

	if (rc)
		TS_PANIC("opening the file system: %d %s", rc, err);
	rc = fs_recover_offline(h->fs, &h->replayed);
	if (rc)
		TS_PANIC("replay: %d", rc);
	h->fs->args.net = h->net;
	h->fs->args.meta_pool_bytes = a.meta_pool_bytes;
	net_lamport_raise(h->net, h->fs->lamport);
	h->fs->self = 1;
	h->fs->incarnation = h->incarnation;
	h->fs->slot = 0;
	rc = fs_log_init(h->fs);
	if (rc)
		TS_PANIC("log of slot 0: %d", rc);
	h->fs->run = FS_RUN_LIVE;
}

static void core_kill(struct fs *fs)
{
	fs_log_fini(fs);
	fs_bare_free(fs);
}

struct fs *fsh_core(struct fsh *h)
{
	h->incarnation++;
	h->net = fsw_net_new(h->x, 1, h->incarnation);
	h->kill = core_kill;
	fsh_run(h, core_fiber, h);
	return h->fs;
}

static void core_close_fiber(void *arg)
{
	struct fsh *h = arg;

	h->fs->stopping_threads = true;
	TS_ASSERT(ts_group_wait(&h->fs->background, "background fibers") == 0);
	TS_ASSERT(fs_log_shutdown_clean(h->fs) == 0);
	fs_log_fini(h->fs);
	fs_bare_free(h->fs);
	h->fs = NULL;
}

static void world_free(struct fsh *h)
{
	if (h->quorum)
		fsw_quorum_free(h->quorum);
	if (h->net)
		net_close(h->net);
	h->quorum = NULL;
	h->net = NULL;
}

void fsh_core_close(struct fsh *h)
{
	fsh_run(h, core_close_fiber, h);
	world_free(h);
}

static void lose_power(struct fsh_disk *d, uint64_t seed)
{
	struct ts_list lost;
	uint64_t n = 0;

	ts_list_init(&lost);
	while (!ts_list_empty(&d->unstable)) {
		struct unstable *u = ts_list_entry(ts_list_pop_front(&d->unstable), struct unstable, link);
		uint64_t coin = seed ? ts_hash_2(seed, d->no * 1000003ULL + n++) : 0;

		if (coin & 1)
			memcpy(d->stable + u->off, u->data, u->len);
		else if (coin & 2) /* torn: some sectors made it */
			for (uint64_t s = 0; s < u->len; s += SECTOR)
				if (ts_hash_2(coin, s) & 1)
					memcpy(d->stable + u->off + s, u->data + s, SECTOR);
		ts_list_push_back(&lost, &u->link);
	}
	while (!ts_list_empty(&lost)) {
		struct unstable *u = ts_list_entry(ts_list_pop_front(&lost), struct unstable, link);

		memcpy(d->now + u->off, d->stable + u->off, u->len);
		ts_free(u);
	}
}

/* What the killed fibers had on their stacks is lost: no leak of the code under test. */
static bool leaks_expected;
static struct nsd_dev *dead_devs[65536]; /* reachable, for the leak checker */
static unsigned ndead;
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
	return leaks_expected;
}

static void bury(struct fsh_disk *d)
{
	struct ts_list *l;

	while ((l = ts_list_pop_front(&d->jobs))) {
		struct job *j = ts_list_entry(l, struct job, link);

		ts_free(j->copy);
		ts_free(j);
	}
	if (ndead < TS_ARRAY_LEN(dead_devs))
		dead_devs[ndead++] = d->dev;
}

void fsh_crash(struct fsh *h, uint64_t seed)
{
	leaks_expected = true;
	ts_exec_kill(h->x);
	if (h->fs)
		h->kill(h->fs);
	h->fs = NULL;
	world_free(h);
	for (unsigned i = 0; i < h->ndisks; i++) {
		struct fsh_disk *d = h->disk[i];
		struct nsd_info info = *nsd_info(d->dev);
		struct nsd_gate g = {.may_write = gate, .arg = h};

		bury(d); /* with the requests of the dead executor */
		lose_power(d, seed);
		d->dev = nsd_dev_new(h->x, &disk_ops, d, &info, &g, "sim://again");
		TS_ASSERT(d->dev);
		h->devs[i] = d->dev;
	}
}

static void close_disks(void *arg)
{
	struct fsh *h = arg;

	for (unsigned i = 0; i < h->ndisks; i++)
		nsd_close(h->disk[i]->dev);
}

void fsh_free(struct fsh *h)
{
	if (h->fs)
		fsh_crash(h, 0);
	fsh_run(h, close_disks, h);
	world_free(h);
	for (unsigned i = 0; i < h->ndisks; i++) {
		struct fsh_disk *d = h->disk[i];

		do_flush(d, UINT64_MAX);
		munmap(d->now, d->bytes);
		munmap(d->stable, d->bytes);
		ts_free(d);
	}
	ts_exec_free(h->x);
	ts_free(h);
}
