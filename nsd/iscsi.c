/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the iSCSI session of a device: made, watched and made again by one fiber, each time in a fresh libiscsi context
 * (its own reconnect is off: it would resend blindly). Must never happen: a command sent before the registration was
 * looked at, libiscsi called from inside its own callback, or a descriptor number used after its session. */
#include "nsd/iscsi_int.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

void nsd_iscsi_lost(struct iscsi_dev *d, const char *why)
{
	if (d->lost || !d->ctx)
		return;
	d->lost = true;
	if ((d->state == ISCSI_UP || d->state == ISCSI_RECHECK) && !d->closing)
		ts_warn("%s: %s (%s), session %llu dropped; reconnecting", d->name, why, iscsi_get_error(d->ctx),
			(unsigned long long)d->gen);
	if (!d->error[0])
		snprintf(d->error, sizeof(d->error), "%s", why);
	if (d->state != ISCSI_FENCED)
		d->state = ISCSI_DOWN;
	ts_cond_broadcast(&d->wake);
}

void nsd_iscsi_recheck(struct iscsi_dev *d)
{
	if (d->state != ISCSI_UP)
		return;
	d->state = ISCSI_RECHECK;
	d->recheck = true;
	ts_cond_broadcast(&d->wake);
}

/* ---- socket ------------------------------------------------------------------------------------------------------ */

static void watch_as_wanted(struct iscsi_dev *d)
{
	uint32_t want;

	if (!d->ctx || d->lost || d->fd < 0)
		return;
	want = (uint32_t)iscsi_which_events(d->ctx); /* POLLIN, POLLOUT: the same bits as EPOLL's */
	if (want != d->fd_events && ts_loop_fd_mod(d->loop, d->fd, want) == 0)
		d->fd_events = want;
}

static void service(struct iscsi_dev *d, int revents)
{
	if (iscsi_service(d->ctx, revents))
		nsd_iscsi_lost(d, "socket");
	if (d->lost)
		return;
	nsd_iscsi_reap_zombies(d);
	nsd_iscsi_pump(d);
}

static void on_socket(void *arg, uint32_t events)
{
	struct iscsi_dev *d = arg;

	if (d->ctx && !d->lost)
		service(d, (int)events);
	watch_as_wanted(d);
}

/* Before the loop sleeps, and after a fiber queued a command: writes at once what the socket takes. */
void nsd_iscsi_watch(struct iscsi_dev *d)
{
	if (d->ctx && !d->lost && iscsi_is_logged_in(d->ctx) && (iscsi_which_events(d->ctx) & POLLOUT))
		service(d, POLLOUT);
	watch_as_wanted(d);
}

static void before_sleep(void *arg)
{
	nsd_iscsi_watch(arg);
}

/* ---- connect and log in ------------------------------------------------------------------------------------------ */

/* The step's result lies in the device: a callback may come as late as iscsi_destroy_context. */
static void step_cb(struct iscsi_context *ctx, int status, void *command_data, void *private_data)
{
	struct iscsi_dev *d = private_data;

	d->step_done = true;
	d->step_status = status;
	if (status != SCSI_STATUS_GOOD) /* now: the next call into libiscsi overwrites it */
		snprintf(d->error, sizeof(d->error), "%.200s", iscsi_get_error(ctx));
	ts_cond_broadcast(&d->wake);
}

static int errno_of_text(const char *text)
{
	static const struct {
		const char *part;
		int rc;
	} map[] = {{"Authentication failure", -EACCES}, {"Authorization failure", -EACCES},
		   {"Target not found", -ENOENT},	{"Target removed", -ENOENT},
		   {"Connection refused", -ECONNREFUSED}, {"No route", -EHOSTUNREACH},
		   {"unreachable", -EHOSTUNREACH},	{"timed out", -ETIMEDOUT}};

	for (size_t i = 0; i < TS_ARRAY_LEN(map); i++)
		if (strcasestr(text, map[i].part))
			return map[i].rc;
	return -EIO;
}

static int step_wait(struct iscsi_dev *d, uint64_t deadline, const char *what)
{
	while (!d->step_done && !d->lost && !d->closing)
		if (ts_cond_wait_until(&d->wake, deadline, what, d->gen, 0)) {
			snprintf(d->error, sizeof(d->error), "%s: no answer", what);
			return -ETIMEDOUT;
		}
	if (d->step_done && d->step_status == SCSI_STATUS_GOOD)
		return 0;
	if (d->step_done && d->step_status == SCSI_STATUS_REDIRECT)
		return -TS_ERR_MOVED;
	return errno_of_text(d->error);
}

