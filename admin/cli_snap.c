/* SPDX-License-Identifier: Apache-2.0 */
/* `tessera snap`: a tar file (cli_tar.c) of what every verb that only looks answers, for this node and every member.
 * Must never happen: a secret in it (the daemon masks keys and passwords before it answers), a file that others can read, or one
 * that was there overwritten. */
#include "admin/cli.h"
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* One file a verb; every node's answer is in it. */
static bool collect(FILE *f, const struct verb *v, time_t when, unsigned *files, int *rc)
{
	json_t *pos = json_array(), *opt = json_object(), *o = NULL;
	const char *limit = "1000";
	char name[100];
	if (!strcmp(v->name, "diag tokens"))
		json_object_set_new(opt, "waiting", json_true());
	for (size_t i = 0; i < VERB_MAX_OPTS && v->opts[i].name; i++)
		if (!strcmp(v->opts[i].name, "limit"))
			json_object_set_new(opt, "limit", json_string(limit));
	*rc = cli_ask(v, pos, opt, v->flags & VERB_ROUTED ? "all" : NULL, NULL, &o);
	json_decref(pos);
	json_decref(opt);
	if (*rc)
		return false;
	snprintf(name, sizeof(name), "tessera-snap/%s.json", v->name);
	for (char *p = name; *p; p++)
		if (*p == ' ')
			*p = '-';
	char *text = json_dumps(o, JSON_INDENT(1));
	bool ok = text && cli_tar_member(f, name, text, strlen(text), when);
	free(text);
	json_decref(o);
	++*files;
	return ok;
}

int cli_snap(const char *path)
{
	time_t when = time(NULL);
	unsigned files = 0;
	int rc = 0;
	if (!path)
		path = "tessera-snap.tar";
	FILE *f = cli_tar_new(path);
	if (!f)
		return fail(VERB_REFUSED, "snap: %s: %s; name a file that is not there", path, strerror(errno));
	bool ok = true;
	for (size_t i = 0; ok && i < verb_count; i++) {
		const struct verb *v = &verb_table[i];
		if (v->where == VERB_DAEMON && v->flags & VERB_LOOKS && v->min_args == 0)
			ok = collect(f, v, when, &files, &rc);
		if (isatty(2))
			fprintf(stderr, "\r\033[K%s", i + 1 < verb_count ? v->name : "");
	}
	char version[64];
	int n = snprintf(version, sizeof(version), "tessera %s\n", TESSERA_VERSION);
	static const char end[1024];
	ok = ok && cli_tar_member(f, "tessera-snap/version", version, (size_t)n, when) && fwrite(end, sizeof(end), 1, f) == 1;
	int err = errno;
	if (fclose(f)) {
		err = errno;
		ok = false;
	}
	if (!ok) {
		unlink(path);
		return rc ? rc : fail(VERB_REFUSED, "snap: %s: %s; make room, or write it elsewhere", path, strerror(err));
	}
	if (want_json)
		printf("{\"file\": \"%s\", \"answers\": %u}\n", path, files);
	else
		printf("%s: %u answers; look into it before you give it away\n", path, files);
	return 0;
}
