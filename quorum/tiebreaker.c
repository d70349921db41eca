/* SPDX-License-Identifier: Apache-2.0 */
/* Job: one side of an even split asks the disk whether it may go on. Disk Paxos with one disk: a bidder writes its own slot, makes it
 * stable, then reads the others'; no compare-and-write, one write under way.
 *
 *   idle --begin--> look --all read--> promise --written, read--> accept --written, read--> won
 *                     |                      |                         |
 *                     +-- the highest accepted number is another's: lost |
 *                     +-- a promised number above ours: higher ----------+-- a slot that cannot be read: failed
 *
 * Must never happen: two sides that win behind the same view; a win behind a view that another side has left already. */
#include "quorum/tie_int.h"

static const char head_magic[8] = {'T', 'S', 'S', 'R', 'T', 'I', 'E', 'H'};
static const char slot_magic[8] = {'T', 'S', 'S', 'R', 'T', 'I', 'E', 'S'};

#ifdef TIE_PLANTS
unsigned tie_plant;
#endif

/* ---- bytes ----------------------------------------------------------------------------------------------------------------- */

void tie_slot_encode(struct tie_slot_disk *d, unsigned node, const uint8_t uuid[16], const struct tie_slot *s)
{
	memset(d, 0, sizeof(*d));
	memcpy(d->magic, slot_magic, sizeof(d->magic));
	d->version = le32_make(TIE_VERSION);
	d->node = le32_make(node);
	memcpy(d->uuid, uuid, sizeof(d->uuid));
	d->incarnation = le64_make(s->incarnation);
	d->promised = le64_make(s->promised);
	d->accepted = le64_make(s->accepted);
	d->accepted_incarnation = le64_make(s->accepted_incarnation);
	d->base = le64_make(s->base);
	d->writes = le64_make(s->writes);
	d->wall_ns = le64_make(s->wall_ns);
	d->csum = le64_make(ts_csum64_skip(d, sizeof(*d), offsetof(struct tie_slot_disk, csum), 0));
}

bool tie_slot_decode(const struct tie_slot_disk *d, unsigned node, const uint8_t uuid[16], struct tie_slot *s)
{
	*s = (struct tie_slot){0};
	if (memcmp(d->magic, slot_magic, sizeof(d->magic)) || le32_get(d->version) != TIE_VERSION || le32_get(d->node) != node ||
	    memcmp(d->uuid, uuid, sizeof(d->uuid)) ||
	    le64_get(d->csum) != ts_csum64_skip(d, sizeof(*d), offsetof(struct tie_slot_disk, csum), 0))
		return false;
	*s = (struct tie_slot){.incarnation = le64_get(d->incarnation),
			       .promised = le64_get(d->promised),
			       .accepted = le64_get(d->accepted),
			       .accepted_incarnation = le64_get(d->accepted_incarnation),
			       .base = le64_get(d->base),
			       .writes = le64_get(d->writes),
			       .wall_ns = le64_get(d->wall_ns)};
	return s->accepted <= s->promised && (!s->accepted || s->base < s->accepted);
}

void tie_head_encode(struct tie_head_disk *d, const uint8_t cluster_id[16], const uint8_t uuid[16])
{
	memset(d, 0, sizeof(*d));
	memcpy(d->magic, head_magic, sizeof(d->magic));
	d->version = le32_make(TIE_VERSION);
	d->slots = le32_make(TIE_SLOTS);
	memcpy(d->cluster_id, cluster_id, sizeof(d->cluster_id));
	memcpy(d->uuid, uuid, sizeof(d->uuid));
	d->csum = le64_make(ts_csum64_skip(d, sizeof(*d), offsetof(struct tie_head_disk, csum), 0));
}

int tie_head_decode(const struct tie_head_disk *d, const uint8_t cluster_id[16], uint8_t uuid[16])
{
	if (memcmp(d->magic, head_magic, sizeof(d->magic)))
		return -ENOENT;
	if (le64_get(d->csum) != ts_csum64_skip(d, sizeof(*d), offsetof(struct tie_head_disk, csum), 0))
		return -EBADMSG;
	if (le32_get(d->version) != TIE_VERSION || le32_get(d->slots) != TIE_SLOTS)
		return -EPROTONOSUPPORT;
	if (memcmp(d->cluster_id, cluster_id, sizeof(d->cluster_id)))
		return -EPERM;
	memcpy(uuid, d->uuid, sizeof(d->uuid));
	return 0;
}

/* ---- the machine ------------------------------------------------------------------------------------------------------------ */

uint64_t tie_number_next(uint64_t above, unsigned node)
{
	uint64_t n = (above & ~(uint64_t)TIE_SLOTS) | node; /* TIE_SLOTS + 1 is a power of two */

	if (TIE_PLANTED(TIE_PLANT_SAME_NUMBERS))
		return above + 1;
	return n > above ? n : n + TIE_SLOTS + 1;
}

static void end(struct tie_machine *m, struct tie_step *next, enum tie_result r)
{
	m->phase = TIE_IDLE;
	next->result = r;
}

static void write_mine(struct tie_machine *m, uint64_t wall_ns, struct tie_step *next)
{
	m->mine.incarnation = m->incarnation;
	m->mine.writes++;
	m->mine.wall_ns = wall_ns;
	next->write = true;
	tie_slot_encode(&next->slot, m->node, m->uuid, &m->mine);
}

