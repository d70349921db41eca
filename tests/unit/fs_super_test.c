/* SPDX-License-Identifier: Apache-2.0 */
/* Job: mounting by several nodes at once, each in a slot of its own; death, recovery by the coordinator, also when that one
 * dies in the middle; intents adopted once; a cluster that crashed as a whole, and one whose every slot crashed. The nodes share
 * an executor and a disk; tokens are the stub's, so only what needs no coherence between nodes is done here. */
#include "fs_harness.h"

#include <stdio.h>
#include <sys/stat.h>

#define NODES 6

struct node {
	struct fsh *h;
	unsigned id;
	uint64_t incarnation;
	struct net *net;
	struct quorum *quorum;
	struct fs *fs;
	int rc;
	char err[256];
	bool mounted, dead;
};
struct world {
	struct fsh *h;
	struct node node[NODES + 1];
	unsigned mounting;
	uint64_t next_incarnation;
};

static void view(void *arg, const struct quorum_group_view *v)
{
	struct node *n = arg;

	if (n->fs && !n->dead)
		fs_group_view(n->fs, v);
}

static void mount_fiber(void *arg)
{
	struct node *n = arg;
	struct fs_mount_args a = {.exec = n->h->x, .disks = n->h->devs, .ndisks = n->h->ndisks, .net = n->net, .quorum = n->quorum,
				  .times = {2000, 400, 500, 150}, .page_pool_bytes = 4u << 20, .meta_pool_bytes = 2u << 20, .net_group = 7};

	n->rc = fs_mount(&a, &n->fs, n->err, sizeof(n->err));
	n->mounted = true;
}

static void start_mount(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];

	*n = (struct node){.h = w->h, .id = id, .incarnation = ++w->next_incarnation};
	n->net = fsw_net_new(w->h->x, id, n->incarnation);
	n->quorum = fsw_quorum_new(w->h->x, id, n->incarnation);
	fsw_quorum_views(n->quorum, view, n);
	assert_int_equal(ts_fiber_spawn(w->h->x, "mount", mount_fiber, n), 0);
}

static void wait_mounted(struct world *w, unsigned from, unsigned to)
{
	uint64_t limit = w->h->now_ns + 60 * TS_NS_PER_S;

	for (unsigned i = from; i <= to; i++) {
		while (!w->node[i].mounted) {
			assert_true(w->h->now_ns < limit);
			ts_sleep_until(w->h->now_ns + 10 * TS_NS_PER_MS);
		}
		if (w->node[i].rc)
			fail_msg("node %u: %d %s", i, w->node[i].rc, w->node[i].err);
	}
}

static void unmount(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];

	assert_int_equal(fs_unmount(n->fs, false), 0);
	fsw_quorum_free(n->quorum);
	net_close(n->net);
	*n = (struct node){0};
}

/* Its fibers are still there, but nothing it does reaches a disk, and its words reach nobody. */
static void die(struct world *w, unsigned id)
{
	struct node *n = &w->node[id];

	n->dead = true;
	n->fs->run = FS_RUN_STOPPED;
	fs_io_resume(n->fs);
	fsw_net_cut(n->net);
	fsw_quorum_die(n->quorum);
}

static void wait_recovered(struct world *w, unsigned by)
{
	uint64_t limit = w->h->now_ns + 60 * TS_NS_PER_S;

	do { /* first the view that names the dead */
		assert_true(w->h->now_ns < limit);
		ts_sleep_until(w->h->now_ns + 10 * TS_NS_PER_MS);
	} while (w->node[by].fs->gview.npending || !w->node[by].fs->gview.epoch);
}

static void distinct_slots(struct world *w, unsigned from, unsigned to)
{
	for (unsigned i = from; i <= to; i++)
		for (unsigned k = from; k < i; k++)
			assert_int_not_equal(w->node[i].fs->slot, w->node[k].fs->slot);
}

/* Forced changes and intents of this node, nothing at home; never closed. */
static void work(struct world *w, unsigned id, unsigned intents)
{
	struct fs *fs = w->node[id].fs;
	fs_addr a = FS_ADDR(0, le64_get(fs->disks[0].ent.region_start) + FS_CHUNK_HEAD + 100 + id);
	struct fs_buf *b;
	struct fs_tx tx;

	assert_int_equal(fs_buf_get(fs, a, FS_BT_INODE, TOK_INODE, 100 + id, &b), 0);
	assert_int_equal(fs_log_reserve(fs, 0), 0);
	fs_tx_begin(fs, &tx);
	fs_tx_buf(&tx, b);
	b->data[2000] = (uint8_t)(40 + id);
	for (unsigned i = 0; i < intents; i++)
		fs_tx_intent(&tx, FS_INTENT_ORPHAN, 0, 1000 * id + i, 1);
	fs_tx_commit(&tx);
	fs_buf_put(fs, b);
	assert_int_equal(fs_log_force(fs, tx.lsn), 0);
}

