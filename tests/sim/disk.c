/* SPDX-License-Identifier: Apache-2.0 */
/* Simulated shared disks with a volatile write cache and reservations. A request arrives (reservation checked), lands some
 * time later, and is answered after that: so a write accepted before a fence may land after it, within SIM_LATE_MAX, as
 * real targets do. A node that dies cannot stop what it has sent. Must never happen: a write of an unregistered key that
 * arrives after the fence and lands. */
#include "tests/sim/sim.h"
#include <sys/mman.h>

#define SIM_OLD_BYTES (64u << 10)
#define SIM_LATE_MAX (100 * TS_NS_PER_MS) /* below quorum_times.settle_ms */

struct unstable {
	struct ts_list link;
	uint64_t off, len;
	uint8_t data[];
};
struct sim_disk {
	struct sim *s;
	unsigned no;
	uint8_t *now, *stable;
	struct ts_list unstable;
	uint64_t keys[128];
	unsigned nkeys;
	bool reserved;
	uint32_t generation;
	uint64_t power; /* power cycles: what was on its way before is lost */
	bool touched[SIM_DISK_BYTES / SIM_OLD_BYTES];
};
struct sim_dev { /* a node's opening of a disk */
	struct sim_disk *d;
	struct sim_life *life;
	uint64_t key; /* registered by this nexus, 0 = none */
	struct nsd_gate gate;
	struct ts_list jobs;
	bool dead;
};
struct job {
	struct ts_list link;
	struct sim_dev *dev;
	struct nsd_req *r; /* NULL: nobody to tell */
	enum nsd_op op;
	uint64_t off, len, key, power;
	uint8_t *data;
	int rc;
};

static bool may_write(void *arg)
{
	struct sim_life *l = arg;
	return l->offline || (l->quorum && !l->excluded && quorum_may_write(l->quorum));
}

static bool registered(const struct sim_disk *d, uint64_t key)
{
	for (unsigned i = 0; i < d->nkeys; i++)
		if (d->keys[i] == key)
			return key != 0;
	return false;
}

static void job_free(struct job *j)
{
	ts_list_del(&j->link);
	free(j->data);
	free(j);
}

static void job_answer(void *arg, uint64_t a, uint64_t b)
{
	struct job *j = arg;
	if (j->r && !j->dev->dead) {
		struct nsd_req *r = j->r;
		if (j->op == NSD_READ && j->rc == 0) {
			uint64_t off = 0;
			for (int i = 0; i < r->iovcnt; i++) {
				memcpy(r->iov[i].iov_base, j->data + off, r->iov[i].iov_len);
				off += r->iov[i].iov_len;
			}
		}
		nsd_complete(r, j->rc);
	}
	job_free(j);
}

/* Whatever was never written is old contents of other use, not zeros: they shine through mistakes. Filled in when first met. */
static void touch(struct sim_disk *d, uint64_t off, uint64_t len)
{
	for (uint64_t i = off / SIM_OLD_BYTES; i * SIM_OLD_BYTES < off + len; i++) {
		if (d->touched[i] || i * SIM_OLD_BYTES < 1 << 20)
			continue;
		d->touched[i] = true;
		memset(d->now + i * SIM_OLD_BYTES, 0xa5, SIM_OLD_BYTES);
		memset(d->stable + i * SIM_OLD_BYTES, 0xa5, SIM_OLD_BYTES);
	}
}

static void stable_all(struct sim_disk *d)
{
	struct ts_list *l;
	while ((l = ts_list_pop_front(&d->unstable))) {
		struct unstable *u = ts_list_entry(l, struct unstable, link);
		memcpy(d->stable + u->off, u->data, u->len);
		free(u);
	}
}

static void job_land(void *arg, uint64_t a, uint64_t b)
{
	struct job *j = arg;
	struct sim_disk *d = j->dev->d;
	touch(d, j->off, j->len);
	if (j->power != d->power) {
		j->rc = -EIO;
	} else if (j->op == NSD_READ) {
		memcpy(j->data, d->now + j->off, j->len);
	} else if (j->op == NSD_FLUSH) {
		if (!d->s->plant || strcmp(d->s->plant, "lying-flush"))
			stable_all(d);
	} else {
		struct unstable *u = malloc(sizeof(*u) + j->len);
		TS_ASSERT(u);
		u->off = j->off;
		u->len = j->len;
		if (j->data)
			memcpy(u->data, j->data, j->len);
		else
			memset(u->data, 0, j->len);
		memcpy(d->now + u->off, u->data, u->len);
		ts_list_push_back(&d->unstable, &u->link);
		if (d->reserved && !registered(d, j->key))
			d->s->late_writes++;
	}
	sim_in(d->s, 5000 + sim_below(d->s, 30000), job_answer, j, 0, 0);
}

