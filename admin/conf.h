/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration of one daemon: `key = value` lines, # starts a comment. Unknown keys and bad values are refused with
 * file, line and remedy; nothing is guessed. */
#ifndef TESSERA_ADMIN_CONF_H
#define TESSERA_ADMIN_CONF_H

#include "lib/lib.h"
#include "quorum/quorum.h"

#define CONF_MAX_DISKS 256
/* The power switch of a node: a program in the manner of fence agents, and the file whose lines it gets on stdin. */
struct conf_agent {
	unsigned node;
	char program[256], file[256];
};
struct conf {
	char cluster_name[64];
	unsigned node_id;
	char state_dir[256], run_dir[256], key_file[256], initiator[224];
	unsigned port;
	uint64_t page_pool_bytes, meta_pool_bytes;
	unsigned log_level;
	unsigned lease_ms; /* how long this node may work without being heard; the same on every node */
	bool encrypt;	   /* messages between nodes */
	bool fault_points; /* `diag fault` is served: tests only */
	char metrics[64];	/* ADDRESS:PORT or "off" */
	char web[8];		/* local, yes, no */
	char hooks_dir[256];	/* "": none */
	unsigned warn_space, warn_log, warn_wait_ms, warn_disk_ms, warn_clock_ms;
	uint8_t key[32];
	char *disks[CONF_MAX_DISKS];
	unsigned ndisks;
	struct conf_agent agents[QUORUM_MAX_NODES];
	unsigned nagents;
};

/* One row a key: parser, `tessera config`, tesserad.conf(5). */
enum conf_kind { CONF_TEXT, CONF_UINT, CONF_SIZE, CONF_BOOL, CONF_LIST };
struct conf_key {
	const char *name;
	int (*set)(struct conf *c, const char *v); /* NULL: by kind */
	enum conf_kind kind;
	size_t off, size; /* of its field; size 0: none that is one value */
	uint64_t min, max; /* CONF_UINT, CONF_SIZE */
	const char *unit, *def, *help;
	bool live;   /* may change while the daemon runs */
	bool must;   /* a configuration without it is refused */
	bool many;   /* any number of lines */
	bool secret; /* its value is masked in support bundles */
};
extern const struct conf_key conf_keys[];
extern const size_t conf_key_count;
const struct conf_key *conf_key_find(const char *name); /* NULL: there is none */
int conf_key_set(struct conf *c, const struct conf_key *k, const char *v) TS_MUST_CHECK; /* -EINVAL: c is as before, but for lists */
void conf_key_get(const struct conf *c, const struct conf_key *k, char *buf, size_t n); /* its value or what it is without; "" for lists */

int conf_load(const char *path, struct conf *c, char *errmsg, size_t errlen) TS_MUST_CHECK;
int conf_key_read(const char *path, uint8_t key[32], char *errmsg, size_t errlen) TS_MUST_CHECK; /* -ENOENT: there is none */
void conf_free(struct conf *c);
struct quorum_times conf_times(const struct conf *c);
/* A number for this life of the daemon, greater than all before on this node; durable in state_dir before it is used. */
int conf_incarnation_next(const struct conf *c, uint64_t wall_ns, uint64_t *out, char *errmsg, size_t errlen) TS_MUST_CHECK;
/* What quorum must remember over restarts (struct quorum_durable as three numbers); kept in state_dir/view. */
#define CONF_DURABLE 3
void conf_durable_load(const struct conf *c, uint64_t v[CONF_DURABLE]); /* zeros when there is none */
int conf_durable_store(const struct conf *c, const uint64_t v[CONF_DURABLE]) TS_MUST_CHECK;

#endif
