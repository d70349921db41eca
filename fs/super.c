/* SPDX-License-Identifier: Apache-2.0 */
/* Job: a file system's life on a node: mount, unmount, suspension, exclusion, and what a leaving token means to each
 * module. Must never happen: an operation before what crashed earlier is recovered; a group left "clean" with a log that is not. */
#include "fs/disks.h"
#include "fs/recover_int.h"

#include <stdio.h>

/* ---- tokens leave ------------------------------------------------------------------------------------------------- */

static int on_revoke(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode to, uint64_t start, uint64_t end)
{
	struct fs *fs = arg;
	bool drop = to == TOK_NL;
	int rc;

	if (fs->run == FS_RUN_STOPPED)
		return -EIO; /* kept: what was done under it is only in our log */
	switch (kind) {
	case TOK_INODE:
		return fs_inode_revoke(fs, id, to);
	case TOK_DATA:
		return fs_data_revoke(fs, id, drop, start, end);
	case TOK_DIR:
		return fs_buf_clean_resource(fs, TOK_DIR, id, drop);
	case TOK_SEGMENT:
		return fs_ialloc_revoke_segment(fs, id);
	case TOK_SEGTAB:
		return fs_segtab_revoke(fs, id, drop);
	case TOK_REGION:
		rc = fs_alloc_revoke_region(fs, id);
		return rc ? rc : fs_buf_clean_resource(fs, TOK_REGION, id, drop);
	default:
		return 0;
	}
}

static void on_pre_revoke(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode to, uint64_t start, uint64_t end)
{
	struct fs *fs = arg;
	const struct fs_upcalls *up = &fs->args.up;

	if (kind == TOK_DIR && up->inval_names && (to == TOK_NL || tok_wanted(fs->tok, kind, id)))
		up->inval_names(up->arg, id, fs->suspended ? FS_INVAL_HURRY : 0);
	if (kind == TOK_DATA && up->inval_data)
		up->inval_data(up->arg, id, start, end, to == TOK_SH ? FS_INVAL_SHARED : 0);
	/* Attributes stay true while this node can read them itself: nobody may change them. */
	if ((kind == TOK_DATA || (kind == TOK_INODE && to != TOK_SH)) && up->inval_attr)
		up->inval_attr(up->arg, id);
}

static void on_last_revoke(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode to, uint64_t start, uint64_t end)
{
	struct fs *fs = arg;
	const struct fs_upcalls *up = &fs->args.up;

	if (kind == TOK_DIR && up->inval_names && to == TOK_NL) /* moved here by an operation that had the token still */
		up->inval_names(up->arg, id, FS_INVAL_LAST);
	if (kind == TOK_DATA && up->inval_data)
		up->inval_data(up->arg, id, start, end, FS_INVAL_LAST | (to == TOK_SH ? FS_INVAL_SHARED : 0));
}

static int on_before_wait(void *arg, enum tok_kind kind, uint64_t id)
{
	struct fs *fs = arg;
	return fs->args.up.before_wait ? fs->args.up.before_wait(fs->args.up.arg, id) : 0;
}

static bool on_whole(void *arg, enum tok_kind kind, uint64_t id)
{
	return kind == TOK_DATA && fs_inode_mapped(arg, id);
}

static void on_lost(void *arg)
{
	fs_stop(arg, "this node was excluded from the cluster");
}

/* ---- mount -------------------------------------------------------------------------------------------------------- */

static int start_tokens(struct fs *fs)
{
	const struct fs_mount_args *m = &fs->args;
	struct tok_args t = {.exec = fs->exec, .net = m->net, .group = fs->group, .net_group = m->net_group, .self = fs->self,
			     .incarnation = fs->incarnation, .max_tokens = m->max_tokens,
			     .events = {.revoke = on_revoke, .pre_revoke = on_pre_revoke, .last_revoke = on_last_revoke, .whole = on_whole, .before_wait = on_before_wait, .missed = fs_ahead_missed, .ahead = fs_ahead_news, .ahead_ok = fs_ahead_ok, .lost = on_lost, .arg = fs}};

	fs->tok = tok_mgr_new(&t);
	return fs->tok ? 0 : -ENOMEM;
}

static int start_modules(struct fs *fs)
{
	int rc = fs_alloc_init(fs);

	if (!rc)
		rc = fs_ialloc_init(fs);
	if (!rc)
		rc = fs_icache_init(fs);
	if (!rc)
		rc = fs_ahead_init(fs);
	if (!rc)
		rc = fs_data_init(fs, fs->args.page_pool_bytes ? fs->args.page_pool_bytes : 256u << 20);
	if (!rc)
		rc = fs_reaper_start(fs);
	return rc ? rc : fs_mover_start(fs);
}

