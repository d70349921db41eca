/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs about nodes: list and show what is known, put one out of the cluster, and take an operator's word that one is off. Must
 * never happen: a node called dead that may still write: a member, a machine that corosync sees, a lease that is not over, a log that
 * still grows. */
#include "admin/daemon.h"
#include <stdio.h>

#define FENCE_WAIT_NS (10 * TS_NS_PER_S)

const struct quorum_member *node_member(struct daemon *d, unsigned node)
{
	const struct quorum_view *v = quorum_view_get(d->quorum);
	for (unsigned i = 0; i < v->nmembers; i++)
		if (v->members[i].node == node)
			return &v->members[i];
	return NULL;
}

/* ---- list, show ------------------------------------------------------------------------------------------------------ */

/* Names of the file systems here in whose group it is: as a member, or dead and to be recovered. */
static json_t *groups_of(struct daemon *d, unsigned node, bool pending)
{
	json_t *a = json_array();
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		const struct quorum_group_view *g = quorum_group_get(d->quorum, m->group);
		unsigned n = !g ? 0 : pending ? g->npending : g->nmembers;
		for (unsigned i = 0; i < n; i++)
			if ((pending ? g->pending : g->members)[i].node == node)
				json_array_append_new(a, json_string(m->name));
	}
	return a;
}

static json_t *row(struct daemon *d, unsigned node)
{
	const struct quorum_member *m = node_member(d, node);
	json_t *pending = groups_of(d, node, true), *mounted = groups_of(d, node, false);
	bool up = quorum_machine_up(d->quorum, node), agent = agent_of(&d->conf, node);
	if (!m && !up && !agent && node != d->conf.node_id && !json_array_size(pending)) {
		json_decref(pending);
		json_decref(mounted);
		return NULL;
	}
	return json_pack("{s:i,s:s,s:I,s:s,s:i,s:b,s:o,s:o,s:b,s:b}", "node", (int)node, "state",
			 m ? "member" : json_array_size(pending) ? "dead, to recover" : up ? "no daemon" : "away", "incarnation",
			 m ? (json_int_t)m->incarnation : 0, "addr", m ? m->addr : "", "port", m ? (int)m->port : 0, "machine_up", up, "mounted", mounted,
			 "to_recover", pending, "power_switch", agent, "self", node == d->conf.node_id);
}

json_t *node_list(struct daemon *d)
{
	json_t *a = json_array();
	for (unsigned n = 1; n < NET_MAX_NODES; n++) {
		json_t *o = row(d, n);
		if (o)
			json_array_append_new(a, o);
	}
	return a;
}

/* What the disks of this node's mounts say about the node's key. */
static json_t *keys_json(struct daemon *d, const struct quorum_member *m)
{
	struct nsd_pr_state *s = ts_alloc(sizeof(*s));
	json_t *a = json_array();
	for (struct ts_list *l = s ? d->disks.next : &d->disks; l != &d->disks; l = l->next) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (!k->mount || !nsd_info(k->dev)->has_reservations)
			continue;
		struct mount *used = k->mount; /* its disks stay open as long as it is looked at */
		used->users++;
		int rc = nsd_pr_read(k->dev, s);
		used->users--;
		ts_cond_broadcast(&d->changed);
		bool there = false;
		for (unsigned i = 0; rc == 0 && i < s->nkeys; i++)
			there |= m && s->keys[i] == key_of(d, m->node, m->incarnation);
		json_array_append_new(a, json_pack("{s:s,s:s,s:b}", "disk", k->url, "registered", rc ? strerror(-rc) : there ? "yes" : "no",
						   "reserved", !rc && s->type == NSD_PR_WRITE_EXCL_ALL_REGISTRANTS));
	}
	ts_free(s);
	return a;
}

static int node_parse(struct daemon *d, const char *text, unsigned *node, struct answer *a)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);
	if (!*text || *end || n < 1 || n >= NET_MAX_NODES)
		return answer_refuse(a, -EINVAL, "node '%s': not a node number; see `tessera node list`", text);
	*node = (unsigned)n;
	return 0;
}

void node_show(struct daemon *d, const char *text, bool keys, struct answer *a)
{
	unsigned node;
	if (node_parse(d, text, &node, a))
		return;
	a->data = row(d, node);
	if (!a->data) {
		answer_refuse(a, -ENOENT, "node %u: nobody knows it; see `tessera node list`", node);
		return;
	}
	if (keys) {
		const struct quorum_member *m = node_member(d, node);
		json_object_set_new(a->data, "keys", keys_json(d, m ? &(struct quorum_member){.node = m->node, .incarnation = m->incarnation} : NULL));
	}
}