static void to_promise(struct tie_machine *m, uint64_t wall_ns, struct tie_step *next)
{
	m->phase = TIE_PROMISE;
	m->mine.promised = m->number;
	if (TIE_PLANTED(TIE_PLANT_FORGETS_ACCEPTED))
		m->mine.accepted = m->mine.base = m->mine.accepted_incarnation = 0;
	write_mine(m, wall_ns, next);
}

static void to_accept(struct tie_machine *m, uint64_t wall_ns, struct tie_step *next)
{
	m->phase = TIE_ACCEPT;
	m->mine.promised = m->mine.accepted = m->number;
	m->mine.accepted_incarnation = m->incarnation;
	m->mine.base = m->base;
	write_mine(m, wall_ns, next);
}

void tie_begin(struct tie_machine *m, unsigned node, uint64_t incarnation, const uint8_t uuid[16], uint64_t number, uint64_t base,
	       const uint64_t present[TIE_SLOTS + 1], struct tie_step *next)
{
	TS_ASSERT(node && node <= TIE_SLOTS && number > base);
	memset(m, 0, sizeof(*m));
	m->phase = TIE_LOOK;
	m->node = node;
	m->incarnation = incarnation;
	m->number = number;
	m->base = base;
	memcpy(m->uuid, uuid, sizeof(m->uuid));
	memcpy(m->present, present, sizeof(m->present));
	*next = (struct tie_step){.result = TIE_RUNNING};
}

/* The highest number that our side stands for: its newest view, or what a living node of it has written here. The latter was agreed by
 * nobody, for that node never accepted it as a view; but it was written behind a promise, so nothing lower has won either. */
static uint64_t standing(const struct tie_machine *m, const struct tie_slot *s)
{
	uint64_t highest = m->base;

	for (unsigned n = 1; n <= TIE_SLOTS; n++)
		if (s[n].accepted && m->present[n] == s[n].accepted_incarnation)
			highest = TS_MAX(highest, s[n].accepted);
	return highest;
}

static bool read_all(struct tie_machine *m, const struct tie_slot_disk *slots, struct tie_slot *s)
{
	for (unsigned n = 1; n <= TIE_SLOTS; n++) {
		if (tie_slot_decode(&slots[n - 1], n, m->uuid, &s[n]))
			continue;
		m->by = n;
		m->rc = -EBADMSG;
		return false;
	}
	return true;
}

/* The highest number that another side has accepted, if it is above what ours stands for. What was accepted with less while we accepted
 * has not won: who wrote it looks after that, and finds our promise. */
static bool outbid(struct tie_machine *m, const struct tie_slot *s)
{
	uint64_t mine = standing(m, s);

	if (m->phase == TIE_ACCEPT || TIE_PLANTED(TIE_PLANT_BASE_IGNORED))
		return false;
	for (unsigned n = 1; n <= TIE_SLOTS; n++) {
		if (s[n].accepted <= mine || m->present[n] == s[n].accepted_incarnation)
			continue;
		mine = m->seen = s[n].accepted;
		m->by = n;
	}
	return m->seen;
}

static bool promised_above(struct tie_machine *m, const struct tie_slot *s)
{
	for (unsigned n = 1; n <= TIE_SLOTS; n++) {
		bool above = n == m->node ? m->phase == TIE_LOOK && s[n].promised >= m->number : s[n].promised > m->number;

		if (!above || s[n].promised <= m->seen)
			continue;
		m->seen = s[n].promised;
		m->by = n;
	}
	return m->seen;
}

/* What the slots say: running, if nothing speaks against going on. */
static enum tie_result judge(struct tie_machine *m, const struct tie_slot_disk *slots, struct tie_slot *mine)
{
	struct tie_slot s[TIE_SLOTS + 1];

	m->by = 0;
	m->seen = 0;
	if (!read_all(m, slots, s))
		return TIE_FAILED;
	*mine = s[m->node];
	if (outbid(m, s))
		return TIE_LOST;
	if (promised_above(m, s))
		return TIE_HIGHER;
	if (m->phase != TIE_LOOK && memcmp(mine, &m->mine, sizeof(*mine))) {
		m->by = m->node; /* the disk does not show what it was given: another machine uses this slot, or it lies */
		m->rc = -ESTALE;
		return TIE_FAILED;
	}
	return TIE_RUNNING;
}

void tie_done(struct tie_machine *m, int rc, const struct tie_slot_disk *slots, uint64_t wall_ns, struct tie_step *next)
{
	struct tie_slot mine = {0};
	enum tie_result r;

	TS_ASSERT(m->phase != TIE_IDLE);
	*next = (struct tie_step){.result = TIE_RUNNING};
	m->rc = rc;
	if (rc) {
		end(m, next, TIE_FAILED);
		return;
	}
	r = judge(m, slots, &mine);
	if (TIE_PLANTED(TIE_PLANT_NO_LOOK_AFTER_ACCEPT) && m->phase == TIE_ACCEPT)
		r = TIE_RUNNING;
	if (r != TIE_RUNNING) {
		end(m, next, r);
	} else if (m->phase == TIE_LOOK && !TIE_PLANTED(TIE_PLANT_NO_PROMISE)) {
		m->mine = mine;
		to_promise(m, wall_ns, next);
	} else if (m->phase != TIE_ACCEPT) {
		if (m->phase == TIE_LOOK)
			m->mine = mine;
		to_accept(m, wall_ns, next);
	} else {
		end(m, next, TIE_WON);
	}
}
