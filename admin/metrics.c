/* SPDX-License-Identifier: Apache-2.0 */
/* GET /metrics in the Prometheus text format, and the page of web.c, by libmicrohttpd without a thread of its own: its epoll descriptor is one of the loop's, so
 * the text is made on the executor, from looks that do not wait. Must never happen: another thread that reads what is shown here,
 * a sample without its family, or two with the same labels. */
#include "admin/daemon.h"
#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>

#define CONNECTIONS 16
#define IDLE_S	    10
#define TEXT_MAX    (8u << 20)

struct metrics {
	struct daemon *d;
	struct MHD_Daemon *http;
	int fd;
	struct ts_timer tick;
	uint64_t served;
};

/* ---- text ------------------------------------------------------------------------------------------------------------------- */

struct text {
	char *p;
	size_t len, room;
	bool bad;
};

static void put(struct text *t, const char *fmt, ...) TS_PRINTF(2, 3);
static void put(struct text *t, const char *fmt, ...)
{
	for (int i = 0; i < 2 && !t->bad; i++) {
		va_list ap;
		va_start(ap, fmt);
		int n = vsnprintf(t->p + t->len, t->room - t->len, fmt, ap);
		va_end(ap);
		if (n >= 0 && (size_t)n < t->room - t->len) {
			t->len += (size_t)n;
			return;
		}
		size_t room = t->room * 2 + (size_t)TS_MAX(n, 0);
		char *p = n < 0 || room > TEXT_MAX ? NULL : realloc(t->p, room);
		t->bad = !p;
		if (p) {
			t->p = p;
			t->room = room;
		}
	}
}

/* A label's value: quotes, backslashes and line ends are escaped, and what is no UTF-8 never came here. */
static const char *label(const char *s, char buf[512])
{
	size_t n = 0;
	for (; *s && n < 508; s++) {
		if (*s == '"' || *s == '\\' || *s == '\n')
			buf[n++] = '\\';
		buf[n++] = *s == '\n' ? 'n' : *s;
	}
	buf[n] = 0;
	return buf;
}

static void family(struct text *t, const char *name, const char *type, const char *help)
{
	put(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void hist(struct text *t, const char *name, const char *labels, const struct ts_hist *h)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i + 1 < TS_HIST_BUCKETS; i++) {
		sum += h->bucket[i];
		put(t, "%s_bucket{%s,le=\"%.9g\"} %llu\n", name, labels, (double)ts_hist_bound_us(i) / 1e6, (unsigned long long)sum);
	}
	put(t, "%s_bucket{%s,le=\"+Inf\"} %llu\n%s_sum{%s} %.9g\n%s_count{%s} %llu\n", name, labels, (unsigned long long)h->count, name, labels,
	    (double)h->sum_ns / 1e9, name, labels, (unsigned long long)h->count);
}

/* ---- this node -------------------------------------------------------------------------------------------------------------- */

