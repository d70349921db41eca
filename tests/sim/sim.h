/* SPDX-License-Identifier: Apache-2.0 */
/* The simulator: whole clusters, file system included, in one thread of one process, from one seed. The objects under test
 * are the very ones that ship; clock, random, disks, network and the ordered multicast come from here.
 *
 * Time stands still while code runs and jumps to the next event. A crash forgets a node's memory between two events; what
 * it had sent to a disk may still land. A failing seed prints itself and runs the same again. */
#ifndef TESSERA_TESTS_SIM_H
#define TESSERA_TESTS_SIM_H

#include "fs/fs.h"

#define SIM_NODES     4 /* ids 1..3 are used */
#define SIM_DISKS     3
#define SIM_FORMATTED 2 /* the others are spare: they come and go where disks_load says so (disks.c) */
#define SIM_TIE	      SIM_DISKS /* one disk more, for the tiebreaker of two nodes */
#define SIM_DISK_BYTES (96ull << 20)

struct sim;
struct sim_node;

typedef void (*sim_fn)(void *arg, uint64_t a, uint64_t b);
struct sim_event {
	uint64_t when, seq;
	sim_fn fn;
	void *arg;
	uint64_t a, b;
};

struct sim_life { /* one incarnation of one node's daemon */
	struct sim_node *node;
	uint64_t incarnation;
	bool alive;
	struct ts_exec *x;
	struct ts_env env;
	struct net *net;
	struct quorum *quorum;
	struct nsd_dev *devs[SIM_DISKS], *tie_dev, *given[64]; /* given: by number in the disk table */
	struct fs *fs;
	struct ts_cond changed;
	bool mounted, excluded, unmount, unmounted, started;
	bool evicted; /* for the others and the model it is dead, whether it knows or not */
	uint64_t member_since; /* epoch of the first view of the group with it */
	uint64_t peers[SIM_NODES + 1];
	unsigned clients, sharers;
	uint32_t pid;
	bool offline;	       /* formats or checks: no cluster around it */
	uint64_t frozen_until; /* stopped: runs nothing, hears nothing */
};
struct sim_node {
	struct sim *sim;
	unsigned id;
	struct sim_life *life; /* NULL = down */
	uint64_t clock_offset, last_incarnation;
	struct quorum_durable durable;
	struct quorum_tie tie;
	bool machine_up;
	unsigned next_pid;
};

struct sim_disk;
struct sim_net;
struct sim_ring;
struct sim_work;
struct sim_locks;
struct sim_shared;

struct sim {
	uint64_t seed, rng, now, event_seq, steps;
	struct sim_event *heap;
	size_t nheap, cap;
	struct sim_node nodes[SIM_NODES + 1];
	unsigned nnodes;
	struct sim_disk *disks[SIM_DISKS + 1];
	uint8_t tie_uuid[16];
	uint64_t tie_gone_until, halves; /* views of half of the nodes */
	struct sim_net *net;
	struct sim_ring *ring;
	struct sim_work *work;
	struct sim_locks *locks;
	struct sim_shared *shared;
	bool shared_load; /* clients share files, too */
	bool disks_load;  /* disks come and go */
	bool pools_load;  /* the spare is of a pool of its own, and directories and files change theirs */
	unsigned disk_ops, disk_ops_done;
	uint64_t adds, drains, removes, rebalances, placed, migrated;
	uint32_t shared_ticks;
	bool reach[SIM_NODES + 1][SIM_NODES + 1];
	uint64_t slow_disk_until;
	unsigned starved; /* the node without memory, and until when; one of so many allocations fails */
	uint64_t starved_until, starve_every;
	uint8_t fs_id[16];
	uint64_t faults, crashes, blackouts, partitions, ops_done, acked_lost_allowed;
	bool verbose, failed, quiet; /* quiet: the cluster is down for good */
	char why[512];
	uint64_t late_writes, fenced_writes, messages;
	uint64_t ahead_came, ahead_used, ahead_refused, ahead_lost, token_frames, token_frames_many; /* of lives that ended */
	const char *plant; /* name of a planted fault, for the test of the tests */
};

