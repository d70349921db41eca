/* SPDX-License-Identifier: Apache-2.0 */
/* Job: requests to the daemon's socket, as text or as a verb with any arguments, in a daemon that has one file system on two disks and
 * a quorum of its own. Nothing outside is touched: opening other disks, mount(2) and umount(2) are refused by wrappers here.
 * Checked beside memory: every request that is a line gets one answer that is JSON and says ok or an error. */
#include "admin/daemon.h"
#include "tests/fuzz/image.h"

#include <stdio.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct {
	struct daemon d;
	struct fsh *h;
	int fd;
	char dir[32];
} w;
static struct quorum_view the_view = {.number = 3, .quorate = true, .nmembers = 1, .members = {{.node = 1, .incarnation = 1001, .addr = "10.0.0.1"}}};

/* ---- what must not happen to this machine -------------------------------------------------------------------------------- */

int __wrap_nsd_open(const struct nsd_open_args *args, struct nsd_dev **out, char *errmsg, size_t errlen);
int __wrap_nsd_open(const struct nsd_open_args *args, struct nsd_dev **out, char *errmsg, size_t errlen)
{
	snprintf(errmsg, errlen, "%s: not in a test", args->url);
	return -ENOENT;
}
int __wrap_mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
int __wrap_mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data)
{
	errno = EPERM;
	return -1;
}
int __wrap_umount2(const char *target, int flags);
int __wrap_umount2(const char *target, int flags)
{
	errno = EINVAL;
	return -1;
}
const struct quorum_times quorum_times_default = {.lease_ms = 2000, .renew_ms = 400, .margin_ms = 500, .settle_ms = 150};
bool quorum_machine_up(const struct quorum *q, unsigned node)
{
	return node == 1;
}
int quorum_evict(struct quorum *q, unsigned node, uint64_t incarnation, const char *why)
{
	return -ENOENT; /* there is nobody else */
}
void quorum_look_get(const struct quorum *q, struct quorum_look *out)
{
	*out = (struct quorum_look){.phase = "in a view", .daemons = 1, .needed = 1};
}
uint64_t quorum_heard_ns(const struct quorum *q, unsigned node, uint64_t incarnation)
{
	return 0;
}
void quorum_info_get(const struct quorum *q, struct quorum_info *out)
{
	*out = (struct quorum_info){.quorate = true, .by = QUORUM_BY_MAJORITY, .expected = 2, .needed = 2, .daemons = 2, .ring_quorate = true};
}
bool quorum_node_configured(const struct quorum *q, unsigned node)
{
	return node <= 2;
}
int quorum_force(struct quorum *q)
{
	return -EALREADY;
}
int quorum_tie_set(struct quorum *q, const uint8_t uuid[16], const char *url)
{
	return -EAGAIN;
}
int quorum_tie_disk_make(struct nsd_dev *d, const uint8_t cluster_id[16], const uint8_t uuid[16])
{
	return -EIO;
}
int quorum_tie_disk_open(struct nsd_dev *d, const uint8_t cluster_id[16], const uint8_t uuid[16], struct quorum_tie_disk **out)
{
	return -ENOENT;
}
int quorum_tie_disk_slots(struct quorum_tie_disk *t, struct quorum_tie_slot_info out[QUORUM_TIE_NODES])
{
	return -ENODEV;
}
void quorum_tie_disk_use(struct quorum *q, struct quorum_tie_disk *t)
{
}
void quorum_tie_disk_close(struct quorum_tie_disk *t)
{
}
void net_tcp_each_peer(const struct net *n, void (*fn)(void *arg, const struct net_peer_info *i), void *arg)
{
}
void net_tcp_keys_set(struct net *n, const struct net_keys *k)
{
}
unsigned net_tcp_key_replaced(const struct net *n)
{
	return 0;
}
int metrics_open(struct daemon *d, const char *where, char *errmsg, size_t errlen)
{
	snprintf(errmsg, errlen, "metrics = %s: not in a test", where);
	return -EADDRINUSE;
}
const struct quorum_view *quorum_view_get(const struct quorum *q)
{
	return &the_view;
}

