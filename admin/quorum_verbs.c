/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs about quorum: how it stands, which disk breaks a tie, and an operator's word that goes over both. Must never happen: quorum
 * forced while anything says that a missing node lives; a disk with somebody's data made into a tiebreaker unasked. */
#include "admin/daemon.h"
#include <stdio.h>

#define AGREE_NS (10 * TS_NS_PER_S)

/* ---- status ---------------------------------------------------------------------------------------------------------- */

static bool missing(struct daemon *d, unsigned n)
{
	return quorum_node_configured(d->quorum, n) && n != d->conf.node_id && !quorum_machine_up(d->quorum, n);
}

static json_t *missing_json(struct daemon *d)
{
	json_t *a = json_array();
	for (unsigned n = 1; n < NET_MAX_NODES; n++)
		if (missing(d, n))
			json_array_append_new(a, json_integer(n));
	return a;
}

static void bid_text(const struct quorum_info *i, char *buf, size_t n)
{
	buf[0] = 0;
	switch (i->bid) {
	case QUORUM_BID_NONE:
		break;
	case QUORUM_BID_RUNNING:
		snprintf(buf, n, "waiting for the disk");
		break;
	case QUORUM_BID_WON:
		snprintf(buf, n, "won: this half may go on (view %llu)", (unsigned long long)i->bid_seen);
		break;
	case QUORUM_BID_LOST:
		snprintf(buf, n, "lost: node %u may have gone on (view %llu)", i->bid_by, (unsigned long long)i->bid_seen);
		break;
	case QUORUM_BID_HIGHER:
		snprintf(buf, n, "node %u bids, too: tried again", i->bid_by);
		break;
	case QUORUM_BID_FAILED:
		if (i->bid_by)
			snprintf(buf, n, "failed: the slot of node %u cannot be believed", i->bid_by);
		else
			snprintf(buf, n, "failed: %s", i->bid_rc == -TS_ERR_FENCED ? "the disk refuses this node's writes" : strerror(-i->bid_rc));
		break;
	}
}

static const char *state_text(const struct quorum_info *i, bool lease)
{
	if (i->quorate)
		return lease ? "quorate" : "quorate, no lease";
	return i->tie ? (i->tie_usable ? "half, asks the tiebreaker" : "half, without a tiebreaker") : "no quorum";
}

json_t *quorum_json(struct daemon *d)
{
	static const char *const by[] = {[QUORUM_BY_MAJORITY] = "majority", [QUORUM_BY_TIE] = "tie", [QUORUM_BY_FORCE] = "force"};
	struct quorum_info i;
	char bid[128];
	quorum_info_get(d->quorum, &i);
	bid_text(&i, bid, sizeof(bid));
	json_t *o = json_pack("{s:s,s:b,s:s,s:I,s:i,s:i,s:i,s:b,s:b,s:o}", "state", state_text(&i, quorum_may_write(d->quorum)), "quorate", i.quorate, "by",
			      i.quorate ? by[i.by] : "-", "view", (json_int_t)quorum_view_get(d->quorum)->number, "daemons", (int)i.daemons, "needed",
			      (int)i.needed, "votes", (int)i.expected, "corosync_quorate", i.ring_quorate, "half", i.tie, "missing", missing_json(d));
	json_object_set_new(o, "tiebreaker", json_pack("{s:s,s:I,s:b,s:s,s:s}", "url", i.agreed.url, "version", (json_int_t)i.agreed.version, "usable",
						       i.tie_usable, "error", d->tie.error, "last_bid", bid));
	return o;
}

/* ---- the tiebreaker ----------------------------------------------------------------------------------------------------- */

void quorum_tie_show(struct daemon *d, struct answer *a)
{
	struct quorum_info i;
	quorum_info_get(d->quorum, &i);
	json_t *slots = json_array();
	struct quorum_tie_slot_info *s = d->tie.disk ? ts_alloc(QUORUM_TIE_NODES * sizeof(*s)) : NULL;
	int rc = s ? quorum_tie_disk_slots(d->tie.disk, s) : -ENODEV;
	for (unsigned n = 1; rc == 0 && n <= QUORUM_TIE_NODES; n++)
		if (!s[n - 1].readable || s[n - 1].writes)
			json_array_append_new(slots, json_pack("{s:i,s:b,s:I,s:I,s:I,s:I,s:I}", "node", (int)n, "readable", s[n - 1].readable, "incarnation",
							       (json_int_t)s[n - 1].incarnation, "promised", (json_int_t)s[n - 1].promised, "accepted",
							       (json_int_t)s[n - 1].accepted, "behind_view", (json_int_t)s[n - 1].base, "writes",
							       (json_int_t)s[n - 1].writes));
	ts_free(s);
	const char *state = !i.agreed.url[0] ? "none" : !d->tie.disk ? "not open on this node" : rc ? strerror(-rc) : "open";
	a->data = json_pack("{s:s,s:I,s:s,s:s,s:o}", "url", i.agreed.url, "version", (json_int_t)i.agreed.version, "state", state, "error", d->tie.error,
			    "slots", slots);
}

