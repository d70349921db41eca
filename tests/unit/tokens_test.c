/* SPDX-License-Identifier: Apache-2.0 */
/* Several token managers on one executor, joined by an in-process net that delays and reorders across lanes
 * and peers. */
#include "tokens/tokens.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <cmocka.h>

#define NODES 3

struct frame {
	struct ts_list link;
	struct net_msg m;
	uint8_t bytes[];
};
struct world;
struct node {
	struct world *w;
	unsigned id;
	struct net *net;
	struct tok_mgr *m;
	bool dead, lost;
	unsigned revokes, pre_revokes, users; /* users: fibers inside an EX or SH pin now */
	int revoke_rc;
	uint64_t gives; /* with SW of INODE */
};
struct world {
	struct ts_exec *x;
	uint64_t now, sent, rng, epoch;
	struct ts_list q[NODES + 1][NODES + 1][NET_LANES];
	struct node n[NODES + 1];
	unsigned running; /* test fibers not ended */
	/* what the token protects: who is inside, per id */
	unsigned readers[16], writers[16];
};
static struct world W;

/* ---- the world
 * ------------------------------------------------------------------------------------------------------*/

static uint64_t env_now(void *arg)
{
	return W.now;
}
static uint64_t env_random(void *arg)
{
	W.rng = W.rng * 6364136223846793005ULL + 1442695040888963407ULL;
	return ts_hash_u64(W.rng);
}
static const struct ts_env_ops env_ops = {.now_ns = env_now, .wall_ns = env_now, .random = env_random};

static int fake_send(struct net *net, const struct net_out *o, uint64_t call_id, int result, bool reply)
{
	struct node *me = net_priv(net);
	if (me->dead || W.n[o->dst_node].dead)
		return 0;
	struct frame *f = ts_xalloc(sizeof *f + o->len);
	memcpy(f->bytes, o->payload, o->len);
	f->m = (struct net_msg){.src_node = me->id,
				.src_incarnation = me->id,
				.lane = o->lane,
				.type = o->type,
				.group = o->group,
				.view = o->view,
				.payload = f->bytes,
				.len = o->len};
	W.sent++;
	ts_list_push_back(&W.q[me->id][o->dst_node][o->lane], &f->link);
	return 0;
}
static void fake_set(struct net *n, unsigned node, uint64_t incarnation, const char *addr, unsigned port)
{
}
static void fake_drop(struct net *n, unsigned node)
{
}
static void fake_close(struct net *n)
{
}
static void fake_stats(struct net *n, struct net_stats *out)
{
	*out = (struct net_stats){0};
}
static const struct net_ops fake_ops = {fake_send, fake_set, fake_drop, fake_close, fake_stats, NULL};

static struct frame *some_frame(unsigned *dst)
{
	struct ts_list *pick = NULL;
	unsigned found = 0;
	for (unsigned a = 1; a <= NODES; a++)
		for (unsigned b = 1; b <= NODES; b++)
			for (unsigned l = 0; l < NET_LANES; l++)
				if (!ts_list_empty(&W.q[a][b][l]) && env_random(NULL) % ++found == 0)
					pick = &W.q[a][b][l], *dst = b;
	return pick ? ts_list_entry(ts_list_pop_front(pick), struct frame, link) : NULL;
}

/* Runs the world until no test fiber is left, or for `until` ns of its time. */
static void run_until(uint64_t until)
{
	for (unsigned idle = 0;;) {
		unsigned dst = 0;
		ts_exec_run(W.x, 100000);
		struct frame *f = some_frame(&dst);
		if (f) {
			if (!W.n[dst].dead)
				net_deliver(W.n[dst].net, &f->m, false);
			ts_free(f);
			W.now += 1000;
			idle = 0;
			continue;
		}
		if (until == 0 && !W.running)
			return;
		uint64_t t = ts_exec_next_timer(W.x);
		if (t == UINT64_MAX || (until && t > until)) {
			if (until)
				return;
			assert_int_equal(idle++, 0); /* fibers left and nothing can happen: a lost wake-up */
		} else {
			W.now = TS_MAX(W.now, t);
		}
	}
}
static void run(void)
{
	run_until(0);
}
static void settle(void)
{
	run_until(W.now + TS_NS_PER_S);
}

static void view(unsigned pending)
{
	struct quorum_group_view v = {.group = 77, .epoch = ++W.epoch, .view = W.epoch, .quorate = true};
	for (unsigned i = 1; i <= NODES; i++)
		if (!W.n[i].dead)
			v.members[v.nmembers++] = (struct quorum_member){.node = i, .incarnation = i};
	if (pending)
		v.pending[v.npending++] = (struct quorum_member){.node = pending, .incarnation = pending};
	for (unsigned i = 1; i <= NODES; i++)
		if (!W.n[i].dead)
			tok_mgr_view(W.n[i].m, &v);
}

static int on_revoke(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode to, uint64_t start,
		     uint64_t end)
{
	struct node *n = arg;
	n->revokes++;
	TS_ASSERT(!tok_cached(n->m, kind, id, TOK_SH) || to != TOK_NL); /* said no from the first step on */
	ts_sleep_until(W.now + 10000);
	if (id < TS_ARRAY_LEN(W.readers) && kind == TOK_RENAME)
		TS_ASSERT(n->users == 0); /* drained */
	if (n->gives && kind == TOK_INODE && !tok_holds(n->m, kind, id, TOK_EX, 0, TOK_END) && tok_holds(n->m, kind, id, TOK_SW, 0, TOK_END))
		tok_value_give(n->m, kind, id, &(struct tok_value){.era = 1, .high = n->gives});
	return n->revoke_rc;
}
static void on_pre_revoke(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode to, uint64_t start,
			  uint64_t end)
{
	struct node *n = arg;
	n->pre_revokes++;
	TS_ASSERT(tok_revoke_pending(n->m, kind, id));
	ts_fiber_yield();
}
static struct {
	struct tok_mgr *m; /* tries late pins inside last_revoke; NULL: none */
	unsigned calls, ordinary_refused, granted;
	bool waiter_served;
} late;

