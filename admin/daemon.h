/* SPDX-License-Identifier: Apache-2.0 */
/* tesserad's own state and what its files share. Everything runs on one executor. */
#ifndef TESSERA_ADMIN_DAEMON_H
#define TESSERA_ADMIN_DAEMON_H

#include "admin/conf.h"
#include "admin/health.h"
#include "admin/key_rotate.h"
#include "admin/verbs.h"
#include "admin/web.h"
#include "fuse/fuse.h"

enum disk_state { DISK_OPENING, DISK_OPEN, DISK_FAILED };
struct disk_watch { /* for health: as it was a while ago */
	const struct nsd_dev *dev;
	uint64_t begun_ns, gen, errors, resends, error_ns, session_ns, slow_us;
	struct nsd_stats then;
};
struct disk {
	struct ts_list link;
	char *url;
	char *shown; /* without a password; NULL: as url */
	struct nsd_dev *dev;
	enum disk_state state;
	bool configured;	/* from the configuration, not opened for one command */
	char error[256];
	struct nsd_label_disk label;
	enum nsd_label_state label_state;
	char label_what[128];
	struct mount *mount;	/* in use by */
	struct disk_watch watch;
};

struct answer;
enum mount_state { MOUNT_STARTING, MOUNT_LIVE, MOUNT_STOPPING };
struct mount {
	struct ts_list link;
	struct daemon *d;
	char name[64], dir[512], opts[256];
	uint64_t group;
	enum mount_state state;
	struct disk **disks;
	struct nsd_dev **devs;
	unsigned ndisks;
	struct fs *fs;
	struct tfuse *tf;
	struct ts_done ended; /* cleaned up; rc of the unmount */
	unsigned users;	      /* commands that still look at it */
	bool asking;	      /* a fiber of space.c is in fs_statfs */
	unsigned inside;      /* commands that are in fs: it is not torn down under them, they look at state and end */
	struct salvage *salvage; /* NULL: a mount as any other */
	struct statvfs vfs;   /* as it said last */
	struct fs_pool_info pools[FS_POOLS_MAX]; /* the same, by pool */
	uint64_t vfs_ns;      /* when; 0: never */
	/* For events: recovery as last seen */
	enum fs_recovery_step rec_step;
	unsigned rec_attempts;
	uint64_t rec_end_ns;
	bool rec_known;
};

struct peer_info { /* what a member said last about itself */
	uint64_t incarnation, asked_ns;
	bool known;
	unsigned misses; /* questions in a row without answer */
	int64_t clock_ns; /* its wall clock minus ours */
	char version[32], initiator[224];
};

/* The tiebreaker as this node has it: tie.c. */
struct tie {
	struct quorum_tie agreed; /* of the cluster, also while it is not open here */
	struct quorum_tie_disk *disk;
	struct nsd_dev *own; /* opened for it alone; NULL: a disk of the daemon, or closed */
	char error[256];
	bool running;
};

struct daemon {
	struct conf conf;
	struct ts_exec *exec;
	struct ts_loop *loop;
	struct quorum *quorum;
	struct net *net;
	uint64_t incarnation;
	uint8_t cluster_id[16];
	uint64_t started_ns;
	bool stopping, excluded, quorate;
	void (*out)(struct daemon *d, const char *why); /* ends this incarnation at once */
	int exit_code;
	struct ts_list disks, mounts;
	struct ts_cond changed; /* view, disks, mounts */
	struct ts_mutex mount_lock; /* one mount or format at a time */
	int listen_fd;
	unsigned clients;
	uint64_t view_seen[QUORUM_MAX_NODES * 4]; /* incarnation per node id, as given to net */
	struct tie tie;
	struct keyring keyring;
	struct quorum_member confirmed[64]; /* switched off for certain, says an operator or a power switch; a ring */
	unsigned nconfirmed;
	char conf_path[320];
	unsigned serving; /* requests of other nodes */
	struct events *events;
	struct hooks *hooks;
	json_int_t hooks_told;
	struct health health;
	struct peer_info peers[NET_MAX_NODES];
	bool ever[NET_MAX_NODES]; /* was a member in this life of ours */
	struct {
		char name[64], dir[512];
	} past[16]; /* mounts of this life that ended; a ring */
	unsigned npast;
	struct metrics *metrics;
	struct web web;
};