static bool at_home(struct world *w, struct fs *fs, unsigned id)
{
	uint64_t sub = le64_get(fs->disks[0].ent.region_start) + FS_CHUNK_HEAD + 100 + id;

	return w->h->disk[0]->now[sub * FS_SUB + 2000] == 40 + id;
}

struct seen {
	unsigned id, n;
};
static void see(void *arg, const struct fs_intent *it)
{
	struct seen *s = arg;

	s->n += it->type == FS_INTENT_ORPHAN && it->a / 1000 == s->id;
}
static unsigned intents_of(unsigned id, struct fs *reader, uint32_t slot)
{
	struct seen s = {.id = id};

	assert_int_equal(fs_slot_intents(reader, slot, see, &s), 0);
	return s.n;
}
static unsigned intents_everywhere(struct fs *reader, unsigned id)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < le32_get(reader->super.nslots); i++)
		n += intents_of(id, reader, i);
	return n;
}

static struct world *world_new(unsigned slots)
{
	struct world *w = ts_xalloc(sizeof(*w));
	struct fs_format_args a = {.block_size = 64 << 10, .log_slots = slots, .log_bytes = 1 << 20};

	w->h = fsh_new(1, 128 << 20);
	w->next_incarnation = 100;
	fsh_format_args(w->h, &a);
	return w;
}

static void world_free(struct world *w)
{
	fsh_free(w->h);
	ts_free(w);
}

struct call {
	struct world *w;
	void (*fn)(struct world *w);
};
static void call(void *arg)
{
	struct call *c = arg;

	c->fn(c->w);
}
static void run(struct world *w, void (*fn)(struct world *w))
{
	struct call c = {w, fn};

	fsh_run(w->h, call, &c);
}

/* The power of the whole cluster fails. */
static void blackout(struct world *w, uint64_t seed)
{
	struct fs *fs[NODES + 1] = {0};

	w->h->fs = NULL;
	for (unsigned i = 1; i <= NODES; i++)
		fs[i] = w->node[i].fs;
	fsh_crash(w->h, seed);
	for (unsigned i = 1; i <= NODES; i++) {
		struct node *n = &w->node[i];

		fs_kill(fs[i]);
		if (n->quorum)
			fsw_quorum_free(n->quorum);
		if (n->net)
			net_close(n->net);
		*n = (struct node){0};
	}
	fsw_reset();
}

/* ---- tests -------------------------------------------------------------------------------------------------------- */

static void one_fn(struct world *w)
{
	for (unsigned i = 0; i < 3; i++) {
		start_mount(w, 1);
		wait_mounted(w, 1, 1);
		unmount(w, 1);
	}
}
static void one_node(void **state)
{
	struct world *w = world_new(4);

	run(w, one_fn);
	world_free(w);
}

static void many_fn(struct world *w)
{
	for (unsigned i = 1; i <= NODES; i++)
		start_mount(w, i);
	wait_mounted(w, 1, NODES);
	distinct_slots(w, 1, NODES);
	for (unsigned i = 1; i <= NODES; i += 2)
		unmount(w, i);
	for (unsigned i = 1; i <= NODES; i += 2)
		start_mount(w, i);
	wait_mounted(w, 1, NODES);
	distinct_slots(w, 1, NODES);
	for (unsigned i = 1; i <= NODES; i++)
		unmount(w, i);
}
static void many_nodes(void **state)
{
	struct world *w = world_new(NODES);

	run(w, many_fn);
	world_free(w);
}

static void full_fn(struct world *w)
{
	start_mount(w, 1);
	start_mount(w, 2);
	wait_mounted(w, 1, 2);
	start_mount(w, 3);
	while (!w->node[3].mounted)
		ts_sleep_until(w->h->now_ns + TS_NS_PER_MS);
	assert_int_equal(w->node[3].rc, -EUSERS);
	assert_null(w->node[3].fs);
	assert_non_null(strstr(w->node[3].err, "slot"));
	unmount(w, 1);
	unmount(w, 2);
	fsw_quorum_free(w->node[3].quorum);
	net_close(w->node[3].net);
	w->node[3] = (struct node){0};
}
static void no_slot_left(void **state)
{
	struct world *w = world_new(2);

	run(w, full_fn);
	world_free(w);
}