static void node_text(struct text *t, struct daemon *d)
{
	const struct quorum_view *v = quorum_view_get(d->quorum);
	uint64_t now = ts_exec_now(d->exec), until = quorum_lease_until_ns(d->quorum);
	unsigned count[SEV_COUNT] = {0};
	char a[512], b[512];
	family(t, "tessera_info", "gauge", "This daemon; always 1.");
	put(t, "tessera_info{version=\"%s\",cluster=\"%s\",node=\"%u\"} 1\n", TESSERA_VERSION, label(d->conf.cluster_name, a), d->conf.node_id);
	const struct {
		const char *name, *help;
		double value;
	} rows[] = {
		{"tessera_ready", "1 when the state is ready.", !strcmp(daemon_state(d), "ready")},
		{"tessera_uptime_seconds", "Since this life of the daemon began.", (double)(now - d->started_ns) / 1e9},
		{"tessera_quorate", "1 in a quorate view.", v->quorate && v->nmembers},
		{"tessera_view_members", "Daemons in the view.", v->nmembers},
		{"tessera_view_number", "Number of the view; it only grows.", (double)v->number},
		{"tessera_lease_left_seconds", "What is left of this node's lease.", until > now ? (double)(until - now) / 1e9 : 0},
		{"tessera_fibers", "Requests and workers alive in the daemon.", (double)ts_fiber_count(d->exec)},
	};
	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++) {
		family(t, rows[i].name, "gauge", rows[i].help);
		put(t, "%s %.17g\n", rows[i].name, rows[i].value);
	}
	for (unsigned i = 0; i < d->health.nrows; i++)
		count[conditions[d->health.rows[i].id].severity]++;
	family(t, "tessera_health_conditions", "gauge", "Conditions of `tessera health` that are true now.");
	for (unsigned i = 0; i < SEV_COUNT; i++)
		put(t, "tessera_health_conditions{severity=\"%s\"} %u\n", severity_name((enum severity)i), count[i]);
	family(t, "tessera_condition", "gauge", "A condition that is true now; always 1.");
	for (unsigned i = 0; i < d->health.nrows; i++)
		put(t, "tessera_condition{condition=\"%s\",severity=\"%s\",object=\"%s\"} 1\n", conditions[d->health.rows[i].id].name,
		    severity_name(conditions[d->health.rows[i].id].severity), label(d->health.rows[i].object, b));
	family(t, "tessera_events_total", "counter", "Events of this life, by name.");
	for (unsigned i = 0; d->events && i < EV_COUNT; i++)
		put(t, "tessera_events_total{event=\"%s\"} %llu\n", event_kinds[i].name, (unsigned long long)d->events->count[i]);
}

static void one_peer(void *arg, const struct net_peer_info *i)
{
	put(arg, "tessera_net_peer_connected{peer=\"%u\"} %d\n", i->node, i->connected);
}

static void net_text(struct text *t, struct daemon *d)
{
	struct net_stats n = {0};
	net_stats_get(d->net, &n);
	const struct {
		const char *name, *help;
		uint64_t value;
	} rows[] = {
		{"tessera_net_frames_sent_total", "Frames sent to other nodes.", n.frames_sent},
		{"tessera_net_frames_received_total", "Frames received from other nodes.", n.frames_received},
		{"tessera_net_bytes_sent_total", "Bytes sent to other nodes.", n.bytes_sent},
		{"tessera_net_bytes_received_total", "Bytes received from other nodes.", n.bytes_received},
		{"tessera_net_resent_total", "Frames sent again on a new connection.", n.resent},
		{"tessera_net_reconnects_total", "Connections made again.", n.reconnects},
	};
	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++) {
		family(t, rows[i].name, "counter", rows[i].help);
		put(t, "%s %llu\n", rows[i].name, (unsigned long long)rows[i].value);
	}
	family(t, "tessera_net_peer_connected", "gauge", "1 while there is a connection to that member.");
	net_tcp_each_peer(d->net, one_peer, t);
}

/* ---- disks ------------------------------------------------------------------------------------------------------------------ */

static uint64_t disk_reads(const struct nsd_stats *s) { return s->reads; }
static uint64_t disk_writes(const struct nsd_stats *s) { return s->writes; }
static uint64_t disk_flushes(const struct nsd_stats *s) { return s->flushes; }
static uint64_t disk_read_bytes(const struct nsd_stats *s) { return s->read_bytes; }
static uint64_t disk_write_bytes(const struct nsd_stats *s) { return s->write_bytes; }
static uint64_t disk_errors(const struct nsd_stats *s) { return s->errors; }
static uint64_t disk_resends(const struct nsd_stats *s) { return s->resends; }
static uint64_t disk_in_flight(const struct nsd_stats *s) { return s->in_flight; }

