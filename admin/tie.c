/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps the tiebreaker at hand: what the cluster has agreed on lies in state_dir/tiebreaker, its disk is open as long as the daemon
 * runs, and is tried again while it is not. A URL that is one of the daemon's disks shares its session, so that whoever is fenced there
 * is fenced here, too; any other has a session of its own, which knows no gate. Must never happen: a disk used whose area is not the one
 * that was agreed on. */
#include "admin/daemon.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define TIE_RETRY_NS (2 * TS_NS_PER_S)
#define TIE_ISID     0x7421

/* ---- the file --------------------------------------------------------------------------------------------------------- */

void tie_load(struct daemon *d, struct quorum_tie *out)
{
	char path[320], hex[33], url[QUORUM_TIE_URL];
	unsigned long long version;
	memset(out, 0, sizeof(*out));
	snprintf(path, sizeof(path), "%s/tiebreaker", d->conf.state_dir);
	FILE *f = fopen(path, "re");
	if (!f)
		return;
	int n = fscanf(f, "%llu %32s %199s", &version, hex, url);
	fclose(f);
	if (n < 2 || strlen(hex) != 32) {
		ts_err("%s: cannot be read: this node knows no tiebreaker until the others tell it", path);
		return;
	}
	out->version = version;
	for (unsigned i = 0; i < 16; i++) {
		unsigned b = 0;
		if (sscanf(hex + 2 * i, "%2x", &b) != 1)
			ts_warn("%s: a bad uuid", path);
		out->uuid[i] = (uint8_t)b;
	}
	if (n == 3)
		strcpy(out->url, url);
	d->tie.agreed = *out;
}

