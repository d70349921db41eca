/* SPDX-License-Identifier: Apache-2.0 */
/* Every order of events of two nodes and a tiebreaker disk, and of three bidders for one disk. What decides is the object that ships
 * (quorum/tiebreaker.c); the round from a configuration to a view is told here in short, as quorum/README.md has it: promise, state,
 * acknowledge, each at each node by itself, cut short anywhere.
 *
 * Steps: a write lands, each slot is read by itself in any order, the answer comes; a link is cut and heals, each node notices by itself;
 * a node dies at any step (what it wrote may land later, until its next life begins), and comes back knowing only what was durable.
 * In every state: the states that were ever shown lie on one line, each behind the one before. From every state with one node left that
 * nobody has outbid: it goes on alone (progress). Prints the number of states. With TIE_PLANTS: each planted fault must be found.
 *
 *   model_tiebreaker [-v]      model_tiebreaker_planted */
#include "quorum/tie_int.h"

#include <setjmp.h>
#include <stdio.h>

#define N      2 /* nodes of the world with views; the other world has BIDDERS */
#define STATES 12

static const uint8_t uuid[16] = {1};
static uint64_t explored, shown_ties, shown_pairs, dead_ends;
static const char *broken;
static jmp_buf out;

static void violated(const char *what)
{
	broken = what;
	longjmp(out, 1);
}

/* ---- the set of states seen -------------------------------------------------------------------------------------------------- */

static uint64_t *seen;
static size_t seen_n, seen_cap;

static void seen_clear(void)
{
	free(seen);
	seen_cap = 1u << 16;
	seen = calloc(seen_cap, sizeof(*seen));
	seen_n = 0;
	TS_ASSERT(seen);
}

static bool seen_put(uint64_t h);

static void seen_grow(void)
{
	uint64_t *old = seen;
	size_t cap = seen_cap;

	seen_cap *= 2;
	seen = calloc(seen_cap, sizeof(*seen));
	TS_ASSERT(seen);
	seen_n = 0;
	for (size_t i = 0; i < cap; i++)
		if (old[i])
			seen_put(old[i]);
	free(old);
}

static bool seen_put(uint64_t h) /* true: new */
{
	h += !h;
	if (seen_n * 10 > seen_cap * 6)
		seen_grow();
	for (size_t i = h & (seen_cap - 1);; i = (i + 1) & (seen_cap - 1)) {
		if (seen[i] == h)
			return false;
		if (!seen[i]) {
			seen[i] = h;
			seen_n++;
			return true;
		}
	}
}

/* ---- a disk and its jobs, used by both worlds --------------------------------------------------------------------------------- */

struct job {
	bool on, orphan; /* its node died */
	bool write, landed;
	uint8_t want, have; /* slots to read, read: bit per node */
	struct tie_slot own, got[3];
};
struct bidder {
	bool busy;
	struct tie_machine m;
	struct job job;
};
struct disk {
	struct tie_slot slot[3];
};

static void job_begin(struct bidder *b, const struct tie_step *s, unsigned nodes)
{
	b->job = (struct job){.on = true, .want = (uint8_t)((1u << nodes) - 1)};
	b->busy = true;
	if (s->write) {
		b->job.write = true;
		TS_ASSERT(tie_slot_decode(&s->slot, b->m.node, uuid, &b->job.own));
	}
}

static struct tie_slot_disk image[TIE_SLOTS], blank[TIE_SLOTS];

static void blank_make(void)
{
	for (unsigned n = 1; n <= TIE_SLOTS; n++)
		tie_slot_encode(&blank[n - 1], n, uuid, &(struct tie_slot){0});
	memcpy(image, blank, sizeof(image));
}

/* All that was to be read has been: the machine goes on. */
static enum tie_result job_end(struct bidder *b, unsigned nodes, int rc)
{
	struct tie_step s;

