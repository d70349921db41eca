/* SPDX-License-Identifier: Apache-2.0 */
/* Messages to and from bytes. Job: nothing is read past what arrived, and no value that the engine could not
 * have sent gets in (modes, ranges, node numbers). Must never happen: a malformed message changes state. */
#include "dlm/dlm_int.h"

static const struct {
	const char *name;
	enum net_lane lane;
	bool batch;
} types[] = {
	[DLM_REQUEST - DLM_REQUEST] = {"request", NET_REQUEST, false},
	[DLM_GRANT - DLM_REQUEST] = {"grant", NET_GRANT, false},
	[DLM_DENIED - DLM_REQUEST] = {"denied", NET_GRANT, false},
	[DLM_MOVED - DLM_REQUEST] = {"moved", NET_GRANT, false},
	[DLM_REVOKE - DLM_REQUEST] = {"revoke", NET_REVOKE, false},
	[DLM_RELEASE - DLM_REQUEST] = {"release", NET_RELEASE, false},
	[DLM_HANDOVER - DLM_REQUEST] = {"handover", NET_RELEASE, true},
	[DLM_OWN - DLM_REQUEST] = {"own", NET_RECOVERY, true},
	[DLM_REPORT - DLM_REQUEST] = {"report", NET_RECOVERY, true},
	[DLM_DONE - DLM_REQUEST] = {"done", NET_RECOVERY, false},
};

enum net_lane dlm_lane(uint16_t type)
{
	return types[type - DLM_REQUEST].lane;
}
const char *dlm_type_name(uint16_t type)
{
	return type >= DLM_REQUEST && type < DLM_MANY ? types[type - DLM_REQUEST].name : type == DLM_MANY ? "many" : "?";
}

uint32_t dlm_encode(const struct dlm_msg *m, struct dlm_lock_msg *out)
{
	*out = (struct dlm_lock_msg){
		.version = le16_make(DLM_WIRE_VERSION),
		.mode = m->mode,
		.flags = m->flags,
		.kind = le32_make(m->key.kind),
		.id = le64_make(m->key.id),
		.start = le64_make(m->start),
		.end = le64_make(m->end),
		.dstart = le64_make(m->dstart),
		.dend = le64_make(m->dend),
		.req = le64_make(m->req),
		.stamp = le64_make(m->stamp),
		.revoke = le64_make(m->revoke),
		.seen = le64_make(m->seen),
		.node = le16_make(m->node),
		.granter = le16_make(m->granter),
		.hops = le16_make(m->hops),
		.result = le16_make(m->result),
		.value = {le64_make(m->value.era), le64_make(m->value.high), le64_make(m->value.time)},
	};
	if (m->value.set)
		out->flags |= DLM_MF_VALUE;
	return sizeof *out;
}

static bool decode_lock(struct dlm_msg *m, const void *p, uint32_t len)
{
	struct dlm_lock_msg w;
	if (len < sizeof w)
		return false;
	memcpy(&w, p, sizeof w);
	if (le16_get(w.version) != DLM_WIRE_VERSION)
		return false;
	m->mode = w.mode;
	m->flags = w.flags;
	m->key = (struct dlm_key){.kind = le32_get(w.kind), .id = le64_get(w.id)};
	m->start = le64_get(w.start);
	m->end = le64_get(w.end);
	m->dstart = le64_get(w.dstart);
	m->dend = le64_get(w.dend);
	m->req = le64_get(w.req);
	m->stamp = le64_get(w.stamp);
	m->revoke = le64_get(w.revoke);
	m->seen = le64_get(w.seen);
	m->node = le16_get(w.node);
	m->granter = le16_get(w.granter);
	m->hops = le16_get(w.hops);
	m->result = le16_get(w.result);
	m->value = (struct dlm_value){.era = le64_get(w.value[0]),
				      .high = le64_get(w.value[1]),
				      .time = le64_get(w.value[2]),
				      .set = m->flags & DLM_MF_VALUE};
	bool wants = m->type == DLM_REQUEST || m->type == DLM_GRANT;
	if (m->type == DLM_DENIED && (!m->result || m->result > DLM_RESULT_MAX))
		return false; /* denied without an error: whoever waits would take it for a grant */
	return m->mode < DLM_MODES && (!wants || m->mode != DLM_NL) && m->start <= m->end &&
	       m->dstart <= m->dend && m->node < NET_MAX_NODES && m->granter < NET_MAX_NODES &&
	       m->key.kind < 32;
}

