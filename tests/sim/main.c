/* SPDX-License-Identifier: Apache-2.0 */
/* tsim: runs seeds. Each draws a cluster of three nodes, or of two with a tiebreaker (--two PERCENT of the seeds, a fifth by itself), a load of at least 200 operations and at least one fault; at the
 * end everything is read back, unmounted and checked. Seeds run in child processes, so that one that aborts is named too.
 *
 * In a share of the seeds (--shared PERCENT) clients of all nodes write the same files, too (shared.c).
 *
 * --memory PERCENT of the faults take a node's memory: each so-many-th allocation fails there for a while. -ENOMEM says that nothing was done, so
 * clients call again; where the lock protocol would break, the node stops, and so does the seed.
 *
 * In another share (--disks PERCENT) disks are added, drained and removed meanwhile (disks.c).
 *
 *   tsim --seeds N [--first S] [--ops N] [--jobs N] [--shared PERCENT] [--two PERCENT] [--disks PERCENT] [--plant NAME]      tsim --seed S -v */
#include "tests/sim/sim.h"
#include <getopt.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK 25
#define FORMAT_NODE SIM_NODES

struct shared { /* one per job, seen by the parent */
	uint64_t seed, done, failed_seed;
	uint64_t ops, faults, crashes, blackouts, partitions, fenced, messages, late, halves, adds, drains, removes, rebalances, placed, migrated;
	uint64_t came, used, refused, lost, frames, many; /* of tokens asked for ahead */
	char why[512];
};

static unsigned opt_ops = 220, opt_shared = 20, opt_two = 20, opt_disks = 20;
static unsigned opt_memory; /* percent of the faults of every seed */
static const char *opt_plant;
static const struct sim *starving; /* the world in hand */
#define STOPPED 77 /* exit status: a node without memory stopped itself */
static bool opt_verbose;

/* ---- faults ------------------------------------------------------------------------------------------------------ */

static void restart(void *arg, uint64_t id, uint64_t b)
{
	struct sim *s = arg;
	if (!s->nodes[id].life)
		sim_node_start(s, (unsigned)id);
}

static void watch(void *arg, uint64_t a, uint64_t b)
{
	struct sim *s = arg;
	static const uint64_t period = 100 * TS_NS_PER_MS;
	for (unsigned i = 1; i <= s->nnodes; i++)
		if (!s->nodes[i].life && sim_chance(s, 8))
			sim_in(s, 1, restart, s, i, 0);
	sim_in(s, period, watch, s, 0, 0);
}

static void heal(void *arg, uint64_t a, uint64_t b)
{
	struct sim *s = arg;
	for (unsigned i = 0; i <= SIM_NODES; i++)
		for (unsigned k = 0; k <= SIM_NODES; k++)
			s->reach[i][k] = true;
	sim_say(s, "network healed");
	sim_ring_reach_changed(s);
	sim_net_healed(s);
}

static void f_crash(struct sim *s) { sim_node_crash(s, 1 + (unsigned)sim_below(s, s->nnodes), false); }
static void f_kill(struct sim *s) { sim_node_crash(s, 1 + (unsigned)sim_below(s, s->nnodes), true); }

static void crash_later(void *arg, uint64_t id, uint64_t machine)
{
	sim_node_crash(arg, (unsigned)id, machine);
}

static void f_double(struct sim *s)
{
	unsigned a = 1 + (unsigned)sim_below(s, s->nnodes), b = 1 + a % s->nnodes;
	sim_node_crash(s, a, sim_chance(s, 50));
	sim_in(s, sim_below(s, 3 * TS_NS_PER_S), crash_later, s, b, sim_chance(s, 50));
}

static void f_partition(struct sim *s)
{
	unsigned id = 1 + (unsigned)sim_below(s, s->nnodes);
	sim_say(s, "n%u cut off", id);
	for (unsigned k = 1; k <= s->nnodes; k++)
		if (k != id)
			s->reach[id][k] = s->reach[k][id] = false;
	s->partitions++;
	sim_ring_reach_changed(s);
	sim_in(s, 100 * TS_NS_PER_MS + sim_below(s, 8 * TS_NS_PER_S), heal, s, 0, 0);
}