	for (unsigned k = 0; k < nodes; k++)
		tie_slot_encode(&image[k], k + 1, uuid, &b->job.got[k]);
	b->job = (struct job){0};
	b->busy = false;
	tie_done(&b->m, rc, image, 0, &s);
	if (s.result == TIE_RUNNING)
		job_begin(b, &s, nodes);
	return s.result;
}

static bool job_can_land(const struct job *j)
{
	return (j->on || j->orphan) && j->write && !j->landed;
}

static void job_land(struct job *j, struct disk *d, unsigned k)
{
	d->slot[k] = j->own;
	j->landed = true;
}

static bool job_can_read(const struct job *j, unsigned k)
{
	return j->on && (!j->write || j->landed) && (j->want & ~j->have & 1u << k);
}

/* ---- three bidders for one disk ------------------------------------------------------------------------------------------------- */

/* All hold the same view (number 1) and cannot hear each other; each bids once or twice, and may die at any step. At most one ever wins,
 * but one that dies unheard may have; nor do they all lose to each other. */
#define BIDDERS 3
struct duel {
	struct disk disk;
	struct bidder b[BIDDERS];
	uint64_t promised[BIDDERS];
	uint8_t bids[BIDDERS], won[BIDDERS], lost[BIDDERS], dead[BIDDERS], crashes;
};
static unsigned duel_n;

static void duel_walk(const struct duel *d);

static void duel_result(struct duel *d, unsigned i, enum tie_result r)
{
	if (r == TIE_HIGHER)
		d->promised[i] = TS_MAX(d->promised[i], d->b[i].m.seen);
	if (r == TIE_WON)
		d->won[i] = 1;
	d->lost[i] = r == TIE_LOST;
}

static void duel_check(const struct duel *d)
{
	unsigned won = 0, lost = 0;

	for (unsigned i = 0; i < duel_n; i++) {
		won += d->won[i];
		lost += d->lost[i];
	}
	if (won > 1)
		violated("two bidders won behind one view");
	if (lost == duel_n)
		violated("all have lost, to each other");
	shown_ties += won;
}

static void duel_bid(struct duel *d, unsigned i)
{
	uint64_t present[TIE_SLOTS + 1] = {0};
	struct tie_step s;

	present[i + 1] = i + 1;
	d->promised[i] = tie_number_next(d->promised[i], i + 1);
	d->bids[i]--;
	tie_begin(&d->b[i].m, i + 1, i + 1, uuid, d->promised[i], 1, present, &s);
	job_begin(&d->b[i], &s, duel_n);
}

static void duel_steps(const struct duel *d, unsigned i)
{
	struct duel n;

	if (job_can_land(&d->b[i].job)) {
		n = *d;
		job_land(&n.b[i].job, &n.disk, i);
		duel_walk(&n);
	}
	if (d->dead[i])
		return;
	if (!d->b[i].busy && !d->won[i] && d->bids[i]) {
		n = *d;
		duel_bid(&n, i);
		duel_walk(&n);
	}
	for (unsigned k = 0; k < duel_n; k++) {
		if (!job_can_read(&d->b[i].job, k))
			continue;
		n = *d;
		n.b[i].job.have |= (uint8_t)(1u << k);
		n.b[i].job.got[k] = n.disk.slot[k];
		if (n.b[i].job.have == n.b[i].job.want)
			duel_result(&n, i, job_end(&n.b[i], duel_n, 0));
		duel_walk(&n);
	}
	if (d->b[i].busy && d->crashes) {
		n = *d;
		n.crashes--;
		n.dead[i] = 1;
		n.b[i].busy = false;
		n.b[i].job.orphan = job_can_land(&n.b[i].job);
		n.b[i].job.on = false;
		memset(&n.b[i].m, 0, sizeof(n.b[i].m));
		duel_walk(&n);
	}
}

