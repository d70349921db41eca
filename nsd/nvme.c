/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the association of a device with a controller: made, watched, ended and made again by one fiber. Must never happen: a command
 * sent before the registration was looked at, or a write sent again before the controller that had it first is known to be dead.
 *
 * A new association does not end the old one at the target. So when one is lost with writes under way, its controller is disabled over
 * the admin queue, if that still answers: then no command of it goes on. If the target has closed all its connections, nothing more of
 * it can be taken in, and what was taken in may go on for the quiesce time. Else its keep-alive time must run out first. */
#include "nsd/nvme_int.h"

#include <stdarg.h>
#include <stdio.h>

void nvme_set_error(struct nvme_dev *d, const char *fmt, ...)
{
	va_list ap;

	if (d->error[0])
		return; /* the first is the cause */
	va_start(ap, fmt);
	vsnprintf(d->error, sizeof(d->error), fmt, ap);
	va_end(ap);
}

void nvme_lost(struct nvme_dev *d, const char *why)
{
	if (d->lost)
		return;
	d->lost = true;
	nvme_set_error(d, "%s", why);
	if ((d->state == NVME_UP || d->state == NVME_RECHECK) && !d->closing)
		ts_warn("%s: %s, association %llu dropped; reconnecting", d->name, d->error, (unsigned long long)d->gen);
	if (d->state != NVME_FENCED)
		d->state = NVME_DOWN;
	ts_cond_broadcast(&d->wake);
}

void nvme_recheck(struct nvme_dev *d)
{
	if (d->state != NVME_UP)
		return;
	d->state = NVME_RECHECK;
	d->recheck = true;
	ts_cond_broadcast(&d->wake);
}

/* ---- the end of an association ----------------------------------------------------------------------------------------- */

/* How many connections the target has closed. */
static unsigned count_ended(struct nvme_dev *d)
{
	unsigned n = 0;

	for (unsigned i = 0; i < d->nconn; i++)
		n += nvme_conn_peer_ended(&d->conn[i]);
	return n;
}

/* Has the target closed them all? One that closes some closes the others in the same breath. */
static bool all_ended(struct nvme_dev *d)
{
	uint64_t deadline = ts_exec_now(d->exec) + NVME_CLOSING_NS;
	unsigned n;

	while ((n = count_ended(d)) && n < d->nconn)
		if (ts_cond_wait_until(&d->wake, deadline, "NVMe target to close all connections", d->gen, n))
			break;
	return count_ended(d) == d->nconn;
}

/* Until when writes of it may still be executed. 0: none. */
static uint64_t doubt_until(struct nvme_dev *d)
{
	uint64_t now = ts_exec_now(d->exec);
	bool ended;
	uint32_t ms;

	if (!nvme_writes_running(d) || nvme_ctrl_disable(d, now + NVME_END_NS))
		return 0;
	ended = all_ended(d);
	ms = d->quiesce_ms + (ended ? 0 : d->dead_ms);
	ts_notice("%s: writes were under way: they are sent again when the old controller is dead for sure, in %u ms", d->name, ms);
	return ts_exec_now(d->exec) + ms * TS_NS_PER_MS;
}

static void drop(struct nvme_dev *d)
{
	uint64_t until;

	d->lost = true; /* nothing more is sent on the I/O queues */
	ts_timer_cancel(&d->alive);
	until = doubt_until(d);
	for (unsigned i = 0; i < d->nconn; i++)
		nvme_conn_close(&d->conn[i]);
	d->nconn = 0;
	if (d->state != NVME_FENCED)
		d->state = NVME_DOWN;
	nvme_requeue_running(d, until);
	d->recheck = false;
}

/* ---- the session fiber --------------------------------------------------------------------------------------------------- */

static void keep_alive_due(void *arg)
{
	struct nvme_dev *d = arg;

	d->alive_due = true;
	ts_cond_broadcast(&d->wake);
}

static void keep_alive_later(struct nvme_dev *d)
{
	d->alive_due = false;
	ts_timer_arm(d->exec, &d->alive, ts_exec_now(d->exec) + d->kato_ms * TS_NS_PER_MS / 3, keep_alive_due, d);
}

