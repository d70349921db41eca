/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a token manager, with its lock engines, under messages of two other members, while fibers here pin tokens and take locks.
 * Messages are true ones with changes, or raw bytes. A member has the cluster key, so what it says of itself is believed: where two
 * nodes claim the same token the engine stops this node on purpose ("impossible state", a report that does not add up), and that
 * alone is no failure here. Anything else that stops it is. */
#include "dlm/dlm_int.h"
#include "dlm/plock_int.h"
#include "tests/fuzz/fuzz.h"
#include "tokens/tokens_int.h"

#include <setjmp.h>

#define EPOCH 5
#define GROUP 77
#define FIBERS 24u

static struct {
	struct ts_exec *x;
	struct net *net;
	struct tok_mgr *m;
	unsigned fibers;
} w;
static bool stopped;	   /* on purpose, in this run */
static bool leaks_expected; /* what lay on the stacks then */
static jmp_buf out;

int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
	return leaks_expected;
}

void __real_ts_panic(const char *file, int line, const char *fmt, ...) TS_PRINTF(3, 4) TS_NORETURN;
void __wrap_ts_panic(const char *file, int line, const char *fmt, ...) TS_PRINTF(3, 4) TS_NORETURN;
void __wrap_ts_panic(const char *file, int line, const char *fmt, ...)
{
	static struct ts_cond never = TS_COND_INIT(never);

	if (!strstr(fmt, "impossible state") && !strstr(fmt, "reported %llu"))
		__real_ts_panic(file, line, "%s", fmt);
	stopped = leaks_expected = true;
	if (!ts_fiber_self())
		longjmp(out, 1);
	for (;;)
		ts_cond_wait(&never, "the end", 0, 0);
}

/* ---- the world of one node ------------------------------------------------------------------------------------------------- */

static int net_send_none(struct net *n, const struct net_out *o, uint64_t call_id, int result, bool reply)
{
	fuzz_touch(o->payload, o->len);
	return 0;
}
static void net_set_none(struct net *n, unsigned node, uint64_t incarnation, const char *addr, unsigned port)
{
}
static void net_drop_none(struct net *n, unsigned node)
{
}
static void net_close_none(struct net *n)
{
}
static void net_stats_none(struct net *n, struct net_stats *s)
{
}
static const struct net_ops net_ops = {net_send_none, net_set_none, net_drop_none, net_close_none, net_stats_none, NULL};

static int on_revoke(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode to, uint64_t start, uint64_t end)
{
	TS_ASSERT(kind > TOK_NONE && kind < TOK_KINDS && start <= end);
	ts_fiber_yield();
	return 0;
}
static void on_lost(void *arg)
{
}

static void message(unsigned src, uint16_t type, uint64_t view, const void *p, size_t n)
{
	uint8_t *copy = fuzz_copy(p, n);
	struct net_msg msg = {.src_node = src, .src_incarnation = src, .type = type, .group = 1, .view = view, .payload = copy, .len = (uint32_t)n};

	net_deliver(w.net, &msg, false);
	free(copy);
}

/* All members say that they own and hold nothing: the engine runs. */
static void recovered(void)
{
	struct dlm_batch_msg own = {.version = le16_make(DLM_WIRE_VERSION), .flags = DLM_MF_LAST};
	struct dlm_msg done = {.type = DLM_DONE};
	struct plock_m rep = {.type = PLOCK_REPORTED};
	struct dlm_lock_msg lm;
	uint8_t buf[256];

	for (unsigned src = 2; src <= 3; src++)
		message(src, DLM_OWN, EPOCH, &own, sizeof(own));
	for (unsigned src = 2; src <= 3; src++) {
		message(src, DLM_DONE, EPOCH, &lm, dlm_encode(&done, &lm));
		message(src, PLOCK_REPORTED, EPOCH, buf, plock_encode(&rep, buf, sizeof(buf)));
	}
}

static void view(uint64_t epoch, unsigned members)
{
	struct quorum_group_view v = {.group = GROUP, .epoch = epoch, .view = epoch, .quorate = true};

	for (unsigned i = 1; i <= 3; i++)
		if (i == 1 || members >> i & 1)
			v.members[v.nmembers++] = (struct quorum_member){.node = i, .incarnation = i, .slot = i};
	tok_mgr_view(w.m, &v);
}

static void up(void)
{
	struct tok_args a = {.group = GROUP, .net_group = 1, .self = 1, .incarnation = 1, .max_tokens = 64, .events = {.revoke = on_revoke, .lost = on_lost}};

	memset(&w, 0, sizeof(w));
	fuzz_env_reset();
	a.exec = w.x = ts_exec_new(&fuzz_env);
	a.net = w.net = net_new(w.x, 1, 1, &net_ops, NULL);
	net_peer_set(w.net, 2, 2, "", 0);
	net_peer_set(w.net, 3, 3, "", 0);
	w.m = tok_mgr_new(&a);
	TS_ASSERT(w.m);
}