/* Only what one node says is lost: for the ring it is gone all the same. */
static void f_deaf(struct sim *s)
{
	unsigned id = 1 + (unsigned)sim_below(s, s->nnodes);
	sim_say(s, "n%u is not heard", id);
	for (unsigned k = 1; k <= s->nnodes; k++)
		if (k != id)
			s->reach[id][k] = false;
	s->partitions++;
	sim_ring_reach_changed(s);
	sim_in(s, 100 * TS_NS_PER_MS + sim_below(s, 8 * TS_NS_PER_S), heal, s, 0, 0);
}

static void f_tie_gone(struct sim *s)
{
	s->tie_gone_until = s->now + sim_below(s, 6 * TS_NS_PER_S);
	sim_say(s, "the tiebreaker does not answer until %.0f ms", (double)s->tie_gone_until / 1e6);
	if (sim_chance(s, 50))
		f_partition(s);
}

static void f_slow(struct sim *s)
{
	sim_say(s, "disks slow");
	s->slow_disk_until = s->now + TS_NS_PER_S + sim_below(s, 2 * TS_NS_PER_S);
}

static void on_panic(void)
{
	if (starving && starving->starved && starving->now < starving->starved_until)
		_exit(STOPPED);
}

static void f_starve(struct sim *s)
{
	starving = s;
	ts_panic_hook_set(on_panic);
	s->starved = 1 + (unsigned)sim_below(s, s->nnodes);
	s->starve_every = 10 + sim_below(s, 500);
	s->starved_until = s->now + 100 * TS_NS_PER_MS + sim_below(s, 3 * TS_NS_PER_S);
	sim_say(s, "n%u has no memory until %.0f ms", s->starved, (double)s->starved_until / 1e6);
}

static void f_freeze(struct sim *s)
{
	struct sim_life *l = sim_life(s, 1 + (unsigned)sim_below(s, s->nnodes));
	if (!l)
		return;
	l->frozen_until = s->now + 200 * TS_NS_PER_MS + sim_below(s, 6 * TS_NS_PER_S);
	sim_say(s, "n%u frozen until %.0f ms", l->node->id, (double)l->frozen_until / 1e6);
}

static bool writes_unstable(struct sim *s)
{
	return sim_disks_unstable(s) > sim_below(s, 8);
}

/* Most of the time nothing is un-flushed, and a power failure then proves little. */
static void f_blackout(struct sim *s)
{
	sim_run_until(s, writes_unstable, s->now + 500 * TS_NS_PER_MS);
	sim_say(s, "power failure of everything");
	for (unsigned i = 1; i <= s->nnodes; i++)
		sim_node_crash(s, i, true);
	sim_disks_blackout(s);
	sim_disks_keys_reset(s);
	s->blackouts++;
}

static const struct {
	const char *name;
	void (*fn)(struct sim *s);
} faults[] = {{"crash", f_crash},   {"kill", f_kill},	  {"double", f_double},	  {"partition", f_partition},
	      {"slow", f_slow},	    {"freeze", f_freeze}, {"blackout", f_blackout},
	      {"deaf", f_deaf},	    {"tiebreaker", f_tie_gone}};
#define FAULTS_OF_THREE 7 /* what seeds of three nodes draw from: as ever, so that a seed stays what it was */

/* ---- format and check, outside the cluster -------------------------------------------------------------------------- */

struct offline {
	struct sim *s;
	struct sim_life *l;
	bool done;
	char err[256];
	char first[256];
	struct fs_check_result r;
	int rc;
};

static void finding(void *arg, const char *text, bool repaired)
{
	struct offline *o = arg;
	sim_say(o->s, "fsck: %s", text);
	if (!o->first[0])
		snprintf(o->first, sizeof(o->first), "%s", text);
}

static void format_fiber(void *arg)
{
	struct offline *o = arg;
	struct fs_format_args a = {.name = "sim", .block_size = 64 << 10, .log_slots = 6, .log_bytes = 1 << 20, .disks = o->l->devs,
				   .ndisks = SIM_FORMATTED, .meta_disks = o->s->disks_load, .env = ts_exec_env(o->l->x)};
	o->rc = fs_format(&a, o->s->fs_id, o->err, sizeof(o->err));
	if (o->rc == 0 && o->s->tie_uuid[0])
		o->rc = quorum_tie_disk_make(o->l->tie_dev, (const uint8_t[16]){0}, o->s->tie_uuid);
	o->done = true;
}