static void late_waiter(void *arg)
{
	struct tok_pin p;
	assert_int_equal(tok_pin(late.m, TOK_DATA, 8, TOK_EX, 0, TOK_END, TOK_LATE | TOK_TRY, &p), 0);
	late.waiter_served = true;
	tok_unpin(late.m, &p);
}

static void on_last_revoke(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode to, uint64_t start, uint64_t end)
{
	struct node *n = arg;
	struct tok_pin p;
	if (n->m != late.m || kind != TOK_DATA)
		return;
	late.calls++;
	late.ordinary_refused += tok_pin(n->m, kind, id, TOK_EX, 0, TOK_END, TOK_TRY, &p) == -TS_ERR_WOULD_WAIT;
	assert_int_equal(tok_pin(n->m, kind, id, TOK_EX, 0, TOK_END, TOK_LATE | TOK_TRY, &p), 0);
	late.granted++;
	assert_int_equal(ts_fiber_spawn(W.x, "late", late_waiter, NULL), 0); /* behind our pin, before the token leaves */
	ts_fiber_yield();
	assert_false(late.waiter_served);
	tok_unpin(n->m, &p);
	while (!late.waiter_served)
		ts_fiber_yield();
}

static struct {
	unsigned calls;
	int rc;
} asked; /* before waits */
static int on_before_wait(void *arg, enum tok_kind kind, uint64_t id)
{
	assert_int_equal(kind, TOK_DIR);
	asked.calls++;
	return asked.rc;
}

static void on_lost(void *arg)
{
	struct node *n = arg;
	assert_false(n->lost);
	n->lost = true;
}

static size_t max_tokens;
static int setup(void **state)
{
	memset(&W, 0, sizeof W);
	W.now = TS_NS_PER_S;
	W.rng = 12345;
	struct ts_env env = {.ops = &env_ops};
	W.x = ts_exec_new(&env);
	for (unsigned a = 0; a <= NODES; a++)
		for (unsigned b = 0; b <= NODES; b++)
			for (unsigned l = 0; l < NET_LANES; l++)
				ts_list_init(&W.q[a][b][l]);
	for (unsigned i = 1; i <= NODES; i++) {
		struct node *n = &W.n[i];
		*n = (struct node){.w = &W, .id = i};
		n->net = net_new(W.x, i, i, &fake_ops, n);
		for (unsigned p = 1; p <= NODES; p++)
			net_peer_set(n->net, p, p, "", 0);
		struct tok_args a = {.exec = W.x,
				     .net = n->net,
				     .group = 77,
				     .net_group = 7,
				     .self = i,
				     .incarnation = i,
				     .max_tokens = max_tokens,
				     .events = {.revoke = on_revoke, .pre_revoke = on_pre_revoke, .last_revoke = on_last_revoke, .before_wait = on_before_wait, .lost = on_lost, .arg = n}};
		n->m = tok_mgr_new(&a);
		assert_non_null(n->m);
	}
	view(0);
	settle();
	W.sent = 0;
	return 0;
}
static int teardown(void **state)
{
	ts_exec_kill(W.x);
	for (unsigned a = 1; a <= NODES; a++)
		for (unsigned b = 1; b <= NODES; b++)
			for (unsigned l = 0; l < NET_LANES; l++) {
				struct ts_list *n;
				while ((n = ts_list_pop_front(&W.q[a][b][l])))
					ts_free(ts_list_entry(n, struct frame, link));
			}
	for (unsigned i = 1; i <= NODES; i++) {
		tok_mgr_free(W.n[i].m);
		net_close(W.n[i].net);
	}
	ts_exec_free(W.x);
	return 0;
}

/* ---- fibers of the tests
 * --------------------------------------------------------------------------------------------*/

struct job {
	struct node *n;
	enum tok_kind kind;
	uint64_t id;
	enum tok_mode mode;
	unsigned flags, rounds, upgrade;
	uint64_t work_ns;
	int rc;
	struct tok_pin keep;
	bool keeping, ranged, ex;
	uint64_t start, end, got; /* end != 0: this range */
};

static void inside(struct job *j, enum tok_mode mode)
{
	unsigned *c = mode == TOK_EX ? &W.writers[j->id % 16] : &W.readers[j->id % 16];
	++*c;
	j->n->users++;
	TS_ASSERT(W.writers[j->id % 16] + (W.writers[j->id % 16] ? W.readers[j->id % 16] : 0) <=
		  1); /* the law, seen from above */
	if (j->work_ns)
		ts_sleep_until(W.now + j->work_ns);
	else
		ts_fiber_yield();
	TS_ASSERT(W.writers[j->id % 16] + (W.writers[j->id % 16] ? W.readers[j->id % 16] : 0) <= 1);
	j->n->users--;
	--*c;
}
static void job_run(void *arg)
{
	struct job *j = arg;
	for (unsigned i = 0; i < TS_MAX(j->rounds, 1u) && !j->rc; i++) {
		enum tok_mode mode = j->upgrade && i % 2 == 0 ? TOK_SH : j->mode;
		struct tok_pin p;
		uint64_t at = j->end ? j->start : j->ranged ? 4096 * j->n->id : 0; /* of any kind but DATA: the whole */
		j->rc = tok_pin(j->n->m, j->kind, j->id, mode, at, j->end ? j->end : j->ranged ? at + 4095 : TOK_END, j->flags,
				&p);
		if (j->rc)
			break;
		if (j->keeping) {
			j->keep = p;
			break;
		}
		inside(j, mode);
		tok_unpin(j->n->m, &p);
		TS_ASSERT(!p.tok);
	}
	W.running--;
}
static void start(struct job *j)
{
	W.running++;
	assert_int_equal(ts_fiber_spawn(W.x, "job", job_run, j), 0);
}
static int pin_now(unsigned node, enum tok_kind kind, uint64_t id, enum tok_mode mode, unsigned flags)
{
	struct job j = {.n = &W.n[node], .kind = kind, .id = id, .mode = mode, .flags = flags};
	start(&j);
	run();
	return j.rc;
}