/* disks.c */
const char *disk_shown(const struct disk *k); /* its URL without a password */
char *url_masked(const char *url);	      /* malloc'd */
int disks_open_all(struct daemon *d); /* starts opening; never fails for one bad disk */
struct disk *disk_find(struct daemon *d, const char *url);
int disk_open(struct daemon *d, const char *url, struct disk **out, char *errmsg, size_t errlen) TS_MUST_CHECK;
int disk_label_refresh(struct disk *k) TS_MUST_CHECK;
int disks_label_refresh(struct daemon *d); /* all open ones */
const char *disk_label_word(enum nsd_label_state s);
void disks_close_all(struct daemon *d);
/* The open disks of a file system by name, in disk_no order, NULL where no disk has the number; opens those that its table tells the place
 * of. *n = 0 and -ENOENT if nobody knows it. From a fiber. */
int disks_of_fs(struct daemon *d, const char *name, struct disk ***out, unsigned *n, char *errmsg, size_t errlen) TS_MUST_CHECK;
uint64_t fs_group_of(const uint8_t fs_id[16]);
struct disk *disk_by_uuid(struct daemon *d, const uint8_t fs_id[16], unsigned no, const uint8_t uuid[16]); /* open, or NULL */
/* disk_join.c: fs_mount_args.disk_open, disk_close; arg = struct mount */
int disk_joins(void *arg, unsigned no, const uint8_t uuid[16], const char *url, struct nsd_dev **out) TS_MUST_CHECK;
void disk_leaves(void *arg, unsigned no, struct nsd_dev *dev);
void disk_forget(struct daemon *d, struct disk *k); /* opened for one command, used by nothing: closed; from a fiber */

/* keys.c: persistent reservations of this incarnation */
uint64_t key_of(void *arg, unsigned node, uint64_t incarnation);
int keys_register(struct daemon *d, struct disk **disks, unsigned n, bool *have, char *errmsg, size_t errlen) TS_MUST_CHECK;
void keys_unregister(struct daemon *d, struct disk **disks, unsigned n);
int keys_lost(void *arg, struct nsd_dev *dev) TS_MUST_CHECK; /* nsd_gate.registration_lost */

/* key_rotate.c: the cluster key */
int key_rotate_open(struct daemon *d, char *errmsg, size_t errlen) TS_MUST_CHECK; /* net is open, nobody is a peer yet */
bool key_message(struct daemon *d, const struct net_msg *m); /* false: not for it */
void key_rotate(struct daemon *d, bool without_away, const char *stop, struct answer *a); /* from a fiber */
json_t *key_status(struct daemon *d);
void key_look(struct daemon *d); /* of health */

/* able.c: what the disks can do about nodes that must not write */
int able_probe(struct daemon *d, struct disk **disks, unsigned n, uint32_t *able, char *errmsg, size_t errlen) TS_MUST_CHECK;
void able_json(const struct disk *k, json_t *to);

/* peers.c */
void peers_open(struct daemon *d);
int peers_reachable(struct daemon *d, char *errmsg, size_t errlen) TS_MUST_CHECK; /* from a fiber; at most 3 s a member */

bool peers_have_tie(struct daemon *d, unsigned node, const uint8_t uuid[16], uint64_t deadline); /* waits until then at most */
void peers_confirm_dead(struct daemon *d, unsigned to, unsigned node, uint64_t incarnation);

/* agent.c: power switches. Statuses of action=status: 0 on, 2 off. From fibers */
#define AGENT_OFF      2
#define AGENT_POWER_NS (60 * TS_NS_PER_S) /* for a machine to be off */
const struct conf_agent *agent_of(const struct conf *c, unsigned node);
int agent_run(struct ts_exec *x, const struct conf_agent *a, const char *action, uint64_t deadline) TS_MUST_CHECK; /* exit status or -errno */
int agent_power_off(struct ts_exec *x, const struct conf_agent *a, uint64_t timeout_ns) TS_MUST_CHECK; /* 0: its status says off */

/* tie.c */
void tie_load(struct daemon *d, struct quorum_tie *out); /* before quorum is opened */
int tie_start(struct daemon *d) TS_MUST_CHECK;
void tie_agreed(void *arg, const struct quorum_tie *t); /* quorum_events.tie */
bool tie_is(const struct daemon *d, const char *url);
/* A disk by its URL, opened as a tiebreaker is. *own NULL: it is one of the daemon's. */
int tie_dev_open(struct daemon *d, const char *url, struct nsd_dev **dev, struct nsd_dev **own, char *errmsg, size_t errlen) TS_MUST_CHECK;