static void disks_text(struct text *t, struct daemon *d)
{
	static const struct {
		const char *name, *type, *help;
		uint64_t (*get)(const struct nsd_stats *s);
	} rows[] = {
		{"tessera_disk_reads_total", "counter", "Reads that ended well.", disk_reads},
		{"tessera_disk_writes_total", "counter", "Writes that ended well.", disk_writes},
		{"tessera_disk_flushes_total", "counter", "Flushes that ended well.", disk_flushes},
		{"tessera_disk_read_bytes_total", "counter", "Bytes read.", disk_read_bytes},
		{"tessera_disk_written_bytes_total", "counter", "Bytes written.", disk_write_bytes},
		{"tessera_disk_errors_total", "counter", "Requests that failed.", disk_errors},
		{"tessera_disk_resends_total", "counter", "Requests sent again in a new session.", disk_resends},
		{"tessera_disk_in_flight", "gauge", "Requests under way.", disk_in_flight},
	};
	struct nsd_stats s;
	char a[512], labels[560];
	family(t, "tessera_disk_open", "gauge", "1 while the disk is open on this node.");
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		put(t, "tessera_disk_open{disk=\"%s\"} %d\n", label(disk_shown(k), a), k->state == DISK_OPEN);
	}
	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++) {
		family(t, rows[i].name, rows[i].type, rows[i].help);
		ts_list_for(l, &d->disks) {
			struct disk *k = ts_list_entry(l, struct disk, link);
			if (k->state != DISK_OPEN)
				continue;
			nsd_stats_get(k->dev, &s);
			put(t, "%s{disk=\"%s\"} %llu\n", rows[i].name, label(disk_shown(k), a), (unsigned long long)rows[i].get(&s));
		}
	}
	family(t, "tessera_disk_seconds", "histogram", "From submission to completion.");
	ts_list_for(l, &d->disks) {
		struct disk *k = ts_list_entry(l, struct disk, link);
		if (k->state != DISK_OPEN)
			continue;
		nsd_stats_get(k->dev, &s);
		const struct {
			const char *op;
			const struct ts_hist *h;
		} ops[] = {{"read", &s.read_time}, {"write", &s.write_time}, {"flush", &s.flush_time}};
		for (size_t i = 0; i < TS_ARRAY_LEN(ops); i++) {
			snprintf(labels, sizeof(labels), "disk=\"%s\",op=\"%s\"", label(disk_shown(k), a), ops[i].op);
			hist(t, "tessera_disk_seconds", labels, ops[i].h);
		}
	}
}

/* ---- file systems ----------------------------------------------------------------------------------------------------------- */

struct all { /* of one mount, collected once */
	const char *fs;
	const struct mount *m;
	struct fs_stats fs_st;
	struct tok_stats tok;
	struct tfuse_stats fuse;
	unsigned pending;
	uint64_t recovered;
};

#define FIELD(fn, expr)                              \
	static uint64_t fn(const struct all *x) \
	{                                            \
		return expr;                         \
	}