static void pins_share_and_exclude(void **state)
{
	struct job j[12];
	for (unsigned i = 0; i < 12; i++) {
		j[i] = (struct job){.n = &W.n[1 + i % 3],
				    .kind = TOK_RENAME,
				    .id = 0,
				    .mode = i < 9 ? TOK_SH : TOK_EX,
				    .ranged = i % 2,
				    .rounds = 20};
		start(&j[i]);
	}
	run();
	for (unsigned i = 0; i < 12; i++)
		assert_int_equal(j[i].rc, 0);
	assert_true(W.n[1].revokes + W.n[2].revokes + W.n[3].revokes > 0);
	assert_int_equal(W.n[1].revokes, W.n[1].pre_revokes);
}

static void upgrade_storm_makes_progress(void **state)
{
	struct job j[9];
	for (unsigned i = 0; i < 9; i++) {
		j[i] = (struct job){.n = &W.n[1 + i % 3],
				    .kind = TOK_INODE,
				    .id = 5,
				    .mode = TOK_EX,
				    .rounds = 40,
				    .upgrade = 1};
		start(&j[i]);
	}
	run();
	for (unsigned i = 0; i < 9; i++)
		assert_int_equal(j[i].rc, 0);
}

/* What a revoke waits for passes its barrier, and nothing else does; behind last_revoke nothing does. */
static void late_pins_pass_the_barrier(void **state)
{
	struct tok_pin p;
	memset(&late, 0, sizeof(late));
	late.m = W.n[1].m;
	assert_int_equal(pin_now(1, TOK_DATA, 8, TOK_EX, 0), 0);
	assert_int_equal(pin_now(2, TOK_DATA, 8, TOK_EX, 0), 0);
	assert_int_equal(late.calls, 1);
	assert_int_equal(late.ordinary_refused, 1);
	assert_int_equal(late.granted, 1);
	assert_true(late.waiter_served);
	assert_int_equal(tok_pin(late.m, TOK_DATA, 8, TOK_EX, 0, TOK_END, TOK_LATE | TOK_TRY, &p), -TS_ERR_WOULD_WAIT); /* gone */
	late.m = NULL;
	assert_int_equal(pin_now(1, TOK_DATA, 8, TOK_EX, TOK_LATE), 0); /* without TRY it is waited for */
}

/* Who wants to change names and has not the right to is asked to give up what he has locked, and may be sent back. */
static void changes_are_asked_before_they_wait(void **state)
{
	asked.calls = 0;
	asked.rc = 0;
	assert_int_equal(pin_now(1, TOK_DIR, 9, TOK_SH, 0), 0);
	assert_int_equal(pin_now(2, TOK_DIR, 9, TOK_SH, 0), 0);
	assert_int_equal(pin_now(1, TOK_INODE, 9, TOK_EX, 0), 0);
	assert_int_equal(pin_now(1, TOK_DIR, 9, TOK_EX, TOK_TRY), -TS_ERR_WOULD_WAIT);
	assert_int_equal(asked.calls, 0);
	asked.rc = -TS_ERR_BOUNCED;
	assert_int_equal(pin_now(1, TOK_DIR, 9, TOK_EX, 0), -TS_ERR_BOUNCED);
	assert_true(tok_holds(W.n[2].m, TOK_DIR, 9, TOK_SH, 0, TOK_END)); /* nothing was asked of others */
	asked.rc = 0;
	assert_int_equal(pin_now(1, TOK_DIR, 9, TOK_EX, 0), 0);
	assert_int_equal(asked.calls, 2);
	assert_int_equal(pin_now(1, TOK_DIR, 9, TOK_EX, 0), 0); /* held */
	assert_int_equal(asked.calls, 2);
	assert_false(tok_wanted(W.n[1].m, TOK_DIR, 9));
}

static int pin_range(unsigned node, enum tok_mode mode, uint64_t first, uint64_t last)
{
	struct tok_pin p;
	struct job j = {.n = &W.n[node], .kind = TOK_DATA, .id = 11, .mode = mode, .keeping = true, .start = first, .end = last};
	start(&j);
	run();
	p = j.keep;
	tok_unpin(W.n[node].m, &p);
	return j.rc;
}
static bool has(unsigned node, uint64_t start, uint64_t end)
{
	return tok_holds(W.n[node].m, TOK_DATA, 11, TOK_EX, start, end);
}

/* The first has all; a second one that begins behind it gets the rest from there; who comes before gets what lies before. */
static void ranges_part_where_the_second_begins(void **state)
{
	assert_int_equal(pin_range(1, TOK_EX, 0, 99), 0);
	assert_true(has(1, 0, TOK_END));
	assert_int_equal(pin_range(2, TOK_EX, 1000, 1099), 0);
	assert_true(has(1, 0, 999));
	assert_true(has(2, 1000, TOK_END));
	W.sent = 0;
	for (uint64_t i = 1; i < 9; i++) { /* both go on, and nobody hears of it */
		assert_int_equal(pin_range(1, TOK_EX, i * 100, i * 100 + 99), 0);
		assert_int_equal(pin_range(2, TOK_EX, 1000 + i * 100, 1099 + i * 100), 0);
	}
	assert_int_equal(W.sent, 0);
	settle();
	settle(); /* what was fought over is long ago */
	assert_int_equal(pin_range(3, TOK_EX, 0, 9), 0);
	assert_true(has(3, 0, 799));
	assert_true(has(1, 800, 999));
	assert_int_equal(pin_range(1, TOK_EX, 0, TOK_END), 0);
	assert_true(has(1, 0, TOK_END));
	assert_false(has(2, 1500, 1500) || has(3, 5, 5));
}

