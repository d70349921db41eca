/* SPDX-License-Identifier: Apache-2.0 */
/* The admin socket: one JSON request a line, answered by progress lines and one final line. Root and the daemon's own user
 * only (SO_PEERCRED), the socket is 0600. A client that is slow or gone never holds the executor: its fiber waits alone.
 * Must never happen: a request longer than CLIENT_MAX believed, or more than CLIENTS_MAX clients at once. */
#include "admin/daemon.h"
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CLIENT_MAX  (1u << 20)
#define CLIENTS_MAX 64
#define CLIENT_IDLE_NS (30 * TS_NS_PER_S)

struct client {
	struct daemon *d;
	int fd;
	struct ts_cond ready;
	bool gone;
	char *in;
	size_t in_len;
	uint64_t progress_ns;
};

static void client_event(void *arg, uint32_t events)
{
	struct client *c = arg;
	if (ts_loop_fd_mod(c->d->loop, c->fd, 0)) /* level-triggered: silent until somebody waits again */
		c->gone = true;
	ts_cond_broadcast(&c->ready);
}

static int wait_for(struct client *c, uint32_t what, uint64_t deadline)
{
	int rc = ts_loop_fd_mod(c->d->loop, c->fd, what);
	return rc ? rc : ts_cond_wait_until(&c->ready, deadline, "admin client", 0, 0);
}

static int send_all(struct client *c, const char *p, size_t n)
{
	uint64_t deadline = ts_exec_now(c->d->exec) + CLIENT_IDLE_NS;
	while (n && !c->gone) {
		ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (w > 0) {
			p += w;
			n -= (size_t)w;
			continue;
		}
		if (w < 0 && errno != EAGAIN && errno != EINTR)
			c->gone = true;
		else if (wait_for(c, EPOLLOUT, deadline))
			c->gone = true;
	}
	return c->gone ? -EPIPE : 0;
}

static void send_json(struct client *c, json_t *o)
{
	char *s = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	if (!s)
		return;
	if (send_all(c, s, strlen(s)) == 0)
		(void)send_all(c, "\n", 1); /* a client that left is noticed at its next line */
	free(s);
}

bool client_gone(const struct client *c)
{
	return c->gone;
}

void client_progress(struct client *c, const char *step, unsigned permille)
{
	uint64_t now = c ? ts_exec_now(c->d->exec) : 0;
	if (!c || c->gone || now - c->progress_ns < 200 * TS_NS_PER_MS)
		return;
	c->progress_ns = now;
	send_json(c, json_pack("{s:{s:s,s:i}}", "progress", "step", step, "permille", (int)permille));
}

/* One line, terminated, without its newline. */
static int read_line(struct client *c)
{
	uint64_t deadline = ts_exec_now(c->d->exec) + CLIENT_IDLE_NS;
	c->in = ts_alloc(CLIENT_MAX);
	if (!c->in)
		return -ENOMEM;
	for (;;) {
		ssize_t r = recv(c->fd, c->in + c->in_len, CLIENT_MAX - 1 - c->in_len, MSG_DONTWAIT);
		if (r == 0)
			return -EPIPE;
		if (r < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (r > 0) {
			char *nl = memchr(c->in + c->in_len, '\n', (size_t)r);
			c->in_len += (size_t)r;
			if (nl) {
				*nl = 0;
				return 0;
			}
			if (c->in_len == CLIENT_MAX - 1)
				return -EMSGSIZE;
			continue;
		}
		int rc = wait_for(c, EPOLLIN, deadline);
		if (rc)
			return rc;
	}
}

static void answer(struct client *c)
{
	struct answer a = {0};
	json_error_t je;
	json_t *req = json_loads(c->in, 0, &je);
	const char *name = req ? json_string_value(json_object_get(req, "verb")) : NULL;
	json_t *pos = req ? json_object_get(req, "pos") : NULL, *opt = req ? json_object_get(req, "opt") : NULL;
	const struct verb *v = NULL;
	for (size_t i = 0; name && i < verb_count; i++)
		if (!strcmp(verb_table[i].name, name) && verb_table[i].where == VERB_DAEMON)
			v = &verb_table[i];
	json_t *nodes = req ? json_object_get(req, "nodes") : NULL;
	if (!v || !json_is_array(pos) || !json_is_object(opt) || (nodes && !json_is_string(nodes))) {
		a.rc = -EINVAL;
		snprintf(a.error, sizeof(a.error), "%s: this daemon (version %s) does not know that request; use its own tessera command",
			 name ? name : "request", TESSERA_VERSION);
	} else if (nodes)
		route_verb(c->d, v, pos, opt, json_string_value(nodes), &a);
	else
		handle_verb(c->d, c, v, pos, opt, &a);
	json_t *o = answer_json(&a, v ? v->name : "request");
	json_decref(req);
	send_json(c, o);
}

static void client_fiber(void *arg)
{
	struct client *c = arg;
	struct daemon *d = c->d;
	if (read_line(c) == 0)
		answer(c);
	ts_loop_fd_del(d->loop, c->fd);
	close(c->fd);
	ts_free(c->in);
	ts_free(c);
	d->clients--;
}

static bool peer_allowed(int fd)
{
	struct ucred u;
	socklen_t len = sizeof(u);
	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &len) == 0 && (u.uid == 0 || u.uid == geteuid());
}

static void on_accept(void *arg, uint32_t events)
{
	struct daemon *d = arg;
	int fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	struct client *c = d->clients < CLIENTS_MAX && peer_allowed(fd) ? ts_alloc(sizeof(*c)) : NULL;
	if (!c) {
		close(fd);
		return;
	}
	c->d = d;
	c->fd = fd;
	ts_cond_init(&c->ready);
	if (ts_loop_fd_add(d->loop, fd, 0, client_event, c)) {
		close(fd);
		ts_free(c);
		return;
	}
	d->clients++;
	if (ts_fiber_spawn(d->exec, "admin request", client_fiber, c)) {
		ts_loop_fd_del(d->loop, fd);
		close(fd);
		ts_free(c);
		d->clients--;
	}
}

int server_open(struct daemon *d, char *errmsg, size_t errlen)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	if (snprintf(a.sun_path, sizeof(a.sun_path), "%s/tesserad.sock", d->conf.run_dir) >= (int)sizeof(a.sun_path)) {
		snprintf(errmsg, errlen, "run_dir %s: too long for a socket path; use a shorter one", d->conf.run_dir);
		return -ENAMETOOLONG;
	}
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		goto fail;
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0) {
		close(fd);
		snprintf(errmsg, errlen, "%s: another tesserad answers there; stop it first", a.sun_path);
		return -EADDRINUSE;
	}
	unlink(a.sun_path);
	mode_t old = umask(0177);
	int rc = bind(fd, (struct sockaddr *)&a, sizeof(a));
	umask(old);
	if (rc || listen(fd, 16) || ts_loop_fd_add(d->loop, fd, EPOLLIN, on_accept, d))
		goto fail;
	d->listen_fd = fd;
	return 0;
fail:
	snprintf(errmsg, errlen, "%s: %s", a.sun_path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return -EIO;
}

void server_close(struct daemon *d)
{
	if (d->listen_fd < 0)
		return;
	ts_loop_fd_del(d->loop, d->listen_fd);
	close(d->listen_fd);
	d->listen_fd = -1;
	char path[300];
	snprintf(path, sizeof(path), "%s/tesserad.sock", d->conf.run_dir);
	unlink(path);
}