FIELD(f_in_flight, x->fuse.in_flight)
FIELD(f_inval_attr, x->fuse.inval_attr)
FIELD(f_inval_data, x->fuse.inval_data)
FIELD(f_inval_names, x->fuse.inval_names)
FIELD(f_bounced, x->fuse.bounced)
FIELD(f_read, x->fs_st.data_read_bytes)
FIELD(f_written, x->fs_st.data_write_bytes)
FIELD(f_dirty, x->fs_st.dirty_bytes)
FIELD(f_page_hits, x->fs_st.page_hits)
FIELD(f_page_misses, x->fs_st.page_misses)
FIELD(f_size, x->m->vfs.f_blocks * x->m->vfs.f_frsize)
FIELD(f_free, x->m->vfs.f_bavail * x->m->vfs.f_frsize)
FIELD(f_inodes, x->m->vfs.f_files)
FIELD(f_inodes_free, x->m->vfs.f_favail)
FIELD(f_log_forces, x->fs_st.log_forces)
FIELD(f_log_bytes, x->fs_st.log_bytes)
FIELD(f_log_used, x->fs_st.log_used_bytes)
FIELD(f_log_size, x->fs_st.log_size_bytes)
FIELD(f_tx, x->fs_st.tx_commits)
FIELD(f_home, x->fs_st.home_writes)
FIELD(f_checkpoints, x->fs_st.checkpoints)
FIELD(f_held, x->tok.held)
FIELD(f_mastered, x->tok.mastered)
FIELD(f_pins, x->tok.pins)
FIELD(f_pin_hits, x->tok.pin_hits)
FIELD(f_requests, x->tok.requests_sent)
FIELD(f_grants, x->tok.grants)
FIELD(f_revokes_in, x->tok.revokes_received)
FIELD(f_revokes_out, x->tok.revokes_sent)
FIELD(f_ahead_asked, x->tok.ahead_asked)
FIELD(f_ahead_used, x->tok.ahead_used)
FIELD(f_ahead_refused, x->tok.ahead_refused)
FIELD(f_ahead_lost, x->tok.ahead_lost)
FIELD(f_views, x->tok.view_changes)
FIELD(f_pending, x->pending)
FIELD(f_recovered, x->recovered)

static const struct {
	const char *name, *type, *help;
	uint64_t (*get)(const struct all *x);
} fs_rows[] = {
	{"tessera_fuse_in_flight", "gauge", "Requests of the kernel that are not answered.", f_in_flight},
	{"tessera_fuse_invalidated_attributes_total", "counter", "Inodes whose attributes the kernel was told to drop.", f_inval_attr},
	{"tessera_fuse_invalidated_data_total", "counter", "Inodes whose pages the kernel was told to drop.", f_inval_data},
	{"tessera_fuse_invalidated_names_total", "counter", "Names that the kernel was told to drop.", f_inval_names},
	{"tessera_fuse_bounced_total", "counter", "Requests that the kernel was made to begin anew.", f_bounced},
	{"tessera_fs_read_bytes_total", "counter", "File data read from disks.", f_read},
	{"tessera_fs_written_bytes_total", "counter", "File data written to disks.", f_written},
	{"tessera_fs_dirty_bytes", "gauge", "Changed and not yet on disk.", f_dirty},
	{"tessera_fs_page_hits_total", "counter", "Pages found in the pool.", f_page_hits},
	{"tessera_fs_page_misses_total", "counter", "Pages read from disks.", f_page_misses},
	{"tessera_fs_size_bytes", "gauge", "Room for data and metadata.", f_size},
	{"tessera_fs_free_bytes", "gauge", "Room left for data.", f_free},
	{"tessera_fs_inodes", "gauge", "Inodes there can be.", f_inodes},
	{"tessera_fs_inodes_free", "gauge", "Inodes left.", f_inodes_free},
	{"tessera_log_forces_total", "counter", "Writes and flushes of the log.", f_log_forces},
	{"tessera_log_bytes_total", "counter", "Bytes written to the log.", f_log_bytes},
	{"tessera_log_used_bytes", "gauge", "Of the log, not yet at home.", f_log_used},
	{"tessera_log_size_bytes", "gauge", "Size of the log.", f_log_size},
	{"tessera_log_transactions_total", "counter", "Transactions committed.", f_tx},
	{"tessera_log_home_writes_total", "counter", "Metadata blocks written to their places.", f_home},
	{"tessera_log_checkpoints_total", "counter", "Checkpoints.", f_checkpoints},
	{"tessera_tokens_held", "gauge", "Tokens this node holds.", f_held},
	{"tessera_tokens_mastered", "gauge", "Resources this node decides about.", f_mastered},
	{"tessera_tokens_pins_total", "counter", "Uses of tokens.", f_pins},
	{"tessera_tokens_pin_hits_total", "counter", "Uses of tokens that were here already.", f_pin_hits},
	{"tessera_dlm_requests_sent_total", "counter", "Requests for tokens sent to masters.", f_requests},
	{"tessera_dlm_grants_total", "counter", "Grants.", f_grants},
	{"tessera_dlm_revokes_received_total", "counter", "Tokens that this node was asked to give back.", f_revokes_in},
	{"tessera_dlm_revokes_sent_total", "counter", "Tokens that this node asked others to give back.", f_revokes_out},
	{"tessera_tokens_ahead_asked_total", "counter", "Tokens asked for before anybody needed them.", f_ahead_asked},
	{"tessera_tokens_ahead_used_total", "counter", "Of these, used.", f_ahead_used},
	{"tessera_tokens_ahead_refused_total", "counter", "Of these, kept by another node that has use for them.", f_ahead_refused},
	{"tessera_tokens_ahead_lost_total", "counter", "Of these, gone again before they were used.", f_ahead_lost},
	{"tessera_dlm_view_changes_total", "counter", "Changes of the members of the file system.", f_views},
	{"tessera_recovery_pending", "gauge", "Dead incarnations whose log is not replayed yet.", f_pending},
	{"tessera_recovery_done_total", "counter", "Dead incarnations that this node has recovered.", f_recovered},
};