/* ---- fence ----------------------------------------------------------------------------------------------------------- */

static int evict(struct daemon *d, unsigned node, uint64_t incarnation, struct answer *a)
{
	uint64_t deadline = ts_exec_now(d->exec) + FENCE_WAIT_NS;
	int rc = quorum_evict(d->quorum, node, incarnation, "an operator put it out");
	if (rc)
		return answer_refuse(a, rc, "node %u: cannot be put out: %s", node, strerror(-rc));
	for (const struct quorum_member *m; (m = node_member(d, node)) && m->incarnation == incarnation;)
		if (ts_cond_wait_until(&d->changed, deadline, "node to be put out", node, 0))
			return answer_refuse(a, -ETIMEDOUT, "node %u: still a member after 10 s; see `tessera status`", node);
	return 0;
}

void node_fence(struct daemon *d, const char *text, bool power, bool sure, struct answer *a)
{
	unsigned node;
	if (node_parse(d, text, &node, a))
		return;
	const struct quorum_member *m = node_member(d, node);
	const struct conf_agent *ag = agent_of(&d->conf, node);
	uint64_t incarnation = m ? m->incarnation : 0;
	if (!sure)
		answer_refuse(a, -EPERM, "node %u: not confirmed: type its number when asked, or --yes-i-know", node);
	else if (node == d->conf.node_id)
		answer_refuse(a, -EINVAL, "node %u: that is this node; stop its tesserad, or say it on another", node);
	else if (power && !ag)
		answer_refuse(a, -ENOENT, "node %u: no power switch is configured; add `fence_agent = %u PROGRAM FILE` to tesserad.conf", node, node);
	else if (!m && !power)
		answer_refuse(a, -ENOENT, "node %u: not a member; what it held is recovered by itself, see `tessera diag recovery`", node);
	if (a->rc)
		return;
	char object[24];
	snprintf(object, sizeof(object), "node %u", node);
	event_post(d, EV_NODE_PUT_OUT, object, "by an operator on node %u%s", d->conf.node_id, power ? ", power off" : "");
	ts_warn("node %u: an operator on this node puts it out%s", node, power ? " and switches it off" : "");
	if (m && evict(d, node, incarnation, a))
		return;
	if (power) {
		int rc = agent_power_off(d->exec, ag, AGENT_POWER_NS);
		if (rc) {
			answer_refuse(a, rc, "node %u: put out, but %s did not switch it off: %s", node, ag->program, strerror(-rc));
			return;
		}
	}
	a->data = json_pack("{s:i,s:b,s:s}", "node", (int)node, "put_out", m != NULL, "power", power ? "off" : "not touched");
}

/* ---- confirm-dead ---------------------------------------------------------------------------------------------------- */

struct doomed {
	struct mount *mount;
	uint64_t incarnation;
	uint32_t slot;
	uint64_t sum;
};
struct doomed_list {
	struct doomed v[16];
	unsigned n;
};

static void find(struct daemon *d, unsigned node, struct doomed_list *l)
{
	l->n = 0;
	ts_list_for(i, &d->mounts) {
		struct mount *m = ts_list_entry(i, struct mount, link);
		const struct quorum_group_view *g = quorum_group_get(d->quorum, m->group);
		for (unsigned k = 0; m->fs && m->state == MOUNT_LIVE && g && k < g->npending; k++)
			if (g->pending[k].node == node && l->n < TS_ARRAY_LEN(l->v))
				l->v[l->n++] = (struct doomed){.mount = m, .incarnation = g->pending[k].incarnation, .slot = g->pending[k].slot};
	}
}

