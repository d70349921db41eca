/* SPDX-License-Identifier: Apache-2.0 */
/* The page of `tessera web`, for eyes only: three files that are built in, and /web.json, which a fiber makes anew every 2 s while somebody looks:
 * what this node knows, and what the others say within WAIT_NS. A request never waits: it gets the newest text. Must never happen: anything
 * changed by a request, or a question to other nodes while nobody looks. */
#include "admin/daemon.h"
#include <arpa/inet.h>
#include <stdio.h>

#define EVERY_NS  (2 * TS_NS_PER_S)
#define LOOKED_NS (10 * TS_NS_PER_S) /* nobody has asked for so long: it rests */
#define WAIT_NS	  (300 * TS_NS_PER_MS)
#define ROWS	  40

/* The files as they are in the source. */
#define EMBED(name, path)                                                                                  \
	__asm__(".section .rodata\n.global web_" name "\n.global web_" name "_end\nweb_" name ":\n.incbin \"" path "\"\nweb_" name \
		"_end:\n.byte 0\n.previous\n")
EMBED("html", TESSERA_WEB_DIR "/index.html");
EMBED("js", TESSERA_WEB_DIR "/web.js");
EMBED("css", TESSERA_WEB_DIR "/web.css");
extern const char web_html[], web_html_end[], web_js[], web_js_end[], web_css[], web_css_end[];

static const struct web_file files[] = {
	{"/", "text/html; charset=utf-8", web_html, web_html_end},
	{"/web.js", "text/javascript; charset=utf-8", web_js, web_js_end},
	{"/web.css", "text/css; charset=utf-8", web_css, web_css_end},
};

const struct web_file *web_file(const char *url)
{
	for (size_t i = 0; i < TS_ARRAY_LEN(files); i++)
		if (!strcmp(files[i].url, url))
			return &files[i];
	return NULL;
}

/* Off beyond the loopback, unless the configuration says otherwise. */
bool web_on(const struct daemon *d, const char **why)
{
	unsigned a = 0;
	bool local = sscanf(d->conf.metrics, "%u.", &a) == 1 && a == 127;
	*why = !strcmp(d->conf.metrics, "off") ? "`metrics = off`: nothing is served" :
	       !strcmp(d->conf.web, "no")      ? "`web = no`" :
	       !strcmp(d->conf.web, "local") && !local ? "`web = local`, and `metrics` is an address beyond the loopback" :
						     "";
	return !**why;
}

/* By a name, a page from elsewhere could have itself sent to us (DNS rebinding): numbers and localhost only. */
bool web_host_ok(const char *host)
{
	char name[64];
	struct in_addr a;
	size_t n = host ? strcspn(host, ":") : 0;
	if (!n || n >= sizeof(name))
		return false;
	memcpy(name, host, n);
	name[n] = 0;
	return !strcmp(name, "localhost") || inet_pton(AF_INET, name, &a) == 1;
}

json_t *web_json(struct daemon *d)
{
	const char *why;
	bool on = web_on(d, &why), off = !strcmp(d->conf.metrics, "off");
	return json_pack("{s:i,s:b,s:o,s:s}", "node", (int)d->conf.node_id, "on", on, "url", off ? json_string("") : json_sprintf("http://%s/", d->conf.metrics), "why", why);
}

/* ---- the text ----------------------------------------------------------------------------------------------------------------- */

/* What every member says to a verb that only looks; who does not answer is left out. */
static json_t *of_all(struct daemon *d, const char *verb)
{
	unsigned nodes[QUORUM_MAX_NODES], n = route_members(d, nodes);
	json_t *pos = json_array(), *opt = json_object(), *rows = json_array(), *x;
	json_t *list = route_ask(d, verb_by_name(verb), pos, opt, nodes, n, WAIT_NS);
	size_t i;
	json_array_foreach(list, i, x)
		if (json_is_true(json_object_get(x, "ok")) && json_is_object(json_object_get(x, "data")))
			json_array_append(rows, json_object_get(x, "data"));
	json_decref(list);
	json_decref(pos);
	json_decref(opt);
	return rows;
}

/* As statfs was answered last: nobody is asked. */
static json_t *space(struct daemon *d)
{
	json_t *rows = json_array();
	ts_list_for(l, &d->mounts) {
		const struct mount *m = ts_list_entry(l, struct mount, link);
		if (m->vfs_ns)
			json_array_append_new(rows, json_pack("{s:s,s:I,s:I}", "name", m->name, "size_bytes", (json_int_t)(m->vfs.f_blocks * m->vfs.f_frsize), "used_bytes",
							      (json_int_t)((m->vfs.f_blocks - m->vfs.f_bfree) * m->vfs.f_frsize)));
	}
	return rows;
}

static void make(struct daemon *d)
{
	struct token_filter f = {.limit = ROWS};
	struct web *w = &d->web;
	json_t *o = json_object();
	const struct {
		const char *key;
		json_t *value;
	} parts[] = {
		{"nodes", cluster_status(d)}, {"health", of_all(d, "health")}, {"counters", of_all(d, "diag counters")}, /* these three wait */
		{"quorum", quorum_json(d)},   {"disks", status_disks(d)},      {"fs", status_fs_list(d)},		 {"space", space(d)},
		{"waiters", diag_waiters(d, true)}, {"tokens", diag_tokens(d, &f)},   {"locks", diag_locks(d, NULL, ROWS)},	 {"events", events_json(d, 0, 30, 0)},
		{"cluster", json_string(d->conf.cluster_name)}, {"node", json_integer(d->conf.node_id)}, {"state", json_string(daemon_state(d))},
		{"version", json_string(TESSERA_VERSION)}, {"time_ms", json_integer((json_int_t)(ts_wall_ns(ts_exec_env(d->exec)) / TS_NS_PER_MS))},
	};
	for (size_t i = 0; i < TS_ARRAY_LEN(parts); i++)
		json_object_set_new(o, parts[i].key, parts[i].value);
	char *text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	if (!text)
		return;
	free(w->text);
	w->text = text;
	w->len = strlen(text);
}

static void web_fiber(void *arg)
{
	struct daemon *d = arg;
	struct web *w = &d->web;
	while (!d->stopping && !d->excluded) {
		uint64_t now = ts_exec_now(d->exec);
		if (now > w->wanted_ns + LOOKED_NS)
			break;
		make(d);
		ts_sleep_until(now + EVERY_NS);
	}
	free(w->text); /* it would be old when somebody comes */
	w->text = NULL;
	w->running = false;
}

const char *web_text(struct daemon *d, size_t *len)
{
	static const char collecting[] = "{\"collecting\": true}";
	struct web *w = &d->web;
	w->wanted_ns = ts_exec_now(d->exec);
	if (!w->running && !d->stopping && !d->excluded)
		w->running = ts_fiber_spawn(d->exec, "web page", web_fiber, d) == 0;
	*len = w->text ? w->len : sizeof(collecting) - 1;
	return w->text ? w->text : collecting;
}