static struct all *collect(struct daemon *d, unsigned *n)
{
	unsigned room = 0;
	ts_list_for(l, &d->mounts)
		room++;
	struct all *v = ts_alloc((room + 1) * sizeof(*v));
	*n = 0;
	ts_list_for(l, &d->mounts) {
		struct mount *m = ts_list_entry(l, struct mount, link);
		const struct quorum_group_view *g = quorum_group_get(d->quorum, m->group);
		if (!v || m->state != MOUNT_LIVE || !m->fs || !m->tf)
			continue;
		struct all *x = &v[(*n)++];
		struct fs_recovery_info rec;
		x->fs = m->name;
		x->m = m;
		x->pending = g ? g->npending : 0;
		fs_recovery_get(m->fs, &rec);
		x->recovered = rec.done;
		fs_stats_get(m->fs, &x->fs_st);
		tok_stats_get(fs_tokens(m->fs), &x->tok);
		tfuse_stats_get(m->tf, &x->fuse);
	}
	return v;
}

static void fs_text(struct text *t, struct daemon *d)
{
	unsigned n;
	struct all *v = collect(d, &n);
	char labels[128];
	if (!v) {
		t->bad = true;
		return;
	}
	for (size_t i = 0; i < TS_ARRAY_LEN(fs_rows); i++) {
		family(t, fs_rows[i].name, fs_rows[i].type, fs_rows[i].help);
		for (unsigned k = 0; k < n; k++)
			put(t, "%s{fs=\"%s\"} %llu\n", fs_rows[i].name, v[k].fs, (unsigned long long)fs_rows[i].get(&v[k]));
	}
	family(t, "tessera_fuse_requests_total", "counter", "Requests of the kernel, by operation.");
	for (unsigned k = 0; k < n; k++)
		for (unsigned op = 0; op < TS_ARRAY_LEN(v[k].fuse.op_count); op++)
			if (tfuse_op_name(op) && v[k].fuse.op_count[op])
				put(t, "tessera_fuse_requests_total{fs=\"%s\",op=\"%s\"} %llu\n", v[k].fs, tfuse_op_name(op),
				    (unsigned long long)v[k].fuse.op_count[op]);
	family(t, "tessera_fuse_op_seconds", "histogram", "From the arrival of a request to its end.");
	for (unsigned k = 0; k < n; k++)
		for (unsigned op = 0; op < TS_ARRAY_LEN(v[k].fuse.time); op++)
			if (tfuse_op_name(op) && v[k].fuse.time[op].count) {
				snprintf(labels, sizeof(labels), "fs=\"%s\",op=\"%s\"", v[k].fs, tfuse_op_name(op));
				hist(t, "tessera_fuse_op_seconds", labels, &v[k].fuse.time[op]);
			}
	family(t, "tessera_log_force_seconds", "histogram", "Writing and flushing the log.");
	for (unsigned k = 0; k < n; k++) {
		snprintf(labels, sizeof(labels), "fs=\"%s\"", v[k].fs);
		hist(t, "tessera_log_force_seconds", labels, &v[k].fs_st.force_time);
	}
	family(t, "tessera_token_wait_seconds", "histogram", "Waits for tokens that were not here.");
	for (unsigned k = 0; k < n; k++) {
		snprintf(labels, sizeof(labels), "fs=\"%s\"", v[k].fs);
		hist(t, "tessera_token_wait_seconds", labels, &v[k].tok.wait_time);
	}
	ts_free(v);
}