static int may_change(struct daemon *d, const char *url, struct answer *a)
{
	const struct quorum_view *v = quorum_view_get(d->quorum);
	struct quorum_info i;
	quorum_info_get(d->quorum, &i);
	if (!i.quorate || i.by != QUORUM_BY_MAJORITY)
		return answer_refuse(a, -EAGAIN, "tiebreaker: only a majority of the nodes may change it, and they are not here; see `tessera quorum status`");
	if (!url)
		return 0;
	if (strlen(url) >= sizeof(i.agreed.url) || (strncmp(url, "iscsi://", 8) && strncmp(url, "nvme-tcp://", 11) && strncmp(url, "file:///", 8)))
		return answer_refuse(a, -EINVAL, "tiebreaker %s: not a URL of a disk (iscsi://host:port/iqn/lun, nvme-tcp://host:port/nqn?ns=N or file:///path)", url);
	if (strpbrk(url, " \t\n"))
		return answer_refuse(a, -EINVAL, "tiebreaker %s: a URL has no blanks", url);
	if (!i.expected)
		return answer_refuse(a, -ENOTSUP, "tiebreaker: of no use here: corosync has an odd number of votes, or decides ties itself (qdevice, "
					   "auto_tie_breaker, last_man_standing), or the nodes have several votes; see docs/quorum.md");
	for (unsigned n = 0; n < v->nmembers; n++)
		if (v->members[n].node > QUORUM_TIE_NODES)
			return answer_refuse(a, -ERANGE, "tiebreaker: node %u: it has slots for node ids 1 to %u", v->members[n].node, QUORUM_TIE_NODES);
	return 0;
}

/* May the area be made there? Not over what is somebody's. */
static int fit(struct daemon *d, struct nsd_dev *dev, const char *url, bool force, struct answer *a)
{
	struct nsd_label_disk *l = ts_alloc(sizeof(*l));
	enum nsd_label_state state;
	char what[128];
	int rc = l ? nsd_label_read(dev, l, &state, what, sizeof(what)) : -ENOMEM;
	if (rc)
		answer_refuse(a, rc, "tiebreaker %s: cannot be read: %s", url, strerror(-rc));
	else if (state == NSD_LABEL_OK && memcmp(l->cluster_id, d->cluster_id, sizeof(d->cluster_id)))
		rc = answer_refuse(a, -EPERM, "tiebreaker %s: a disk of another cluster's file system %s", url, l->fs_name);
	else if (state == NSD_LABEL_NEWER || state == NSD_LABEL_BROKEN)
		rc = answer_refuse(a, -EUCLEAN, "tiebreaker %s: %s", url, what);
	else if (state == NSD_LABEL_FOREIGN && strcmp(what, NSD_TIE_WHAT) && !force)
		rc = answer_refuse(a, -EEXIST, "tiebreaker %s: carries %s; --force overwrites 256 KiB of it", url, what);
	ts_free(l);
	return rc;
}

static int make(struct daemon *d, const char *url, const uint8_t uuid[16], bool force, struct answer *a)
{
	struct nsd_dev *dev, *own;
	char err[256] = "";
	int rc = tie_dev_open(d, url, &dev, &own, err, sizeof(err));
	if (rc)
		return answer_refuse(a, rc, "tiebreaker %s: cannot be opened: %s", url, err[0] ? err : strerror(-rc));
	rc = fit(d, dev, url, force, a);
	if (rc == 0) {
		rc = quorum_tie_disk_make(dev, d->cluster_id, uuid);
		if (rc)
			answer_refuse(a, rc, "tiebreaker %s: cannot be written: %s", url,
			       rc == -TS_ERR_FENCED ? "its reservation keeps this node out; mount its file system here first, or take a LUN of its own"
						    : strerror(-rc));
	}
	nsd_close(own);
	return rc;
}