/* quorum_verbs.c */
struct answer;
struct client;
json_t *quorum_json(struct daemon *d);
void quorum_tie_show(struct daemon *d, struct answer *a);
void quorum_tie_change(struct daemon *d, const char *url, bool force, struct answer *a); /* url NULL: none */
void quorum_force_verb(struct daemon *d, struct client *c, json_t *nodes, bool sure, struct answer *a);

/* recovery.c */
int fence_otherwise(void *arg, unsigned node, uint64_t incarnation, unsigned disk, int rc) TS_MUST_CHECK; /* fs_mount_args */
bool confirmed_dead(const struct daemon *d, unsigned node, uint64_t incarnation);
void confirm_dead(struct daemon *d, unsigned node, uint64_t incarnation, unsigned from);
json_t *diag_recovery(struct daemon *d, const char *name);

/* mounts.c */
struct answer;
int mount_start(struct daemon *d, const char *name, const char *dir, const char *opts, char *errmsg, size_t errlen) TS_MUST_CHECK;
int mount_stop(struct daemon *d, const char *which, bool lazy, char *errmsg, size_t errlen) TS_MUST_CHECK;
void mounts_stop_all(struct daemon *d);
int mount_options_check(const char *opts, char *errmsg, size_t errlen) TS_MUST_CHECK;
/* fs_set.c */
const char *fs_default_options(const struct disk *first); /* "": none */
json_t *fs_default_options_json(struct daemon *d, const char *name); /* NULL: the disk that has them cannot be read. From a fiber */
void fs_set(struct daemon *d, const char *name, const char *key, const char *value, struct answer *a);
struct mount *mount_find(struct daemon *d, const char *name_or_dir);
struct mount *mount_by_group(struct daemon *d, uint64_t group);

/* server.c */
int server_open(struct daemon *d, char *errmsg, size_t errlen) TS_MUST_CHECK;
void server_close(struct daemon *d);
struct client;
void client_progress(struct client *c, const char *step, unsigned permille); /* c NULL: nobody watches */
bool client_gone(const struct client *c); /* noticed when something is sent to it */

/* privilege.c */
int privilege_drop(const struct conf *c) TS_MUST_CHECK; /* before the first thread */
int privilege_dir_check(const char *path, char *errmsg, size_t errlen) TS_MUST_CHECK;

/* service.c: the service manager */
#define EXIT_EXCLUDED 75 /* may start again, as a new incarnation */
#define EXIT_CONFIG   78 /* will fail again until somebody changes the configuration; Restart= leaves it alone */
void service_ready(struct daemon *d); /* once, from the executor */
void service_stopping(void);
bool service_has_journal(void); /* stderr is the journal's */