static void check_fiber(void *arg)
{
	struct offline *o = arg;
	struct fs_check_args a = {.disks = o->l->given, .env = ts_exec_env(o->l->x), .finding = finding, .arg = o};
	o->rc = sim_disks_given(o->l, o->l->given, TS_ARRAY_LEN(o->l->given), &a.ndisks);
	if (o->rc == 0)
		o->rc = fs_check(&a, true, &o->r, o->err, sizeof(o->err));
	o->done = true;
}

static struct offline *offline_now;

static bool offline_done(struct sim *s)
{
	return offline_now->done;
}

static void offline_run(struct sim *s, struct offline *o, ts_fn fn)
{
	struct sim_life *l = calloc(1, sizeof(*l));
	struct sim_node *n = &s->nodes[FORMAT_NODE];
	TS_ASSERT(l);
	n->life = l;
	l->node = n;
	l->alive = l->offline = true;
	l->x = ts_exec_new(&(struct ts_env){sim_env_ops, n});
	TS_ASSERT(l->x);
	for (unsigned i = 0; i < SIM_DISKS; i++)
		l->devs[i] = sim_disk_open(l, i);
	l->tie_dev = sim_disk_open(l, SIM_TIE);
	o->s = s;
	o->l = l;
	offline_now = o;
	unsigned keep = s->nnodes;
	s->nnodes = SIM_NODES; /* the world runs it like a node */
	TS_ASSERT(ts_fiber_spawn(l->x, "offline", fn, o) == 0);
	if (!sim_run_until(s, offline_done, s->now + 600 * TS_NS_PER_S))
		sim_fail(s, "format or fsck hangs");
	s->nnodes = keep;
	l->alive = false;
	sim_disks_life_dead(l);
	n->life = NULL;
	ts_exec_kill(l->x);
}

/* ---- one seed --------------------------------------------------------------------------------------------------------- */

static uint64_t fault_at_ops;

static bool ops_reached(struct sim *s)
{
	return s->ops_done >= fault_at_ops || sim_work_finished(s);
}

static bool all_mounted(struct sim *s)
{
	for (unsigned i = 1; i <= s->nnodes; i++)
		if (!sim_life(s, i) || !sim_life(s, i)->mounted || sim_life(s, i)->excluded)
			return false;
	return true;
}

static bool all_unmounted(struct sim *s)
{
	for (unsigned i = 1; i <= s->nnodes; i++)
		if (!sim_life(s, i) || !sim_life(s, i)->unmounted)
			return false;
	return true;
}

static void waiters_one(void *arg, const char *name, const char *what, uint64_t a, uint64_t b, uint64_t since)
{
	struct sim_life *l = arg;
	fprintf(stderr, "  n%u %s waits for %s %#llx %#llx since %llu ms\n", l->node->id, name, what, (unsigned long long)a, (unsigned long long)b,
		(unsigned long long)((ts_exec_now(l->x) - since) / TS_NS_PER_MS));
}

static void stuck(struct sim *s, const char *what)
{
	sim_fail(s, "stuck: %s", what);
	if (opt_verbose)
		for (unsigned i = 1; i <= s->nnodes; i++)
			if (sim_life(s, i))
				ts_fiber_each_waiting(sim_life(s, i)->x, waiters_one, sim_life(s, i));
}

static void load_with_faults(struct sim *s)
{
	unsigned n = 1 + (unsigned)sim_below(s, 3);
	uint64_t limit = s->now + 300 * TS_NS_PER_S;
	for (unsigned i = 0; i < n && !s->failed; i++) {
		fault_at_ops = s->ops_done + sim_below(s, opt_ops / n);
		if (!sim_run_until(s, ops_reached, limit)) {
			stuck(s, "the load makes no progress");
			return;
		}
		unsigned k = (unsigned)sim_below(s, s->nnodes == 2 ? TS_ARRAY_LEN(faults) : FAULTS_OF_THREE);
		sim_say(s, "fault: %s", faults[k].name);
		s->faults++;
		if (opt_memory && sim_chance(s, opt_memory))
			f_starve(s);
		else
			faults[k].fn(s);
	}
	fault_at_ops = UINT64_MAX;
	if (!s->failed && !sim_run_until(s, ops_reached, s->now + 300 * TS_NS_PER_S))
		stuck(s, "the load does not end");
}