/* ---- what happens on this node ----------------------------------------------------------------------------------------------- */

struct task {
	unsigned what, kind, id, mode;
};
static bool interrupted(void *arg)
{
	return w.m->failed;
}

static void user(void *arg)
{
	struct task t = *(struct task *)arg;
	struct tok_pin pin = {0};

	free(arg);
	if (t.what & 1) {
		struct tok_lock l = {.ino = t.id, .end = TOK_END, .owner = t.mode, .handle = 1 + t.mode, .pid = 1, .type = (enum tok_lock_type)(t.mode % 3), .flock = t.kind & 1};
		struct tok_lock_waiter wait = {.interrupted = interrupted};

		(void)!tok_lock_set(w.m, &l, t.what & 2 ? &wait : NULL);
	} else if (tok_pin(w.m, 1 + t.kind % (TOK_KINDS - 1), t.id, TOK_SH + t.mode % 3, 0, TOK_END, t.what & 2 ? TOK_NOWAIT : 0, &pin) == 0) {
		ts_sleep_until(fuzz_now_ns + TS_NS_PER_MS);
		tok_unpin(w.m, &pin);
	}
	w.fibers--;
}

static void spawn(struct ts_rd *rd)
{
	struct task *t = malloc(sizeof(*t));

	TS_ASSERT(t);
	*t = (struct task){.what = ts_rd_u8(rd), .kind = ts_rd_u8(rd), .id = ts_rd_u8(rd) % 4, .mode = ts_rd_u8(rd)};
	if (!(t->what & 1) && t->kind % (TOK_KINDS - 1) + 1 != TOK_INODE && t->mode % 3 + 1 == TOK_SW)
		t->mode++; /* SW is for INODE */
	if (w.fibers >= FIBERS || ts_fiber_spawn(w.x, "fuzz", user, t))
		free(t);
	else
		w.fibers++;
}

static void run(void)
{
	for (unsigned i = 0; i < 100 && ts_exec_run(w.x, 1000) && !stopped; i++)
		;
}

/* ---- messages: a sound one, whose bytes the input changes ------------------------------------------------------------------- */

static void sound(struct ts_rd *rd)
{
	unsigned src = 2 + (ts_rd_u8(rd) & 1), type = ts_rd_u8(rd) % 10, n;
	const uint64_t epoch = EPOCH;
	uint8_t buf[1024];

	if (ts_rd_u8(rd) & 1) {
		struct plock_m m = {.type = (uint16_t)(PLOCK_OP + type), .ino = ts_rd_u8(rd) % 4, .op = ts_rd_u8(rd), .kind = ts_rd_u8(rd) % PLOCK_KINDS, .flags = ts_rd_u8(rd)};
		struct plock_entry_msg e[3] = {0};

		m.p = (struct plock_piece){.start = ts_rd_u8(rd), .end = PLOCK_END, .owner = ts_rd_u8(rd), .pid = 1, .node = (uint16_t)(ts_rd_u8(rd) % 4), .type = ts_rd_u8(rd) % 3};
		if (type == PLOCK_STATE - PLOCK_OP || type == PLOCK_REPORT - PLOCK_OP || type == PLOCK_PROBE - PLOCK_OP || type == PLOCK_CONFIRM - PLOCK_OP) {
			m.count = ts_rd_u8(rd) % 4;
			m.ents = e;
			for (unsigned i = 0; i < m.count; i++) {
				m.p.owner = ts_rd_u8(rd) % 4;
				plock_encode_lock(&e[i], m.ino, &m.p);
				e[i].node = le16_make((uint16_t)(1 + ts_rd_u8(rd) % 3));
				if (type == PLOCK_PROBE - PLOCK_OP || type == PLOCK_CONFIRM - PLOCK_OP)
					e[i].a = le64_make(ts_rd_u8(rd));
			}
		}
		n = plock_encode(&m, buf, sizeof(buf));
		message(src, m.type, epoch, buf, n);
	} else {
		struct dlm_msg m = {.type = (uint16_t)(DLM_REQUEST + type), .key = {.kind = ts_rd_u8(rd) % (TOK_KINDS + 1), .id = ts_rd_u8(rd) % 4}};
		struct dlm_lock_msg lm;

		m.mode = ts_rd_u8(rd) % 4;
		m.flags = ts_rd_u8(rd);
		m.start = m.dstart = ts_rd_u8(rd);
		m.end = m.dend = ts_rd_u8(rd) & 1 ? DLM_END : m.start + ts_rd_u8(rd);
		m.req = ts_rd_u8(rd);
		m.stamp = ts_rd_u8(rd);
		m.revoke = ts_rd_u8(rd);
		m.seen = ts_rd_u8(rd);
		m.node = ts_rd_u8(rd) % 5;
		m.granter = ts_rd_u8(rd) % 5;
		m.hops = ts_rd_u8(rd);
		m.result = ts_rd_u8(rd);
		m.value = (struct dlm_value){.era = ts_rd_u8(rd), .high = ts_rd_u8(rd), .time = 1, .set = m.flags & DLM_MF_VALUE};
		n = dlm_encode(&m, &lm);
		message(src, m.type, epoch, &lm, n);
	}
}