static void keep_alive(struct nvme_dev *d)
{
	struct nvme_answer a;
	int rc;

	keep_alive_later(d);
	rc = nvme_admin(d, NVME_ADM_KEEP_ALIVE, 0, 0, 0, NULL, 0, &a, ts_exec_now(d->exec) + NVME_CONTROL_NS);
	if (rc || a.status)
		nvme_lost(d, rc ? "no answer to a keep-alive" : "a keep-alive was refused");
}

static void go_up(struct nvme_dev *d)
{
	d->state = NVME_UP;
	ts_cond_broadcast(&d->changed);
	nvme_pump(d);
	nvme_flush(d);
}

static void go_fenced(struct nvme_dev *d)
{
	ts_err("%s: our registration %llx is gone: this node is excluded, the disk takes nothing more from it", d->name,
	       (unsigned long long)d->pr_key);
	d->state = NVME_FENCED;
	drop(d);
	nvme_fail_all(d, -TS_ERR_FENCED);
	ts_cond_broadcast(&d->changed);
}

static int look_again(struct nvme_dev *d)
{
	int rc;

	d->recheck = false;
	ts_sleep_until(ts_exec_now(d->exec) + 5 * TS_NS_PER_MS); /* a busy unit wants a pause */
	rc = nvme_pr_check(d, false);
	if (rc == -TS_ERR_FENCED)
		return rc;
	if (rc)
		nvme_lost(d, "the registration cannot be looked at");
	else if (!d->lost)
		go_up(d);
	return 0;
}

/* While the association stands. 0: closing or lost. -TS_ERR_FENCED: excluded. */
static int tend(struct nvme_dev *d)
{
	int rc = 0;

	keep_alive_later(d);
	while (!rc && !d->lost && !d->closing) {
		if (d->recheck)
			rc = look_again(d);
		else if (d->alive_due)
			keep_alive(d);
		else
			ts_cond_wait(&d->wake, "NVMe association is up", d->gen, 0);
	}
	return rc;
}

static void back_off(struct nvme_dev *d, uint64_t *ns)
{
	uint64_t jitter = ts_random(ts_exec_env(d->exec)) % (*ns / 2 + 1);
	uint64_t until = ts_exec_now(d->exec) + *ns / 2 + jitter;

	while (!d->closing && ts_cond_wait_until(&d->wake, until, "NVMe reconnect back-off", d->gen, 0) == 0)
		;
	*ns = TS_MIN(*ns * 2, NVME_BACKOFF_MAX);
}

static int one_association(struct nvme_dev *d, uint64_t *wait_ns)
{
	int rc;

	d->lost = false;
	d->error[0] = 0;
	rc = nvme_ctrl_up(d, ts_exec_now(d->exec) + NVME_SETUP_NS);
	if (!rc)
		rc = nvme_pr_check(d, true);
	if (!rc && d->lost)
		rc = -ENOTCONN;
	if (rc) {
		if (d->opened && rc != -TS_ERR_FENCED)
			ts_debug("%s: no association yet: %s", d->name, d->error);
		return rc;
	}
	*wait_ns = NVME_BACKOFF_MIN;
	d->gen++;
	if (d->dev)
		d->dev->session_gen = d->gen;
	if (d->opened)
		ts_notice("%s: association %llu is up, %u requests to send", d->name, (unsigned long long)d->gen, d->nwaiting);
	d->opened = true;
	go_up(d);
	rc = tend(d);
	if (!rc && d->closing && !d->lost)
		nvme_ctrl_shut_down(d);
	return rc;
}

static void session_main(void *arg)
{
	struct nvme_dev *d = arg;
	uint64_t wait_ns = NVME_BACKOFF_MIN;

	d->fiber = ts_fiber_self();
	while (!d->closing && d->state != NVME_FENCED) {
		int rc = one_association(d, &wait_ns);

		if (rc == -TS_ERR_FENCED)
			go_fenced(d);
		else
			drop(d);
		if (!d->opened) {
			d->open_rc = rc ? rc : -ECANCELED;
			break;
		}
		if (!d->closing && d->state != NVME_FENCED)
			back_off(d, &wait_ns);
	}
	while (d->opened && !d->closing)
		ts_cond_wait(&d->wake, "NVMe device is fenced", d->gen, 0);
	d->ended = true;
	ts_cond_broadcast(&d->changed);
}