struct step {
	int (*fn)(struct fs *fs);
	const char *what;
};
static int wait_tokens(struct fs *fs)
{
	return tok_mgr_wait_ready(fs->tok);
}
static const struct step steps[] = {
	{start_tokens, "tokens"},
	{fs_view_join, "joining the group and claiming a log slot"},
	{fs_log_init, "opening the log"},
	{fs_view_start, "recovery"},
	{fs_view_wait_no_dead, "recovering what crashed before"},
	{wait_tokens, "tokens of the group"},
	{fs_disks_refresh, "opening the disks"}, /* K1: whoever changes them knows of this node now */
	{start_modules, "allocation and caches"},
};

static void end_background(struct fs *fs)
{
	fs->stopping_threads = true;
	ts_cond_broadcast(&fs->gview_cond);
	ts_cond_broadcast(&fs->run_cond);
	if (fs->reaper)
		(void)fs_reaper_kick(fs);
	fs_mover_wake(fs);
	(void)ts_group_wait(&fs->background, "background fibers to end");
	fs->stop_recovery = true;
	ts_cond_broadcast(&fs->gview_cond);
	(void)ts_group_wait(&fs->recovery_group, "the recovery to end");
}

/* Memory only. */
static void free_all(struct fs *fs)
{
	fs_mover_fini(fs);
	fs_reaper_fini(fs);
	fs_data_fini(fs);
	fs_ahead_fini(fs);
	fs_icache_fini(fs);
	fs_ialloc_fini(fs);
	fs_alloc_fini(fs);
	fs_log_fini(fs);
	if (fs->tok)
		tok_mgr_free(fs->tok);
	fs_peers_close(fs);
	fs_bare_free(fs);
}

static const char *text(int rc)
{
	return rc == -TS_ERR_FENCED ? "this node is fenced or excluded" :
	       rc == -EUSERS	    ? "every log slot is in use by another node" :
	       rc == -EUCLEAN	    ? "damaged metadata: run tessera fsck" :
				      strerror(-rc);
}

static void abandon(struct fs *fs, struct fs **out)
{
	bool clean;

	end_background(fs);
	clean = fs->log && fs->run != FS_RUN_STOPPED ? fs_log_shutdown_clean(fs) == 0 : !fs->log_begun;
	/* With a log that could not be closed, only its recovery by another node ends this incarnation. */
	if (clean && quorum_group_leave(fs->args.quorum, fs->group))
		ts_warn("%s: the group could not be left", fs->super.name);
	if (fs->run != FS_RUN_STOPPED)
		fs_stop(fs, "the mount failed");
	(void)ts_group_wait(&fs->background, "background fibers to end");
	fs_log_end(fs);
	if (fs->tok)
		tok_mgr_fail(fs->tok);
	*out = NULL;
	free_all(fs);
}

int fs_mount(const struct fs_mount_args *a, struct fs **out, char *errmsg, size_t errlen)
{
	struct fs_bare_args b = {.exec = a->exec, .disks = a->disks, .ndisks = a->ndisks, .meta_pool_bytes = a->meta_pool_bytes,
				 .record_void = fs_alloc_record_void};
	struct fs *fs;
	int rc = fs_bare_new(&b, &fs, errmsg, errlen);

	*out = fs;
	if (rc)
		return rc;
	if (le64_get(fs->super.feat_ro_compat) && !a->read_only) {
		snprintf(errmsg, errlen, "the file system has features that this version can only read: mount it read-only");
		fs_bare_free(fs);
		*out = NULL;
		return -EROFS;
	}
	fs->args = *a;
	if (a->group)
		fs->group = a->group;
	fs->self = quorum_self(a->quorum);
	fs->incarnation = quorum_incarnation(a->quorum);
	net_lamport_raise(a->net, fs->lamport);
	fs_peers_open(fs);
	for (unsigned i = 0; i < TS_ARRAY_LEN(steps) && !rc; i++) {
		rc = steps[i].fn(fs);
		if (!rc && fs->run == FS_RUN_STOPPED)
			rc = -EIO;
		if (rc)
			snprintf(errmsg, errlen, "mount failed at %s: %s", steps[i].what, fs->stop_why[0] ? fs->stop_why : text(rc));
	}
	if (rc) {
		abandon(fs, out);
		return rc;
	}
	fs->run = FS_RUN_LIVE;
	ts_cond_broadcast(&fs->run_cond);
	(void)fs_reaper_kick(fs); /* intents that were inherited or adopted */
	ts_notice("%s: mounted by node %u, log slot %u", fs->super.name, fs->self, fs->slot);
	return 0;
}