static void batch(struct ts_rd *rd)
{
	struct {
		struct dlm_batch_msg h;
		struct dlm_entry_msg e[4];
	} b = {.h = {.version = le16_make(DLM_WIRE_VERSION), .flags = ts_rd_u8(rd) & DLM_MF_LAST, .unit = le64_make(ts_rd_u8(rd) % 2), .stamp = le64_make(ts_rd_u8(rd))}};
	static const uint16_t types[] = {DLM_HANDOVER, DLM_OWN, DLM_REPORT};
	unsigned type = types[ts_rd_u8(rd) % 3], src = 2 + (ts_rd_u8(rd) & 1), n = ts_rd_u8(rd) % 5;

	b.h.count = le32_make(n);
	for (unsigned i = 0; i < n; i++) {
		struct dlm_piece p = {.start = ts_rd_u8(rd), .end = DLM_END, .stamp = ts_rd_u8(rd), .node = (uint16_t)(1 + ts_rd_u8(rd) % 3), .granter = (uint16_t)(ts_rd_u8(rd) % 4),
				      .mode = (uint8_t)(1 + ts_rd_u8(rd) % 3)};

		dlm_encode_entry(&b.e[i], (struct dlm_key){.kind = ts_rd_u8(rd) % TOK_KINDS, .id = ts_rd_u8(rd) % 4}, &p);
	}
	message(src, (uint16_t)type, EPOCH, &b, sizeof(b.h) + n * sizeof(b.e[0]));
}

static void raw(struct ts_rd *rd)
{
	unsigned src = 1 + ts_rd_u8(rd) % 4, type = ts_rd_u8(rd), epoch = EPOCH - 1 + ts_rd_u8(rd) % 3;
	size_t n;
	const uint8_t *p = fuzz_run(rd, &n);

	message(src, (uint16_t)((type & 16 ? PLOCK_TYPE_CLASS : DLM_TYPE_CLASS) + type % 16), epoch, p, n);
}

static void act(struct ts_rd *rd)
{
	switch (ts_rd_u8(rd) % 8) {
	case 0: raw(rd); break;
	case 1: case 2: case 3: sound(rd); break;
	case 4: batch(rd); break;
	case 5: case 6: spawn(rd); break;
	case 7: fuzz_now_ns += (1 + ts_rd_u8(rd)) * TS_NS_PER_MS; break;
	}
	run();
}

static void ended(void)
{
	if (!stopped) {
		tok_mgr_fail(w.m);
		for (unsigned i = 0; i < 10000 && (ts_fiber_count(w.x) || ts_exec_run(w.x, 1000)) && !stopped; i++) {
			ts_exec_run(w.x, 1000);
			if (ts_exec_next_timer(w.x) != UINT64_MAX)
				fuzz_now_ns = TS_MAX(fuzz_now_ns, ts_exec_next_timer(w.x));
		}
		TS_ASSERT(stopped || !ts_fiber_count(w.x));
	}
	if (ts_fiber_count(w.x))
		ts_exec_kill(w.x);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct ts_rd rd;

	rd = fuzz_in(p, n);
	stopped = false;
	up();
	if (!setjmp(out)) {
		unsigned how = ts_rd_u8(&rd);

		view(EPOCH, 2 * 7);
		if (!(how & 1)) /* else in the middle of a recovery */
			recovered();
		while (rd.left && !rd.bad && !stopped)
			act(&rd);
		if (how & 2 && !stopped)
			view(EPOCH + 1, how >> 2);
		run();
	}
	if (!setjmp(out))
		ended();
	tok_mgr_free(w.m);
	net_close(w.net);
	ts_exec_free(w.x);
	return 0;
}

void fuzz_seeds(void)
{
	uint8_t buf[600];

	for (unsigned s = 0; s < 16; s++) {
		struct ts_wr o = {.p = buf, .left = sizeof(buf)};

		ts_wr_u8(&o, (uint8_t)(s & 3) | 0x1c);
		for (unsigned i = 0; i < 12; i++) {
			unsigned what = (s + i) % 8;

			ts_wr_u8(&o, (uint8_t)what);
			for (unsigned k = 0; k < (what == 0 ? 3u : what < 4 ? 24u : what == 4 ? 20u : what == 7 ? 1u : 4u); k++)
				ts_wr_u8(&o, (uint8_t)ts_hash_2(s * 100 + i, k) & (k % 3 ? 7 : 3));
			if (what == 0)
				fuzz_run_put(&o, buf, 0);
		}
		fuzz_seed(buf, o.used);
	}
}