static bool decode_batch(struct dlm_msg *m, const void *p, uint32_t len)
{
	struct dlm_batch_msg w;
	if (len < sizeof w)
		return false;
	memcpy(&w, p, sizeof w);
	m->flags = w.flags;
	m->count = le32_get(w.count);
	m->key.id = le64_get(w.unit);
	m->stamp = le64_get(w.stamp);
	m->ents = (const struct dlm_entry_msg *)((const uint8_t *)p + sizeof w);
	if (le16_get(w.version) != DLM_WIRE_VERSION || m->count > DLM_BATCH ||
	    len - sizeof w < m->count * sizeof(struct dlm_entry_msg))
		return false;
	for (uint32_t i = 0; m->type != DLM_OWN && i < m->count; i++) {
		struct dlm_key k;
		struct dlm_piece pc;
		struct dlm_value v;
		if (dlm_decode_value(&m->ents[i], &k, &v)) {
			if (k.kind >= 32)
				return false;
			continue;
		}
		dlm_decode_entry(&m->ents[i], &k, &pc);
		if (pc.mode == DLM_NL || pc.mode >= DLM_MODES || pc.start > pc.end ||
		    pc.node >= NET_MAX_NODES || pc.granter >= NET_MAX_NODES || k.kind >= 32)
			return false;
	}
	return true;
}

bool dlm_many_sound(const void *p, uint32_t len, uint32_t *count)
{
	struct dlm_many_msg head;
	struct dlm_one_msg one;
	enum net_lane lane = NET_LANES;
	if (len < sizeof head)
		return false;
	memcpy(&head, p, sizeof head);
	*count = le16_get(head.count);
	if (le16_get(head.version) != DLM_WIRE_VERSION || *count < 2 || *count > DLM_MANY_MAX ||
	    len != sizeof head + *count * sizeof one)
		return false;
	for (uint32_t i = 0; i < *count; i++) {
		memcpy(&one, (const uint8_t *)p + sizeof head + i * sizeof one, sizeof one);
		struct dlm_msg m = {.type = le16_get(one.type)};
		if (m.type < DLM_REQUEST || m.type >= DLM_MANY || types[m.type - DLM_REQUEST].batch ||
		    (i && dlm_lane(m.type) != lane) || !decode_lock(&m, &one.m, sizeof one.m))
			return false;
		lane = dlm_lane(m.type);
	}
	return true;
}

bool dlm_decode(struct dlm_msg *m, const void *p, uint32_t len)
{
	if (m->type < DLM_REQUEST || m->type >= DLM_MANY)
		return false;
	return types[m->type - DLM_REQUEST].batch ? decode_batch(m, p, len) : decode_lock(m, p, len);
}

void dlm_encode_entry(struct dlm_entry_msg *e, struct dlm_key key, const struct dlm_piece *p)
{
	*e = (struct dlm_entry_msg){
		.id = le64_make(key.id),
		.start = le64_make(p->start),
		.end = le64_make(p->end),
		.stamp = le64_make(p->stamp),
		.kind = le32_make(key.kind),
		.node = le16_make(p->node),
		.granter = le16_make(p->granter),
		.mode = p->mode,
	};
}

void dlm_decode_entry(const struct dlm_entry_msg *e, struct dlm_key *key, struct dlm_piece *p)
{
	*key = (struct dlm_key){.kind = le32_get(e->kind), .id = le64_get(e->id)};
	*p = (struct dlm_piece){.start = le64_get(e->start),
				.end = le64_get(e->end),
				.stamp = le64_get(e->stamp),
				.node = le16_get(e->node),
				.granter = le16_get(e->granter),
				.mode = e->mode};
}

void dlm_encode_value(struct dlm_entry_msg *e, struct dlm_key key, const struct dlm_value *v)
{
	*e = (struct dlm_entry_msg){
		.id = le64_make(key.id),
		.start = le64_make(v->era),
		.end = le64_make(v->high),
		.stamp = le64_make(v->time),
		.kind = le32_make(key.kind),
		.value = 1,
	};
}

bool dlm_decode_value(const struct dlm_entry_msg *e, struct dlm_key *key, struct dlm_value *v)
{
	if (e->value != 1)
		return false;
	*key = (struct dlm_key){.kind = le32_get(e->kind), .id = le64_get(e->id)};
	*v = (struct dlm_value){
		.era = le64_get(e->start), .high = le64_get(e->end), .time = le64_get(e->stamp), .set = true};
	return true;
}
