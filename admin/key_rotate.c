/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster key changed while everything runs. One node drives it, over connections that are authenticated under the old key; each step is durable
 * on every member before the next begins anywhere, so whoever says `cluster key rotate` again, on any member, finishes what was begun.
 *
 *            files beside the key file F                 accepts          dials with
 *   idle     F                                           F                F
 *   ADD   -> F, F.next                                   F, F.next        F, then F.next
 *   SWITCH-> F (the new one), F.old                      F, F.old         F, then F.old
 *   DROP  -> F, F.retired (known only to tell who has it) F               F
 *
 * The new key goes to each member sealed for a public key that this member has just made: who recorded the messages and has the old key cannot
 * read it. Must never happen: two members without a key in common; a key dropped anywhere before every member has switched; a key in a
 * log or an answer. */
#include "admin/daemon.h"
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define PEER_KEY    0x305
#define KEY_WAIT_NS (5 * TS_NS_PER_S)

static const char *const suffix[KEY_SLOTS] = {"", ".next", ".old", ".retired"};

static void id_of(const uint8_t key[32], uint8_t id[KEY_ID])
{
	static const uint8_t label[32] = "tessera key id"; /* what it is keyed with */
	crypto_generichash(id, KEY_ID, key, 32, label, sizeof(label));
}

static void id_of_slot(const struct keyring *k, enum key_slot s, uint8_t id[KEY_ID])
{
	memset(id, 0, KEY_ID);
	if (k->have[s])
		id_of(k->key[s], id);
}

static bool slot_is(const struct keyring *k, enum key_slot s, const uint8_t id[KEY_ID])
{
	uint8_t mine[KEY_ID];
	id_of_slot(k, s, mine);
	return k->have[s] && !memcmp(mine, id, KEY_ID);
}

static void path_of(const struct daemon *d, enum key_slot s, char *buf, size_t n)
{
	snprintf(buf, n, "%s%s", d->conf.key_file, suffix[s]);
}

/* ---- files -------------------------------------------------------------------------------------------------------------------- */