static void job_arrive(void *arg, uint64_t a, uint64_t b)
{
	struct job *j = arg;
	struct sim_disk *d = j->dev->d;
	bool write = j->op != NSD_READ && j->op != NSD_FLUSH;
	if (j->power != d->power || (write && d->reserved && !registered(d, j->key))) {
		if (write)
			d->s->fenced_writes++;
		j->rc = j->power != d->power ? -EIO : -TS_ERR_FENCED;
		sim_in(d->s, 5000, job_answer, j, 0, 0);
		return;
	}
	uint64_t delay = sim_below(d->s, 60000);
	if (write && sim_chance(d->s, 1))
		delay = sim_below(d->s, SIM_LATE_MAX);
	sim_in(d->s, delay, job_land, j, 0, 0);
}

static void disk_submit(struct nsd_dev *nd, struct nsd_req *r)
{
	struct sim_dev *dev = nsd_dev_priv(nd);
	struct sim *s = dev->d->s;
	struct job *j = calloc(1, sizeof(*j));
	TS_ASSERT(j);
	*j = (struct job){.dev = dev, .r = r, .op = r->op, .off = r->off, .len = r->len, .key = dev->key, .power = dev->d->power};
	TS_ASSERT(r->off + r->len <= SIM_DISK_BYTES);
	if (r->op == NSD_READ || r->op == NSD_WRITE) {
		j->data = malloc(r->len ? r->len : 1);
		TS_ASSERT(j->data);
		uint64_t off = 0;
		for (int i = 0; r->op == NSD_WRITE && i < r->iovcnt; i++) {
			memcpy(j->data + off, r->iov[i].iov_base, r->iov[i].iov_len);
			off += r->iov[i].iov_len;
		}
	}
	ts_list_push_back(&dev->jobs, &j->link);
	uint64_t delay = 10000 + sim_below(s, 80000);
	if (s->now < s->slow_disk_until)
		delay += sim_below(s, 40 * TS_NS_PER_MS);
	if (dev->d->no == SIM_TIE && s->tie_gone_until > s->now)
		delay += s->tie_gone_until - s->now; /* its session is made anew, and the command sent again */
	sim_in(s, delay, job_arrive, j, 0, 0);
}

static int key_add(struct sim_disk *d, struct sim_dev *dev, uint64_t key)
{
	for (unsigned i = 0; dev->key && i < d->nkeys; i++)
		if (d->keys[i] == dev->key)
			d->keys[i] = d->keys[--d->nkeys];
	TS_ASSERT(d->nkeys < TS_ARRAY_LEN(d->keys));
	d->keys[d->nkeys++] = key;
	dev->key = key;
	d->generation++;
	return 0;
}

static int key_remove(struct sim_disk *d, uint64_t key)
{
	for (unsigned i = 0; i < d->nkeys; i++)
		if (d->keys[i] == key) {
			d->keys[i] = d->keys[--d->nkeys];
			d->generation++;
			if (!d->nkeys)
				d->reserved = false;
			return 0;
		}
	return -ENOENT;
}

static int disk_pr(struct nsd_dev *nd, int verb, uint64_t key, uint64_t other, struct nsd_pr_state *out)
{
	struct sim_dev *dev = nsd_dev_priv(nd);
	struct sim_disk *d = dev->d;
	ts_sleep_until(ts_exec_now(dev->life->x) + 20000 + sim_below(d->s, 100000));
	bool have = registered(d, dev->key);
	switch (verb) {
	case NSD_PRV_REGISTER:
		return key_add(d, dev, key);
	case NSD_PRV_UNREGISTER:
		if (!have)
			return -TS_ERR_FENCED;
		key_remove(d, dev->key);
		dev->key = 0;
		return 0;
	case NSD_PRV_RESERVE:
		if (!have)
			return -TS_ERR_FENCED;
		d->reserved = true;
		return 0;
	case NSD_PRV_READ:
		*out = (struct nsd_pr_state){.generation = d->generation, .nkeys = d->nkeys,
					     .type = d->reserved ? NSD_PR_WRITE_EXCL_ALL_REGISTRANTS : NSD_PR_NONE};
		memcpy(out->keys, d->keys, d->nkeys * sizeof(d->keys[0]));
		return 0;
	default:
		if (!have)
			return -TS_ERR_FENCED;
		if (d->s->plant && !strcmp(d->s->plant, "no-fence"))
			return 0;
		return key_remove(d, other);
	}
}