static void duel_walk(const struct duel *d)
{
	duel_check(d);
	if (!seen_put(ts_csum64(d, sizeof(*d), 0)))
		return;
	explored++;
	for (unsigned i = 0; i < duel_n; i++)
		duel_steps(d, i);
}

static void duel(unsigned n, unsigned crashes, unsigned bids, unsigned more)
{
	struct duel d;

	memset(&d, 0, sizeof(d));
	duel_n = n;
	d.crashes = (uint8_t)crashes;
	for (unsigned i = 0; i < n; i++)
		d.promised[i] = 1, d.bids[i] = (uint8_t)(i ? bids : TS_MAX(bids, more));
	duel_walk(&d);
}

/* ---- two nodes with views ---------------------------------------------------------------------------------------------------------- */

struct view { /* content of a state, by its index */
	uint64_t number;
	uint8_t member[N]; /* incarnations, 0: not in it */
	uint16_t behind; /* the states it follows, itself included: bits */
};
struct node {
	bool up, tells; /* tells: is in the configuration of the round that is under way */
	uint8_t inc, life_state; /* index + 1 of its state, 0: none since it started */
	uint8_t shown; /* index + 1 */
	uint64_t promised, accepted; /* durable */
	bool round_promised, round_accepted; /* in the joint round */
	uint8_t won; /* index + 1 of what it proposes to itself */
	uint8_t bids;
	struct bidder b;
};
struct world {
	struct disk disk;
	struct node n[N];
	bool link;
	uint8_t cuts, crashes, rounds, nviews;
	bool round;	 /* a joint round is under way */
	uint8_t source, next; /* next: index + 1 of the state proposed */
	uint64_t number;
	uint16_t ever; /* states shown anywhere: bits */
	struct view v[STATES];
};

static void walk(const struct world *w);

static const struct view *state_of(const struct world *w, unsigned i)
{
	return w->n[i].life_state ? &w->v[w->n[i].life_state - 1] : NULL;
}

static void show(struct world *w, unsigned i, unsigned state)
{
	w->n[i].shown = (uint8_t)(state + 1);
	for (unsigned k = 0; k < w->nviews; k++)
		if (w->ever >> k & 1 && !(w->v[state].behind >> k & 1) && !(w->v[k].behind >> state & 1))
			violated("two views were shown that do not follow each other");
	w->ever |= (uint16_t)(1u << state);
}

static void accept_state(struct world *w, unsigned i, unsigned state)
{
	w->n[i].life_state = (uint8_t)(state + 1);
	w->n[i].accepted = w->v[state].number;
}

static void node_out(struct node *n) /* its life is over; what is under way to the disk is not */
{
	struct job j = n->b.job;

	memset(&n->b, 0, sizeof(n->b));
	if (job_can_land(&j)) {
		n->b.job = j;
		n->b.job.on = false;
		n->b.job.orphan = true;
		n->b.job.have = 0;
		memset(n->b.job.got, 0, sizeof(n->b.job.got));
	}
	n->up = n->tells = n->round_promised = n->round_accepted = false;
	n->life_state = n->shown = n->won = 0;
}

/* ---- the joint round: both are there and hear each other */

static void round_end(struct world *w)
{
	w->round = false;
	w->next = 0;
	w->number = 0;
	w->source = 0;
	for (unsigned i = 0; i < N; i++)
		w->n[i].tells = w->n[i].round_promised = w->n[i].round_accepted = false;
}

static void round_begin(struct world *w)
{
	const struct view *a = state_of(w, 0), *b = state_of(w, 1);

	w->round = true;
	w->rounds--;
	w->number = TS_MAX(w->n[0].promised, w->n[1].promised) + 1;
	w->source = (uint8_t)(a && b ? b->number > a->number : b != NULL);
	w->next = 0;
	for (unsigned i = 0; i < N; i++) {
		struct node *n = &w->n[i];

		n->tells = true;
		n->round_promised = n->round_accepted = false;
		n->won = 0; /* the round of one half is over; its job goes on */
		if (n->b.m.phase != TIE_IDLE)
			n->b.m.phase = TIE_IDLE;
	}
}