/* Three that take turns block by block: soon each asks for no more than it needs, and what nobody has is granted without a revoke. */
static void strided_writers_stop_fighting(void **state)
{
	unsigned before, between;
	for (uint64_t i = 0; i < 30; i++)
		assert_int_equal(pin_range(1 + (unsigned)(i % 3), TOK_EX, i * 100, i * 100 + 99), 0);
	before = W.n[1].revokes + W.n[2].revokes + W.n[3].revokes;
	for (uint64_t i = 30; i < 90; i++)
		assert_int_equal(pin_range(1 + (unsigned)(i % 3), TOK_EX, i * 100, i * 100 + 99), 0);
	between = W.n[1].revokes + W.n[2].revokes + W.n[3].revokes - before;
	printf("strided: %u revokes for the first 30 blocks, %u for the next 60\n", before, between);
	assert_true(between <= 2);
	for (uint64_t i = 30; i < 90; i++)
		assert_true(has(1 + (unsigned)(i % 3), i * 100, i * 100 + 99));
}

static void value_fiber(void *arg)
{
	struct job *j = arg;
	struct tok_pin p;
	j->rc = tok_pin(j->n->m, TOK_INODE, 21, j->mode, 0, TOK_END, 0, &p);
	if (!j->rc) {
		struct tok_value v;
		j->got = tok_value_take(j->n->m, TOK_INODE, 21, &v) ? v.high : 0;
		j->ex = tok_holds(j->n->m, TOK_INODE, 21, TOK_EX, 0, TOK_END);
		tok_unpin(j->n->m, &p);
	}
	W.running--;
}
static struct job pin_value(unsigned node, enum tok_mode mode)
{
	struct job j = {.n = &W.n[node], .mode = mode};
	W.running++;
	assert_int_equal(ts_fiber_spawn(W.x, "value", value_fiber, &j), 0);
	run();
	assert_int_equal(j.rc, 0);
	return j;
}

/* SW alone is EX; with others it is SW, and what they changed arrives with the grant of whoever wants to look. */
static void values_follow_shared_writers(void **state)
{
	struct tok_value v;
	assert_true(pin_value(1, TOK_SW).ex);
	assert_false(pin_value(2, TOK_SW).ex);
	assert_false(tok_holds(W.n[1].m, TOK_INODE, 21, TOK_EX, 0, TOK_END));
	assert_true(tok_holds(W.n[1].m, TOK_INODE, 21, TOK_SW, 0, TOK_END));
	W.sent = 0;
	assert_false(pin_value(1, TOK_SW).ex);
	assert_int_equal(W.sent, 0);
	W.n[1].gives = 40;
	W.n[2].gives = 70;
	struct job look = pin_value(3, TOK_SH);
	assert_true(look.ex); /* it must be able to write the value down */
	assert_int_equal(look.got, 70);
	assert_true(tok_value_kept(W.n[1].m, TOK_INODE, 21, &v) && v.high == 40);
	/* It has it for good once somebody else is granted a look behind it. */
	W.n[1].gives = W.n[2].gives = 0;
	assert_int_equal(pin_value(1, TOK_SH).got, 0);
	assert_false(tok_value_kept(W.n[1].m, TOK_INODE, 21, &v));
	assert_true(tok_value_kept(W.n[2].m, TOK_INODE, 21, &v));
	/* Node 3 dies: what node 2 kept is told again. */
	W.n[3].dead = true;
	view(3);
	settle();
	view(0);
	settle();
	assert_int_equal(pin_value(1, TOK_EX).got, 70);
}

static void cached_pin_sends_nothing(void **state)
{
	assert_int_equal(pin_now(1, TOK_DIR, 9, TOK_EX, 0), 0);
	assert_true(tok_cached(W.n[1].m, TOK_DIR, 9, TOK_EX));
	assert_true(tok_cached(W.n[1].m, TOK_DIR, 9, TOK_SH));
	W.sent = 0;
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(pin_now(1, TOK_DIR, 9, i & 1 ? TOK_SH : TOK_EX, TOK_TRY), 0);
	assert_int_equal(W.sent, 0);
	assert_int_equal(pin_now(2, TOK_DIR, 9, TOK_SH, 0), 0);
	assert_true(tok_cached(W.n[1].m, TOK_DIR, 9, TOK_SH)); /* a reader costs the writer its EX only */
	assert_false(tok_cached(W.n[1].m, TOK_DIR, 9, TOK_EX));
}

