/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the few words that the nodes of one file system say to each other: about recovery, "I recover now, have you ended?"
 * and "somebody should"; about free space, a question that space_ask.c answers; about disks that changed (disks.c). Must never happen: two nodes recovering at once because their views differ for a moment: who begins
 * has an answer from every other member first, and who answered does not begin before it has seen the asker's view. */
#include "fs/alloc_int.h"
#include "fs/disks.h"
#include "fs/recover_int.h"

#include <pthread.h>

#define CLASS	   0x200
#define MSG_YIELD  0x201 /* answered when no recovery runs here */
#define MSG_PLEASE 0x202 /* one-way: there is a dead log on disk */
#define MSG_SPACE  FS_MSG_SPACE
#define AGAIN_NS   (50 * TS_NS_PER_MS)

/* One handler per net, the file systems behind it are told apart by the group. Nets of other executors may come and go. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ts_list all = TS_LIST_INIT(all);

static struct fs *find(struct net *n, uint32_t group)
{
	struct fs *found = NULL;

	pthread_mutex_lock(&lock);
	ts_list_for(i, &all) {
		struct fs *fs = ts_list_entry(i, struct fs, peers_link);

		if (fs->args.net == n && fs->args.net_group == group)
			found = fs;
	}
	pthread_mutex_unlock(&lock);
	return found;
}

static void on_yield(struct fs *fs, struct net *n, const struct net_msg *m, uint64_t epoch)
{
	fs->yielded_epoch = TS_MAX(fs->yielded_epoch, epoch);
	if (!fs->recovering) {
		net_reply(n, m, 0, NULL, 0);
		return;
	}
	for (unsigned i = 0; i < TS_ARRAY_LEN(fs->yields); i++) {
		if (fs->yields[i].call_id)
			continue;
		fs->yields[i] = *m;
		fs->yields[i].payload = NULL;
		return;
	}
	net_reply(n, m, EAGAIN, NULL, 0);
}

static void on_message(void *arg, const struct net_msg *m)
{
	struct fs *fs = find(arg, m->group);
	struct ts_rd rd = {.p = m->payload, .left = m->len};
	uint64_t group = ts_rd_u64(&rd), epoch = ts_rd_u64(&rd);
	bool mine = fs && !rd.bad && group == fs->group;

	if (m->type == MSG_YIELD && mine)
		on_yield(fs, arg, m, epoch);
	else if (m->type == MSG_YIELD)
		net_reply(arg, m, rd.bad ? EINVAL : 0, NULL, 0); /* not mounted here: nothing is recovered here */
	else if (m->type == MSG_PLEASE && mine)
		fs_recover_request(fs);
	else if (m->type == MSG_SPACE && mine && fs->alloc && fs->run == FS_RUN_LIVE)
		fs_space_asked(fs, arg, m, epoch);
	else if (m->type == FS_MSG_DISKS && mine)
		fs_disks_asked(fs, arg, m);
	else if (m->type == FS_MSG_DISKS)
		net_reply(arg, m, EAGAIN, NULL, 0);
	else if (m->type == MSG_SPACE)
		net_reply(arg, m, EAGAIN, NULL, 0);
}

void fs_peers_open(struct fs *fs)
{
	pthread_mutex_lock(&lock);
	ts_list_push_back(&all, &fs->peers_link);
	pthread_mutex_unlock(&lock);
	net_handle(fs->args.net, CLASS, on_message, fs->args.net);
}

void fs_peers_close(struct fs *fs)
{
	pthread_mutex_lock(&lock);
	ts_list_del(&fs->peers_link);
	pthread_mutex_unlock(&lock);
	memset(fs->yields, 0, sizeof(fs->yields));
}

/* The recovery here has ended: those who wait for that may begin. */
void fs_peers_ended(struct fs *fs)
{
	for (unsigned i = 0; i < TS_ARRAY_LEN(fs->yields); i++) {
		if (fs->yields[i].call_id)
			net_reply(fs->args.net, &fs->yields[i], 0, NULL, 0);
		fs->yields[i].call_id = 0;
	}
}

static bool still_member(struct fs *fs, unsigned node, uint64_t incarnation)
{
	for (unsigned i = 0; i < fs->gview.nmembers; i++)
		if (fs->gview.members[i].node == node && fs->gview.members[i].incarnation == incarnation)
			return true;
	return false;
}

static int ask(struct fs *fs, const struct quorum_member *m)
{
	while (still_member(fs, m->node, m->incarnation)) {
		struct fs_word_msg w = {.group = le64_make(fs->group), .epoch = le64_make(fs->gview.epoch)};
		struct net_out o = {.dst_node = m->node, .lane = NET_RECOVERY, .type = MSG_YIELD, .group = fs->args.net_group,
				    .payload = &w, .len = sizeof(w)};
		int result = 0, rc;

		if (fs->run == FS_RUN_STOPPED || fs->stop_recovery)
			return -EIO;
		rc = net_call(fs->args.net, &o, 0, &result, NULL, NULL);
		if (!rc && !result)
			return 0;
		/* Not connected yet, or gone: then the next view says so. */
		ts_cond_wait_until(&fs->gview_cond, ts_exec_now(fs->exec) + AGAIN_NS, "an answer about recovery", m->node, 0);
	}
	return 0;
}

int fs_peers_yield(struct fs *fs)
{
	struct quorum_group_view *g = ts_alloc(sizeof(*g));
	int rc = g ? 0 : -ENOMEM;

	if (g)
		*g = fs->gview;
	for (unsigned i = 0; !rc && i < g->nmembers; i++)
		if (g->members[i].slot != UINT32_MAX && g->members[i].node != fs->self)
			rc = ask(fs, &g->members[i]);
	ts_free(g);
	return rc;
}

void fs_peers_please(struct fs *fs, unsigned node)
{
	struct fs_word_msg w = {.group = le64_make(fs->group)};
	struct net_out o = {.dst_node = node, .lane = NET_RECOVERY, .type = MSG_PLEASE, .group = fs->args.net_group, .payload = &w,
			    .len = sizeof(w)};

	if (net_send(fs->args.net, &o))
		ts_debug("%s: node %u is not asked for recovery now; again soon", fs->super.name, node);
}