char *metrics_text(struct daemon *d, size_t *len)
{
	struct text t = {.p = malloc(65536), .room = 65536};
	t.bad = !t.p;
	node_text(&t, d);
	net_text(&t, d);
	disks_text(&t, d);
	fs_text(&t, d);
	if (t.bad) {
		free(t.p);
		return NULL;
	}
	*len = t.len;
	return t.p;
}

/* ---- HTTP ------------------------------------------------------------------------------------------------------------------- */

/* Of every answer: nothing from elsewhere is loaded, nothing is framed, sent on, guessed or kept. */
static const char *const headers[][2] = {
	{"Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
	{"X-Content-Type-Options", "nosniff"}, {"X-Frame-Options", "DENY"}, {"Referrer-Policy", "no-referrer"}, {"Cache-Control", "no-store"},
	{"Cross-Origin-Resource-Policy", "same-origin"},
};

static enum MHD_Result reply(struct MHD_Connection *c, unsigned status, char *text, size_t len, enum MHD_ResponseMemoryMode mode, const char *type)
{
	struct MHD_Response *r = MHD_create_response_from_buffer(len, text, mode);
	if (!r)
		return MHD_NO;
	enum MHD_Result rc = MHD_add_response_header(r, "Content-Type", type);
	for (size_t i = 0; rc == MHD_YES && i < TS_ARRAY_LEN(headers); i++)
		rc = MHD_add_response_header(r, headers[i][0], headers[i][1]);
	if (rc == MHD_YES)
		rc = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return rc;
}

/* The page, if there is one here: *rc is what came of it. */
static bool page(struct metrics *m, struct MHD_Connection *c, const char *url, enum MHD_Result *rc)
{
	static char elsewhere[] = "the page is served to whoever names this node by its address\n";
	const struct web_file *f = web_file(url);
	const char *why, *host = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Host");
	bool json = !strcmp(url, "/web.json");
	if ((!f && !json) || !web_on(m->d, &why))
		return false;
	if (!web_host_ok(host))
		*rc = reply(c, MHD_HTTP_FORBIDDEN, elsewhere, sizeof(elsewhere) - 1, MHD_RESPMEM_PERSISTENT, "text/plain");
	else if (f)
		*rc = reply(c, MHD_HTTP_OK, (char *)(uintptr_t)f->data, (size_t)(f->end - f->data), MHD_RESPMEM_PERSISTENT, f->type);
	else {
		size_t len;
		const char *text = web_text(m->d, &len);
		*rc = reply(c, MHD_HTTP_OK, (char *)(uintptr_t)text, len, MHD_RESPMEM_MUST_COPY, "application/json");
	}
	return true;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url, const char *method, const char *version, const char *body,
				  size_t *body_len, void **state)
{
	static char seen, no_method[] = "only GET\n", no_page[] = "see /metrics\n", no_text[] = "out of memory\n";
	struct metrics *m = arg;
	bool get = !strcmp(method, "GET") || !strcmp(method, "HEAD");
	if (!*state) { /* headers only so far */
		*state = &seen;
		return MHD_YES;
	}
	*body_len = 0;
	if (!get)
		return reply(c, MHD_HTTP_METHOD_NOT_ALLOWED, no_method, sizeof(no_method) - 1, MHD_RESPMEM_PERSISTENT, "text/plain");
	enum MHD_Result rc;
	if (page(m, c, url, &rc))
		return rc;
	if (strcmp(url, "/metrics"))
		return reply(c, MHD_HTTP_NOT_FOUND, no_page, sizeof(no_page) - 1, MHD_RESPMEM_PERSISTENT, "text/plain");
	size_t len = 0;
	char *text = metrics_text(m->d, &len);
	if (!text)
		return reply(c, MHD_HTTP_SERVICE_UNAVAILABLE, no_text, sizeof(no_text) - 1, MHD_RESPMEM_PERSISTENT, "text/plain");
	m->served++;
	return reply(c, MHD_HTTP_OK, text, len, MHD_RESPMEM_MUST_FREE, "text/plain; version=0.0.4; charset=utf-8");
}

static void run(void *arg)
{
	struct metrics *m = arg;
	if (MHD_run(m->http) != MHD_YES)
		ts_debug("metrics: the HTTP server did not run");
	ts_timer_arm(m->d->exec, &m->tick, ts_exec_now(m->d->exec) + TS_NS_PER_S, run, m); /* idle connections end */
}

static void readable(void *arg, uint32_t events)
{
	run(arg);
}

void metrics_close(struct daemon *d)
{
	struct metrics *m = d->metrics;
	if (!m)
		return;
	d->metrics = NULL;
	ts_timer_cancel(&m->tick);
	ts_loop_fd_del(d->loop, m->fd);
	MHD_stop_daemon(m->http);
	ts_free(m);
}

static int address(const char *text, struct sockaddr_in *a)
{
	char host[48];
	const char *colon = strrchr(text, ':');
	if (!colon || (size_t)(colon - text) >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = 0;
	*a = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10))};
	return inet_pton(AF_INET, host, &a->sin_addr) == 1 ? 0 : -EINVAL;
}