static void own_segment_is_private(void **state)
{
	for (uint64_t seg = 10; seg < 20; seg++) {
		assert_int_equal(pin_now(2, TOK_SEGMENT, seg, TOK_EX, 0), 0);
		W.sent = 0;
		for (uint64_t i = 0; i < 100; i++) {
			assert_int_equal(pin_now(2, TOK_INODE, seg << 9 | i, TOK_EX, TOK_NOWAIT), 0);
			assert_true(tok_is_master(W.n[2].m, TOK_INODE, seg << 9 | i));
		}
		assert_int_equal(W.sent, 0);
	}
	/* others are sent to the owner, and the table survives the owner's leaving of the segment */
	assert_int_equal(pin_now(3, TOK_INODE, 10 << 9 | 1, TOK_EX, 0), 0);
	assert_int_equal(pin_now(1, TOK_SEGMENT, 10, TOK_EX, 0), 0);
	assert_false(tok_cached(W.n[2].m, TOK_SEGMENT, 10, TOK_SH));
	assert_true(tok_cached(W.n[3].m, TOK_INODE, 10 << 9 | 1, TOK_EX));
	assert_int_equal(pin_now(1, TOK_INODE, 10 << 9 | 1, TOK_EX, 0), 0);
	assert_false(tok_cached(W.n[3].m, TOK_INODE, 10 << 9 | 1, TOK_SH));
	assert_int_equal(pin_now(1, TOK_INODE, 10 << 9 | 2, TOK_EX, 0), 0);
	assert_false(tok_cached(W.n[2].m, TOK_INODE, 10 << 9 | 2, TOK_SH));
}

/* The segment is wanted by one node while its owner waits for another's answer: it goes at once, for the answer may need a grant of
 * that segment; what waited asks its next master. */
static void segment_leaves_during_a_revoke(void **state)
{
	uint64_t ino = 12 << 9 | 3;
	struct job hold = {.n = &W.n[3], .kind = TOK_INODE, .id = ino, .mode = TOK_EX, .keeping = true};
	struct job want = {.n = &W.n[2], .kind = TOK_INODE, .id = ino, .mode = TOK_EX};
	struct job seg = {.n = &W.n[1], .kind = TOK_SEGMENT, .id = 12, .mode = TOK_EX};
	assert_int_equal(pin_now(2, TOK_SEGMENT, 12, TOK_EX, 0), 0);
	start(&hold);
	run();
	start(&want);
	settle();
	unsigned before = W.n[2].revokes;
	start(&seg);
	settle();
	assert_int_equal(W.running, 1);
	assert_int_equal(seg.rc, 0);
	assert_false(tok_is_master(W.n[2].m, TOK_INODE, ino));
	assert_int_equal(W.n[2].revokes, before + 1); /* once, however long it takes */
	tok_unpin(W.n[3].m, &hold.keep);
	run();
	assert_int_equal(want.rc, 0);
	assert_int_equal(seg.rc, 0);
	assert_int_equal(pin_now(1, TOK_INODE, ino, TOK_EX, 0), 0);
	assert_false(tok_cached(W.n[2].m, TOK_INODE, ino, TOK_SH));
}

static void nowait_try_quick(void **state)
{
	struct job hold = {.n = &W.n[1], .kind = TOK_DATA, .id = 3, .mode = TOK_EX, .keeping = true};
	start(&hold);
	run();
	assert_int_equal(pin_now(1, TOK_DATA, 3, TOK_SH, TOK_TRY), -TS_ERR_WOULD_WAIT);
	assert_int_equal(pin_now(2, TOK_DATA, 3, TOK_SH, TOK_NOWAIT), -TS_ERR_WOULD_WAIT);
	assert_int_equal(pin_now(2, TOK_DATA, 3, TOK_SH, TOK_TRY), -TS_ERR_WOULD_WAIT);
	assert_int_equal(pin_now(2, TOK_DATA, 3, TOK_SH, TOK_QUICK), -EAGAIN);
	assert_int_equal(W.n[1].revokes, 0);
	tok_unpin(W.n[1].m, &hold.keep);
	assert_int_equal(pin_now(1, TOK_DATA, 3, TOK_SH, TOK_TRY), 0);
	assert_int_equal(pin_now(2, TOK_DATA, 4, TOK_SH, TOK_QUICK), 0);
	assert_int_equal(pin_now(3, TOK_DATA, 4, TOK_SH, TOK_QUICK), 0);
}

static unsigned counted;
static void count_info(void *arg, const struct tok_info *i)
{
	counted += !i->mastered;
	assert_non_null(tok_kind_name(i->kind));
}

static void drain_fiber(void *arg)
{
	struct node *n = arg;
	assert_int_equal(tok_mgr_drain(n->m), 0);
	W.running--;
}
static void drain_gives_all_back(void **state)
{
	struct tok_stats st;
	for (uint64_t i = 0; i < 300; i++)
		assert_int_equal(
			pin_now(1, i & 1 ? TOK_DIR : TOK_INODE, 5 << 9 | i, i & 2 ? TOK_SH : TOK_EX, 0), 0);
	assert_int_equal(pin_now(1, TOK_SEGMENT, 6, TOK_EX, 0), 0);
	for (uint64_t i = 0; i < 300; i++)
		assert_int_equal(pin_now(1, TOK_INODE, 6 << 9 | i, TOK_EX, 0), 0);
	assert_int_equal(pin_now(2, TOK_INODE, 6 << 9 | 5, TOK_EX, 0), 0);
	counted = 0;
	tok_each(W.n[1].m, count_info, NULL);
	assert_int_equal(counted, 600);
	unsigned before = W.n[1].revokes;
	W.running++;
	assert_int_equal(ts_fiber_spawn(W.x, "drain", drain_fiber, &W.n[1]), 0);
	run();
	assert_int_equal(W.n[1].revokes - before, 600);
	tok_stats_get(W.n[1].m, &st);
	assert_int_equal(st.held, 0);
	assert_true(tok_cached(W.n[2].m, TOK_INODE, 6 << 9 | 5, TOK_EX));
	assert_int_equal(pin_now(3, TOK_INODE, 6 << 9 | 5, TOK_EX, 0), 0); /* its lock table went home */
	assert_int_equal(pin_now(3, TOK_DIR, 5 << 9 | 1, TOK_EX, 0), 0);
}