/* Both have promised: the source proposes. An excluded or older life is put out instead, and the round ends. */
static void propose(struct world *w)
{
	unsigned s = w->source, o = 1 - s;
	const struct view *base = state_of(w, s), *other = state_of(w, o);
	struct view *v = &w->v[w->nviews];

	if (base && !other && w->n[o].accepted > base->number) { /* what the source has is the past */
		node_out(&w->n[s]);
		round_end(w);
		return;
	}
	if (base && other && base->member[o] != w->n[o].inc) {
		node_out(&w->n[o]);
		round_end(w);
		return;
	}
	if (w->nviews == STATES) {
		round_end(w);
		return;
	}
	*v = (struct view){.number = w->number};
	for (unsigned i = 0; i < N; i++)
		v->member[i] = w->n[i].inc;
	v->behind = (uint16_t)((base ? base->behind : w->ever) | 1u << w->nviews); /* a new history follows all that was shown */
	w->next = ++w->nviews;
}

static void round_steps(const struct world *w)
{
	struct world x;

	for (unsigned i = 0; i < N; i++) {
		const struct node *n = &w->n[i];

		if (!n->tells)
			continue;
		if (!n->round_promised && n->promised < w->number) {
			x = *w;
			x.n[i].round_promised = true;
			x.n[i].promised = w->number;
			if (x.n[0].round_promised && x.n[1].round_promised && x.link)
				propose(&x);
			walk(&x);
		}
		if (w->next && !n->round_accepted && n->promised == w->number && (w->link || w->source == i)) {
			x = *w;
			x.n[i].round_accepted = true;
			accept_state(&x, i, w->next - 1u);
			walk(&x);
		}
		if (w->next && w->n[0].round_accepted && w->n[1].round_accepted && w->link && n->shown != w->next) {
			x = *w;
			show(&x, i, w->next - 1u);
			shown_pairs++;
			walk(&x);
		}
		if (!w->link || !w->n[1 - i].up) { /* it notices that it is alone */
			x = *w;
			x.n[i].tells = x.n[i].round_promised = x.n[i].round_accepted = false;
			if (!x.n[0].tells && !x.n[1].tells)
				round_end(&x);
			walk(&x);
		}
	}
}

/* ---- one half: the bid */

static bool alone(const struct world *w, unsigned i)
{
	return w->n[i].up && !w->n[i].tells && (!w->link || !w->n[1 - i].up || !w->n[1 - i].tells);
}

static bool may_bid(const struct world *w, unsigned i)
{
	return alone(w, i) && (!w->link || !w->n[1 - i].up) && w->n[i].life_state && w->n[i].shown && !w->n[i].b.busy && !w->n[i].won;
}

static void bid(struct world *w, unsigned i)
{
	uint64_t present[TIE_SLOTS + 1] = {0};
	struct node *n = &w->n[i];
	struct tie_step s;

	if (n->b.job.orphan)
		n->b.job = (struct job){0}; /* an older life's write is over when this one's session begins */
	present[i + 1] = n->inc;
	n->promised = tie_number_next(n->promised, i + 1);
	tie_begin(&n->b.m, i + 1, n->inc, uuid, n->promised, state_of(w, i)->number, present, &s);
	job_begin(&n->b, &s, N);
}

static void bid_result(struct world *w, unsigned i, enum tie_result r)
{
	struct node *n = &w->n[i];
	struct view *v = &w->v[w->nviews];

	if (r == TIE_HIGHER)
		n->promised = TS_MAX(n->promised, n->b.m.seen);
	if (r != TIE_WON || w->nviews == STATES)
		return;
	*v = (struct view){.number = n->b.m.number, .behind = (uint16_t)(state_of(w, i)->behind | 1u << w->nviews)};
	v->member[i] = n->inc;
	n->won = ++w->nviews;
}

