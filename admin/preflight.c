/* SPDX-License-Identifier: Apache-2.0 */
/* `tessera preflight`: is this a set of nodes that a cluster can be made of, or that one more can join? Compares what each node tells of itself
 * and tries the ways between them; one row a check and object, with a remedy. Must never happen: "ok" for what was not looked at, or
 * for what was looked at on fewer nodes than were named. */
#include "admin/preflight.h"
#include "admin/daemon.h"
#include <arpa/inet.h>
#include <signal.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define NODES_MAX 64
#define LISTEN_S  600

enum result { OK, WARN, FAIL };
static const char *const words[] = {[OK] = "ok", [WARN] = "warn", [FAIL] = "fail"};

struct fact { /* of one node: [0] is this one */
	char name[80];
	json_t *f;
};
struct flight {
	const struct conf *c;
	struct fact node[NODES_MAX + 1];
	unsigned n;
	struct preflight_peer peer[NODES_MAX];
	unsigned npeers;
	json_t *rows;
};

static void row(struct flight *p, const char *check, enum result r, const char *object, const char *remedy, const char *fmt, ...) TS_PRINTF(6, 7);
static void row(struct flight *p, const char *check, enum result r, const char *object, const char *remedy, const char *fmt, ...)
{
	char detail[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(detail, sizeof(detail), fmt, ap);
	va_end(ap);
	text_make_utf8(detail);
	json_array_append_new(p->rows, json_pack("{s:s,s:s,s:s,s:s,s:s}", "check", check, "result", words[r], "object", object, "detail", detail, "remedy",
						 r == OK ? "" : remedy));
}

static const char *text(const struct fact *k, const char *key)
{
	const char *s = json_string_value(json_object_get(k->f, key));
	return s ? s : "";
}
static long long num(const json_t *o, const char *key)
{
	return (long long)json_integer_value(json_object_get(o, key));
}
static const char *str(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

/* ---- alike, unlike ------------------------------------------------------------------------------------------------------------ */

/* What must be the same on all: one row. */
static void alike(struct flight *p, const char *check, const char *key, enum result bad, const char *remedy)
{
	json_t *first = json_object_get(p->node[0].f, key);
	for (unsigned i = 1; i < p->n; i++) {
		json_t *v = json_object_get(p->node[i].f, key);
		if (json_equal(v, first))
			continue;
		char *a = json_dumps(first, JSON_ENCODE_ANY), *b = json_dumps(v, JSON_ENCODE_ANY);
		row(p, check, bad, p->node[i].name, remedy, "%s is %s there and %s here", key, b ? b : "missing", a ? a : "missing");
		free(a);
		free(b);
		return;
	}
	char *a = json_dumps(first, JSON_ENCODE_ANY);
	row(p, check, OK, key, "", "%s on %u nodes", a ? a : "?", p->n);
	free(a);
}

/* What no two may share. */
static void unlike(struct flight *p, const char *check, const char *key, enum result bad, const char *remedy)
{
	bool none = false;
	for (unsigned i = 0; i < p->n; i++) {
		json_t *v = json_object_get(p->node[i].f, key);
		if (json_is_string(v) && !*json_string_value(v)) {
			row(p, check, WARN, p->node[i].name, remedy, "it has no %s", key);
			none = true;
			continue;
		}
		for (unsigned k = 0; k < i; k++)
			if (json_equal(v, json_object_get(p->node[k].f, key))) {
				char *a = json_dumps(v, JSON_ENCODE_ANY);
				row(p, check, bad, p->node[i].name, remedy, "%s %s is that of %s, too", key, a ? a : "?", p->node[k].name);
				free(a);
				return;
			}
	}
	if (!none)
		row(p, check, OK, key, "", "different on %u nodes", p->n);
}

static void versions(struct flight *p)
{
	alike(p, "version", "version", WARN, "install the same version everywhere");
	alike(p, "format", "format", FAIL, "install the same version everywhere before a file system is made");
	for (unsigned i = 1; i < p->n; i++)
		if (num(p->node[i].f, "proto_min") > num(p->node[0].f, "proto_max") || num(p->node[i].f, "proto_max") < num(p->node[0].f, "proto_min")) {
			row(p, "protocol", FAIL, p->node[i].name, "upgrade the older node", "it speaks %lld to %lld, this node %lld to %lld", num(p->node[i].f, "proto_min"),
			    num(p->node[i].f, "proto_max"), num(p->node[0].f, "proto_min"), num(p->node[0].f, "proto_max"));
			return;
		}
	row(p, "protocol", OK, "net", "", "%u nodes have a common version", p->n);
}

/* ---- ways --------------------------------------------------------------------------------------------------------------------- */

static void clocks(struct flight *p, const struct preflight_peer *q, const char *name)
{
	long long off = q->clock_ms < 0 ? -q->clock_ms : q->clock_ms, limit = p->c->warn_clock_ms;
	if (off > limit + q->took_ms / 2)
		row(p, "clock", off > 60000 ? FAIL : WARN, name, "let chrony run on every node", "%lld ms %s this node's, %lld are allowed", off,
		    q->clock_ms > 0 ? "before" : "behind", limit);
	else
		row(p, "clock", OK, name, "", "%lld ms from this node's, give or take %lld", (long long)q->clock_ms, (long long)q->took_ms / 2);
}

static void mtu(struct flight *p, const struct preflight_peer *q, const char *name)
{
	unsigned ours = preflight_mtu_of(p->node[0].f, q->self), theirs = preflight_mtu_of(q->facts, q->addr), port = p->c->port + PREFLIGHT_PORT_STEP;
	if (!q->udp)
		row(p, "udp", FAIL, name, "open UDP between the nodes: corosync needs it (ports 5405 to 5412)", "a small datagram to port %u did not come back", port);
	else
		row(p, "udp", OK, name, "", "datagrams to port %u come back", port);
	if (ours && theirs && ours != theirs)
		row(p, "mtu", FAIL, name, "set the same MTU on all nodes and switches", "its interface has %u, ours %u", theirs, ours);
	else if (q->udp && !q->udp_full)
		row(p, "mtu", FAIL, name, "set the MTU that the whole path carries on all nodes, or mend the switch", "the interfaces say %u, and a packet of that size does not get through", ours);
	else if (q->udp)
		row(p, "mtu", OK, name, "", "%u, tried with a whole packet", q->udp_bytes + PREFLIGHT_UDP_HEAD);
}

/* Every node connects to the daemon's port of every other. */
static void ports(struct flight *p)
{
	for (unsigned i = 0; i < p->npeers; i++) {
		struct preflight_peer *q = &p->peer[i];
		unsigned port = (unsigned)num(q->facts, "port");
		json_t *to = json_array(), *bad, *x;
		char name[80];
		size_t k;
		int fd, rc;
		if (!q->facts)
			continue;
		snprintf(name, sizeof(name), "node %lld", num(q->facts, "node"));
		rc = preflight_connect(q->addr, port, &fd);
		if (rc == 0)
			close(fd);
		else
			row(p, "port", FAIL, name, "open the port in the firewalls between them", "TCP %s port %u from here: %s", q->addr, port, strerror(-rc));
		json_array_append_new(to, json_pack("{s:s,s:i}", "addr", q->self, "port", (int)p->c->port));
		for (k = 0; k < p->npeers; k++)
			if (k != i && p->peer[k].facts)
				json_array_append_new(to, json_pack("{s:s,s:I}", "addr", p->peer[k].addr, "port", (json_int_t)num(p->peer[k].facts, "port")));
		bad = preflight_ask_reach(p->c, q, to);
		if (!bad)
			row(p, "port", FAIL, name, "run `tessera preflight --listen` there again", "it did not say whom it reaches");
		json_array_foreach(bad, k, x)
			row(p, "port", FAIL, name, "open the port in the firewalls between them", "from there, TCP to %s: %s", str(x, "addr"), str(x, "error"));
		if (rc == 0 && bad && !json_array_size(bad))
			row(p, "port", OK, name, "", "TCP port %u, both ways, and from there to the others", port);
		json_decref(bad);
		json_decref(to);
	}
}

/* ---- disks -------------------------------------------------------------------------------------------------------------------- */

/* What the target or the label calls it; the URL of a plain file. */
static const char *identity(const json_t *d)
{
	return *str(d, "serial") ? str(d, "serial") : *str(d, "uuid") ? str(d, "uuid") : str(d, "url");
}

static json_t *disk_of(const struct fact *k, const char *id, const char *url, unsigned *times)
{
	json_t *x, *found = NULL;
	size_t i;
	*times = 0;
	json_array_foreach(json_object_get(k->f, "disks"), i, x) {
		bool open = json_is_true(json_object_get(x, "open"));
		if (open ? strcmp(identity(x), id) : strcmp(str(x, "url"), url))
			continue;
		*times += open;
		found = x;
	}
	return found;
}

static void one_lun(struct flight *p, const json_t *d)
{
	const char *id = identity(d), *url = str(d, "url"), *remedy = "map the same LUNs to every node and name them in each tesserad.conf";
	bool bad = false;
	for (unsigned i = 0; i < p->n; i++) {
		unsigned times;
		json_t *x = disk_of(&p->node[i], id, url, &times);
		bad |= !x || !times || times > 1 || num(x, "size") != num(d, "size") || strcmp(str(x, "contents"), str(d, "contents"));
		if (!x)
			row(p, "lun", FAIL, url, remedy, "%s does not have it (%s)", p->node[i].name, id);
		else if (!times)
			row(p, "lun", FAIL, url, "see what the target says to that node's initiator name", "%s cannot open it: %s", p->node[i].name, str(x, "error"));
		else if (times > 1)
			row(p, "lun", FAIL, url, "name each LUN once: several paths are not used", "%s has it %u times (%s)", p->node[i].name, times, id);
		else if (num(x, "size") != num(d, "size"))
			row(p, "lun", FAIL, url, "let that node log in anew", "%lld bytes on %s, %lld elsewhere", num(x, "size"), p->node[i].name, num(d, "size"));
		else if (strcmp(str(x, "contents"), str(d, "contents")))
			row(p, "lun", FAIL, url, "one of them sees another or a stale LUN", "%s finds '%s' on it, others '%s'", p->node[i].name, str(x, "contents"),
			    str(d, "contents"));
	}
	if (!bad)
		row(p, "lun", OK, url, "", "%s, %lld bytes, on %u nodes; carries %s", id, num(d, "size"), p->n, *str(d, "contents") ? str(d, "contents") : "nothing");
}

static void luns(struct flight *p)
{
	json_t *seen = json_object(), *x;
	size_t k;
	for (unsigned i = 0; i < p->n; i++)
		json_array_foreach(json_object_get(p->node[i].f, "disks"), k, x) {
			const char *id = json_is_true(json_object_get(x, "open")) ? identity(x) : str(x, "url");
			if (json_object_get(seen, id))
				continue;
			json_object_set_new(seen, id, json_true());
			json_object_set_new(seen, str(x, "url"), json_true()); /* who cannot open it says so in its row */
			one_lun(p, x);
		}
	if (!json_object_size(seen))
		row(p, "lun", FAIL, "disks", "add lines `disk = URL` to tesserad.conf", "no node has any");
	json_decref(seen);
}

/* As this node found them: it is the disk that fences, whoever asks. */
static void fences(struct flight *p)
{
	static const struct {
		const char *fence;
		enum result r;
		const char *detail, *remedy;
	} rows[] = {
		{"enforces", OK, "a node that was preempted cannot write", ""},
		{"none", WARN, "it has no persistent reservations: a dead node's lease is waited for", "nothing, or a target that has them"},
		{"does not enforce", WARN, "a node that was preempted still writes: a dead node's lease is waited for", "nothing, or a target that fences"},
		{"not tried", WARN, "it carries something, so nothing was tried", "nothing, if that is to stay; `tessera fs create` tries"},
		{"in use", WARN, "somebody is registered on it, so nothing was tried", "look who that is: sg_persist --in --read-keys"},
		{"failed", FAIL, "the trial failed", "see the target's log: this command is needed to fence"},
	};
	json_t *x;
	size_t k, i;
	json_array_foreach(json_object_get(p->node[0].f, "disks"), k, x)
		for (i = 0; i < TS_ARRAY_LEN(rows) && json_is_true(json_object_get(x, "open")); i++)
			if (!strcmp(rows[i].fence, str(x, "fence")))
				row(p, "fencing", rows[i].r, str(x, "url"), rows[i].remedy, "%s%s%s", rows[i].detail, *str(x, "why") ? ": " : "", str(x, "why"));
}

/* ---- corosync ----------------------------------------------------------------------------------------------------------------- */

static const char *addr_in_list(const json_t *cs, long long id)
{
	json_t *x;
	size_t i;
	json_array_foreach(json_object_get(cs, "nodes"), i, x)
		if (num(x, "id") == id)
			return str(x, "addr");
	return NULL;
}

static bool one_corosync(struct flight *p, const struct fact *k)
{
	const json_t *cs = json_object_get(k->f, "corosync"), *first = json_object_get(p->node[0].f, "corosync");
	const char *addr = addr_in_list(cs, num(k->f, "node")), *check = "corosync";
	size_t before = json_array_size(p->rows);
	if (!json_is_true(json_object_get(cs, "there"))) {
		row(p, check, FAIL, k->name, "make it before tesserad starts, or name it with --corosync", "%s: %s", str(cs, "path"), str(cs, "error"));
		return false;
	}
	if (!addr)
		row(p, check, FAIL, k->name, "give the node the nodeid of its tesserad.conf", "node_id %lld is not in its nodelist", num(k->f, "node"));
	else if (!preflight_mtu_of(k->f, addr))
		row(p, check, FAIL, k->name, "put an address of that node there, as numbers", "ring0_addr %s is no address of that node", *addr ? addr : "(none)");
	if (strcmp(str(cs, "cluster"), text(k, "cluster")))
		row(p, check, FAIL, k->name, "make the two agree", "cluster_name is '%s' in corosync.conf and '%s' in tesserad.conf", str(cs, "cluster"), text(k, "cluster"));
	if (!strcmp(str(cs, "cipher"), "none") || !strcmp(str(cs, "hash"), "none"))
		row(p, check, WARN, k->name, "set crypto_cipher and crypto_hash", "its messages are not authenticated: cipher %s, hash %s", str(cs, "cipher"), str(cs, "hash"));
	else if (strcmp(str(cs, "key"), str(first, "key")) || !*str(cs, "key"))
		row(p, check, FAIL, k->name, "copy the key of one node to the others", *str(cs, "key") ? "its key is not this node's" : "its key cannot be read");
	if (num(cs, "token") > num(k->f, "lease_ms"))
		row(p, check, WARN, k->name, "lower token, or raise lease_ms everywhere", "token is %lld ms and lease_ms %lld: a death is noticed by leases only", num(cs, "token"),
		    num(k->f, "lease_ms"));
	if (!json_equal(json_object_get(cs, "nodes"), json_object_get(first, "nodes")) && json_is_true(json_object_get(first, "there")))
		row(p, check, FAIL, k->name, "write the same nodelist on every node", "its nodelist is not this node's");
	return json_array_size(p->rows) == before;
}

static void corosync(struct flight *p)
{
	bool ok = true;
	for (unsigned i = 0; i < p->n; i++)
		ok &= one_corosync(p, &p->node[i]);
	const json_t *cs = json_object_get(p->node[0].f, "corosync");
	if (ok)
		row(p, "corosync", OK, "corosync.conf", "", "the same on %u nodes: %zu in the nodelist, token %lld ms", p->n, json_array_size(json_object_get(cs, "nodes")),
		    num(cs, "token"));
}

/* ---- the whole ---------------------------------------------------------------------------------------------------------------- */

static void progress(const char *step, const char *what)
{
	if (isatty(2))
		fprintf(stderr, "\r\033[K%s%s", step, what);
}

/* Others connect to our port meanwhile, whether a daemon has it or not. */
static pid_t door_open(const struct conf *c)
{
	char err[128];
	pid_t pid = fork();
	if (pid == 0)
		_exit(preflight_listen(c, NULL, LISTEN_S, true, err, sizeof(err)) ? 1 : 0);
	return pid;
}

static void ask_all(struct flight *p, json_t *pos)
{
	json_t *x;
	size_t i;
	json_array_foreach(pos, i, x) {
		struct preflight_peer *q = &p->peer[p->npeers];
		q->addr = json_string_value(x);
		if (preflight_mtu_of(p->node[0].f, q->addr))
			continue; /* this node */
		p->npeers++;
		progress("asking ", q->addr);
		preflight_ask(p->c, q, p->node[0].f);
		if (!q->facts) {
			row(p, q->other_key ? "key" : "answer", FAIL, q->addr,
			    q->other_key ? "copy the cluster key of one node to the others" : "run `tessera preflight --listen` there, and open the port", "%s", q->error);
			continue;
		}
		snprintf(p->node[p->n].name, sizeof(p->node[0].name), "node %lld", num(q->facts, "node"));
		p->node[p->n++].f = q->facts;
	}
}

static void compare(struct flight *p)
{
	versions(p);
	alike(p, "cluster", "cluster", FAIL, "set the same cluster_name everywhere");
	alike(p, "lease", "lease_ms", FAIL, "set the same lease_ms everywhere");
	unlike(p, "identity", "node", FAIL, "give every node a node_id of its own, as in corosync.conf");
	unlike(p, "identity", "initiator", FAIL, "give every node an initiator_name of its own: a target cannot fence one of two with one name");
	unlike(p, "identity", "host", WARN, "give every machine a name of its own");
	unlike(p, "identity", "machine_id", WARN, "on a cloned machine: rm /etc/machine-id; systemd-machine-id-setup");
	for (unsigned i = 0; i < p->npeers; i++)
		if (p->peer[i].facts) {
			char name[80];
			snprintf(name, sizeof(name), "node %lld", num(p->peer[i].facts, "node"));
			clocks(p, &p->peer[i], name);
			mtu(p, &p->peer[i], name);
		}
	progress("trying ports", "");
	ports(p);
	luns(p);
	fences(p);
	corosync(p);
	progress("", "");
}

static int fly(const struct conf *c, json_t *pos, const char *cs, bool probe, json_t **rows)
{
	static struct flight p;
	p = (struct flight){.c = c, .rows = json_array(), .n = 1};
	progress("looking at disks", "");
	snprintf(p.node[0].name, sizeof(p.node[0].name), "node %u", c->node_id);
	pid_t door = door_open(c);
	p.node[0].f = preflight_facts(c, cs, probe);
	ask_all(&p, pos);
	compare(&p);
	if (door > 0) {
		kill(door, SIGTERM);
		waitpid(door, NULL, 0);
	}
	json_t *x;
	size_t i;
	int status = VERB_DONE;
	json_array_foreach(p.rows, i, x) {
		int s = !strcmp(str(x, "result"), words[FAIL]) ? VERB_ERROR : !strcmp(str(x, "result"), words[WARN]) ? VERB_WARNING : VERB_DONE;
		status = TS_MAX(status, s);
	}
	*rows = p.rows;
	return status;
}

int cli_preflight(const struct verb *v, json_t *pos, json_t *opt)
{
	static struct conf c;
	const char *path = cli_file(opt, "config"), *cs = cli_file(opt, "corosync"), *s = str(opt, "seconds");
	bool listens = json_object_get(opt, "listen") != NULL;
	char err[512];
	json_t *rows;
	if (listens ? json_array_size(pos) : *s != 0)
		return fail(VERB_USAGE, "preflight: --listen takes --seconds and no address; see `tessera help preflight`");
	ts_log_level_set(TS_LOG_ERR);
	if (sodium_init() < 0 || conf_load(path, &c, err, sizeof(err)))
		return fail(VERB_REFUSED, "preflight: %s", err);
	if (listens) {
		json_t *facts = preflight_facts(&c, cs, false);
		return preflight_listen(&c, facts, *s ? (unsigned)atoi(s) : LISTEN_S, false, err, sizeof(err)) ? fail(VERB_REFUSED, "%s", err) : 0;
	}
	int rc = fly(&c, pos, cs, !json_object_get(opt, "no-probe"), &rows);
	if (want_json) {
		json_dumpf(rows, stdout, JSON_INDENT(2));
		putchar('\n');
	} else
		cli_print(v, rows);
	json_decref(rows);
	return rc;
}