/* ---- unmount ------------------------------------------------------------------------------------------------------ */

static int leave_clean(struct fs *fs)
{
	int rc = fs_inode_writeback_all(fs);

	end_background(fs);
	if (!rc)
		rc = tok_mgr_drain(fs->tok);
	if (!rc)
		rc = fs_log_shutdown_clean(fs);
	else
		fs_log_end(fs);
	if (rc || fs->run == FS_RUN_STOPPED)
		return rc ? rc : -EIO;
	return quorum_group_leave(fs->args.quorum, fs->group);
}

int fs_unmount(struct fs *fs, bool force)
{
	int rc = -EIO;

	if (fs->nfiles && !force)
		return -EBUSY;
	while (!ts_list_empty(&fs->files))
		fs_release(fs, ts_list_entry(fs->files.next, struct fs_file, link));
	if (fs->run == FS_RUN_LIVE) {
		fs->run = FS_RUN_UNMOUNTING;
		ts_cond_broadcast(&fs->run_cond);
		rc = leave_clean(fs);
	}
	if (rc && fs->run != FS_RUN_STOPPED)
		fs_stop(fs, "it could not be unmounted cleanly (error %d)", rc);
	end_background(fs);
	fs_log_end(fs);
	if (rc) {
		ts_err("%s: unmounted, but its log was not closed: another node replays it when this one has left the cluster",
		       fs->super.name);
		tok_mgr_fail(fs->tok);
	}
	free_all(fs);
	return rc;
}

void fs_kill(struct fs *fs)
{
	if (fs)
		free_all(fs);
}

/* ---- suspension, exclusion ---------------------------------------------------------------------------------------- */

struct inval {
	struct fs *fs;
	struct inval_one {
		enum tok_kind kind;
		uint64_t id;
	} *v;
	size_t n, room;
};
static void inval_add(void *arg, const struct tok_info *i)
{
	struct inval *l = arg;

	if (i->mastered || i->mode == TOK_NL || (i->kind != TOK_DIR && i->kind != TOK_DATA && i->kind != TOK_INODE))
		return;
	if (l->n == l->room) {
		size_t room = l->room ? l->room * 2 : 1024;
		void *v = ts_alloc(room * sizeof(*l->v));

		if (!v)
			return; /* the kernel's cache of this one stays until its token leaves; the operation itself is blocked */
		if (l->n)
			memcpy(v, l->v, l->n * sizeof(*l->v));
		ts_free(l->v);
		l->v = v;
		l->room = room;
	}
	l->v[l->n++] = (struct inval_one){i->kind, i->id};
}

/* The kernel must not go on serving reads from its caches: our tokens may be gone without our knowing. */
static void invalidate_all(void *arg)
{
	struct fs *fs = arg;
	struct inval l = {.fs = fs};

	tok_each(fs->tok, inval_add, &l);
	for (size_t i = 0; i < l.n && fs->suspended; i++)
		on_pre_revoke(fs, l.v[i].kind, l.v[i].id, TOK_NL, 0, TOK_END);
	ts_free(l.v);
	ts_group_done(&fs->background, 0);
}

void fs_suspend(struct fs *fs, bool suspended)
{
	if (fs->suspended == suspended)
		return;
	fs->suspended = suspended;
	ts_notice("%s: %s", fs->super.name, suspended ? "suspended: lease or quorum lost; operations wait" : "goes on");
	if (!suspended) {
		ts_cond_broadcast(&fs->run_cond);
		fs_io_resume(fs);
	} else if (fs->run == FS_RUN_LIVE) {
		ts_group_add(&fs->background);
		if (ts_fiber_spawn(fs->exec, "invalidate", invalidate_all, fs))
			ts_group_done(&fs->background, 0);
	}
}

void fs_excluded(struct fs *fs, const char *why)
{
	fs_stop(fs, "this node was excluded: %s", why);
	if (fs->tok)
		tok_mgr_fail(fs->tok);
}

/* ---- small questions ---------------------------------------------------------------------------------------------- */

uint64_t fs_group_id(const struct fs *fs)
{
	return fs->group;
}

const char *fs_name(const struct fs *fs)
{
	return fs->super.name;
}

struct tok_mgr *fs_tokens(struct fs *fs)
{
	return fs->tok;
}