int metrics_open(struct daemon *d, const char *where, char *errmsg, size_t errlen)
{
	struct sockaddr_in a;
	if (!strcmp(where, "off")) {
		metrics_close(d);
		return 0;
	}
	int rc = address(where, &a);
	struct metrics *m = rc ? NULL : ts_alloc(sizeof(*m));
	if (!m) {
		snprintf(errmsg, errlen, "metrics = %s: %s", where, rc ? "not ADDRESS:PORT" : "out of memory");
		return rc ? rc : -ENOMEM;
	}
	m->d = d;
	errno = 0;
	m->http = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, m, MHD_OPTION_SOCK_ADDR, &a, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS,
				   MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(32 << 10),
				   MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
	if (!m->http) {
		rc = errno ? -errno : -EADDRINUSE;
		snprintf(errmsg, errlen, "metrics = %s: %s; choose another address or port, or `metrics = off`", where, strerror(-rc));
		ts_free(m);
		return rc;
	}
	const union MHD_DaemonInfo *i = MHD_get_daemon_info(m->http, MHD_DAEMON_INFO_EPOLL_FD);
	m->fd = i ? i->epoll_fd : -1;
	rc = m->fd < 0 ? -EIO : ts_loop_fd_add(d->loop, m->fd, EPOLLIN, readable, m);
	if (rc) {
		snprintf(errmsg, errlen, "metrics = %s: %s", where, strerror(-rc));
		MHD_stop_daemon(m->http);
		ts_free(m);
		return rc;
	}
	metrics_close(d); /* the old one, now that the new one answers */
	d->metrics = m;
	ts_timer_arm(d->exec, &m->tick, ts_exec_now(d->exec) + TS_NS_PER_S, run, m);
	return 0;
}
