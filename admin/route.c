/* SPDX-License-Identifier: Apache-2.0 */
/* Verbs asked of other nodes: this daemon asks theirs over net/, side by side, each with a deadline, and the answers come back as one list.
 * Members trust each other (README.md); what may be asked is in the table (VERB_ROUTED). Must never happen: an answer waited for without an
 * end, more requests of others served at once than ROUTE_SERVE_MAX, or one that passes less checks than the socket's. */
#include "admin/daemon.h"
#include <stdio.h>

#define PEER_ADMIN	0x303
#define INFO_MAX	(16u << 10) /* `node info`, which is asked every few seconds */
#define ROUTE_SERVE_MAX 32
#define ROUTE_LOOK_NS	(2 * TS_NS_PER_S)
#define ROUTE_DO_NS	(120 * TS_NS_PER_S)

/* ---- asking ----------------------------------------------------------------------------------------------------------------- */

struct part {
	struct daemon *d;
	const struct verb *v;
	json_t *pos, *opt;
	const char *text;
	unsigned node;
	uint64_t deadline, took_ns;
	json_t *answer;
	struct ts_group *group;
};

static json_t *failed(int rc, const char *fmt, unsigned node)
{
	return json_pack("{s:b,s:i,s:o}", "ok", 0, "errno", -rc, "error", json_sprintf(fmt, node));
}

static json_t *ask_peer(struct part *p)
{
	struct net_out o = {.dst_node = p->node, .lane = NET_BULK, .type = PEER_ADMIN, .payload = p->text, .len = (uint32_t)strlen(p->text)};
	uint32_t len = strcmp(p->v->name, "node info") ? NET_MAX_PAYLOAD : INFO_MAX;
	char *buf = ts_alloc(len);
	int result = 0;
	json_t *answer = NULL;
	int rc = buf ? net_call(p->d->net, &o, p->deadline, &result, buf, &len) : -ENOMEM;
	if (rc == 0 && result == 0)
		answer = json_loadb(buf, len, 0, NULL);
	ts_free(buf);
	if (rc == 0 && result == EBUSY)
		return failed(-EBUSY, "node %u: answers too many others now; try again", p->node);
	if (rc == -ENOTCONN)
		return failed(rc, "node %u: not a member; see `tessera node list`", p->node);
	if (rc == -ETIMEDOUT)
		return failed(rc, "node %u: a member that does not answer in time: it hangs, is cut off, or is too old for this; see `tessera diag leases`", p->node);
	if (!json_is_object(answer)) {
		json_decref(answer);
		return failed(rc ? rc : -EIO, "node %u: its answer cannot be read", p->node);
	}
	return answer;
}

static void part_fiber(void *arg)
{
	struct part *p = arg;
	uint64_t begun = ts_exec_now(p->d->exec);
	if (p->node == p->d->conf.node_id) {
		struct answer a = {0};
		handle_verb(p->d, NULL, p->v, p->pos, p->opt, &a);
		p->answer = answer_json(&a, p->v->name);
	} else
		p->answer = ask_peer(p);
	p->took_ns = ts_exec_now(p->d->exec) - begun;
	ts_group_done(p->group, 0);
}

json_t *route_ask(struct daemon *d, const struct verb *v, json_t *pos, json_t *opt, const unsigned *nodes, unsigned n, uint64_t timeout_ns)
{
	json_t *req = json_pack("{s:s,s:O,s:O}", "verb", v->name, "pos", pos, "opt", opt), *out = json_array();
	char *text = req ? json_dumps(req, JSON_COMPACT) : NULL;
	struct part *parts = ts_alloc((n + 1) * sizeof(*parts));
	struct ts_group g;
	ts_group_init(&g);
	for (unsigned i = 0; text && parts && i < n; i++) {
		parts[i] = (struct part){.d = d, .v = v, .pos = pos, .opt = opt, .text = text, .node = nodes[i], .deadline = ts_exec_now(d->exec) + timeout_ns,
					 .group = &g};
		ts_group_add(&g);
		if (ts_fiber_spawn(d->exec, "ask a node", part_fiber, &parts[i])) {
			parts[i].answer = failed(-ENOMEM, "node %u: not asked: out of memory", nodes[i]);
			ts_group_done(&g, 0);
		}
	}
	if (ts_group_wait(&g, "answers of other nodes"))
		ts_debug("some nodes were not asked"); /* their rows say so */
	for (unsigned i = 0; text && parts && i < n; i++) {
		json_object_set_new(parts[i].answer, "node", json_integer(nodes[i]));
		json_object_set_new(parts[i].answer, "took_ms", json_integer((json_int_t)(parts[i].took_ns / TS_NS_PER_MS)));
		json_array_append_new(out, parts[i].answer);
	}
	ts_free(parts);
	free(text);
	json_decref(req);
	return out;
}

unsigned route_members(struct daemon *d, unsigned nodes[QUORUM_MAX_NODES])
{
	const struct quorum_view *v = quorum_view_get(d->quorum);
	for (unsigned i = 0; i < v->nmembers; i++)
		nodes[i] = v->members[i].node;
	return v->nmembers;
}