/* New file, fsync, rename, fsync of the directory. */
static int store(struct daemon *d, const struct quorum_tie *t)
{
	char path[320], tmp[328];
	snprintf(path, sizeof(path), "%s/tiebreaker", d->conf.state_dir);
	snprintf(tmp, sizeof(tmp), "%s.new", path);
	FILE *f = fopen(tmp, "we");
	if (!f)
		return -errno;
	bool bad = fprintf(f, "%llu ", (unsigned long long)t->version) < 0;
	for (unsigned i = 0; i < sizeof(t->uuid); i++)
		bad |= fprintf(f, "%02x", t->uuid[i]) < 0;
	bad |= fprintf(f, " %s\n", t->url) < 0 || fflush(f) || fsync(fileno(f));
	if (fclose(f) || bad)
		return -EIO;
	if (rename(tmp, path))
		return -errno;
	int dir = open(d->conf.state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	int rc = fsync(dir) ? -errno : 0;
	close(dir);
	return rc;
}

/* ---- the disk --------------------------------------------------------------------------------------------------------- */

bool tie_is(const struct daemon *d, const char *url)
{
	return d->tie.agreed.url[0] && !strcmp(d->tie.agreed.url, url);
}

int tie_dev_open(struct daemon *d, const char *url, struct nsd_dev **dev, struct nsd_dev **own, char *errmsg, size_t errlen)
{
	struct disk *k = disk_find(d, url);
	*own = NULL;
	if (k && k->dev && k->state == DISK_OPEN) {
		*dev = k->dev;
		return 0;
	}
	if (k && k->configured) {
		snprintf(errmsg, errlen, "disk %s is not open yet%s%s", url, k->error[0] ? ": " : "", k->error);
		return -EAGAIN;
	}
	struct nsd_open_args a = {.exec = d->exec, .url = url, .initiator_name = d->conf.initiator, .isid = TIE_ISID};
	int rc = nsd_open(&a, own, errmsg, errlen);
	*dev = *own;
	return rc;
}

static const char *why(int rc)
{
	switch (rc) {
	case -ENOENT:
		return "there is no tiebreaker on it";
	case -EPERM:
		return "it is another cluster's tiebreaker";
	case -ESTALE:
		return "it has been made anew since, or is another disk: what it says does not count; choose it again with `tessera quorum tiebreaker set`";
	case -EBADMSG:
		return "its head is damaged; choose it again with `tessera quorum tiebreaker set`";
	case -EPROTONOSUPPORT:
		return "it was made by a newer version";
	default:
		return strerror(-rc);
	}
}

struct old {
	struct quorum_tie_disk *disk;
	struct nsd_dev *own;
};

static void close_fiber(void *arg)
{
	struct old o = *(struct old *)arg;
	ts_free(arg);
	quorum_tie_disk_close(o.disk);
	nsd_close(o.own);
}

/* By a fiber of its own: a write to a disk that is gone may be under way for long, and the next one must not wait for it. */
static void shut(struct daemon *d)
{
	struct old *o;
	if (!d->tie.disk)
		return;
	quorum_tie_disk_use(d->quorum, NULL);
	o = ts_alloc(sizeof(*o));
	if (o)
		*o = (struct old){d->tie.disk, d->tie.own};
	if (!o || ts_fiber_spawn(d->exec, "close tiebreaker", close_fiber, o)) {
		ts_warn("tiebreaker: out of memory: the one before stays open");
		ts_free(o);
	}
	d->tie.disk = NULL;
	d->tie.own = NULL;
}

static int bring_up(struct daemon *d, const struct quorum_tie *t)
{
	struct nsd_dev *dev, *own;
	char err[200] = "";
	int rc = tie_dev_open(d, t->url, &dev, &own, err, sizeof(err));
	if (rc) {
		snprintf(d->tie.error, sizeof(d->tie.error), "%s", err[0] ? err : strerror(-rc));
		return rc;
	}
	struct quorum_tie_disk *disk = NULL;
	rc = quorum_tie_disk_open(dev, d->cluster_id, t->uuid, &disk);
	if (rc || memcmp(&d->tie.agreed, t, sizeof(*t))) { /* another one was agreed on meanwhile */
		if (rc)
			snprintf(d->tie.error, sizeof(d->tie.error), "%s", why(rc));
		quorum_tie_disk_close(disk);
		nsd_close(own);
		return rc ? rc : -EAGAIN;
	}
	d->tie.disk = disk;
	d->tie.own = own;
	d->tie.error[0] = 0;
	quorum_tie_disk_use(d->quorum, disk);
	ts_notice("tiebreaker %s: open", t->url);
	return 0;
}

static void tie_fiber(void *arg)
{
	struct daemon *d = arg;
	struct quorum_tie open = {0};
	bool told = false;
	while (!d->stopping && !d->excluded) {
		if (memcmp(&open, &d->tie.agreed, sizeof(open))) {
			shut(d);
			open = d->tie.agreed;
			d->tie.error[0] = 0;
			told = false;
			continue;
		}
		if (d->tie.disk || !open.url[0]) {
			ts_cond_wait(&d->changed, "another tiebreaker", 0, 0);
			continue;
		}
		int rc = bring_up(d, &open);
		if (rc == 0 || d->stopping)
			continue;
		if (!told)
			ts_warn("tiebreaker %s: not usable here: %s; trying again every 2 s", open.url, d->tie.error);
		told = true;
		ts_sleep_until(ts_exec_now(d->exec) + TIE_RETRY_NS);
	}
	d->tie.running = false;
}

int tie_start(struct daemon *d)
{
	int rc = ts_fiber_spawn(d->exec, "tiebreaker", tie_fiber, d);
	d->tie.running = rc == 0;
	return rc;
}

void tie_agreed(void *arg, const struct quorum_tie *t)
{
	struct daemon *d = arg;
	d->tie.agreed = *t;
	int rc = store(d, t);
	if (rc)
		ts_err("%s/tiebreaker: %s: after a restart this node must be told by the others which one it is", d->conf.state_dir, strerror(-rc));
	if (t->url[0])
		ts_notice("tiebreaker: the cluster has agreed on %s (version %llu)", t->url, (unsigned long long)t->version);
	else
		ts_notice("tiebreaker: none (version %llu)", (unsigned long long)t->version);
	ts_cond_broadcast(&d->changed);
}
