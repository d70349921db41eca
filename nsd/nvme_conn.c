/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the socket below one queue pair: connected, read, written, closed with a reset. Must never happen: bytes that the kernel had
 * not sent arriving after the close, or a descriptor number used after it. */
#include "nsd/nvme_int.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define OUT_SEGMENTS 128
#define READ_BUDGET  (4u << 20)
#define IN_PLACE_MIN (16u << 10) /* shorter data is copied: one read then takes many answers */

static void unwatch(struct nvme_conn *c)
{
	if (c->watched)
		ts_loop_fd_del(c->d->loop, c->fd);
	c->watched = false;
}

static void conn_failed(struct nvme_conn *c, int err, const char *what)
{
	if (c->broken)
		return;
	c->broken = true;
	unwatch(c); /* it would be told of its end again and again until it is closed */
	c->error = err;
	if (err == 0 || err == ECONNRESET || err == EPIPE)
		c->peer_ended = true;
	if (c->q.state == NVME_Q_BROKEN)
		nvme_set_error(c->d, "%s", c->q.error);
	else
		nvme_set_error(c->d, "queue %u: %s: %s", c->q.qid, what, err ? strerror(err) : "closed by the target");
	nvme_lost(c->d, "connection");
	ts_cond_broadcast(&c->d->wake);
}

/* ---- in ------------------------------------------------------------------------------------------------------------ */

static ssize_t read_some(struct nvme_conn *c)
{
	struct iovec iov[NSD_IOV_MAX + 1];
	size_t place = 0;
	int n = nvme_queue_in_place(&c->q, iov, NSD_IOV_MAX);
	ssize_t got;

	for (int i = 0; i < n; i++)
		place += iov[i].iov_len;
	if (place < IN_PLACE_MIN)
		n = 0, place = 0;
	iov[n++] = (struct iovec){c->rbuf, NVME_RX_BYTES};
	got = readv(c->fd, iov, n);
	if (got <= 0)
		return got ? -errno : 0;
	if (place && nvme_queue_in_placed(&c->q, TS_MIN((size_t)got, place)))
		return -EPROTO;
	if ((size_t)got > place && nvme_queue_in(&c->q, c->rbuf, (size_t)got - place))
		return -EPROTO;
	return got;
}

static void on_readable(struct nvme_conn *c)
{
	for (size_t budget = READ_BUDGET; !c->broken && budget;) {
		ssize_t n = read_some(c);

		if (n == -EINTR)
			continue;
		if (n == -EAGAIN)
			return;
		if (n <= 0) {
			conn_failed(c, (int)-n, "receive");
			return;
		}
		budget -= TS_MIN(budget, (size_t)n);
		if ((size_t)n < NVME_RX_BYTES)
			return; /* level-triggered: more calls again */
	}
}

/* ---- out ----------------------------------------------------------------------------------------------------------- */

/* An association that is to be ended sends no more data; its admin queue may have to say so. */
static bool stopped(const struct nvme_conn *c)
{
	return c->q.qid && c->d->lost;
}

static void watch(struct nvme_conn *c)
{
	uint32_t want = EPOLLIN;

	if (!c->watched)
		return;
	if (!c->connected || (nvme_queue_has_out(&c->q) && !stopped(c)))
		want |= EPOLLOUT;
	if (want != c->events && ts_loop_fd_mod(c->d->loop, c->fd, want) == 0)
		c->events = want;
}

void nvme_conn_flush(struct nvme_conn *c)
{
	while (c->fd >= 0 && c->connected && !c->broken && !stopped(c) && nvme_queue_has_out(&c->q)) {
		struct iovec iov[OUT_SEGMENTS];
		struct msghdr m = {.msg_iov = iov};
		ssize_t n;

		m.msg_iovlen = (size_t)nvme_queue_out(&c->q, iov, OUT_SEGMENTS);
		n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		if (n < 0) {
			conn_failed(c, errno, "send");
			return;
		}
		nvme_queue_sent(&c->q, (size_t)n);
	}
	watch(c);
}

static void on_socket(void *arg, uint32_t events)
{
	struct nvme_conn *c = arg;
	int err = 0;
	socklen_t len = sizeof(err);

	if (c->broken || c->fd < 0)
		return;
	if (!c->connected) {
		if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len))
			err = errno;
		if (err) {
			conn_failed(c, err, "connect");
			return;
		}
		c->connected = true;
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		on_readable(c);
	nvme_conn_flush(c);
	ts_cond_broadcast(&c->d->wake);
}

/* ---- open and close ------------------------------------------------------------------------------------------------- */

static void tune(int fd)
{
	int one = 1;
	unsigned user_ms = 10000;

	/* Best effort: without them it is slower or notices a silent cut later, never wrong. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof(user_ms));
}

static int start(struct nvme_conn *c)
{
	struct nvme_dev *d = c->d;
	struct sockaddr *sa = (struct sockaddr *)d->target.addr;
	int rc;

	c->fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return -errno;
	tune(c->fd);
	c->events = EPOLLIN | EPOLLOUT;
	rc = connect(c->fd, sa, d->target.addrlen) && errno != EINPROGRESS ? -errno : 0;
	if (!rc)
		rc = ts_loop_fd_add(d->loop, c->fd, c->events, on_socket, c);
	c->watched = !rc;
	if (rc) {
		close(c->fd);
		c->fd = -1;
	}
	return rc;
}

int nvme_conn_open(struct nvme_conn *c, struct nvme_dev *d, uint16_t qid, unsigned depth, uint64_t deadline)
{
	int rc;

	*c = (struct nvme_conn){.d = d, .fd = -1};
	nvme_queue_init(&c->q, qid, depth, d->target.dgst);
	c->rbuf = ts_alloc_aligned(64, NVME_RX_BYTES);
	rc = c->rbuf ? start(c) : -ENOMEM;
	if (rc)
		nvme_set_error(d, "queue %u: connect: %s", qid, strerror(-rc));
	while (!rc && c->q.state == NVME_Q_IC && !c->broken) {
		if (d->closing)
			rc = -ECANCELED;
		else
			rc = ts_cond_wait_until(&d->wake, deadline, "NVMe connection", qid, d->gen);
		if (rc)
			nvme_set_error(d, "queue %u: no connection in time", qid);
	}
	if (!rc && c->broken)
		rc = c->error && c->error != EPROTO ? -c->error : -EIO;
	return rc;
}

void nvme_conn_close(struct nvme_conn *c)
{
	struct linger reset = {.l_onoff = 1, .l_linger = 0};

	if (c->fd >= 0) {
		unwatch(c);
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(c->fd);
		c->fd = -1;
	}
	c->broken = true;
	if (c->rbuf)
		nvme_queue_abandon(&c->q);
	ts_free(c->rbuf);
	c->rbuf = NULL;
}

bool nvme_conn_peer_ended(struct nvme_conn *c)
{
	struct tcp_info ti;
	socklen_t len = sizeof(ti), n = sizeof(int);
	int err = 0;

	if (c->fd < 0 || c->peer_ended || getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &ti, &len))
		return c->peer_ended;
	if (ti.tcpi_state == TCP_CLOSE) /* a time-out of our own says nothing about the target */
		c->peer_ended = getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &n) == 0 && (err == ECONNRESET || err == EPIPE);
	else
		c->peer_ended = ti.tcpi_state == TCP_CLOSE_WAIT;
	return c->peer_ended;
}