static int dir_sync(const struct daemon *d)
{
	char dir[300];
	snprintf(dir, sizeof(dir), "%s", d->conf.key_file);
	char *slash = strrchr(dir, '/');
	if (slash)
		*slash = 0;
	int fd = open(slash && *dir ? dir : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 || fsync(fd) ? -errno : 0;
	if (fd >= 0)
		close(fd);
	return rc;
}

static int key_write(const struct daemon *d, enum key_slot s, const uint8_t key[32])
{
	char path[300], tmp[310], hex[66];
	path_of(d, s, path, sizeof(path));
	snprintf(tmp, sizeof(tmp), "%s.new", path);
	sodium_bin2hex(hex, sizeof(hex), key, 32);
	hex[64] = '\n';
	unlink(tmp); /* of a life that ended over it */
	int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	int rc = fd < 0 ? -errno : write(fd, hex, 65) != 65 || fsync(fd) ? -(errno ? errno : EIO) : 0;
	if (fd >= 0)
		close(fd);
	if (rc == 0 && rename(tmp, path))
		rc = -errno;
	if (rc && fd >= 0)
		unlink(tmp);
	sodium_memzero(hex, sizeof(hex));
	return rc ? rc : dir_sync(d);
}

static int key_move(const struct daemon *d, enum key_slot from, enum key_slot to)
{
	char a[300], b[300];
	path_of(d, from, a, sizeof(a));
	path_of(d, to, b, sizeof(b));
	return rename(a, b) ? -errno : dir_sync(d);
}

static int key_remove(const struct daemon *d, enum key_slot s)
{
	char path[300];
	path_of(d, s, path, sizeof(path));
	return unlink(path) && errno != ENOENT ? -errno : dir_sync(d);
}

/* ---- this node ---------------------------------------------------------------------------------------------------------------- */

static void in_force(struct daemon *d)
{
	struct keyring *k = &d->keyring;
	struct net_keys n = {.n = 1, .has_retired = k->have[KEY_RETIRED]};
	enum key_slot second = k->have[KEY_NEXT] ? KEY_NEXT : KEY_OLD;
	memcpy(n.key[0], k->key[KEY_CURRENT], 32);
	if (k->have[second])
		memcpy(n.key[n.n++], k->key[second], 32);
	memcpy(n.retired, k->key[KEY_RETIRED], 32);
	memcpy(d->conf.key, k->key[KEY_CURRENT], 32);
	net_tcp_keys_set(d->net, &n);
	sodium_memzero(&n, sizeof(n));
}

int key_rotate_open(struct daemon *d, char *errmsg, size_t errlen)
{
	struct keyring *k = &d->keyring;
	char path[300];
	k->have[KEY_CURRENT] = true;
	memcpy(k->key[KEY_CURRENT], d->conf.key, 32);
	for (int s = KEY_NEXT; s < KEY_SLOTS; s++) {
		path_of(d, (enum key_slot)s, path, sizeof(path));
		int rc = conf_key_read(path, k->key[s], errmsg, errlen);
		if (rc && rc != -ENOENT)
			return rc;
		/* A crash between the two files of SWITCH leaves the current one twice. */
		k->have[s] = rc == 0 && sodium_memcmp(k->key[s], k->key[KEY_CURRENT], 32);
	}
	errmsg[0] = 0;
	in_force(d);
	return 0;
}

static int add(struct daemon *d, const struct peer_key_msg *q)
{
	struct keyring *k = &d->keyring;
	uint8_t key[32], id[KEY_ID];
	if (slot_is(k, KEY_NEXT, q->id) || slot_is(k, KEY_CURRENT, q->id))
		return 0;
	if (k->have[KEY_NEXT] || k->have[KEY_OLD])
		return -EBUSY;
	if (!k->box_open || crypto_box_open_easy(key, q->box, sizeof(q->box), q->nonce, q->pub, k->box_secret))
		return -EBADMSG;
	k->box_open = false;
	id_of(key, id);
	int rc = memcmp(id, q->id, KEY_ID) ? -EBADMSG : key_write(d, KEY_NEXT, key);
	if (rc == 0) {
		memcpy(k->key[KEY_NEXT], key, 32);
		k->have[KEY_NEXT] = true;
		in_force(d);
	}
	sodium_memzero(key, sizeof(key));
	return rc;
}

static int switch_to(struct daemon *d, const uint8_t id[KEY_ID])
{
	struct keyring *k = &d->keyring;
	if (slot_is(k, KEY_CURRENT, id))
		return 0;
	if (!slot_is(k, KEY_NEXT, id))
		return -ENOKEY;
	int rc = key_write(d, KEY_OLD, k->key[KEY_CURRENT]);
	if (rc == 0)
		rc = key_move(d, KEY_NEXT, KEY_CURRENT);
	if (rc)
		return rc;
	memcpy(k->key[KEY_OLD], k->key[KEY_CURRENT], 32);
	memcpy(k->key[KEY_CURRENT], k->key[KEY_NEXT], 32);
	k->have[KEY_OLD] = true;
	k->have[KEY_NEXT] = false;
	sodium_memzero(k->key[KEY_NEXT], 32);
	in_force(d);
	return 0;
}

static int drop(struct daemon *d, const uint8_t id[KEY_ID])
{
	struct keyring *k = &d->keyring;
	if (!slot_is(k, KEY_CURRENT, id))
		return -ENOKEY;
	if (!k->have[KEY_OLD])
		return 0;
	int rc = key_move(d, KEY_OLD, KEY_RETIRED);
	if (rc)
		return rc;
	memcpy(k->key[KEY_RETIRED], k->key[KEY_OLD], 32);
	k->have[KEY_RETIRED] = true;
	k->have[KEY_OLD] = false;
	sodium_memzero(k->key[KEY_OLD], 32);
	in_force(d);
	event_post(d, EV_KEY_CHANGED, "cluster key", "the old one counts no more");
	return 0;
}

static int cancel(struct daemon *d, const uint8_t id[KEY_ID])
{
	struct keyring *k = &d->keyring;
	if (!slot_is(k, KEY_NEXT, id))
		return 0;
	int rc = key_remove(d, KEY_NEXT);
	if (rc == 0) {
		k->have[KEY_NEXT] = false;
		sodium_memzero(k->key[KEY_NEXT], 32);
		in_force(d);
	}
	return rc;
}

/* What a member is asked, this one included. 0 or -errno; r is filled in any case. */
static int serve(struct daemon *d, const struct peer_key_msg *q, struct peer_key_reply_msg *r)
{
	int rc = -ENOSYS;
	memset(r, 0, sizeof(*r));
	switch (le32_get(q->op)) {
	case KEY_ASK:
		rc = crypto_box_keypair(r->pub, d->keyring.box_secret);
		d->keyring.box_open = rc == 0;
		break;
	case KEY_ADD:
		rc = add(d, q);
		break;
	case KEY_SWITCH:
		rc = switch_to(d, q->id);
		break;
	case KEY_DROP:
		rc = drop(d, q->id);
		break;
	case KEY_CANCEL:
		rc = cancel(d, q->id);
		break;
	default:
		break;
	}
	for (int s = 0; s < KEY_SLOTS; s++)
		id_of_slot(&d->keyring, (enum key_slot)s, r->id[s]);
	return rc;
}

bool key_message(struct daemon *d, const struct net_msg *m)
{
	struct peer_key_msg q;
	struct peer_key_reply_msg r;
	if (m->type != PEER_KEY || !m->call_id)
		return false;
	int rc = -EINVAL;
	if (m->len == sizeof(q)) {
		memcpy(&q, m->payload, sizeof(q));
		rc = serve(d, &q, &r);
		if (rc && rc != -EBUSY)
			ts_warn("cluster key: step %u asked by node %u: %s", le32_get(q.op), m->src_node, strerror(-rc));
	}
	if (net_reply(d->net, m, -rc, rc == -EINVAL ? NULL : &r, rc == -EINVAL ? 0 : sizeof(r)))
		ts_debug("node %u: has left before it got its answer", m->src_node);
	return true;
}

/* ---- who drives --------------------------------------------------------------------------------------------------------------- */

struct drive {
	struct daemon *d;
	struct answer *a;
	unsigned node[QUORUM_MAX_NODES], n;
	struct peer_key_reply_msg at[QUORUM_MAX_NODES];
	uint8_t id[KEY_ID], key[32]; /* the new one */
	bool begun; /* some member has it already */
};

static int ask(struct drive *v, unsigned i, const struct peer_key_msg *q)
{
	struct net_out o = {.dst_node = v->node[i], .lane = NET_REQUEST, .type = PEER_KEY, .payload = q, .len = sizeof(*q)};
	uint32_t len = sizeof(v->at[i]);
	int result = 0, rc;
	if (v->node[i] == v->d->conf.node_id)
		return serve(v->d, q, &v->at[i]);
	rc = net_call(v->d->net, &o, ts_exec_now(v->d->exec) + KEY_WAIT_NS, &result, &v->at[i], &len);
	if (rc == 0 && result)
		return -result;
	return rc ? rc : len == sizeof(v->at[i]) ? 0 : -EPROTO;
}

static int asked(struct drive *v, unsigned i, int rc, const char *step)
{
	if (rc == 0)
		return 0;
	return answer_refuse(v->a, rc, "cluster key: node %u: %s: %s; %s", v->node[i], step,
			     rc == -ETIMEDOUT ? "it does not answer, or is too old for this" : strerror(-rc),
			     v->begun ? "both keys are accepted meanwhile: mend it and run `tessera cluster key rotate` again" : "nothing was changed");
}

/* All members as they are now. */
static int look(struct drive *v)
{
	struct peer_key_msg q = {.op = le32_make(KEY_ASK), .version = le32_make(1)};
	int rc = 0;
	v->n = route_members(v->d, v->node);
	for (unsigned i = 0; rc == 0 && i < v->n; i++)
		rc = asked(v, i, ask(v, i, &q), "asking for its keys");
	return rc;
}

static bool none(const uint8_t id[KEY_ID])
{
	return sodium_is_zero(id, KEY_ID);
}

static int step(struct drive *v, enum key_op op, const char *what)
{
	struct peer_key_msg q = {.op = le32_make(op), .version = le32_make(1)};
	int rc = 0;
	memcpy(q.id, v->id, KEY_ID);
	for (unsigned i = 0; rc == 0 && i < v->n; i++)
		rc = asked(v, i, ask(v, i, &q), what);
	return rc;
}

/* Which key is it to be: one that was begun with before, or a new one. */
static int choose(struct drive *v)
{
	const struct keyring *k = &v->d->keyring;
	const uint8_t *target = NULL;
	unsigned holder = 0;
	for (unsigned i = 0; i < v->n; i++) /* who has switched decides; else any that was added: nobody has switched to another */
		if (!none(v->at[i].id[KEY_OLD])) {
			target = v->at[i].id[KEY_CURRENT];
			holder = v->node[i];
		}
	for (unsigned i = 0; !target && i < v->n; i++)
		if (!none(v->at[i].id[KEY_NEXT])) {
			target = v->at[i].id[KEY_NEXT];
			holder = v->node[i];
		}
	v->begun = target != NULL;
	if (!target) {
		randombytes_buf(v->key, sizeof(v->key));
		id_of(v->key, v->id);
		return 0;
	}
	memcpy(v->id, target, KEY_ID);
	for (int s = 0; s <= KEY_NEXT; s++)
		if (slot_is(k, (enum key_slot)s, v->id)) {
			memcpy(v->key, k->key[s], 32);
			return 0;
		}
	return answer_refuse(v->a, -EBUSY, "cluster key: node %u has the new key of a change that was begun, and this node has not; finish it there: tessera --node %u cluster key rotate",
			     holder, holder);
}

static int add_to(struct drive *v, unsigned i)
{
	struct peer_key_msg q = {.op = le32_make(KEY_ADD), .version = le32_make(1)};
	uint8_t secret[crypto_box_SECRETKEYBYTES], theirs[crypto_box_PUBLICKEYBYTES];
	memcpy(theirs, v->at[i].pub, sizeof(theirs));
	if (!memcmp(v->at[i].id[KEY_NEXT], v->id, KEY_ID) || !memcmp(v->at[i].id[KEY_CURRENT], v->id, KEY_ID))
		return 0;
	if (!none(v->at[i].id[KEY_NEXT])) { /* two changes were begun at once, and nobody has switched to that one */
		q.op = le32_make(KEY_CANCEL);
		memcpy(q.id, v->at[i].id[KEY_NEXT], KEY_ID);
		int rc = ask(v, i, &q);
		if (rc)
			return rc;
		q.op = le32_make(KEY_ADD);
	}
	memcpy(q.id, v->id, KEY_ID);
	randombytes_buf(q.nonce, sizeof(q.nonce));
	int rc = crypto_box_keypair(q.pub, secret) || crypto_box_easy(q.box, v->key, 32, q.nonce, theirs, secret) ? -EIO : ask(v, i, &q);
	sodium_memzero(secret, sizeof(secret));
	return rc;
}

/* Nobody has switched: what was added is taken back. */
static void take_back(struct drive *v, unsigned upto)
{
	struct peer_key_msg q = {.op = le32_make(KEY_CANCEL), .version = le32_make(1)};
	memcpy(q.id, v->id, KEY_ID);
	for (unsigned i = 0; i <= upto && i < v->n; i++)
		if (ask(v, i, &q))
			ts_warn("cluster key: node %u could not be told that the new key is off; `tessera cluster key rotate` settles it", v->node[i]);
}

static int add_all(struct drive *v)
{
	unsigned self = 0;
	int rc = 0;
	for (unsigned i = 0; i < v->n; i++)
		self = v->node[i] == v->d->conf.node_id ? i : self;
	for (unsigned k = 0; rc == 0 && k < v->n; k++) { /* this node first: who drives has what others have */
		unsigned i = k == 0 ? self : k <= self ? k - 1 : k;
		rc = asked(v, i, add_to(v, i), "taking the new key");
	}
	if (rc && !v->begun)
		take_back(v, v->n);
	return rc;
}

static int all_have(struct drive *v, bool switched)
{
	int rc = look(v);
	for (unsigned i = 0; rc == 0 && i < v->n; i++)
		if (memcmp(v->at[i].id[KEY_CURRENT], v->id, KEY_ID) && (switched || memcmp(v->at[i].id[KEY_NEXT], v->id, KEY_ID)))
			rc = asked(v, i, -EAGAIN, "it has come in meanwhile, without the new key");
	return rc;
}

static int rotate(struct drive *v, const char *stop)
{
	int rc = look(v);
	if (rc == 0)
		rc = choose(v);
	bool was_begun = v->begun;
	if (rc == 0)
		rc = add_all(v);
	v->begun = true;
	if (rc == 0 && !was_begun)
		event_post(v->d, EV_KEY_CHANGED, "cluster key", "a new one was given to %u nodes", v->n);
	if (rc || (stop && !strcmp(stop, "add")))
		return rc;
	rc = all_have(v, false);
	if (rc == 0)
		rc = step(v, KEY_SWITCH, "changing to the new key");
	if (rc || (stop && !strcmp(stop, "switch")))
		return rc;
	rc = all_have(v, true);
	return rc ? rc : step(v, KEY_DROP, "dropping the old key");
}

static json_t *away(struct daemon *d)
{
	json_t *list = json_array();
	for (unsigned n = 1; n < NET_MAX_NODES; n++)
		if (quorum_node_configured(d->quorum, n) && !node_member(d, n))
			json_array_append_new(list, json_integer(n));
	return list;
}

void key_rotate(struct daemon *d, bool without_away, const char *stop, struct answer *a)
{
	struct drive v = {.d = d, .a = a};
	char hex[2 * KEY_ID + 1];
	if (stop && !d->conf.fault_points)
		answer_refuse(a, -EPERM, "cluster key rotate: --stop-after is for tests, and needs `fault_points = yes` in the configuration of tesserad");
	else if (stop && strcmp(stop, "add") && strcmp(stop, "switch"))
		answer_refuse(a, -EINVAL, "cluster key rotate: --stop-after '%.40s': must be add or switch", stop);
	else if (d->keyring.driving)
		answer_refuse(a, -EBUSY, "cluster key rotate: another one runs on this node; wait for it");
	else if (!quorum_may_write(d->quorum))
		answer_refuse(a, -EAGAIN, "cluster key rotate: this node has no quorum; start more nodes, see `tessera status`");
	if (a->rc)
		return;
	json_t *gone = away(d);
	if (json_array_size(gone) && !without_away) {
		answer_refuse(a, -EHOSTDOWN, "cluster key rotate: node %lld%s away and would be left with the old key; start it, or use --without-away and copy the key file there by hand",
			      (long long)json_integer_value(json_array_get(gone, 0)), json_array_size(gone) > 1 ? " and others are" : " is");
		json_decref(gone);
		return;
	}
	d->keyring.driving = true;
	a->rc = rotate(&v, stop);
	d->keyring.driving = false;
	if (a->rc == 0) {
		json_t *nodes = json_array();
		for (unsigned i = 0; i < v.n; i++)
			json_array_append_new(nodes, json_integer(v.node[i]));
		sodium_bin2hex(hex, sizeof(hex), v.id, KEY_ID);
		a->data = json_pack("{s:s,s:s,s:o,s:O,s:s}", "key", hex, "state", stop ? "not finished" : "changed", "nodes", nodes, "away", gone, "file", d->conf.key_file);
		ts_notice("cluster key: %s on %u nodes", stop ? "being changed" : "changed", v.n);
	}
	json_decref(gone);
	sodium_memzero(&v, sizeof(v));
}

/* ---- looks -------------------------------------------------------------------------------------------------------------------- */

static const char *state_of(const struct keyring *k)
{
	return k->have[KEY_NEXT] ? "a new one is accepted, too" : k->have[KEY_OLD] ? "changed, the old one is accepted, too" : "settled";
}

json_t *key_status(struct daemon *d)
{
	static const char *const names[KEY_SLOTS] = {"key", "next", "old", "retired"};
	json_t *o = json_pack("{s:i,s:s,s:s}", "node", (int)d->conf.node_id, "state", net_tcp_key_replaced(d->net) ? "replaced by the others" : state_of(&d->keyring), "file",
			      d->conf.key_file);
	for (int s = 0; s < KEY_SLOTS; s++) {
		uint8_t id[KEY_ID];
		char hex[2 * KEY_ID + 1];
		id_of_slot(&d->keyring, (enum key_slot)s, id);
		sodium_bin2hex(hex, sizeof(hex), id, KEY_ID);
		if (d->keyring.have[s])
			json_object_set_new(o, names[s], json_string(hex));
	}
	return o;
}

static void old_peer(void *arg, const struct net_peer_info *i)
{
	struct daemon *d = arg;
	char object[24];
	snprintf(object, sizeof(object), "node %u", i->node);
	if (i->old_key)
		health_found(&d->health, d, HC_KEY_OLD, object, "it was away when the key was changed");
}

void key_look(struct daemon *d)
{
	unsigned by = net_tcp_key_replaced(d->net);
	if (by)
		health_found(&d->health, d, HC_KEY_OLD, "this node", "node %u says so; the file is %.200s", by, d->conf.key_file);
	net_tcp_each_peer(d->net, old_peer, d);
	if ((d->keyring.have[KEY_NEXT] || d->keyring.have[KEY_OLD]) && !d->keyring.driving)
		health_found(&d->health, d, HC_KEY_CHANGING, "cluster key", "%s", state_of(&d->keyring));
}