static void death_gates_grants(void **state)
{
	struct job j[3];
	for (uint64_t i = 0; i < 20; i++)
		assert_int_equal(pin_now(1 + i % 3, TOK_INODE, i << 9, TOK_EX, 0), 0);
	W.n[3].dead = true;
	view(3);
	assert_true(tok_cached(W.n[1].m, TOK_INODE, 0, TOK_EX)); /* cached stays usable */
	assert_int_equal(pin_now(1, TOK_INODE, 0, TOK_EX, TOK_TRY), 0);
	for (unsigned i = 0; i < 3; i++) {
		j[i] = (struct job){
			.n = &W.n[1 + i % 2], .kind = TOK_INODE, .id = (2 + 3 * i) << 9, .mode = TOK_EX};
		start(&j[i]);
	}
	settle();
	assert_int_equal(W.running, 3); /* what the dead held waits for its recovery */
	view(0);
	run();
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(j[i].rc, 0);
	assert_int_equal(pin_now(2, TOK_INODE, 0, TOK_EX, 0), 0); /* and what the living hold is known */
	assert_false(tok_cached(W.n[1].m, TOK_INODE, 0, TOK_SH));
}

static void views_in_the_middle(void **state)
{
	struct job j[9];
	for (unsigned i = 0; i < 9; i++) {
		j[i] = (struct job){.n = &W.n[1 + i % 3],
				    .kind = i & 1 ? TOK_INODE : TOK_SEGMENT,
				    .id = 5,
				    .mode = TOK_EX,
				    .rounds = 60,
				    .upgrade = 1};
		if (i & 1)
			j[i].id = 5 << 9 | 6;
		start(&j[i]);
	}
	for (unsigned i = 0; i < 40; i++) {
		run_until(W.now + 300000);
		view(0);
	}
	run();
	for (unsigned i = 0; i < 9; i++)
		assert_int_equal(j[i].rc, 0);
}

static void bound_is_kept(void **state)
{
	struct tok_stats st;
	for (uint64_t i = 0; i < 500; i++)
		assert_int_equal(pin_now(1, TOK_INODE, i << 9, TOK_EX, 0), 0);
	settle();
	tok_stats_get(W.n[1].m, &st);
	assert_true(st.held <= 50 + 1);
	assert_true(tok_cached(W.n[1].m, TOK_INODE, 499 << 9, TOK_EX));
	assert_false(tok_cached(W.n[1].m, TOK_INODE, 0, TOK_EX));
	tok_drop_hint(W.n[1].m, TOK_INODE, 499 << 9);
	settle();
	assert_false(tok_cached(W.n[1].m, TOK_INODE, 499 << 9, TOK_EX));
}
static int setup_bounded(void **state)
{
	max_tokens = 50;
	int rc = setup(state);
	max_tokens = 0;
	return rc;
}

static void failure_wakes_everybody(void **state)
{
	struct job hold = {.n = &W.n[1], .kind = TOK_DATA, .id = 3, .mode = TOK_EX, .keeping = true};
	struct job wait = {.n = &W.n[2], .kind = TOK_DATA, .id = 3, .mode = TOK_EX};
	start(&hold);
	run();
	start(&wait);
	settle();
	assert_int_equal(W.running, 1);
	tok_mgr_fail(W.n[2].m);
	run();
	assert_int_equal(wait.rc, -TS_ERR_FENCED);
	assert_true(W.n[2].lost);
	assert_int_equal(pin_now(2, TOK_DATA, 8, TOK_SH, 0), -TS_ERR_FENCED);
	tok_unpin(W.n[1].m, &hold.keep);
}

static void token_that_cannot_leave_stays(void **state)
{
	struct job other = {.n = &W.n[2], .kind = TOK_DATA, .id = 3, .mode = TOK_EX};
	assert_int_equal(pin_now(1, TOK_DATA, 3, TOK_EX, 0), 0);
	W.n[1].revoke_rc = -EIO;
	start(&other);
	settle();
	assert_int_equal(W.running, 1); /* nobody else gets it before this node is fenced and replayed */
	assert_true(W.n[1].lost);
	W.n[1].dead = true;
	view(1);
	settle();
	assert_int_equal(W.running, 1);
	view(0);
	run();
	assert_int_equal(other.rc, 0);
}

/* ---- locks of applications ---- */

struct lock_job {
	struct node *n;
	struct tok_lock l;
	bool wait, signal;
	int rc; /* 1 = not ended */
};
static bool job_interrupted(void *arg)
{
	return ((struct lock_job *)arg)->signal;
}
static void lock_run(void *arg)
{
	struct lock_job *j = arg;
	struct tok_lock_waiter w = {.interrupted = job_interrupted, .arg = j};
	j->rc = tok_lock_set(j->n->m, &j->l, j->wait ? &w : NULL);
	W.running--;
}
static void lock_start(struct lock_job *j, unsigned node, uint64_t owner, enum tok_lock_type type, bool flock,
		       bool wait)
{
	*j = (struct lock_job){.n = &W.n[node], .wait = wait, .rc = 1};
	j->l = (struct tok_lock){.ino = 5,
				 .end = 99,
				 .owner = owner,
				 .handle = owner,
				 .pid = (uint32_t)owner,
				 .type = type,
				 .flock = flock};
	W.running++;
	assert_int_equal(ts_fiber_spawn(W.x, "lock", lock_run, j), 0);
}
static int lock_now(unsigned node, uint64_t owner, enum tok_lock_type type, bool flock)
{
	struct lock_job j;
	lock_start(&j, node, owner, type, flock, false);
	run();
	return j.rc;
}

