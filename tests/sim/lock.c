/* SPDX-License-Identifier: Apache-2.0 */
/* Locks of applications in simulated clusters: processes on every node lock bytes of a few files, wait, upgrade, unlock and
 * close, while nodes die, freeze and are cut off. The model keeps what each living process was given: no two may conflict.
 * A process that is dead for the others (its node is pending in the group) is no longer looked at. What waits must end: a run
 * ends only when every client has. */
#include "dlm/plock_int.h"
#include "tests/sim/sim.h"
#include <fcntl.h>
#include <stdio.h>

#define LOCK_FILES 3
#define LOCK_BYTES 12
#define LOCK_PROCS 64

struct proc {
	struct sim_life *life; /* NULL = free */
	enum fs_lock_type type[LOCK_FILES][LOCK_BYTES];
};
struct sim_locks {
	struct proc proc[LOCK_PROCS];
};

static const struct fs_cred cred;

/* Given: nobody else alive has what conflicts. */
static void given(struct sim *s, struct proc *p, unsigned file, const struct fs_lock *k)
{
	for (unsigned i = 0; i < LOCK_PROCS; i++)
		for (uint64_t b = k->start; b <= k->end; b++) {
			const struct proc *o = &s->locks->proc[i];
			enum fs_lock_type t = o->life && o != p ? o->type[file][b] : FS_LOCK_NONE;
			if (t && (t == FS_LOCK_WRITE || k->type == FS_LOCK_WRITE))
				sim_fail(s, "n%u and n%u have conflicting locks on byte %llu of lock file %u", p->life->node->id,
					 o->life->node->id, (unsigned long long)b, file);
		}
	for (uint64_t b = k->start; b <= k->end; b++)
		p->type[file][b] = k->type;
}

static void at_most(struct proc *p, unsigned file, const struct fs_lock *k)
{
	for (uint64_t b = k->start; b <= k->end; b++)
		p->type[file][b] = TS_MIN(p->type[file][b], k->type);
}

static void one(struct sim *s, struct sim_life *l, struct proc *p, struct fs_file **h)
{
	unsigned file = (unsigned)sim_below(s, LOCK_FILES);
	uint64_t a = sim_below(s, LOCK_BYTES), b = sim_below(s, LOCK_BYTES);
	struct fs_lock k = {.start = TS_MIN(a, b), .end = TS_MAX(a, b), .owner = 1 + (uint64_t)(p - s->locks->proc), .type = FS_LOCK_NONE};
	bool wait = sim_chance(s, 60), closes = false;
	k.pid = (uint32_t)k.owner;
	if (sim_chance(s, 50))
		k.type = sim_chance(s, 50) ? FS_LOCK_WRITE : FS_LOCK_READ;
	else if (sim_chance(s, 50)) {
		k = (struct fs_lock){.end = LOCK_BYTES - 1, .owner = k.owner, .pid = k.pid};
		closes = sim_chance(s, 20);
	}
	if (k.type != FS_LOCK_WRITE)
		at_most(p, file, &k);
	int rc = closes ? fs_lock_close(l->fs, h[file], k.owner) : AGAIN(l, fs_lock_set(l->fs, h[file], &k, wait, NULL));
	if (sim_life_over(l))
		return;
	if (rc == 0 && k.type)
		given(s, p, file, &k);
	else if (rc && rc != -EDEADLK && (rc != -EAGAIN || wait || !k.type))
		sim_fail(s, "n%u lock: error %d", l->node->id, rc);
}

static struct proc *proc_new(struct sim *s, struct sim_life *l)
{
	for (unsigned i = 0; i < LOCK_PROCS; i++)
		if (!s->locks->proc[i].life) {
			s->locks->proc[i] = (struct proc){.life = l};
			return &s->locks->proc[i];
		}
	TS_PANIC("more than %u processes with locks", LOCK_PROCS);
}

static bool open_files(struct sim *s, struct sim_life *l, struct fs_file **h)
{
	for (unsigned i = 0; i < LOCK_FILES; i++) {
		char name[8];
		struct fs_attr at;
		snprintf(name, sizeof(name), "DL%u", i); /* D: names of the test itself */
		int rc = AGAIN(l, fs_create(l->fs, &cred, 1, name, strlen(name), 0644, O_RDWR, &h[i], &at));
		if (sim_life_over(l))
			return false;
		if (rc) {
			sim_fail(s, "n%u create of a lock file: error %d", l->node->id, rc);
			return false;
		}
	}
	return true;
}

void sim_lock_client(void *arg)
{
	struct sim_life *l = arg;
	struct sim *s = l->node->sim;
	struct fs_file *h[LOCK_FILES] = {0};
	struct proc *p = proc_new(s, l);
	bool opened = open_files(s, l, h);
	while (opened && !s->failed && !l->unmount && !sim_life_over(l) && !sim_work_finished(s)) {
		one(s, l, p, h);
		ts_sleep_until(ts_exec_now(l->x) + sim_below(s, 6 * TS_NS_PER_MS));
	}
	if (!sim_life_over(l)) {
		p->life = NULL;
		for (unsigned i = 0; i < LOCK_FILES; i++)
			if (h[i])
				fs_release(l->fs, h[i]);
	}
	l->clients--;
	ts_cond_broadcast(&l->changed);
}

void sim_locks_life_dead(struct sim_life *l)
{
	struct sim_locks *k = l->node->sim->locks;
	for (unsigned i = 0; i < LOCK_PROCS; i++)
		if (k->proc[i].life == l)
			k->proc[i].life = NULL;
}

bool sim_lock_state(const struct net_out *o)
{
	return o->type == PLOCK_STATE && o->len > sizeof(struct plock_head_msg);
}

void sim_locks_new(struct sim *s)
{
	s->locks = calloc(1, sizeof(*s->locks));
	TS_ASSERT(s->locks);
}
void sim_locks_free(struct sim *s)
{
	free(s->locks);
}