static void job_step(struct world *w, unsigned i, unsigned k)
{
	struct job *j = &w->n[i].b.job;

	j->have |= (uint8_t)(1u << k);
	j->got[k] = w->disk.slot[k];
	if (j->have != j->want)
		return;
	if (w->n[i].b.m.phase == TIE_IDLE) { /* nobody waits for it any more */
		*j = (struct job){0};
		w->n[i].b.busy = false;
		return;
	}
	bid_result(w, i, job_end(&w->n[i].b, N, 0));
}

static void half_steps(const struct world *w, unsigned i)
{
	const struct node *n = &w->n[i];
	struct world x;

	if (may_bid(w, i) && n->bids) {
		x = *w;
		x.n[i].bids--;
		bid(&x, i);
		walk(&x);
	}
	if (job_can_land(&n->b.job)) {
		x = *w;
		job_land(&x.n[i].b.job, &x.disk, i);
		if (x.n[i].b.job.orphan)
			x.n[i].b.job = (struct job){0};
		walk(&x);
	}
	for (unsigned k = 0; k < N; k++)
		if (n->up && job_can_read(&n->b.job, k)) {
			x = *w;
			job_step(&x, i, k);
			walk(&x);
		}
	if (n->won && n->up) { /* its own message comes back to it */
		x = *w;
		accept_state(&x, i, n->won - 1u);
		show(&x, i, n->won - 1u);
		x.n[i].won = 0;
		shown_ties++;
		walk(&x);
	}
}

/* ---- what happens to them */

static void world_steps(const struct world *w)
{
	struct world x;

	if (w->link && w->n[0].up && w->n[1].up && !w->round && w->rounds) {
		x = *w;
		round_begin(&x);
		walk(&x);
	}
	if (w->link && w->cuts) {
		x = *w;
		x.link = false;
		x.cuts--;
		walk(&x);
	}
	if (!w->link && !w->round) {
		x = *w;
		x.link = true;
		walk(&x);
	}
	for (unsigned i = 0; i < N; i++) {
		if (w->n[i].up && w->crashes) {
			x = *w;
			x.crashes--;
			node_out(&x.n[i]);
			if (!x.n[0].tells && !x.n[1].tells)
				round_end(&x);
			walk(&x);
		}
		if (!w->n[i].up && !w->round) {
			x = *w;
			x.n[i].up = true;
			x.n[i].inc++;
			walk(&x);
		}
	}
}

/* One node is left, for good, and nobody has outbid it: it must get its view. */
static void progress(const struct world *w, unsigned i)
{
	struct world x = *w;
	struct node *n = &x.n[i];
	unsigned o = 1 - i;

	if (!n->up || !n->life_state || !n->shown || x.n[o].up || w->nviews + 2u > STATES || x.round)
		return;
	if (job_can_land(&x.n[o].b.job))
		return; /* it may still be outbid */
	for (unsigned steps = 0; steps < 100; steps++) {
		if (n->won)
			return;
		if (!n->b.busy) {
			if (x.disk.slot[o].accepted > state_of(&x, i)->number) {
				dead_ends++; /* the other may have gone on before it died */
				return;
			}
			bid(&x, i);
		}
		if (job_can_land(&n->b.job))
			job_land(&n->b.job, &x.disk, i);
		for (unsigned k = 0; k < N; k++)
			if (job_can_read(&n->b.job, k))
				job_step(&x, i, k);
	}
	violated("the last node cannot go on");
}

static void walk(const struct world *w)
{
	if (!seen_put(ts_csum64(w, sizeof(*w), 0)))
		return;
	explored++;
	for (unsigned i = 0; i < N; i++)
		progress(w, i);
	if (w->round)
		round_steps(w);
	for (unsigned i = 0; i < N; i++)
		half_steps(w, i);
	world_steps(w);
}