static void locks_count_everywhere(void **state)
{
	struct lock_job a, b;
	struct tok_lock_stats st;
	assert_int_equal(lock_now(1, 10, TOK_LOCK_WRITE, false), 0);
	uint64_t sent = W.sent;
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(lock_now(1, 10, TOK_LOCK_NONE, false), 0);
		assert_int_equal(lock_now(1, 10, TOK_LOCK_WRITE, false), 0);
	}
	assert_int_equal(W.sent, sent); /* nobody else: no message */
	assert_int_equal(lock_now(2, 10, TOK_LOCK_READ, false), -EAGAIN);
	assert_int_equal(lock_now(2, 10, TOK_LOCK_WRITE, true), 0); /* flock is another space */
	lock_start(&a, 2, 11, TOK_LOCK_READ, false, true);
	lock_start(&b, 3, 12, TOK_LOCK_READ, false, true);
	settle();
	assert_int_equal(a.rc, 1);
	assert_int_equal(b.rc, 1);
	b.signal = true;
	tok_lock_interrupt(W.n[3].m);
	settle();
	assert_int_equal(b.rc, -EINTR);
	assert_int_equal(lock_now(1, 10, TOK_LOCK_READ, false), 0); /* downgrade */
	assert_int_equal(a.rc, 0);
	tok_lock_release(W.n[1].m, 5, 10);
	tok_lock_release(W.n[2].m, 5, 10);
	settle();
	assert_int_equal(lock_now(2, 11, TOK_LOCK_WRITE, false), 0);
	assert_int_equal(tok_lock_close(W.n[2].m, 5, 99), 0); /* somebody without locks */
	assert_int_equal(lock_now(3, 12, TOK_LOCK_WRITE, true), 0);
	tok_lock_stats_get(W.n[2].m, &st);
	assert_int_equal(st.locks, 1);
}

static void locks_of_the_dead_and_the_excluded(void **state)
{
	struct lock_job a, b;
	assert_int_equal(lock_now(1, 10, TOK_LOCK_WRITE, false), 0);
	lock_start(&a, 2, 11, TOK_LOCK_WRITE, false, true);
	settle();
	W.n[1].dead = true;
	view(1);
	settle();
	assert_int_equal(a.rc, 1); /* not before it is recovered */
	view(0);
	settle();
	assert_int_equal(a.rc, 0);
	lock_start(&b, 3, 12, TOK_LOCK_WRITE, false, true);
	settle();
	assert_int_equal(b.rc, 1);
	tok_mgr_fail(W.n[3].m);
	run();
	assert_int_equal(b.rc, -TS_ERR_FENCED);
	assert_int_equal(lock_now(3, 12, TOK_LOCK_NONE, false), -TS_ERR_FENCED);
}

static uint64_t cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * TS_NS_PER_S + (uint64_t)t.tv_nsec;
}
static void speed_fiber(void *arg)
{
	struct node *n = &W.n[2];
	struct tok_pin p;
	uint64_t t0 = cpu_ns();
	for (unsigned i = 0; i < 200000; i++) {
		if (tok_pin(n->m, TOK_INODE, 9 << 9, TOK_SH, 0, TOK_END, 0, &p))
			fail();
		tok_unpin(n->m, &p);
	}
	uint64_t t1 = cpu_ns();
	for (uint64_t i = 0; i < 50000; i++) {
		if (tok_pin(n->m, TOK_INODE + (i >> 9 & 1), 9 << 9 | (i & 511), TOK_EX, 0, TOK_END, 0, &p))
			fail();
		tok_unpin(n->m, &p);
		if ((i & 511) == 511)
			break;
	}
	uint64_t t2 = cpu_ns();
	printf("pin hit %llu ns, first grant by oneself %llu ns\n", (unsigned long long)((t1 - t0) / 200000),
	       (unsigned long long)((t2 - t1) / 512));
	W.running--;
}
static void speed(void **state)
{
	assert_int_equal(pin_now(2, TOK_SEGMENT, 9, TOK_EX, 0), 0);
	W.running++;
	assert_int_equal(ts_fiber_spawn(W.x, "speed", speed_fiber, NULL), 0);
	run();
}

/* ---- asked ahead
 * ----------------------------------------------------------------------------------------------------*/

#define AHEAD 40
static void make_files(unsigned node, uint64_t first, unsigned n)
{
	assert_int_equal(pin_now(node, TOK_SEGMENT, first >> TOK_SEGMENT_SHIFT, TOK_EX, 0), 0);
	for (uint64_t i = first; i < first + n; i++)
		assert_int_equal(pin_now(node, TOK_INODE, i, TOK_EX, 0), 0);
}
static unsigned ask_ahead(unsigned node, enum tok_mode mode, uint64_t first, unsigned n)
{
	uint64_t ids[600];
	assert_true(n <= TS_ARRAY_LEN(ids));
	for (unsigned i = 0; i < n; i++)
		ids[i] = first + i;
	return tok_ahead(W.n[node].m, TOK_INODE, mode, ids, n);
}
static struct tok_stats stats_of(unsigned node)
{
	struct tok_stats st;
	tok_stats_get(W.n[node].m, &st);
	return st;
}

static void neighbours_come_in_one_frame(void **state)
{
	uint64_t first = 5 << TOK_SEGMENT_SHIFT;
	make_files(1, first, AHEAD);
	assert_int_equal(pin_now(2, TOK_INODE, first, TOK_SH, 0), 0); /* learns who masters them */
	uint64_t sent = W.sent;
	assert_int_equal(ask_ahead(2, TOK_SH, first, AHEAD), AHEAD - 1);
	settle();
	assert_true(W.sent - sent <= 4);
	assert_int_equal(stats_of(2).ahead_came, AHEAD - 1);
	assert_true(tok_cached(W.n[1].m, TOK_INODE, first + 1, TOK_SH)); /* the maker still reads them */
	sent = W.sent;
	for (unsigned i = 0; i < AHEAD; i++)
		assert_int_equal(pin_now(2, TOK_INODE, first + i, TOK_SH, 0), 0);
	assert_int_equal(W.sent, sent);
	assert_int_equal(stats_of(2).ahead_used, AHEAD - 1);
	assert_int_equal(ask_ahead(2, TOK_SH, first, AHEAD), 0); /* held */
}