/* ---- the daemon -------------------------------------------------------------------------------------------------------------- */

static void stop_hook(void *arg)
{
	ts_loop_stop(w.d.loop);
}
static void daemon_out(struct daemon *d, const char *why)
{
	TS_PANIC("the daemon would end: %s", why);
}
static void group_view(void *arg, const struct quorum_group_view *g)
{
	struct mount *m = mount_by_group(&w.d, g->group);

	if (m && m->fs)
		fs_group_view(m->fs, g);
}

/* The two of the image. */
static void disks_up(void)
{
	for (unsigned i = 0; i < IMAGE_DISKS; i++) {
		struct disk *k = ts_alloc(sizeof(*k));
		char url[32];

		snprintf(url, sizeof(url), "file:///disk%u", i);
		*k = (struct disk){.url = strdup(url), .dev = w.h->devs[i], .state = DISK_OPEN, .configured = true};
		ts_list_push_back(&w.d.disks, &k->link);
	}
}

static void up(struct ts_rd *rd)
{
	struct ts_rd none = {.bad = true};
	char err[128];

	memset(&w, 0, sizeof(w));
	w.h = image_open(0, ts_rd_u8(rd) & 1 ? rd : &none);
	w.d.exec = w.h->x;
	w.d.loop = ts_loop_new(w.d.exec);
	ts_loop_before_wait(w.d.loop, stop_hook, NULL);
	w.d.conf.node_id = 1;
	w.d.incarnation = w.h->incarnation;
	w.d.net = w.h->net = fsw_net_new(w.h->x, 1, w.h->incarnation);
	w.d.quorum = w.h->quorum = fsw_quorum_new(w.h->x, 1, w.h->incarnation);
	fsw_quorum_views(w.h->quorum, group_view, NULL);
	w.d.out = daemon_out;
	w.d.listen_fd = -1;
	ts_list_init(&w.d.disks);
	ts_list_init(&w.d.mounts);
	ts_cond_init(&w.d.changed);
	ts_mutex_init(&w.d.mount_lock);
	snprintf(w.dir, sizeof(w.dir), "/tmp/fuzz-admin-XXXXXX");
	TS_ASSERT(mkdtemp(w.dir));
	snprintf(w.d.conf.run_dir, sizeof(w.d.conf.run_dir), "%s", w.dir);
	disks_up();
	TS_ASSERT(server_open(&w.d, err, sizeof(err)) == 0);
	w.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/tesserad.sock", w.dir);
	TS_ASSERT(connect(w.fd, (struct sockaddr *)&a, sizeof(a)) == 0);
}

static void close_fiber(void *arg)
{
	server_close(&w.d);
}

static void down(void)
{
	struct ts_list *l;

	TS_ASSERT(ts_list_empty(&w.d.mounts));
	close(w.fd);
	for (unsigned i = 0; i < 1000 && w.d.clients; i++)
		ts_loop_run(w.d.loop);
	TS_ASSERT(!w.d.clients);
	fsh_run(w.h, close_fiber, NULL);
	rmdir(w.dir);
	while ((l = ts_list_pop_front(&w.d.disks))) {
		struct disk *k = ts_list_entry(l, struct disk, link);

		free(k->url);
		ts_free(k);
	}
	ts_loop_free(w.d.loop);
	fsh_free(w.h);
}

/* ---- a request ----------------------------------------------------------------------------------------------------------------- */

static json_t *text_of(struct ts_rd *rd)
{
	static const char *const usual[] = {"fuzz", "file:///disk0", "file:///disk1", "iscsi://h/iqn/1", "/tmp", "64K", "1", "list", "arm", "write.before_pin", "ro,noatime"};
	unsigned how = ts_rd_u8(rd);
	size_t n;
	const uint8_t *p;
	json_t *o;

	if (how < 128)
		return json_string(usual[how % TS_ARRAY_LEN(usual)]);
	if (how < 144)
		return json_integer(how);
	p = fuzz_run(rd, &n);
	o = json_stringn((const char *)p, n);
	return o ? o : json_null();
}