/* Both are in view 1, and have seen it. */
static void pair(unsigned cuts, unsigned crashes, unsigned rounds, unsigned bids)
{
	struct world w;

	memset(&w, 0, sizeof(w));
	w.link = true;
	w.cuts = (uint8_t)cuts;
	w.crashes = (uint8_t)crashes;
	w.rounds = (uint8_t)rounds;
	w.nviews = 1;
	w.ever = 1;
	w.v[0] = (struct view){.number = 1, .member = {1, 1}, .behind = 1};
	for (unsigned i = 0; i < N; i++)
		w.n[i] = (struct node){.up = true, .inc = 1, .life_state = 1, .shown = 1, .promised = 1, .accepted = 1, .bids = (uint8_t)bids};
	walk(&w);
}

/* ---- main ------------------------------------------------------------------------------------------------------------------------------ */

static const struct scenario {
	const char *name;
	bool views;
	unsigned a, b, c, d; /* duel: bidders, crashes, bids of each, of the first; pair: cuts, crashes, rounds, bids */
} scenarios[] = {
	{"two bidders, each bids three times", false, 2, 0, 3, 3},
	{"two bidders, a death, each bids twice", false, 2, 1, 2, 2},
	{"three bidders, a death", false, 3, 1, 1, 0},
	{"two nodes: a cut, a death", true, 1, 1, 2, 1},
	{"two nodes: two cuts", true, 2, 0, 2, 1},
	{"two nodes: two deaths", true, 1, 2, 1, 1},
	{"two nodes: a cut, each bids twice", true, 1, 0, 1, 2},
};

static bool scenario_run(const struct scenario *s, bool quiet)
{
	explored = shown_ties = shown_pairs = dead_ends = 0;
	broken = NULL;
	seen_clear();
	if (!setjmp(out)) {
		if (s->views)
			pair(s->a, s->b, s->c, s->d);
		else
			duel(s->a, s->b, s->c, s->d);
	}
	if (!quiet || broken)
		printf("%-36s %9llu states, %llu views of both, %llu of one half, %llu that may be outbid by the dead%s%s\n", s->name,
		       (unsigned long long)explored, (unsigned long long)shown_pairs, (unsigned long long)shown_ties, (unsigned long long)dead_ends,
		       broken ? ": VIOLATED: " : "", broken ? broken : "");
	fflush(stdout);
	return !broken;
}

#ifdef TIE_PLANTS
int main(void)
{
	static const char *const names[] = {[TIE_PLANT_NO_LOOK_AFTER_ACCEPT] = "does not look again after it has accepted",
					    [TIE_PLANT_NO_PROMISE] = "accepts without a promise",
					    [TIE_PLANT_BASE_IGNORED] = "bids behind a view that was left",
					    [TIE_PLANT_SAME_NUMBERS] = "takes the number another one may have",
					    [TIE_PLANT_FORGETS_ACCEPTED] = "forgets in its slot what it had accepted"};
	unsigned missed = 0;

	blank_make();
	for (unsigned p = 1; p < TS_ARRAY_LEN(names); p++) {
		bool found = false;

		tie_plant = p;
		printf("planted: %s\n", names[p]);
		for (unsigned i = 0; i < TS_ARRAY_LEN(scenarios) && !found; i++)
			found = !scenario_run(&scenarios[i], true);
		missed += !found;
		if (!found)
			printf("NOT FOUND: %s\n", names[p]);
	}
	return missed ? 1 : 0;
}
#else
int main(void)
{
	uint64_t total = 0;
	bool good = true;

	blank_make();
	for (unsigned i = 0; i < TS_ARRAY_LEN(scenarios); i++) {
		good &= scenario_run(&scenarios[i], false);
		total += explored;
	}
	printf("%llu states in all, %s\n", (unsigned long long)total, good ? "no view beside another" : "VIOLATED");
	return good && total ? 0 : 1;
}
#endif