static void read_back(struct sim *s)
{
	for (unsigned tries = 0; tries < 20 && !s->failed && !sim_work_verified(s); tries++) {
		if (!sim_run_until(s, all_mounted, s->now + 120 * TS_NS_PER_S)) {
			stuck(s, "not all nodes mount again");
			return;
		}
		if (s->failed)
			return;
		struct sim_life *l = sim_life(s, 1 + (unsigned)sim_below(s, s->nnodes));
		TS_ASSERT(ts_fiber_spawn(l->x, "verify", sim_work_verify, l) == 0);
		sim_run_until(s, sim_work_verified, s->now + 30 * TS_NS_PER_S);
	}
	if (!s->failed && !sim_work_verified(s))
		stuck(s, "reading back does not end");
}

/* Nodes that are up or have ended well; one that comes back meanwhile is told to end too. */
static bool all_settled(struct sim *s)
{
	for (unsigned i = 1; i <= s->nnodes; i++)
		if (!sim_life(s, i) || sim_life(s, i)->excluded || !(sim_life(s, i)->mounted || sim_life(s, i)->unmounted))
			return false;
	return true;
}

/* Nobody has an operation under way. */
static void finish(struct sim *s)
{
	s->starved_until = 0;
	for (unsigned tries = 0; tries < 20 && !s->failed; tries++) {
		if (!sim_run_until(s, all_settled, s->now + 120 * TS_NS_PER_S))
			stuck(s, "not all nodes are mounted before the end");
		for (unsigned i = 1; i <= s->nnodes; i++)
			if (sim_life(s, i))
				sim_life(s, i)->unmount = true;
		if (sim_run_until(s, all_unmounted, s->now + 60 * TS_NS_PER_S))
			break;
	}
	if (!s->failed && !all_unmounted(s))
		stuck(s, "not all nodes unmount");
	if (s->failed)
		return;
	struct offline o = {0};
	s->quiet = true;
	offline_run(s, &o, check_fiber);
	if (!s->failed && (o.rc || o.r.findings))
		sim_fail(s, "fsck: rc %d, %llu findings, first: %s%s", o.rc, (unsigned long long)o.r.findings, o.first, o.err);
}

static void seed_run(uint64_t seed, struct shared *sh)
{
	struct sim *s = calloc(1, sizeof(*s));
	TS_ASSERT(s);
	s->seed = seed;
	s->rng = ts_hash_2(seed, 0x7e55e7a); /* not a multiple of the step: seeds must not be shifted copies of each other */
	s->now = TS_NS_PER_S;
	s->nnodes = ts_hash_2(seed, 0x2) % 100 < opt_two ? 2 : 3;
	s->tie_uuid[0] = s->nnodes == 2;
	s->verbose = opt_verbose;
	s->plant = opt_plant;
	for (unsigned i = 0; i <= SIM_NODES; i++) {
		s->nodes[i] = (struct sim_node){.sim = s, .id = i, .clock_offset = sim_below(s, 1000 * TS_NS_PER_S), .machine_up = i >= 1 && i <= s->nnodes};
		for (unsigned k = 0; k <= SIM_NODES; k++)
			s->reach[i][k] = true;
	}
	s->shared_load = ts_hash_2(seed, 0x5ea1) % 100 < opt_shared;
	s->disks_load = ts_hash_2(seed, 0xd15c) % 100 < opt_disks;
	s->pools_load = s->disks_load && !s->shared_load && ts_hash_2(seed, 0x9001) % 100 < 50;
	s->disk_ops = s->disks_load ? s->pools_load ? 16 : 8 : 0;
	sim_disks_new(s);
	sim_net_new(s);
	sim_ring_new(s);
	sim_work_new(s, opt_ops);
	struct offline o = {0};
	offline_run(s, &o, format_fiber);
	if (o.rc)
		sim_fail(s, "format: %d %s", o.rc, o.err);
	if (!s->failed) {
		sim_ring_reach_changed(s);
		for (unsigned i = 1; i <= s->nnodes; i++)
			sim_in(s, sim_below(s, 500 * TS_NS_PER_MS), restart, s, i, 0);
		watch(s, 0, 0);
		load_with_faults(s);
	}
	if (!s->failed)
		read_back(s);
	if (!s->failed)
		finish(s);
	sh->ops += s->ops_done;
	sh->faults += s->faults;
	sh->crashes += s->crashes;
	sh->blackouts += s->blackouts;
	sh->partitions += s->partitions;
	sh->fenced += s->fenced_writes;
	sh->late += s->late_writes;
	sh->messages += s->messages;
	sh->adds += s->adds;
	sh->drains += s->drains;
	sh->removes += s->removes;
	sh->rebalances += s->rebalances;
	sh->placed += s->placed;
	sh->migrated += s->migrated;
	sh->halves += s->halves;
	sh->came += s->ahead_came;
	sh->used += s->ahead_used;
	sh->refused += s->ahead_refused;
	sh->lost += s->ahead_lost;
	sh->frames += s->token_frames;
	sh->many += s->token_frames_many;
	sh->done++;
	if (s->failed) {
		sh->failed_seed = seed;
		snprintf(sh->why, sizeof(sh->why), "%s", s->why);
	}
	sim_work_free(s);
	sim_ring_free(s);
	sim_net_free(s);
	sim_disks_free(s);
	free(s->heap);
	/* lives of dead incarnations are left to the end of the process */
}