static bool agreed(struct daemon *d, const uint8_t uuid[16])
{
	struct quorum_info i;
	quorum_info_get(d->quorum, &i);
	return !memcmp(i.agreed.uuid, uuid, sizeof(i.agreed.uuid)) && !memcmp(d->tie.agreed.uuid, uuid, sizeof(d->tie.agreed.uuid));
}

/* Who of the members has it open by the deadline. */
static json_t *usable_on(struct daemon *d, const uint8_t uuid[16], uint64_t deadline, bool usable)
{
	struct quorum_view v = *quorum_view_get(d->quorum); /* a copy: the view may change while we ask */
	json_t *a = json_array();
	for (unsigned i = 0; i < v.nmembers; i++) {
		unsigned n = v.members[i].node;
		bool has = n == d->conf.node_id ? d->tie.disk != NULL : peers_have_tie(d, n, uuid, deadline);
		if (has == usable)
			json_array_append_new(a, json_integer(n));
		if (!has && !usable)
			ts_warn("tiebreaker: node %u cannot use it yet; see `tessera quorum tiebreaker show` there", n);
	}
	return a;
}

void quorum_tie_change(struct daemon *d, const char *url, bool force, struct answer *a)
{
	uint8_t uuid[16] = {0};
	uint64_t deadline;
	if (may_change(d, url, a))
		return;
	if (url) {
		const struct ts_env *e = ts_exec_env(d->exec);
		uint64_t r[2] = {ts_random(e) | 1, ts_random(e)};
		memcpy(uuid, r, sizeof(uuid));
		if (make(d, url, uuid, force, a))
			return;
	}
	int rc = quorum_tie_set(d->quorum, uuid, url);
	deadline = ts_exec_now(d->exec) + AGREE_NS;
	while (rc == 0 && !agreed(d, uuid))
		rc = ts_cond_wait_until(&d->changed, deadline, "the tiebreaker to be agreed on", 0, 0);
	while (rc == 0 && url && !d->tie.disk && ts_exec_now(d->exec) < deadline)
		ts_sleep_until(ts_exec_now(d->exec) + 20 * TS_NS_PER_MS);
	if (rc)
		answer_refuse(a, rc, "tiebreaker %s: the cluster has not agreed: %s; see `tessera quorum status`, and set it again", url ? url : "none", strerror(-rc));
	else
		a->data = json_pack("{s:s,s:I}", "url", url ? url : "", "version", (json_int_t)d->tie.agreed.version);
	if (rc == 0 && url) {
		json_object_set_new(a->data, "usable_on", usable_on(d, uuid, deadline, true));
		json_object_set_new(a->data, "not_usable_on", usable_on(d, uuid, ts_exec_now(d->exec) + TS_NS_PER_S, false));
	}
}

/* ---- force ---------------------------------------------------------------------------------------------------------------- */

struct vouched {
	bool node[NET_MAX_NODES];
	char text[256];
};

static int named(struct daemon *d, json_t *nodes, struct vouched *v, struct answer *a)
{
	size_t used = 0;
	memset(v, 0, sizeof(*v));
	for (size_t i = 0; i < json_array_size(nodes); i++) {
		const char *s = json_string_value(json_array_get(nodes, i));
		char *end;
		unsigned long n = strtoul(s, &end, 10);
		if (!*s || *end || n < 1 || n >= NET_MAX_NODES || !quorum_node_configured(d->quorum, (unsigned)n))
			return answer_refuse(a, -EINVAL, "quorum force: '%s' is no node of corosync's nodelist", s);
		if (n == d->conf.node_id)
			return answer_refuse(a, -EINVAL, "quorum force: node %lu is this node, and it is not dead", n);
		v->node[n] = true;
	}
	for (unsigned n = 1; n < NET_MAX_NODES; n++)
		if (missing(d, n) && !v->node[n])
			return answer_refuse(a, -EINVAL, "quorum force: node %u is missing, too: name every node that you have made sure is switched off", n);
	for (unsigned n = 1; n < NET_MAX_NODES && used < sizeof(v->text) - 8; n++)
		if (v->node[n])
			used += (size_t)snprintf(v->text + used, sizeof(v->text) - used, "%s%u", used ? " " : "", n);
	return 0;
}

