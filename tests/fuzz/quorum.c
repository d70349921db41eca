/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the membership core of node 2 among three, under multicasts of the others: true ones of a core that runs beside it, changed by
 * the input or not, and raw bytes; ring changes in between. Whatever comes, it goes on or excludes itself. */
#include "quorum/quorum_int.h"
#include "tests/fuzz/fuzz.h"

#define KEPT 64u

struct core {
	struct quorum *q;
	unsigned node;
};
static struct {
	struct ts_exec *x;
	struct core c[4];
	uint64_t ring;
	struct {
		unsigned src;
		size_t len;
		uint8_t data[2048];
	} said[KEPT]; /* what the true cores sent and nobody has heard yet */
	unsigned nsaid;
} w;

static int mcast(void *arg, const void *msg, size_t len)
{
	struct core *c = arg;

	if (w.nsaid == KEPT || len > sizeof(w.said[0].data))
		return -EAGAIN;
	w.said[w.nsaid].src = c->node;
	w.said[w.nsaid].len = len;
	memcpy(w.said[w.nsaid++].data, msg, len);
	return 0;
}
static void leave(void *arg)
{
}
static void on_view(void *arg, const struct quorum_view *v)
{
	TS_ASSERT(v->nmembers <= QUORUM_MAX_NODES);
}
static void on_group(void *arg, const struct quorum_group_view *g)
{
	TS_ASSERT(g->nmembers + g->npending <= QUORUM_MAX_NODES);
}
static void on_excluded(void *arg, const char *why)
{
	fuzz_touch(why, strlen(why));
}
static void on_suspended(void *arg, bool suspended)
{
}

static void core_new(unsigned node)
{
	struct core *c = &w.c[node];
	struct quorum_core_args a = {.exec = w.x, .self = node, .incarnation = 100 * node, .addr = "10.0.0.1", .port = 7420, .times = quorum_times_default,
				     .events = {on_view, on_group, on_excluded, on_suspended, c, NULL}, .carrier = {mcast, leave, c}};

	c->node = node;
	c->q = quorum_core_new(&a);
	TS_ASSERT(c->q);
}

static void ring(unsigned members)
{
	struct quorum_ring_member m[3], left[3];
	size_t n = 0, nleft = 0;

	w.ring++;
	for (unsigned i = 1; i <= 3; i++) {
		if (i == 2 || members >> i & 1)
			m[n++] = (struct quorum_ring_member){i, 1000 + i};
		else
			left[nleft++] = (struct quorum_ring_member){i, 1000 + i};
	}
	for (unsigned i = 1; i <= 3; i++) {
		quorum_core_confchg(w.c[i].q, m, n, left, nleft, members & 16, NULL, 0, w.ring);
		quorum_core_needed(w.c[i].q, 2);
		quorum_core_quorate(w.c[i].q, n > 1, w.ring);
	}
}

static void deliver(unsigned src, const uint8_t *p, size_t n, bool all)
{
	uint8_t *copy = fuzz_copy(p, n);

	for (unsigned i = 1; i <= 3; i++)
		if (all || i == 2)
			quorum_core_deliver(w.c[i].q, src, 1000 + src, copy, n);
	free(copy);
}

/* What was said is heard by all, in order; the first one is changed by the input for node 2. */
static void hear(struct ts_rd *rd, unsigned changes)
{
	unsigned n = w.nsaid;

	w.nsaid = 0;
	for (unsigned i = 0; i < n; i++) {
		size_t len = w.said[i].len;
		uint8_t *p = fuzz_copy(w.said[i].data, len);

		for (; changes && w.said[i].src != 2 && !rd->bad; changes--) {
			unsigned off = ts_rd_u8(rd);

			p[(off < 40 ? off : off * 3) % len] = ts_rd_u8(rd);
		}
		if (w.said[i].src != 2)
			deliver(w.said[i].src, p, len, false);
		for (unsigned k = 1; k <= 3; k++)
			if (k != 2 || w.said[i].src == 2)
				quorum_core_deliver(w.c[k].q, w.said[i].src, 1000 + w.said[i].src, w.said[i].data, w.said[i].len);
		free(p);
	}
}

static void raw(struct ts_rd *rd)
{
	unsigned src = 1 + ts_rd_u8(rd) % 3, type = ts_rd_u8(rd) % 10;
	struct quorum_hdr_msg h = {.magic = le32_make(Q_MAGIC), .version = le16_make(Q_VERSION), .type = le16_make((uint16_t)type), .incarnation = le64_make(100 * src),
				   .ring = le64_make(w.c[2].q->ring), .digest = le64_make(w.c[2].q->digest), .number = le64_make(w.c[2].q->cur.view + (ts_rd_u8(rd) & 1))};
	uint8_t buf[4096];
	size_t n;
	const uint8_t *p = fuzz_run(rd, &n);

	n = TS_MIN(n, sizeof(buf) - sizeof(h));
	memcpy(buf, &h, sizeof(h));
	memcpy(buf + sizeof(h), p, n);
	deliver(src, buf, sizeof(h) + n, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct ts_rd rd = fuzz_in(p, n);

	fuzz_env_reset();
	memset(&w, 0, offsetof(__typeof__(w), said));
	w.nsaid = 0;
	w.x = ts_exec_new(&fuzz_env);
	for (unsigned i = 1; i <= 3; i++)
		core_new(i);
	ring(14);
	for (unsigned i = 0; i < 200 && rd.left && !rd.bad; i++) {
		unsigned what = ts_rd_u8(&rd);

		switch (what % 8) {
		case 0: raw(&rd); break;
		case 1: ring(ts_rd_u8(&rd)); break;
		case 2: (void)!quorum_group_join(w.c[1 + what / 8 % 3].q, 77 + what / 32, what / 64); break;
		case 3: (void)!(what & 8 ? quorum_group_leave(w.c[1 + what / 16 % 3].q, 77) : quorum_evict(w.c[1].q, 3, 300, "fuzz")); break;
		case 4: hear(&rd, 1 + what / 8 % 8); break;
		default: hear(&rd, 0); break;
		}
		fuzz_now_ns += (what & 128 ? 400 : 20) * TS_NS_PER_MS;
		ts_exec_run(w.x, 1000);
	}
	for (unsigned i = 1; i <= 3; i++)
		quorum_core_kill(w.c[i].q);
	ts_exec_free(w.x);
	return 0;
}

void fuzz_seeds(void)
{
	uint8_t buf[400];

	for (unsigned s = 0; s < 12; s++) {
		struct ts_wr o = {.p = buf, .left = sizeof(buf)};

		for (unsigned i = 0; i < 60; i++) {
			unsigned what = i < 20 + s ? 5 : i == 30 ? 2 : i == 33 ? 2 + 8 : i == 36 + s ? 3 : i == 50 && s & 1 ? 1 : 4 + (s + i) % 3;

			ts_wr_u8(&o, (uint8_t)what);
			if (what == 1)
				ts_wr_u8(&o, 6);
			if (what == 4)
				ts_wr_u16(&o, (uint16_t)(s * 256 + i));
		}
		fuzz_seed(buf, o.used);
	}
}