/* ---- the parent ---------------------------------------------------------------------------------------------------------- */

static pid_t chunk_start(struct shared *sh, uint64_t first, uint64_t n)
{
	memset(sh, 0, sizeof(*sh));
	sh->seed = first;
	fflush(stdout);
	pid_t pid = fork();
	if (pid)
		return pid;
	for (uint64_t i = 0; i < n; i++) {
		sh->seed = first + i;
		seed_run(first + i, sh);
		if (sh->failed_seed)
			break;
	}
	_exit(sh->failed_seed ? 1 : 0);
}

struct total {
	struct shared sum;
	uint64_t failed, stopped;
};

/* The chunk ended; what of it is still to run is returned (the seeds behind one that failed). */
static uint64_t chunk_end(struct total *t, struct shared *sh, int status)
{
	t->sum.ops += sh->ops;
	t->sum.faults += sh->faults;
	t->sum.crashes += sh->crashes;
	t->sum.blackouts += sh->blackouts;
	t->sum.partitions += sh->partitions;
	t->sum.fenced += sh->fenced;
	t->sum.late += sh->late;
	t->sum.messages += sh->messages;
	t->sum.adds += sh->adds;
	t->sum.drains += sh->drains;
	t->sum.removes += sh->removes;
	t->sum.rebalances += sh->rebalances;
	t->sum.placed += sh->placed;
	t->sum.migrated += sh->migrated;
	t->sum.halves += sh->halves;
	t->sum.came += sh->came;
	t->sum.used += sh->used;
	t->sum.refused += sh->refused;
	t->sum.lost += sh->lost;
	t->sum.frames += sh->frames;
	t->sum.many += sh->many;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		t->sum.done += sh->done;
		return 0;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == STOPPED) {
		t->sum.done += sh->done;
		t->stopped++;
		return sh->seed + 1;
	}
	t->failed++;
	t->sum.done += sh->done - (sh->failed_seed != 0);
	if (WIFSIGNALED(status))
		printf("seed %llu: ended by signal %d\n", (unsigned long long)sh->seed, WTERMSIG(status));
	else
		printf("seed %llu: %s\n", (unsigned long long)sh->seed, sh->why[0] ? sh->why : "ended");
	return sh->seed + 1;
}