/* ---- open and close ------------------------------------------------------------------------------------------------------ */

static void before_sleep(void *arg)
{
	nvme_flush(arg);
}

static void dev_free(struct nvme_dev *d)
{
	ts_loop_before_wait_del(d->loop, before_sleep, d);
	nvme_io_free(d);
	ts_free(d);
}

static void end_session(struct nvme_dev *d)
{
	d->closing = true;
	ts_cond_broadcast(&d->wake);
	while (!d->ended)
		ts_cond_wait(&d->changed, "NVMe association to end", d->gen, 0);
	dev_free(d);
}

static void nvme_close(struct nsd_dev *dev)
{
	end_session(nsd_dev_priv(dev));
}

static const struct nsd_ops nvme_ops = {.submit = nvme_submit, .close = nvme_close, .pr = nvme_pr, .raw = nvme_raw, .size = nvme_size};

static int prepare(struct nvme_dev *d, const struct nsd_open_args *args, char *errmsg, size_t errlen)
{
	int rc = nvme_url_parse(args->url, &d->target, errmsg, errlen);

	if (rc)
		return rc;
	if (nvme_identity(args, d->hostnqn, d->hostid)) {
		snprintf(errmsg, errlen, "NVMe: the initiator name is missing or too long");
		return -EINVAL;
	}
	d->exec = args->exec;
	d->loop = ts_exec_loop(args->exec);
	d->kato_ms = NVME_KATO_MS;
	ts_cond_init(&d->wake);
	ts_cond_init(&d->changed);
	ts_mutex_init(&d->pr_mutex);
	rc = nvme_io_init(d);
	if (!rc)
		rc = nvme_resolve(&d->target, errmsg, errlen);
	if (!rc && !d->target.nqn[0])
		rc = nvme_discover(d, errmsg, errlen);
	snprintf(d->name, sizeof(d->name), "nvme-tcp://%s/%s", d->target.where, d->target.nqn);
	if (d->target.nsid)
		snprintf(d->name + strlen(d->name), sizeof(d->name) - strlen(d->name), "?ns=%u", d->target.nsid);
	return rc;
}

static int first_association(struct nvme_dev *d, char *errmsg, size_t errlen)
{
	int rc = ts_fiber_spawn(d->exec, "nvme association", session_main, d);

	if (rc) {
		d->ended = true;
		return rc;
	}
	while (!d->opened && !d->ended)
		ts_cond_wait(&d->changed, "NVMe first association", 0, 0);
	if (d->opened)
		return 0;
	snprintf(errmsg, errlen, "%.300s: %s", d->name, d->error[0] ? d->error : strerror(-d->open_rc));
	return d->open_rc;
}

int nsd_nvme_open(const struct nsd_open_args *args, struct nsd_dev **out, char *errmsg, size_t errlen)
{
	struct nvme_dev *d = ts_alloc(sizeof(*d));
	int rc;

	if (!d)
		return -ENOMEM;
	rc = prepare(d, args, errmsg, errlen);
	if (rc) {
		nvme_io_free(d);
		ts_free(d);
		return rc;
	}
	ts_loop_before_wait(d->loop, before_sleep, d);
	rc = first_association(d, errmsg, errlen);
	if (!rc) {
		d->dev = nsd_dev_new(d->exec, &nvme_ops, d, &d->info, &args->gate, args->url);
		rc = d->dev ? 0 : -ENOMEM;
	}
	if (rc) {
		end_session(d);
		return rc;
	}
	d->dev->read_only = args->read_only;
	d->dev->zero_by_write = true; /* until nsd_able_apply() knows more */
	d->dev->able_zero = d->oncs & NVME_ONCS_WRITE_ZEROES;
	d->dev->able_discard = d->oncs & NVME_ONCS_DSM;
	d->dev->session_gen = d->gen;
	*out = d->dev;
	return 0;
}