/* Anything that says that one of them lives, or that this is not needed. */
static int speaks_against(struct daemon *d, const struct vouched *v, struct answer *a)
{
	struct quorum_info i;
	quorum_info_get(d->quorum, &i);
	if (i.quorate)
		return answer_refuse(a, -EALREADY, "quorum force: this node has quorum; dead nodes are recovered by themselves, see `tessera diag recovery`");
	for (unsigned n = 1; n < NET_MAX_NODES; n++)
		if (v->node[n] && quorum_machine_up(d->quorum, n))
			return answer_refuse(a, -EBUSY, "node %u: alive: corosync sees its machine; start its tesserad, or switch it off", n);
	return 0;
}

static int switches(struct daemon *d, const struct vouched *v, struct answer *a)
{
	for (unsigned n = 1; n < NET_MAX_NODES; n++) {
		const struct conf_agent *ag = v->node[n] ? agent_of(&d->conf, n) : NULL;
		if (!ag)
			continue;
		int st = agent_run(d->exec, ag, "status", ts_exec_now(d->exec) + 20 * TS_NS_PER_S);
		if (st != AGENT_OFF)
			return answer_refuse(a, -EBUSY, "node %u: its power switch (%s) does not say that it is off: switch it off first", n, ag->program);
	}
	return 0;
}

/* Sum over the logs that the named nodes have in the file systems mounted here. */
static int logs_sum(struct daemon *d, const struct vouched *v, uint64_t *sum)
{
	*sum = 0;
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		const struct quorum_group_view *g = quorum_group_get(d->quorum, m->group);
		m->users++;
		int rc = 0;
		for (unsigned i = 0; g && m->fs && m->state == MOUNT_LIVE && rc == 0 && i < g->nmembers; i++) {
			uint64_t s = 0;
			if (g->members[i].node >= NET_MAX_NODES || !v->node[g->members[i].node] || g->members[i].slot == UINT32_MAX)
				continue;
			rc = fs_slot_sum(m->fs, g->members[i].slot, &s);
			*sum = ts_hash_2(*sum, s);
		}
		m->users--;
		ts_cond_broadcast(&d->changed);
		if (rc)
			return rc;
	}
	return 0;
}

static int watch(struct daemon *d, struct client *c, const struct vouched *v, struct answer *a)
{
	struct quorum_times t = conf_times(&d->conf);
	uint64_t begin = ts_exec_now(d->exec), ns = ((uint64_t)t.lease_ms + t.margin_ms) * TS_NS_PER_MS, first = 0, now = 0;
	int rc = logs_sum(d, v, &first);
	while (rc == 0 && ts_exec_now(d->exec) < begin + ns) {
		client_progress(c, "watching for signs of life", (unsigned)((ts_exec_now(d->exec) - begin) * 1000 / ns));
		ts_sleep_until(ts_exec_now(d->exec) + ns / 8);
		rc = logs_sum(d, v, &now);
		if (rc == 0 && now != first)
			return answer_refuse(a, -EBUSY, "quorum force: alive: the log of one of %s on the disks is being written; switch it off first", v->text);
		if (speaks_against(d, v, a))
			return a->rc;
	}
	return rc ? answer_refuse(a, rc, "quorum force: the logs of %s cannot be watched: %s", v->text, strerror(-rc)) : 0;
}

void quorum_force_verb(struct daemon *d, struct client *c, json_t *nodes, bool sure, struct answer *a)
{
	struct vouched v;
	struct quorum_info i;
	if (named(d, nodes, &v, a) || speaks_against(d, &v, a))
		return;
	if (!sure) {
		answer_refuse(a, -EPERM, "quorum force: not confirmed: type the first node's number when asked, or --yes-i-know");
		return;
	}
	if (switches(d, &v, a) || watch(d, c, &v, a))
		return;
	ts_warn("event: quorum forced: an operator on node %u vouches that the missing nodes are dead: %s", d->conf.node_id, v.text);
	int rc = quorum_force(d->quorum);
	uint64_t deadline = ts_exec_now(d->exec) + AGREE_NS;
	for (quorum_info_get(d->quorum, &i); rc == 0 && !i.quorate; quorum_info_get(d->quorum, &i))
		rc = ts_cond_wait_until(&d->changed, deadline, "the forced view", 0, 0);
	if (rc)
		answer_refuse(a, rc, "quorum force: no view came of it: %s; see `tessera quorum status`", strerror(-rc));
	else
		a->data = json_pack("{s:s,s:I,s:i}", "vouched_dead", v.text, "view", (json_int_t)quorum_view_get(d->quorum)->number, "daemons", (int)i.daemons);
}
