/* SPDX-License-Identifier: Apache-2.0 */
/* What a recovery is doing (`diag recovery`), and what is done about a dead node that its disks cannot be protected from: its power switch,
 * or an operator's word. Must never happen: either believed about a node that is a member. */
#include "admin/daemon.h"
#include <stdio.h>

/* ---- what an operator has confirmed ---------------------------------------------------------------------------------- */

bool confirmed_dead(const struct daemon *d, unsigned node, uint64_t incarnation)
{
	for (unsigned i = 0; i < TS_ARRAY_LEN(d->confirmed); i++)
		if (d->confirmed[i].node == node && d->confirmed[i].incarnation == incarnation)
			return true;
	return false;
}

void confirm_dead(struct daemon *d, unsigned node, uint64_t incarnation, unsigned from)
{
	if (!node || !incarnation || confirmed_dead(d, node, incarnation))
		return;
	d->confirmed[d->nconfirmed++ % TS_ARRAY_LEN(d->confirmed)] = (struct quorum_member){.node = node, .incarnation = incarnation};
	ts_warn("node %u incarnation %llu: an operator on node %u has confirmed that it is switched off: where it cannot be fenced, its recovery "
		"goes on without",
		node, (unsigned long long)incarnation, from);
	char object[24];
	snprintf(object, sizeof(object), "node %u", node);
	event_post(d, EV_NODE_CONFIRMED_DEAD, object, "said on node %u", from);
	ts_cond_broadcast(&d->changed);
}

/* ---- when a disk could not fence ------------------------------------------------------------------------------------- */

/* fs_mount_args.fence_otherwise. A machine whose next life is a member is not switched off: only people can tell the two apart. */
int fence_otherwise(void *arg, unsigned node, uint64_t incarnation, unsigned disk, int rc)
{
	struct daemon *d = arg;
	const struct conf_agent *a = agent_of(&d->conf, node);
	if (confirmed_dead(d, node, incarnation))
		return 0;
	if (!a || node_member(d, node))
		return -ENOENT;
	ts_warn("node %u: disk %u cannot keep it out (%s): switching it off with %s", node, disk, strerror(-rc), a->program);
	int prc = agent_power_off(d->exec, a, AGENT_POWER_NS);
	if (prc) {
		ts_err("node %u: %s: it is not off: %s", node, a->program, strerror(-prc));
		return prc;
	}
	ts_warn("node %u: %s: it is off", node, a->program);
	if (!node_member(d, node)) /* it may have come back meanwhile */
		confirm_dead(d, node, incarnation, d->conf.node_id);
	return confirmed_dead(d, node, incarnation) ? 0 : -EBUSY;
}

/* ---- diag recovery --------------------------------------------------------------------------------------------------- */

static json_t *steps_json(const struct fs_recovery_info *i)
{
	json_t *a = json_array();
	for (unsigned s = FS_REC_IDLE + 1; s < FS_REC_STEPS; s++)
		json_array_append_new(a, json_pack("{s:s,s:s,s:I}", "step", fs_recovery_step_name((enum fs_recovery_step)s), "state",
						   i->step == FS_REC_IDLE ? "-" : s == i->step ? "now" : i->step_ns[s] ? "done" : "to do", "ms",
						   (json_int_t)(i->step_ns[s] / TS_NS_PER_MS)));
	return a;
}

static json_t *past_json(struct daemon *d, const struct fs *fs)
{
	struct fs_recovered p[16];
	unsigned n = fs_recovery_past(fs, p, TS_ARRAY_LEN(p));
	uint64_t now = ts_exec_now(d->exec);
	json_t *a = json_array();
	for (unsigned i = 0; i < n; i++)
		json_array_append_new(a, json_pack("{s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "node", (int)p[i].node, "incarnation", (json_int_t)p[i].incarnation,
						   "slot", (json_int_t)p[i].slot, "records", (json_int_t)p[i].records, "blocks", (json_int_t)p[i].blocks,
						   "intents", (json_int_t)p[i].intents, "ms", (json_int_t)((p[i].end_ns - p[i].begun_ns) / TS_NS_PER_MS),
						   "ago_ms", (json_int_t)((now - p[i].end_ns) / TS_NS_PER_MS)));
	return a;
}

static const char *state_word(struct daemon *d, const struct fs_recovery_info *i, const struct quorum_group_view *g)
{
	if (i->coordinator && i->coordinator != d->conf.node_id)
		return g && g->npending ? "another node recovers" : "nothing to recover";
	if (i->step != FS_REC_IDLE)
		return "recovering";
	return i->attempts ? "failed, tried again" : g && g->npending ? "about to begin" : "nothing to recover";
}

static json_t *pending_json(struct daemon *d, const struct quorum_group_view *g)
{
	json_t *a = json_array();
	uint64_t now = ts_exec_now(d->exec);
	for (unsigned i = 0; g && i < g->npending; i++) {
		const struct quorum_member *m = &g->pending[i];
		uint64_t end = quorum_dead_lease_end_ns(d->quorum, m->node, m->incarnation);
		json_array_append_new(a, json_pack("{s:i,s:I,s:I,s:I,s:b,s:b}", "node", (int)m->node, "incarnation", (json_int_t)m->incarnation, "slot",
						   m->slot == UINT32_MAX ? (json_int_t)-1 : (json_int_t)m->slot, "lease_left_ms",
						   (json_int_t)(end > now ? (end - now) / TS_NS_PER_MS : 0), "machine_up",
						   quorum_machine_up(d->quorum, m->node), "confirmed_dead", confirmed_dead(d, m->node, m->incarnation)));
	}
	return a;
}

static json_t *one_json(struct daemon *d, struct mount *m)
{
	const struct quorum_group_view *g = quorum_group_get(d->quorum, m->group);
	struct fs_recovery_info i;
	fs_recovery_get(m->fs, &i);
	uint64_t now = ts_exec_now(d->exec);
	bool busy = i.step != FS_REC_IDLE;
	json_t *o = json_pack("{s:s,s:s,s:i,s:o,s:s,s:i,s:I,s:I,s:I,s:I,s:i}", "fs", m->name, "state", state_word(d, &i, g), "coordinator",
			      (int)i.coordinator, "pending", pending_json(d, g), "step", fs_recovery_step_name(i.step), "node", (int)i.node, "step_ms",
			      (json_int_t)(busy ? (now - i.since_ns) / TS_NS_PER_MS : 0), "total_ms",
			      (json_int_t)(busy ? (now - i.begun_ns) / TS_NS_PER_MS : 0), "blocks", (json_int_t)i.blocks, "blocks_done",
			      (json_int_t)TS_MIN(i.blocks_done, i.blocks), "attempts", (int)i.attempts);
	if (i.error[0])
		json_object_set_new(o, "last_error", json_string(i.error));
	json_object_set_new(o, "steps", steps_json(&i));
	json_object_set_new(o, "past", past_json(d, m->fs));
	return o;
}

json_t *diag_recovery(struct daemon *d, const char *name)
{
	json_t *a = json_array();
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		if (m->fs && (!name || !strcmp(name, m->name)))
			json_array_append_new(a, one_json(d, m));
	}
	return a;
}