static void death_fn(struct world *w)
{
	for (unsigned i = 1; i <= 3; i++)
		start_mount(w, i);
	wait_mounted(w, 1, 3);
	work(w, 3, 50);
	work(w, 2, 7);
	die(w, 3);
	wait_recovered(w, 1);
	assert_true(at_home(w, w->node[1].fs, 3));
	assert_int_equal(intents_everywhere(w->node[1].fs, 3), 50);
	die(w, 1); /* the adopter, its log still has them */
	wait_recovered(w, 2);
	assert_int_equal(intents_everywhere(w->node[2].fs, 3), 50);
}
static void death(void **state)
{
	struct world *w = world_new(4);

	run(w, death_fn);
	blackout(w, 0);
	world_free(w);
}

/* The coordinator dies at some moment of the recovery; what it adopted is not adopted again. */
static uint64_t die_after;
static void relay_fn(struct world *w)
{
	for (unsigned i = 1; i <= 3; i++)
		start_mount(w, i);
	wait_mounted(w, 1, 3);
	work(w, 3, 20);
	die(w, 3);
	ts_sleep_until(w->h->now_ns + die_after);
	die(w, 1);
	wait_recovered(w, 2);
	assert_true(at_home(w, w->node[2].fs, 3));
	assert_int_equal(intents_everywhere(w->node[2].fs, 3), 20);
}
static void coordinator_dies(void **state)
{
	for (die_after = 0; die_after < 700 * TS_NS_PER_MS; die_after += die_after < 100 * TS_NS_PER_MS ? 20 * TS_NS_PER_MS : 3 * TS_NS_PER_MS / 2) {
		struct world *w = world_new(4);

		w->h->disk[0]->write_ns = w->h->disk[0]->flush_ns = 7 * TS_NS_PER_MS;
		w->h->disk[0]->read_ns = TS_NS_PER_MS;
		run(w, relay_fn);
		blackout(w, 0);
		world_free(w);
	}
}

static void before_fn(struct world *w)
{
	for (unsigned i = 1; i <= 4; i++)
		start_mount(w, i);
	wait_mounted(w, 1, 4);
	for (unsigned i = 1; i <= 4; i++)
		work(w, i, 10 * i);
}
static unsigned first_after, last_after;
static void after_fn(struct world *w)
{
	for (unsigned i = last_after; i >= first_after; i--)
		start_mount(w, i);
	wait_mounted(w, first_after, last_after);
	distinct_slots(w, first_after, last_after);
	for (unsigned i = 1; i <= 4; i++) {
		assert_true(at_home(w, w->node[first_after].fs, i));
		assert_int_equal(intents_everywhere(w->node[first_after].fs, i), 10 * i);
	}
	for (unsigned i = first_after; i <= last_after; i++)
		unmount(w, i);
}
/* slots 6: some are free. slots 4: every slot crashed, they are recovered in place. */
static void whole_cluster(void **state)
{
	for (unsigned slots = 4; slots <= 6; slots += 2) {
		for (unsigned n = 1; n <= 3; n++) {
			struct world *w = world_new(slots);

			run(w, before_fn);
			blackout(w, n);
			first_after = 2;
			last_after = 1 + n;
			run(w, after_fn);
			world_free(w);
		}
	}
}

/* While those who recover the crashed cluster die one after the other. */
static uint64_t step;
static void relay_mounts_fn(struct world *w)
{
	for (unsigned i = 1; i <= 3; i++) {
		start_mount(w, i);
		ts_sleep_until(w->h->now_ns + step);
		if (i < 3 && w->node[i].fs)
			die(w, i);
	}
	wait_mounted(w, 3, 3);
	wait_recovered(w, 3);
	for (unsigned i = 1; i <= 4; i++) {
		assert_true(at_home(w, w->node[3].fs, i));
		assert_int_equal(intents_everywhere(w->node[3].fs, i), 10 * i);
	}
}
static void mounters_die(void **state)
{
	for (step = 5 * TS_NS_PER_MS; step < 1500 * TS_NS_PER_MS; step += 17 * TS_NS_PER_MS) {
		struct world *w = world_new(4 + (step / 1000000) % 3);

		run(w, before_fn);
		blackout(w, step);
		w->h->disk[0]->write_ns = w->h->disk[0]->flush_ns = 5 * TS_NS_PER_MS;
		w->h->disk[0]->read_ns = TS_NS_PER_MS;
		run(w, relay_mounts_fn);
		blackout(w, 0);
		world_free(w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_node), cmocka_unit_test(many_nodes),	cmocka_unit_test(no_slot_left),
		cmocka_unit_test(death),    cmocka_unit_test(coordinator_dies), cmocka_unit_test(whole_cluster),
		cmocka_unit_test(mounters_die),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