static int connect_socket(struct iscsi_dev *d, const char *portal, uint64_t deadline)
{
	int rc;

	d->step_done = false;
	if (iscsi_connect_async(d->ctx, portal, step_cb, d)) {
		snprintf(d->error, sizeof(d->error), "%.200s", iscsi_get_error(d->ctx));
		return errno_of_text(d->error);
	}
	d->fd = iscsi_get_fd(d->ctx);
	fcntl(d->fd, F_SETFD, FD_CLOEXEC);
	d->fd_events = (uint32_t)iscsi_which_events(d->ctx);
	rc = ts_loop_fd_add(d->loop, d->fd, d->fd_events, on_socket, d);
	if (rc) {
		d->fd = -1;
		return rc;
	}
	return step_wait(d, deadline, "iSCSI connect");
}

static int log_in(struct iscsi_dev *d, uint64_t deadline)
{
	d->step_done = false;
	if (iscsi_login_async(d->ctx, step_cb, d))
		return -EIO;
	watch_as_wanted(d);
	return step_wait(d, deadline, "iSCSI login");
}

static int make_context(struct iscsi_dev *d)
{
	d->ctx = iscsi_create_context(d->initiator);
	if (!d->ctx)
		return -ENOMEM;
	d->lost = false;
	d->error[0] = 0;
	iscsi_set_noautoreconnect(d->ctx, 1);
	iscsi_set_isid_random(d->ctx, (uint32_t)(d->isid >> 16) & 0xffffff, (uint32_t)d->isid & 0xffff);
	iscsi_set_tcp_user_timeout(d->ctx, 10000);
	if (iscsi_set_targetname(d->ctx, d->target.iqn) || iscsi_set_session_type(d->ctx, ISCSI_SESSION_NORMAL) ||
	    iscsi_set_header_digest(d->ctx, ISCSI_HEADER_DIGEST_NONE_CRC32C))
		return -EINVAL;
	if (d->target.user[0] &&
	    iscsi_set_initiator_username_pwd(d->ctx, d->target.user, d->target.password))
		return -EINVAL;
	return 0;
}