/* world.c */
uint64_t sim_random(struct sim *s);
static inline uint64_t sim_below(struct sim *s, uint64_t n) { return n ? sim_random(s) % n : 0; }
static inline bool sim_chance(struct sim *s, unsigned percent) { return sim_below(s, 100) < percent; }
void sim_at(struct sim *s, uint64_t when, sim_fn fn, void *arg, uint64_t a, uint64_t b);
static inline void sim_in(struct sim *s, uint64_t delay, sim_fn fn, void *arg, uint64_t a, uint64_t b) { sim_at(s, s->now + delay, fn, arg, a, b); }
void sim_fail(struct sim *s, const char *fmt, ...) TS_PRINTF(2, 3);
void sim_say(struct sim *s, const char *fmt, ...) TS_PRINTF(2, 3);
/* Runs until cond(arg) or the deadline of virtual time; false at the deadline. */
bool sim_run_until(struct sim *s, bool (*cond)(struct sim *s), uint64_t deadline);
struct sim_life *sim_life(struct sim *s, unsigned id); /* NULL if down */
/* What it says is no longer looked at: it is dead, or dead for the others. */
static inline bool sim_life_over(const struct sim_life *l) { return !l->alive || l->excluded || l->evicted || !l->fs; }
static inline bool sim_frozen(struct sim *s, const struct sim_life *l) { return l && l->frozen_until > s->now; }

/* A call of a node that has no memory now is made again later: -ENOMEM says that nothing was done. */
bool sim_again(struct sim_life *l);
#define AGAIN(l, call)                                      \
	({                                                  \
		__typeof__(call) rc_;                       \
		do                                          \
			rc_ = (call);                       \
		while ((rc_ == -ENOMEM || rc_ == -ENOLCK) && sim_again(l)); \
		rc_;                                        \
	})

/* disk.c */
void sim_disks_new(struct sim *s);
void sim_disks_free(struct sim *s);
struct nsd_dev *sim_disk_open(struct sim_life *l, unsigned no);
void sim_disks_life_dead(struct sim_life *l); /* nothing is told to it any more; what is on its way may land */
void sim_disks_blackout(struct sim *s);	      /* un-flushed writes: each kept or lost */
unsigned sim_disks_unstable(struct sim *s);	      /* writes landed and not flushed */
void sim_disks_keys_reset(struct sim *s);     /* reservations do not survive the target's power failure */

/* net.c */
void sim_net_new(struct sim *s);
void sim_net_free(struct sim *s);
struct net *sim_net_open(struct sim_life *l);
void sim_net_life_dead(struct sim_life *l);
void sim_net_healed(struct sim *s);

/* ring.c */
void sim_ring_new(struct sim *s);
void sim_ring_free(struct sim *s);
struct quorum_carrier_ops sim_ring_carrier(struct sim_life *l);
void sim_ring_join(struct sim_life *l);
void sim_ring_exit(struct sim_life *l, bool machine_died); /* process exit is told at once; a machine's death after the token time-out */
void sim_ring_reach_changed(struct sim *s);

/* node.c */
extern const struct ts_env_ops *const sim_env_ops;
void sim_node_start(struct sim *s, unsigned id);
void sim_node_crash(struct sim *s, unsigned id, bool machine);

/* work.c */
void sim_work_new(struct sim *s, unsigned ops);
void sim_work_free(struct sim *s);
void sim_work_client(void *arg); /* fiber; arg = struct sim_life */
bool sim_work_ready(struct sim *s); /* the directories are made */
bool sim_work_finished(struct sim *s);
void sim_work_life_dead(struct sim_life *l);
void sim_work_verify(void *arg);      /* fiber: reads everything on one node */
bool sim_work_verified(struct sim *s);
void sim_work_stop(struct sim *s);
void sim_work_count(struct sim *s); /* one operation less to do */

/* shared.c */
void sim_shared_new(struct sim *s);
void sim_shared_free(struct sim *s);
void sim_shared_client(void *arg); /* fiber; arg = struct sim_life */
bool sim_shared_verify(struct sim_life *l);
void sim_shared_life_dead(struct sim_life *l);

/* disks.c */
unsigned sim_disk_of(unsigned no); /* which disk has that number in the table */
void sim_disks_client(void *arg); /* fiber; arg = struct sim_life */
int sim_disk_joins(void *arg, unsigned no, const uint8_t uuid[16], const char *url, struct nsd_dev **out);
void sim_disk_leaves(void *arg, unsigned no, struct nsd_dev *dev);
int sim_disks_given(struct sim_life *l, struct nsd_dev *given[], unsigned room, unsigned *n); /* as disk 0 says */
int sim_disk_register(struct sim_life *l, struct nsd_dev *dev);

/* lock.c */
void sim_locks_new(struct sim *s);
void sim_locks_free(struct sim *s);
void sim_lock_client(void *arg); /* fiber; arg = struct sim_life */
void sim_locks_life_dead(struct sim_life *l);
bool sim_lock_state(const struct net_out *o); /* a message with the locks of an inode that is recalled */

/* ahead.c */
void sim_ahead_count(struct sim_life *l); /* before its fs ends */
void sim_ahead_refusal_gives(const struct net_out *o, void *payload);

#endif