static char *verb_text(struct ts_rd *rd)
{
	const struct verb *v = &verb_table[ts_rd_u8(rd) % verb_count];
	json_t *pos = json_array(), *opt = json_object(), *req;
	unsigned counts = ts_rd_u8(rd);
	char *s;

	for (unsigned i = 0; i < counts % 8; i++)
		json_array_append_new(pos, text_of(rd));
	for (unsigned i = 0; i < counts / 8 % 4; i++) {
		const struct verb_opt *o = &v->opts[ts_rd_u8(rd) % VERB_MAX_OPTS];

		json_object_set_new(opt, o->name ? o->name : "x", o->argname ? text_of(rd) : json_true());
	}
	req = json_pack("{s:s,s:o,s:o}", "verb", v->name, "pos", pos, "opt", opt);
	s = json_dumps(req, JSON_COMPACT);
	json_decref(req);
	return s;
}

/* The last line that came; NULL: none. */
static char *answer(void)
{
	static char buf[4u << 20];
	size_t n = 0;
	bool ended = false;

	for (unsigned i = 0; i < 200000 && !ended; i++) {
		ssize_t r = recv(w.fd, buf + n, sizeof(buf) - 1 - n, MSG_DONTWAIT);

		if (r > 0)
			n += (size_t)r;
		ended = r == 0 || (r < 0 && errno != EAGAIN);
		ts_loop_run(w.d.loop);
		if (r < 0 && ts_exec_next_timer(w.d.exec) != UINT64_MAX && i % 2)
			w.h->now_ns = TS_MAX(w.h->now_ns, ts_exec_next_timer(w.d.exec));
		else if (r < 0)
			usleep(10);
	}
	TS_ASSERT(ended);
	buf[n] = 0;
	if (n && buf[n - 1] == '\n')
		buf[n - 1] = 0;
	return n ? (strrchr(buf, '\n') ? strrchr(buf, '\n') + 1 : buf) : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct ts_rd rd = fuzz_in(p, n);
	bool raw = ts_rd_u8(&rd) & 1, line;
	char *text, *got;
	json_t *o;

	up(&rd);
	text = raw ? strndup((const char *)rd.p, rd.left) : verb_text(&rd);
	TS_ASSERT(text);
	line = raw ? strchr(text, '\n') != NULL : true;
	TS_ASSERT(send(w.fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
	if (!raw)
		TS_ASSERT(send(w.fd, "\n", 1, MSG_NOSIGNAL) == 1);
	shutdown(w.fd, SHUT_WR);
	got = answer();
	if (got || line) {
		o = got ? json_loads(got, 0, NULL) : NULL;
		if (!o || !json_is_boolean(json_object_get(o, "ok")) || (json_is_false(json_object_get(o, "ok")) && !json_is_string(json_object_get(o, "error"))))
			TS_PANIC("no good answer to %.200s: %.200s", text, got ? got : "nothing");
		json_decref(o);
	}
	free(text);
	down();
	return 0;
}

void fuzz_seeds(void)
{
	char buf[300];

	for (size_t i = 0; i < verb_count; i++) {
		for (unsigned k = 0; k < 3; k++) {
			const char head[] = {0, 0, (char)i, (char)(verb_table[i].min_args % 8 + 8 * k), 0, 1, 4, 2, 3};

			fuzz_seed(head, sizeof(head));
		}
		buf[0] = 1;
		buf[1] = 0;
		fuzz_seed(buf, 2 + (size_t)snprintf(buf + 2, sizeof(buf) - 2, "{\"verb\":\"%s\",\"pos\":[\"fuzz\",\"/tmp\"],\"opt\":{}}\n", verb_table[i].name));
	}
}