/* handlers.c */
struct answer {
	json_t *data;	/* result, may be NULL */
	char error[512]; /* set when rc != 0 */
	int rc;
};
int answer_refuse(struct answer *a, int rc, const char *fmt, ...) TS_PRINTF(3, 4); /* object, cause, remedy; returns rc */
/* What goes to whoever asked; takes a->data. */
json_t *answer_json(struct answer *a, const char *name);
void text_make_utf8(char *s); /* bytes that JSON does not take become '?' */
/* c may be NULL: asked by another node. */
void handle_verb(struct daemon *d, struct client *c, const struct verb *v, json_t *pos, json_t *opt, struct answer *a);
/* disk_verbs.c */
/* The mount of that name, if it is live here; NULL: a has the refusal. What waits says mount_begin first, and asks mount_still behind each wait. */
struct mount *mount_live(struct daemon *d, const char *name, struct answer *a);
void mount_begin(struct mount *m);
void mount_end(struct mount *m);
bool mount_still(const struct mount *m);
json_t *disk_row(const struct mount *m, unsigned i, const struct fs_disk_info *v);
void disk_verb_list(struct daemon *d, const char *name, struct answer *a);
void disk_verb_show(struct daemon *d, const char *name, const char *disk, struct answer *a);
void disk_verb_places(struct daemon *d, const char *name, const char *ino, struct answer *a);
void disk_verb_add(struct daemon *d, const char *name, const char *url, json_t *opt, struct answer *a);
void disk_verb_drain(struct daemon *d, struct client *c, const char *name, const char *disk, json_t *opt, struct answer *a);
void disk_verb_grow(struct daemon *d, const char *name, const char *disk, struct answer *a);
void disk_verb_remove(struct daemon *d, const char *name, const char *disk, struct answer *a);
void disk_verb_rebalance(struct daemon *d, struct client *c, const char *name, json_t *opt, struct answer *a);
/* pool_verbs.c */
void pool_verb_list(struct daemon *d, const char *name, struct answer *a);
void pool_verb_show(struct daemon *d, const char *name, const char *pool, struct answer *a);
void layout_verb_get(struct daemon *d, const char *file, struct answer *a);
void layout_verb_set(struct daemon *d, const char *file, json_t *opt, struct answer *a);
void layout_verb_migrate(struct daemon *d, struct client *c, const char *file, json_t *opt, struct answer *a);
/* route.c: verbs on other nodes */
#define ROUTE_REQUEST_MAX (64u << 10)
void route_verb(struct daemon *d, const struct verb *v, json_t *pos, json_t *opt, const char *nodes, struct answer *a);
/* [{node, ok, took_ms, data|error, errno}] in the order of nodes; from a fiber, within timeout_ns. */
json_t *route_ask(struct daemon *d, const struct verb *v, json_t *pos, json_t *opt, const unsigned *nodes, unsigned n, uint64_t timeout_ns);
unsigned route_members(struct daemon *d, unsigned nodes[QUORUM_MAX_NODES]);
int route_nodes_parse(const char *text, unsigned nodes[QUORUM_MAX_NODES], unsigned *n) TS_MUST_CHECK;
bool route_message(struct daemon *d, const struct net_msg *m); /* false: not for it */
/* child.c: programs. From fibers */
int child_start(const char *program, char **argv, char **env, int in, pid_t *pid) TS_MUST_CHECK;
int child_wait(struct ts_exec *x, pid_t pid, uint64_t deadline, const char *what) TS_MUST_CHECK; /* exit status or -errno */
/* busy.c */
void busy_text(struct daemon *d, const char *dir, char *buf, size_t n); /* who uses a mount; "": nobody is found. From a fiber */
/* config.c */
json_t *config_list(struct daemon *d);
void config_get(struct daemon *d, const char *key, struct answer *a);
void config_set(struct daemon *d, const char *key, const char *value, struct answer *a);
/* cluster.c */
json_t *node_info(struct daemon *d);
json_t *cluster_status(struct daemon *d);
json_t *quorum_status(struct daemon *d);
json_t *diag_leases(struct daemon *d);
/* space.c */
void space_ask(struct mount *m); /* does not wait */
void fs_df(struct daemon *d, const char *name, struct answer *a);
void fs_show(struct daemon *d, const char *name, struct answer *a);
/* counters.c */
json_t *diag_iohist(struct daemon *d);
json_t *diag_net(struct daemon *d);
json_t *counters_json(struct daemon *d);
/* health.c */
int health_open(struct daemon *d) TS_MUST_CHECK;
void health_look(struct daemon *d); /* does not wait */
json_t *health_json(struct daemon *d);
/* metrics.c. where: ADDRESS:PORT or "off"; what answered before goes on if this fails */
int metrics_open(struct daemon *d, const char *where, char *errmsg, size_t errlen) TS_MUST_CHECK;
void metrics_close(struct daemon *d);
char *metrics_text(struct daemon *d, size_t *len); /* malloc'd */
/* web.c: outside fibers, but for web_json */
bool web_on(const struct daemon *d, const char **why);
bool web_host_ok(const char *host);
const char *web_text(struct daemon *d, size_t *len); /* until the next wait */
json_t *web_json(struct daemon *d);
/* waiters.c. plain: nobody else is asked */
json_t *diag_waiters(struct daemon *d, bool plain);
/* nodes.c */
const struct quorum_member *node_member(struct daemon *d, unsigned node); /* of the cluster now; NULL: it is none */
json_t *node_list(struct daemon *d);
void node_show(struct daemon *d, const char *node, bool keys, struct answer *a);
void node_fence(struct daemon *d, const char *node, bool power, bool sure, struct answer *a);
void node_confirm_dead(struct daemon *d, struct client *c, const char *node, bool sure, struct answer *a);
/* status.c */
json_t *status_json(struct daemon *d);
json_t *status_fs_list(struct daemon *d);
json_t *status_disks(struct daemon *d);
json_t *status_mounts(struct daemon *d);
struct token_filter {
	const char *name, *kind; /* NULL: any */
	uint64_t id;		 /* with by_id */
	bool by_id, waiting;	 /* waiting: only those that are waited for or being revoked */
	unsigned limit;
};
json_t *diag_tokens(struct daemon *d, const struct token_filter *f);
json_t *diag_locks(struct daemon *d, const char *name, unsigned limit);
json_t *diag_log(struct daemon *d, const char *name);
/* "ready", or what is missing. */
const char *daemon_state(struct daemon *d);

#endif