/* Ends with a reset: what TCP has not sent must not arrive later. After this nobody uses buffers of commands. */
void nsd_iscsi_drop(struct iscsi_dev *d)
{
	struct linger reset = {.l_onoff = 1, .l_linger = 0};

	if (d->fd >= 0) {
		ts_loop_fd_del(d->loop, d->fd);
		setsockopt(d->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		d->fd = -1;
	}
	if (d->ctx) {
		d->lost = true; /* callbacks of the dying context find nothing to do */
		iscsi_destroy_context(d->ctx);
		d->ctx = NULL;
	}
	if (d->state != ISCSI_FENCED)
		d->state = ISCSI_DOWN;
	nsd_iscsi_ctl_abandon(d);
	nsd_iscsi_requeue_running(d);
	d->recheck = false;
}

/* The same LUN as before? A target set up anew may show another disk under the old address. */
static int same_unit(struct iscsi_dev *d)
{
	struct nsd_info before = d->info;
	int rc = nsd_iscsi_probe(d, ts_exec_now(d->exec) + ISCSI_SETUP_NS);

	if (!d->opened)
		return rc;
	if (!rc && (strcmp(before.serial, d->info.serial) || before.sector_bytes != d->info.sector_bytes ||
		    before.size_bytes > d->info.size_bytes)) {
		snprintf(d->error, sizeof(d->error), "another unit answers here (\"%s\", was \"%s\")", d->info.serial,
			 before.serial);
		rc = -EIO;
	}
	d->info = before;
	return rc;
}

static int start_session(struct iscsi_dev *d)
{
	uint64_t deadline = ts_exec_now(d->exec) + ISCSI_SETUP_NS;
	char portal[256];
	int rc = make_context(d);

	if (!rc)
		rc = connect_socket(d, d->target.numeric, deadline);
	if (!rc)
		rc = log_in(d, deadline);
	if (rc == -TS_ERR_MOVED) { /* once, as the target says */
		snprintf(portal, sizeof(portal), "%.255s", iscsi_get_target_address(d->ctx));
		nsd_iscsi_drop(d);
		rc = make_context(d);
		if (!rc)
			rc = connect_socket(d, portal, deadline);
		if (!rc)
			rc = log_in(d, deadline);
	}
	if (!rc)
		rc = nsd_iscsi_ready(d, deadline);
	if (!rc)
		rc = same_unit(d);
	if (!rc)
		rc = nsd_iscsi_pr_check(d, true);
	return rc == -TS_ERR_MOVED ? -EIO : rc;
}

/* ---- the session fiber ------------------------------------------------------------------------------------------- */

static void go_up(struct iscsi_dev *d)
{
	d->state = ISCSI_UP;
	ts_cond_broadcast(&d->changed);
	nsd_iscsi_pump(d);
	nsd_iscsi_watch(d);
}

static void go_fenced(struct iscsi_dev *d)
{
	ts_err("%s: our registration %llx is gone: this node is excluded, the disk takes nothing more from it", d->name,
	       (unsigned long long)d->pr_key);
	d->state = ISCSI_FENCED;
	nsd_iscsi_drop(d);
	nsd_iscsi_fail_all(d, -TS_ERR_FENCED);
	ts_cond_broadcast(&d->changed);
}

/* While the session stands. 0: closing or lost. -TS_ERR_FENCED: excluded. */
static int tend(struct iscsi_dev *d)
{
	int rc = 0;

	while (!d->lost && !d->closing) {
		uint64_t deadline = ts_exec_now(d->exec) + ISCSI_SETUP_NS;

		if (!d->recheck) {
			ts_cond_wait(&d->wake, "iSCSI session is up", d->gen, 0);
			continue;
		}
		d->recheck = false;
		ts_sleep_until(ts_exec_now(d->exec) + 5 * TS_NS_PER_MS); /* a busy unit wants a pause */
		rc = nsd_iscsi_ready(d, deadline);
		if (!rc)
			rc = nsd_iscsi_pr_check(d, false);
		if (rc == -TS_ERR_FENCED)
			return rc;
		if (rc)
			nsd_iscsi_lost(d, "unit does not get ready again");
		else if (!d->lost)
			go_up(d);
	}
	return 0;
}

static void log_out(struct iscsi_dev *d)
{
	uint64_t deadline = ts_exec_now(d->exec) + TS_NS_PER_S;

	d->step_done = false;
	if (!d->ctx || d->lost || iscsi_logout_async(d->ctx, step_cb, d))
		return;
	watch_as_wanted(d);
	while (!d->step_done && !d->lost)
		if (ts_cond_wait_until(&d->wake, deadline, "iSCSI logout", d->gen, 0))
			break;
	d->lost = true;
}

static void back_off(struct iscsi_dev *d, uint64_t *ns)
{
	uint64_t jitter = ts_random(ts_exec_env(d->exec)) % (*ns / 2 + 1);
	uint64_t until = ts_exec_now(d->exec) + *ns / 2 + jitter;

	while (!d->closing && ts_cond_wait_until(&d->wake, until, "iSCSI reconnect back-off", d->gen, 0) == 0)
		;
	*ns = TS_MIN(*ns * 2, ISCSI_BACKOFF_MAX);
}

static int one_session(struct iscsi_dev *d, uint64_t *wait_ns)
{
	int rc = start_session(d);

	if (rc) {
		if (d->opened && rc != -TS_ERR_FENCED)
			ts_debug("%s: no session yet: %s", d->name, d->error);
		return rc;
	}
	*wait_ns = ISCSI_BACKOFF_MIN;
	d->gen++;
	if (d->dev)
		d->dev->session_gen = d->gen;
	if (d->opened)
		ts_notice("%s: session %llu is up, %u requests to send", d->name, (unsigned long long)d->gen,
			  d->nwaiting);
	d->opened = true;
	go_up(d);
	rc = tend(d);
	if (!rc && d->closing)
		log_out(d);
	return rc;
}

static void session_main(void *arg)
{
	struct iscsi_dev *d = arg;
	uint64_t wait_ns = ISCSI_BACKOFF_MIN;

	d->fiber = ts_fiber_self();
	while (!d->closing && d->state != ISCSI_FENCED) {
		int rc = one_session(d, &wait_ns);

		if (rc == -TS_ERR_FENCED)
			go_fenced(d);
		else
			nsd_iscsi_drop(d);
		if (!d->opened) {
			d->open_rc = rc ? rc : -ECANCELED;
			break;
		}
		if (!d->closing && d->state != ISCSI_FENCED)
			back_off(d, &wait_ns);
	}
	while (d->opened && !d->closing)
		ts_cond_wait(&d->wake, "iSCSI device is fenced", d->gen, 0);
	d->ended = true;
	ts_cond_broadcast(&d->changed);
}

/* ---- open and close ---------------------------------------------------------------------------------------------- */

static void dev_free(struct iscsi_dev *d)
{
	ts_loop_before_wait_del(d->loop, before_sleep, d);
	nsd_iscsi_io_free(d);
	explicit_bzero(&d->target, sizeof(d->target));
	ts_free(d);
}

static void iscsi_close(struct nsd_dev *dev)
{
	struct iscsi_dev *d = nsd_dev_priv(dev);

	d->closing = true;
	ts_cond_broadcast(&d->wake);
	while (!d->ended)
		ts_cond_wait(&d->changed, "iSCSI session to end", d->gen, 0);
	dev_free(d);
}

static const struct nsd_ops iscsi_ops = {.submit = nsd_iscsi_submit, .close = iscsi_close, .pr = nsd_iscsi_pr, .raw = nsd_iscsi_raw, .size = nsd_iscsi_size};

static int prepare(struct iscsi_dev *d, const struct nsd_open_args *args, char *errmsg, size_t errlen)
{
	int rc = nsd_iscsi_url_parse(args->url, &d->target, errmsg, errlen);

	if (rc)
		return rc;
	if (!args->initiator_name || !args->initiator_name[0] ||
	    strlen(args->initiator_name) >= sizeof(d->initiator)) {
		snprintf(errmsg, errlen, "iSCSI initiator name is missing or too long");
		return -EINVAL;
	}
	snprintf(d->initiator, sizeof(d->initiator), "%s", args->initiator_name);
	snprintf(d->name, sizeof(d->name), "iscsi://%s:%s/%s/%d", d->target.host, d->target.port, d->target.iqn,
		 d->target.lun);
	d->exec = args->exec;
	d->loop = ts_exec_loop(args->exec);
	d->isid = args->isid;
	d->fd = -1;
	ts_cond_init(&d->wake);
	ts_cond_init(&d->changed);
	ts_mutex_init(&d->pr_mutex);
	rc = nsd_iscsi_io_init(d);
	return rc ? rc : nsd_iscsi_resolve(&d->target, errmsg, errlen);
}

static int first_session(struct iscsi_dev *d, char *errmsg, size_t errlen)
{
	int rc = ts_fiber_spawn(d->exec, "iscsi session", session_main, d);

	if (rc)
		return rc;
	while (!d->opened && !d->ended)
		ts_cond_wait(&d->changed, "iSCSI first session", 0, 0);
	if (d->opened)
		return 0;
	snprintf(errmsg, errlen, "%.300s: %s", d->name, d->error[0] ? d->error : strerror(-d->open_rc));
	return d->open_rc;
}

/* libiscsi writes data with writev, which has no MSG_NOSIGNAL. A handler the program has set is left alone. */
static void ignore_sigpipe(void)
{
	struct sigaction sa;

	if (sigaction(SIGPIPE, NULL, &sa) == 0 && sa.sa_handler == SIG_DFL)
		signal(SIGPIPE, SIG_IGN);
}

int nsd_iscsi_open(const struct nsd_open_args *args, struct nsd_dev **out, char *errmsg, size_t errlen)
{
	struct iscsi_dev *d = ts_alloc(sizeof(*d));
	int rc;

	if (!d)
		return -ENOMEM;
	rc = prepare(d, args, errmsg, errlen);
	if (rc) {
		nsd_iscsi_io_free(d);
		ts_free(d);
		return rc;
	}
	ignore_sigpipe();
	ts_loop_before_wait(d->loop, before_sleep, d);
	rc = first_session(d, errmsg, errlen);
	if (!rc) {
		d->dev = nsd_dev_new(d->exec, &iscsi_ops, d, &d->info, &args->gate, d->name);
		rc = d->dev ? 0 : -ENOMEM;
	}
	if (rc) {
		d->closing = true;
		ts_cond_broadcast(&d->wake);
		while (!d->ended)
			ts_cond_wait(&d->changed, "iSCSI session to end", d->gen, 0);
		dev_free(d);
		return rc;
	}
	d->dev->read_only = args->read_only;
	d->dev->zero_by_write = true; /* WRITE SAME is not fenced everywhere */
	d->dev->session_gen = d->gen;
	*out = d->dev;
	return 0;
}
