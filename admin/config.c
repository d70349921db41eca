/* SPDX-License-Identifier: Apache-2.0 */
/* `tessera config`: what is in force, and a key changed: first in the file, whole or not at all, then in this process if it can be.
 * Must never happen: a file that the daemon would refuse at its next start, or a secret shown. */
#include "admin/daemon.h"
#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (1u << 20)

static json_t *values(struct daemon *d, const struct conf_key *k)
{
	json_t *a = json_array();
	char buf[600];
	if (!strcmp(k->name, "disk"))
		for (unsigned i = 0; i < d->conf.ndisks; i++) {
			char *s = url_masked(d->conf.disks[i]);
			json_array_append_new(a, json_string(s ? s : "(masked)"));
			free(s);
		}
	else if (!strcmp(k->name, "fence_agent"))
		for (unsigned i = 0; i < d->conf.nagents; i++)
			json_array_append_new(a, json_sprintf("%u %s %s", d->conf.agents[i].node, d->conf.agents[i].program, d->conf.agents[i].file));
	else {
		conf_key_get(&d->conf, k, buf, sizeof(buf));
		json_array_append_new(a, json_string(buf));
	}
	return a;
}

static json_t *row(struct daemon *d, const struct conf_key *k)
{
	json_t *v = values(d, k), *text = json_array_size(v) == 1 ? json_incref(json_array_get(v, 0)) : json_string(json_array_size(v) ? "(several)" : "");
	json_t *o = json_pack("{s:s,s:o,s:o,s:s,s:s,s:b,s:b,s:s}", "key", k->name, "value", text, "values", v, "unit", k->unit ? k->unit : "", "default",
			      k->def ? k->def : "", "live", k->live, "many", k->many, "help", k->help ? k->help : "");
	if (k->max)
		json_object_update_new(o, json_pack("{s:I,s:I}", "min", (json_int_t)k->min, "max", (json_int_t)k->max));
	return o;
}

json_t *config_list(struct daemon *d)
{
	json_t *a = json_array();
	for (size_t i = 0; i < conf_key_count; i++)
		json_array_append_new(a, row(d, &conf_keys[i]));
	return a;
}

static const struct conf_key *key_of_name(const char *name, struct answer *a)
{
	const struct conf_key *k = conf_key_find(name);
	if (!k) {
		a->rc = -EINVAL;
		snprintf(a->error, sizeof(a->error), "config: key '%.80s': there is none of that name; see `tessera config list`", name);
	}
	return k;
}

void config_get(struct daemon *d, const char *name, struct answer *a)
{
	const struct conf_key *k = key_of_name(name, a);
	if (k)
		a->data = row(d, k);
}

/* Does the line set that key? */
static bool sets(const char *line, const char *name)
{
	size_t n = strlen(name);
	line += strspn(line, " \t");
	if (strncmp(line, name, n))
		return false;
	line += n;
	line += strspn(line, " \t");
	return *line == '=';
}

/* The file with the key's line replaced, or one added, next to it; renamed over it when it is on stable storage. */
static int rewrite(const char *path, const char *name, const char *value)
{
	char tmp[520], line[2048];
	struct stat st;
	bool done = false, bad = false;
	if (snprintf(tmp, sizeof(tmp), "%s.new", path) >= (int)sizeof(tmp))
		return -ENAMETOOLONG;
	FILE *in = fopen(path, "re");
	if (!in)
		return -errno;
	int fd = fstat(fileno(in), &st) || st.st_size > FILE_MAX ? -1 : open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	FILE *out = fd < 0 ? NULL : fdopen(fd, "w");
	int rc = out ? 0 : -(errno ? errno : EFBIG);
	while (rc == 0 && fgets(line, sizeof(line), in)) {
		if (!sets(line, name)) {
			bad |= fputs(line, out) < 0;
			if (line[strlen(line) - 1] != '\n' && feof(in))
				bad |= putc('\n', out) < 0;
		} else if (!done) {
			bad |= fprintf(out, "%s = %s\n", name, value) < 0;
			done = true;
		}
	}
	if (rc == 0 && !done)
		bad |= fprintf(out, "%s = %s\n", name, value) < 0;
	if (rc == 0 && (bad || fflush(out) || fchmod(fd, st.st_mode & 07777) || fsync(fd)))
		rc = -(errno ? errno : EIO);
	fclose(in);
	if (out && fclose(out) && rc == 0)
		rc = -EIO;
	if (rc == 0 && rename(tmp, path))
		rc = -errno;
	if (rc && out)
		unlink(tmp);
	return rc;
}

static bool value_ok(const char *v)
{
	if (!*v || isspace((unsigned char)*v) || isspace((unsigned char)v[strlen(v) - 1]) || strlen(v) > 900)
		return false;
	for (; *v; v++)
		if ((unsigned char)*v < 0x20 || *v == 0x7f)
			return false;
	return true;
}

static int refused(const struct conf_key *k, const char *value, struct answer *a)
{
	char range[96] = "";
	if (k->max)
		snprintf(range, sizeof(range), ", from %llu to %llu", (unsigned long long)k->min, (unsigned long long)k->max);
	snprintf(a->error, sizeof(a->error), "config: %s = %.80s: must be %s%s; see `tessera help config set` and tesserad.conf(5)", k->name, value,
		 k->unit ? k->unit : "text", range);
	return a->rc = -EINVAL;
}

/* What a live key means for this process. */
static int apply(struct daemon *d, const struct conf *c, char *errmsg, size_t errlen)
{
	int rc = strcmp(c->metrics, d->conf.metrics) ? metrics_open(d, c->metrics, errmsg, errlen) : 0;
	if (rc == 0)
		ts_log_level_set((enum ts_log_level)c->log_level);
	return rc;
}

void config_set(struct daemon *d, const char *name, const char *value, struct answer *a)
{
	static struct conf fresh; /* large; between the look and the use nothing waits */
	const struct conf_key *k = key_of_name(name, a);
	if (!k)
		return;
	if (k->many) {
		a->rc = -EINVAL;
		snprintf(a->error, sizeof(a->error), "config: %s: may have many lines; edit %s and restart tesserad, see tesserad.conf(5)", name, d->conf_path);
		return;
	}
	fresh = d->conf;
	if (!value_ok(value) || conf_key_set(&fresh, k, value)) {
		(void)refused(k, value, a); /* a->rc has it */
		return;
	}
	if (k->live) { /* before the file: what does not work must not be found out at the next start */
		a->rc = apply(d, &fresh, a->error, sizeof(a->error));
		if (a->rc)
			return;
	}
	int rc = rewrite(d->conf_path, name, value);
	if (rc) {
		a->rc = rc;
		snprintf(a->error, sizeof(a->error), "config: %s: cannot be written: %s; nothing was changed", d->conf_path, strerror(-rc));
		char why[128];
		struct conf now = d->conf;
		snprintf(d->conf.metrics, sizeof(d->conf.metrics), "%s", fresh.metrics); /* it is open now, if it was that */
		if (k->live && apply(d, &now, why, sizeof(why)))
			ts_err("config: %s could not be set back: %s", name, why);
		d->conf = now;
		return;
	}
	if (k->live)
		d->conf = fresh;
	event_post(d, EV_CONFIG_CHANGED, name, "%s = %s%s", name, k->secret ? "(masked)" : value, k->live ? "" : ", from the next start on");
	a->data = json_pack("{s:s,s:s,s:b,s:s}", "key", name, "value", value, "restart_needed", !k->live, "file", d->conf_path);
}