/* -EBUSY and what is wrong, if anything says that the node lives. */
static int lives(struct daemon *d, unsigned node, const struct doomed_list *l, struct answer *a)
{
	const struct quorum_view *v = quorum_view_get(d->quorum);
	if (node_member(d, node))
		return answer_refuse(a, -EBUSY, "node %u: alive: it is a member of view %llu; to put it out: tessera node fence %u", node,
			      (unsigned long long)v->number, node);
	if (quorum_machine_up(d->quorum, node))
		return answer_refuse(a, -EBUSY, "node %u: alive: corosync sees its machine; switch it off first", node);
	for (unsigned i = 0; i < l->n; i++) {
		uint64_t now = ts_exec_now(d->exec), end = quorum_dead_lease_end_ns(d->quorum, node, l->v[i].incarnation);
		if (end > now)
			return answer_refuse(a, -EBUSY, "node %u: its lease may last %llu ms more; try again then", node,
				      (unsigned long long)((end - now) / TS_NS_PER_MS) + 1);
	}
	return 0;
}

static int sums(struct doomed_list *l, bool compare, bool *grows)
{
	*grows = false;
	for (unsigned i = 0; i < l->n; i++) {
		uint64_t s;
		if (l->v[i].slot == UINT32_MAX)
			continue;
		struct mount *m = l->v[i].mount; /* kept by users(); its fs is not, while it is being unmounted */
		int rc = m->fs && m->state == MOUNT_LIVE ? fs_slot_sum(m->fs, l->v[i].slot, &s) : -ESHUTDOWN;
		if (rc)
			return rc;
		*grows |= compare && s != l->v[i].sum;
		l->v[i].sum = s;
	}
	return 0;
}

/* For longer than a node may go on without being heard, its logs are watched. */
static int watch_logs(struct daemon *d, unsigned node, struct doomed_list *l, struct client *c, struct answer *a)
{
	struct quorum_times t = conf_times(&d->conf);
	uint64_t begin = ts_exec_now(d->exec), ns = ((uint64_t)t.lease_ms + t.margin_ms) * TS_NS_PER_MS;
	bool grows;
	int rc = sums(l, false, &grows);
	while (rc == 0 && ts_exec_now(d->exec) < begin + ns) {
		client_progress(c, "watching its log", (unsigned)((ts_exec_now(d->exec) - begin) * 1000 / ns));
		ts_sleep_until(ts_exec_now(d->exec) + ns / 8);
		rc = sums(l, true, &grows);
		if (rc == 0 && grows)
			return answer_refuse(a, -EBUSY, "node %u: alive: its log on the disks is being written; switch it off first", node);
	}
	return rc ? answer_refuse(a, rc, "node %u: its log cannot be watched: %s", node, strerror(-rc)) : 0;
}

static void tell_all(struct daemon *d, unsigned node, const struct doomed_list *l)
{
	struct quorum_view v = *quorum_view_get(d->quorum);
	for (unsigned i = 0; i < l->n; i++) {
		confirm_dead(d, node, l->v[i].incarnation, d->conf.node_id);
		for (unsigned k = 0; k < v.nmembers; k++)
			if (v.members[k].node != d->conf.node_id)
				peers_confirm_dead(d, v.members[k].node, node, l->v[i].incarnation);
	}
}

static void users(struct doomed_list *l, int by)
{
	for (unsigned i = 0; i < l->n; i++)
		l->v[i].mount->users += (unsigned)by;
}

void node_confirm_dead(struct daemon *d, struct client *c, const char *text, bool sure, struct answer *a)
{
	struct doomed_list l;
	unsigned node;
	if (node_parse(d, text, &node, a))
		return;
	find(d, node, &l);
	if (node == d->conf.node_id)
		answer_refuse(a, -EINVAL, "node %u: that is this node, and it is not dead", node);
	else if (!quorum_may_write(d->quorum))
		answer_refuse(a, -EAGAIN, "node %u: this node has no quorum and decides nothing; see `tessera status`", node);
	else if (lives(d, node, &l, a) == 0 && l.n == 0)
		answer_refuse(a, -ENOENT, "node %u: nothing of it waits for recovery in a file system mounted here; see `tessera diag recovery`", node);
	if (a->rc)
		return;
	if (!sure) {
		answer_refuse(a, -EPERM, "node %u: not confirmed: type its number when asked, or --yes-i-know", node);
		return;
	}
	users(&l, 1);
	int rc = watch_logs(d, node, &l, c, a);
	users(&l, -1);
	ts_cond_broadcast(&d->changed);
	if (rc == 0)
		rc = lives(d, node, &l, a); /* once more: some seconds have passed */
	if (rc)
		return;
	tell_all(d, node, &l);
	a->data = json_pack("{s:i,s:i,s:b}", "node", (int)node, "incarnations", (int)l.n, "confirmed", 1);
}