static int run_all(uint64_t first, uint64_t count, unsigned jobs, uint64_t max_failed)
{
	struct total t = {0};
	struct job {
		pid_t pid;
		uint64_t end;
	} job[16] = {0};
	struct shared *sh = mmap(NULL, sizeof(*sh) * 16, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t next = first, end = first + count;
	unsigned running = 0;
	TS_ASSERT(sh != MAP_FAILED);
	while (running || (next < end && t.failed < max_failed)) {
		for (unsigned i = 0; i < jobs; i++)
			if (!job[i].pid && next < end && t.failed < max_failed) {
				uint64_t n = TS_MIN((uint64_t)CHUNK, end - next);
				job[i] = (struct job){chunk_start(&sh[i], next, n), next + n};
				next += n;
				running++;
			}
		int status;
		pid_t pid = wait(&status);
		for (unsigned i = 0; i < jobs; i++)
			if (job[i].pid == pid) {
				uint64_t again = chunk_end(&t, &sh[i], status);
				job[i].pid = 0;
				running--;
				if (again && again < job[i].end && t.failed < max_failed) {
					job[i].pid = chunk_start(&sh[i], again, job[i].end - again);
					running++;
				}
			}
	}
	printf("%llu seeds of %u operations: %llu operations, %llu faults (%llu deaths, %llu partitions, %llu power failures of all), %llu messages, %llu writes fenced, %llu late writes, %llu times half of the nodes went on\n",
	       (unsigned long long)(t.sum.done + t.failed + t.stopped), opt_ops, (unsigned long long)t.sum.ops, (unsigned long long)t.sum.faults,
	       (unsigned long long)t.sum.crashes, (unsigned long long)t.sum.partitions, (unsigned long long)t.sum.blackouts,
	       (unsigned long long)t.sum.messages, (unsigned long long)t.sum.fenced, (unsigned long long)t.sum.late,
	       (unsigned long long)t.sum.halves);
	printf("disks: %llu added, %llu drained, %llu removed, %llu times made even; layouts: %llu set, %llu files moved to another pool\n", (unsigned long long)t.sum.adds, (unsigned long long)t.sum.drains,
	       (unsigned long long)t.sum.removes, (unsigned long long)t.sum.rebalances,
	       (unsigned long long)t.sum.placed, (unsigned long long)t.sum.migrated);
	if (opt_memory)
		printf("memory: %llu seeds ended where a node without memory stops itself rather than break the lock protocol\n", (unsigned long long)t.stopped);
	printf("tokens asked for ahead: %llu came, %llu used, %llu refused, %llu left unused; %llu frames of tokens, %llu of them with many messages\n",
	       (unsigned long long)t.sum.came, (unsigned long long)t.sum.used, (unsigned long long)t.sum.refused, (unsigned long long)t.sum.lost,
	       (unsigned long long)t.sum.frames, (unsigned long long)t.sum.many);
	printf("%llu passed, %llu failed\n", (unsigned long long)t.sum.done, (unsigned long long)t.failed);
	return t.failed || t.sum.done + t.stopped < count ? 1 : 0;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {{"seeds", 1, NULL, 'n'}, {"seed", 1, NULL, 's'}, {"first", 1, NULL, 'f'}, {"ops", 1, NULL, 'o'},
					      {"jobs", 1, NULL, 'j'},  {"plant", 1, NULL, 'p'}, {"max-failed", 1, NULL, 'm'}, {"shared", 1, NULL, 'S'},
					      {"two", 1, NULL, 't'}, {"disks", 1, NULL, 'D'}, {"memory", 1, NULL, 'M'}, {0}};
	uint64_t seeds = 1000, first = 1, one = 0, max_failed = 10;
	unsigned jobs = 2;
	int o;
	while ((o = getopt_long(argc, argv, "vn:s:f:o:j:p:m:S:t:D:M:", longs, NULL)) != -1)
		switch (o) {
		case 'n': seeds = strtoull(optarg, NULL, 10); break;
		case 's': one = strtoull(optarg, NULL, 10); break;
		case 'f': first = strtoull(optarg, NULL, 10); break;
		case 'o': opt_ops = (unsigned)strtoul(optarg, NULL, 10); break;
		case 'j': jobs = (unsigned)strtoul(optarg, NULL, 10); break;
		case 'p': opt_plant = optarg; break;
		case 'm': max_failed = strtoull(optarg, NULL, 10); break;
		case 'D': opt_disks = (unsigned)strtoul(optarg, NULL, 10); break;
		case 'M': opt_memory = (unsigned)strtoul(optarg, NULL, 10); break;
		case 'S': opt_shared = (unsigned)strtoul(optarg, NULL, 10); break;
		case 't': opt_two = (unsigned)strtoul(optarg, NULL, 10); break;
		case 'v': opt_verbose = true; break;
		default:
			fprintf(stderr, "usage: tsim [--seeds N] [--first S] [--ops N] [--jobs N] [--shared PERCENT] [--two PERCENT] [--disks PERCENT] [--memory PERCENT] [--plant NAME] | --seed S [-v]\n");
			return 2;
		}
	ts_log_open("tsim", opt_verbose ? TS_LOG_DEBUG : TS_LOG_ERR, opt_verbose);
	if (one) {
		struct shared sh = {0};
		seed_run(one, &sh);
		printf("seed %llu: %s\n", (unsigned long long)one, sh.failed_seed ? sh.why : "passed");
		return sh.failed_seed ? 1 : 0;
	}
	return run_all(first, seeds, TS_MIN(TS_MAX(jobs, 1u), 16u), max_failed);
}
