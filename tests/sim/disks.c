/* SPDX-License-Identifier: Apache-2.0 */
/* Disks that come and go while the clients work and nodes die: on every node an operator who adds the spare disk, spreads the data over it,
 * drains it or one of the first two, and removes what is empty. Contents are the model's affair (work.c), the table fsck's at the end.
 * Several operators at once are part of it: the file system lets one at a time. */
#include "tests/sim/sim.h"
#include <stdio.h>

unsigned sim_disk_of(unsigned no)
{
	return no < SIM_FORMATTED ? no : SIM_FORMATTED;
}

int sim_disks_given(struct sim_life *l, struct nsd_dev *given[], unsigned room, unsigned *n)
{
	struct fs_disk_info *v;
	int rc = fs_disks_list(l->devs[0], &v, n);
	if (rc)
		return rc;
	TS_ASSERT(*n <= room);
	for (unsigned i = 0; i < *n; i++) {
		const char *state = fs_disk_state_name(v[i].state);
		/* One that is joining is found when it is asked for; what was formatted for it may not be there yet. */
		given[i] = !strcmp(state, "gone") || !strcmp(state, "joining") ? NULL : l->devs[sim_disk_of(i)];
	}
	ts_free(v);
	return 0;
}

int sim_disk_joins(void *arg, unsigned no, const uint8_t uuid[16], const char *url, struct nsd_dev **out)
{
	struct sim_life *l = arg;
	struct sim *s = l->node->sim;
	unsigned disk = sim_disk_of(no);
	int rc;
	if (s->disks_load && sim_chance(s, 3))
		return -ENODEV; /* its network is not up yet */
	if (s->plant && !strcmp(s->plant, "wrong-disk") && disk == SIM_FORMATTED)
		disk = 1;
	rc = sim_disk_register(l, l->devs[disk]);
	if (rc == 0)
		*out = l->devs[disk];
	return rc;
}

void sim_disk_leaves(void *arg, unsigned no, struct nsd_dev *dev)
{
	struct sim_life *l = arg;
	uint64_t key = ((uint64_t)l->node->id << 48) | quorum_incarnation_counter(l->incarnation);
	if (nsd_pr_unregister(dev, key))
		sim_say(l->node->sim, "n%u disk %u: its key stays", l->node->id, no);
}

struct found {
	int spare, ready[2]; /* numbers, -1: none */
	unsigned spare_state;
	unsigned state[SIM_FORMATTED];
};

static bool look(struct sim_life *l, struct found *f)
{
	struct fs_disks_status st;
	*f = (struct found){.spare = -1};
	if (AGAIN(l, fs_disks_status(l->fs, &st)))
		return false;
	for (unsigned i = 0; i < st.ndisks; i++) {
		if (i < SIM_FORMATTED)
			f->state[i] = st.disk[i].state;
		else if (strcmp(fs_disk_state_name(st.disk[i].state), "gone")) {
			f->spare = (int)i;
			f->spare_state = st.disk[i].state;
		}
	}
	ts_free(st.disk);
	return true;
}

static int add(struct sim_life *l, char *err, size_t errlen)
{
	struct fs_disk_add a = {.dev = l->devs[SIM_FORMATTED], .url = "sim://2", .failure_group = 7, .pool = l->node->sim->pools_load ? "fast" : NULL};
	unsigned no;
	int rc = sim_disk_register(l, a.dev);
	return rc ? rc : AGAIN(l, fs_disk_add(l->fs, &a, &no, err, errlen));
}

/* Any file or directory that there may be: a layout, or all of its blocks to one pool. Whether a block then lies outside of its pool, fsck says
 * at the end. */
static void place_one(struct sim_life *l)
{
	struct sim *s = l->node->sim;
	uint64_t ino = sim_chance(s, 25) ? 1 : sim_below(s, 4) * 512 + 1 + sim_below(s, 24), moved = 0;
	const char *pool = sim_chance(s, 50) ? "fast" : "system";
	bool migrate = sim_chance(s, 40);
	struct fs_layout_set set = {.stripe = (int)sim_below(s, 4) - 1};
	int rc;
	snprintf(set.pool, sizeof(set.pool), "%s", pool);
	rc = migrate ? fs_layout_migrate(l->fs, ino, pool, NULL, NULL, &moved) : fs_layout_set(l->fs, ino, &set);
	if (sim_life_over(l))
		return;
	sim_say(s, "n%u layout: %s inode %llu, pool %s: %d, %llu bytes", l->node->id, migrate ? "migrate" : "set", (unsigned long long)ino, pool, rc, (unsigned long long)moved);
	if (!rc)
		++*(migrate ? &s->migrated : &s->placed);
}

/* What the state of the table asks for, or not. Answers that another operator, a death or a full disk explain are none of ours. */
static void one(struct sim_life *l)
{
	struct sim *s = l->node->sim;
	struct found f;
	char err[512] = "";
	const char *what = "nothing";
	int rc = 0;
	uint64_t *count = NULL;
	if (!look(l, &f))
		return;
	unsigned target = f.spare >= 0 && sim_chance(s, 60) ? (unsigned)f.spare : 1;
	const char *state = fs_disk_state_name(target == 1 ? f.state[1] : f.spare_state);
	if (f.spare < 0 || (target != 1 && !strcmp(state, "joining"))) {
		what = "add";
		rc = add(l, err, sizeof(err));
		count = &s->adds;
	} else if (!strcmp(state, "empty")) {
		what = target == 1 ? "take back" : "remove";
		rc = target == 1 ? AGAIN(l, fs_disk_drain(l->fs, 1, true, 0, err, sizeof(err))) : AGAIN(l, fs_disk_remove(l->fs, target, err, sizeof(err)));
		count = target == 1 ? NULL : &s->removes;
	} else if (!strcmp(state, "ready") && sim_chance(s, 40)) {
		what = "rebalance";
		rc = AGAIN(l, fs_disk_rebalance(l->fs, false, 0, err, sizeof(err)));
		count = &s->rebalances;
	} else if (!strcmp(state, "ready")) {
		what = "drain";
		rc = AGAIN(l, fs_disk_drain(l->fs, target, false, 0, err, sizeof(err)));
		count = &s->drains;
	}
	if (sim_life_over(l))
		return;
	sim_say(s, "n%u disks: %s %u (%s): %d %s", l->node->id, what, target, state, rc, err);
	if (!rc && count)
		++*count;
}

void sim_disks_client(void *arg)
{
	struct sim_life *l = arg;
	struct sim *s = l->node->sim;
	while (!sim_work_ready(s) && !l->unmount && !sim_life_over(l))
		ts_sleep_until(ts_exec_now(l->x) + 10 * TS_NS_PER_MS);
	while (s->disk_ops_done < s->disk_ops && !sim_work_finished(s) && !l->unmount && !sim_life_over(l)) {
		ts_sleep_until(ts_exec_now(l->x) + sim_below(s, 400 * TS_NS_PER_MS));
		if (l->unmount || sim_life_over(l) || !l->fs)
			break;
		s->disk_ops_done++;
		if (s->pools_load && sim_chance(s, 50))
			place_one(l);
		else
			one(l);
	}
	l->clients--;
	ts_cond_broadcast(&l->changed);
}