static void disk_close(struct nsd_dev *nd)
{
}

static const struct nsd_ops ops = {.submit = disk_submit, .close = disk_close, .pr = disk_pr};

struct nsd_dev *sim_disk_open(struct sim_life *l, unsigned no)
{
	struct sim *s = l->node->sim;
	struct sim_dev *dev = calloc(1, sizeof(*dev));
	static const char *const urls[] = {"sim://0", "sim://1", "sim://2", "sim://tiebreaker"};
	struct nsd_info info = {.size_bytes = SIM_DISK_BYTES, .sector_bytes = 4096, .max_io_bytes = 1 << 20, .has_reservations = no != SIM_TIE,
				.has_preempt_abort = no != SIM_TIE, .transport = "sim"};
	TS_ASSERT(dev);
	dev->d = s->disks[no];
	dev->life = l;
	if (no != SIM_TIE)
		dev->gate = (struct nsd_gate){.may_write = may_write, .arg = l};
	ts_list_init(&dev->jobs);
	struct nsd_dev *nd = nsd_dev_new(l->x, &ops, dev, &info, &dev->gate, urls[no]);
	TS_ASSERT(nd);
	return nd;
}

void sim_disks_life_dead(struct sim_life *l)
{
	for (unsigned i = 0; i < SIM_DISKS; i++)
		if (l->devs[i])
			((struct sim_dev *)nsd_dev_priv(l->devs[i]))->dead = true;
	if (l->tie_dev)
		((struct sim_dev *)nsd_dev_priv(l->tie_dev))->dead = true;
}

static uint8_t *image(void)
{
	uint8_t *p = mmap(NULL, SIM_DISK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	TS_ASSERT(p != MAP_FAILED);
	return p;
}

void sim_disks_new(struct sim *s)
{
	for (unsigned i = 0; i <= SIM_TIE; i++) {
		struct sim_disk *d = calloc(1, sizeof(*d));
		TS_ASSERT(d);
		d->s = s;
		d->no = i;
		d->now = image();
		d->stable = image();
		ts_list_init(&d->unstable);
		s->disks[i] = d;
	}
}

void sim_disks_free(struct sim *s)
{
	for (unsigned i = 0; i <= SIM_TIE; i++) {
		stable_all(s->disks[i]);
		munmap(s->disks[i]->now, SIM_DISK_BYTES);
		munmap(s->disks[i]->stable, SIM_DISK_BYTES);
		free(s->disks[i]);
	}
}

void sim_disks_blackout(struct sim *s)
{
	for (unsigned i = 0; i <= SIM_TIE; i++) {
		struct sim_disk *d = s->disks[i];
		unsigned keep = (unsigned)sim_below(s, 101);
		ts_list_for(l, &d->unstable) { /* in order of landing: what is kept of overlapping writes is the later */
			struct unstable *u = ts_list_entry(l, struct unstable, link);
			uint64_t part = sim_chance(s, keep) ? u->len : 0;
			if (!part && u->len > 4096 && sim_chance(s, 30))
				part = 4096 * sim_below(s, u->len / 4096); /* torn */
			memcpy(d->stable + u->off, u->data, part);
		}
		struct ts_list *l;
		while ((l = ts_list_pop_front(&d->unstable))) {
			struct unstable *u = ts_list_entry(l, struct unstable, link);
			memcpy(d->now + u->off, d->stable + u->off, u->len);
			free(u);
		}
		d->power++;
	}
}

void sim_disks_keys_reset(struct sim *s)
{
	for (unsigned i = 0; i < SIM_DISKS; i++) {
		s->disks[i]->nkeys = 0;
		s->disks[i]->reserved = false;
	}
}

unsigned sim_disks_unstable(struct sim *s)
{
	unsigned n = 0;
	for (unsigned i = 0; i < SIM_DISKS; i++)
		ts_list_for(l, &s->disks[i]->unstable)
			n++;
	return n;
}