int route_nodes_parse(const char *text, unsigned nodes[QUORUM_MAX_NODES], unsigned *n)
{
	*n = 0;
	for (const char *p = text; *p;) {
		char *end;
		unsigned long x = *p >= '0' && *p <= '9' ? strtoul(p, &end, 10) : 0;
		if (x < 1 || x >= NET_MAX_NODES || (*end && (*end != ',' || !end[1])) || *n == QUORUM_MAX_NODES)
			return -EINVAL;
		nodes[(*n)++] = (unsigned)x;
		p = end + (*end == ',');
	}
	return *n ? 0 : -EINVAL;
}

void route_verb(struct daemon *d, const struct verb *v, json_t *pos, json_t *opt, const char *text, struct answer *a)
{
	unsigned nodes[QUORUM_MAX_NODES], n;
	a->rc = v->flags & VERB_ROUTED ? verb_check(v, pos, opt, a->error, sizeof(a->error)) : -EINVAL;
	if (a->rc && !a->error[0])
		snprintf(a->error, sizeof(a->error), "%s: only for this node; run it there, see `tessera help %s`", v->name, v->name);
	if (a->rc)
		return;
	if (!strcmp(text, "all"))
		n = route_members(d, nodes);
	else if (route_nodes_parse(text, nodes, &n)) {
		a->rc = -EINVAL;
		snprintf(a->error, sizeof(a->error), "%s: --node %.80s: neither `all` nor node numbers; see `tessera node list`", v->name, text);
		return;
	}
	a->data = route_ask(d, v, pos, opt, nodes, n, v->flags & VERB_LOOKS ? ROUTE_LOOK_NS : ROUTE_DO_NS);
	unsigned bad = 0;
	json_t *x;
	size_t i;
	json_array_foreach(a->data, i, x) {
		if (json_is_true(json_object_get(x, "ok")))
			continue;
		const char *e = json_string_value(json_object_get(x, "error"));
		char prefix[24];
		snprintf(prefix, sizeof(prefix), "node %u: ", nodes[i]);
		if (!bad++) {
			a->rc = -(int)json_integer_value(json_object_get(x, "errno"));
			snprintf(a->error, sizeof(a->error), "%s%s", e && !strncmp(e, prefix, strlen(prefix)) ? "" : prefix, e ? e : "failed");
		}
	}
	if (bad > 1) {
		size_t len = strlen(a->error);
		snprintf(a->error + len, sizeof(a->error) - len, " (and %u more nodes)", bad - 1);
	}
	if (bad && a->rc >= 0)
		a->rc = -EIO;
}

/* ---- answering -------------------------------------------------------------------------------------------------------------- */

struct served {
	struct daemon *d;
	struct net_msg msg; /* to answer to */
	char text[];
};

static void serve_fiber(void *arg)
{
	struct served *s = arg;
	json_t *req = json_loadb(s->text, s->msg.len, 0, NULL), *pos = json_object_get(req, "pos"), *opt = json_object_get(req, "opt");
	const char *name = json_string_value(json_object_get(req, "verb"));
	const struct verb *v = name ? verb_by_name(name) : NULL;
	struct answer a = {0};
	if (!v || v->where != VERB_DAEMON || !(v->flags & VERB_ROUTED) || !json_is_array(pos) || !json_is_object(opt)) {
		a.rc = -EINVAL;
		snprintf(a.error, sizeof(a.error), "node %u (version %s) does not know that request; use the same version everywhere", s->d->conf.node_id,
			 TESSERA_VERSION);
	} else
		handle_verb(s->d, NULL, v, pos, opt, &a);
	json_t *o = answer_json(&a, v ? v->name : "request");
	char *text = json_dumps(o, JSON_COMPACT);
	size_t len = text ? strlen(text) : 0;
	bool fits = len && len <= NET_MAX_PAYLOAD;
	if (net_reply(s->d->net, &s->msg, fits ? 0 : EMSGSIZE, fits ? text : NULL, fits ? (uint32_t)len : 0))
		ts_debug("node %u: has left before it got its answer", s->msg.src_node);
	free(text);
	json_decref(o);
	json_decref(req);
	s->d->serving--;
	ts_free(s);
}

bool route_message(struct daemon *d, const struct net_msg *m)
{
	if (m->type != PEER_ADMIN || !m->call_id)
		return false;
	struct served *s = d->serving < ROUTE_SERVE_MAX && m->len <= ROUTE_REQUEST_MAX && !d->stopping ? ts_alloc(sizeof(*s) + m->len) : NULL;
	if (s) {
		s->d = d;
		s->msg = *m;
		memcpy(s->text, m->payload, m->len);
		s->msg.payload = NULL;
		d->serving++;
		if (ts_fiber_spawn(d->exec, "request of another node", serve_fiber, s) == 0)
			return true;
		d->serving--;
		ts_free(s);
	}
	if (net_reply(d->net, m, EBUSY, NULL, 0))
		ts_debug("node %u: its request could not be answered", m->src_node);
	return true;
}