/* Somebody uses it: it stays. Who asked ahead and then needs it gets it like everybody. */
static void what_is_used_is_kept(void **state)
{
	uint64_t first = 5 << TOK_SEGMENT_SHIFT;
	make_files(1, first, 4);
	struct job keep = {.n = &W.n[1], .kind = TOK_INODE, .id = first + 1, .mode = TOK_EX, .keeping = true};
	start(&keep);
	run();
	unsigned revokes = W.n[1].revokes;
	assert_int_equal(ask_ahead(2, TOK_EX, first, 4), 4);
	settle();
	assert_int_equal(stats_of(2).ahead_refused, 1);
	assert_int_equal(stats_of(2).ahead_came, 3);
	assert_int_equal(W.n[1].revokes - revokes, 3);
	assert_false(tok_holds(W.n[2].m, TOK_INODE, first + 1, TOK_SH, 0, TOK_END));
	/* not used yet: nobody gets it by asking ahead */
	assert_int_equal(ask_ahead(3, TOK_SH, first, 1), 1);
	settle();
	assert_int_equal(stats_of(3).ahead_refused, 1);
	/* a pin that waits behind what was asked ahead and is refused asks in earnest */
	struct job want = {.n = &W.n[2], .kind = TOK_INODE, .id = first + 1, .mode = TOK_SH};
	assert_int_equal(ask_ahead(2, TOK_SH, first + 1, 1), 1);
	start(&want);
	settle();
	assert_int_equal(W.running, 1);
	tok_unpin(W.n[1].m, &keep.keep);
	run();
	assert_int_equal(want.rc, 0);
}

/* The minimum hold is for who asked in earnest. */
static void unused_leaves_at_once(void **state)
{
	uint64_t first = 5 << TOK_SEGMENT_SHIFT;
	make_files(1, first, 2);
	assert_int_equal(ask_ahead(2, TOK_EX, first, 2), 2);
	W.running++; /* until they are here, and no longer */
	for (unsigned dst; !tok_holds(W.n[2].m, TOK_INODE, first, TOK_EX, 0, TOK_END) || !tok_holds(W.n[2].m, TOK_INODE, first + 1, TOK_EX, 0, TOK_END);) {
		ts_exec_run(W.x, 100000);
		struct frame *f = some_frame(&dst);
		if (f) {
			net_deliver(W.n[dst].net, &f->m, false);
			ts_free(f);
			W.now += 1000;
		} else {
			W.now = TS_MAX(W.now, ts_exec_next_timer(W.x));
		}
	}
	W.running--;
	uint64_t begun = W.now;
	assert_int_equal(pin_now(1, TOK_INODE, first, TOK_EX, 0), 0);
	assert_true(W.now - begun < 1 * TS_NS_PER_MS);
	assert_int_equal(stats_of(2).ahead_lost, 1);
	assert_true(tok_holds(W.n[2].m, TOK_INODE, first + 1, TOK_EX, 0, TOK_END));
}

static void asking_ahead_is_bounded(void **state)
{
	uint64_t first = 1 << TOK_SEGMENT_SHIFT;
	while (tok_is_master(W.n[2].m, TOK_INODE, first) || tok_is_master(W.n[2].m, TOK_INODE, first + 512)) /* those cost no message */
		first += 512;
	assert_int_equal(ask_ahead(2, TOK_SH, first, 600), 512); /* TOK_AHEAD_OUT */
	assert_int_equal(ask_ahead(2, TOK_SH, first + 512, 88), 0);
	for (unsigned i = 0; i < 10; i++) {
		run_until(W.now + 100 * TS_NS_PER_MS);
		(void)ask_ahead(2, TOK_SH, first + 512 * i, 512);
	}
	run_until(W.now + 100 * TS_NS_PER_MS);
	assert_int_equal(stats_of(2).held, 4096); /* TOK_AHEAD_UNUSED: the oldest went back */
	assert_true(stats_of(2).ahead_lost >= 512);
	assert_false(tok_holds(W.n[2].m, TOK_INODE, first, TOK_SH, 0, TOK_END));
	run_until(W.now + 10 * TS_NS_PER_S); /* TOK_AHEAD_AGE_NS, some at a time */
	assert_int_equal(stats_of(2).held, 0);
	assert_int_equal(stats_of(2).ahead_came, stats_of(2).ahead_lost);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(pins_share_and_exclude),
		T(upgrade_storm_makes_progress),
		T(late_pins_pass_the_barrier), T(changes_are_asked_before_they_wait),
		T(ranges_part_where_the_second_begins),
		T(strided_writers_stop_fighting),
		T(values_follow_shared_writers),
		T(cached_pin_sends_nothing),
		T(own_segment_is_private),
		T(segment_leaves_during_a_revoke),
		T(nowait_try_quick),
		T(drain_gives_all_back),
		T(death_gates_grants),
		T(views_in_the_middle),
		cmocka_unit_test_setup_teardown(bound_is_kept, setup_bounded, teardown),
		T(failure_wakes_everybody),
		T(token_that_cannot_leave_stays),
		T(locks_count_everywhere),
		T(locks_of_the_dead_and_the_excluded),
		T(neighbours_come_in_one_frame),
		T(what_is_used_is_kept),
		T(unused_leaves_at_once),
		T(asking_ahead_is_bounded),
		T(speed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
