/* SPDX-License-Identifier: Apache-2.0 */
/* tessera: parses a verb by the table, asks the local daemon, prints the answer. Exit status: enum verb_exit. Nothing is changed by a
 * command that is refused. */
#include "admin/verbs.h"
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_DEFAULT "/run/tessera/tesserad.sock"

static const char *socket_path;
static bool want_json;

static int fail(int status, const char *fmt, ...) TS_PRINTF(2, 3);
static int fail(int status, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fprintf(stderr, "tessera: ");
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	return status;
}

static const struct verb_opt *opt_long(const struct verb *v, const char *name, size_t len)
{
	for (size_t i = 0; i < VERB_MAX_OPTS && v->opts[i].name; i++)
		if (strlen(v->opts[i].name) == len && !strncmp(v->opts[i].name, name, len))
			return &v->opts[i];
	return NULL;
}

static const struct verb_opt *opt_short(const struct verb *v, char c)
{
	for (size_t i = 0; i < VERB_MAX_OPTS && v->opts[i].name; i++)
		if (v->opts[i].letter == c)
			return &v->opts[i];
	return NULL;
}

/* Takes one option at argv[*i]; advances *i over its value. 0 or an exit status. */
static int opt_take(const struct verb *v, int argc, char **argv, int *i, json_t *opt)
{
	const char *arg = argv[*i], *value = NULL;
	const struct verb_opt *o;
	if (arg[1] == '-') {
		const char *eq = strchr(arg, '=');
		o = opt_long(v, arg + 2, eq ? (size_t)(eq - arg - 2) : strlen(arg + 2));
		value = eq ? eq + 1 : NULL;
	} else {
		o = opt_short(v, arg[1]);
		value = arg[1] && arg[2] ? arg + 2 : NULL;
	}
	if (!o)
		return fail(2, "%s: unknown option %s; see `tessera help %s`", v->name, arg, v->name);
	if (!o->argname && value)
		return fail(2, "%s: option --%s takes no value", v->name, o->name);
	if (o->argname && !value && ++*i < argc)
		value = argv[*i];
	if (o->argname && !value)
		return fail(2, "%s: option --%s needs %s", v->name, o->name, o->argname);
	json_object_set_new(opt, o->name, value ? json_string(value) : json_true());
	return 0;
}

static int args_parse(const struct verb *v, int argc, char **argv, json_t *pos, json_t *opt)
{
	bool only_pos = false;
	for (int i = 0; i < argc; i++) {
		if (!only_pos && !strcmp(argv[i], "--")) {
			only_pos = true;
		} else if (!only_pos && argv[i][0] == '-' && argv[i][1]) {
			if (!strcmp(argv[i], "--help")) {
				cli_help(v);
				exit(0);
			}
			if (!strcmp(argv[i], "--json")) {
				want_json = true;
				continue;
			}
			int rc = opt_take(v, argc, argv, &i, opt);
			if (rc)
				return rc;
		} else if (json_array_append_new(pos, json_string(argv[i]))) {
			return fail(2, "%s: argument '%s' is not UTF-8", v->name, argv[i]);
		}
	}
	char err[512];
	return verb_check(v, pos, opt, err, sizeof(err)) ? fail(VERB_USAGE, "%s", err) : 0;
}

/* What cannot be undone is typed twice. */
static int confirmed(const struct verb *v, json_t *pos, json_t *opt)
{
	const char *name = json_string_value(json_array_get(pos, 0));
	char line[128] = "";
	if (!v->confirm || json_object_get(opt, VERB_SURE) || !isatty(0))
		return 0; /* the daemon refuses what is not confirmed */
	fprintf(stderr, "tessera %s %s: %s.\nType %s to go on: ", v->name, name, v->confirm, name);
	if (!fgets(line, sizeof(line), stdin))
		line[0] = 0;
	line[strcspn(line, "\n")] = 0;
	if (strcmp(line, name))
		return fail(VERB_NOT_PERMITTED, "%s %s: not confirmed, nothing was done", v->name, name);
	json_object_set_new(opt, VERB_SURE, json_true());
	return 0;
}

/* The daemon takes no symbolic link on the way to a mount point: they are followed here, by who asks. Of what is to be unmounted only
 * the way to it is looked at: the mount itself may not answer. */
static void resolve(const struct verb *v, json_t *pos)
{
	size_t i = !strcmp(v->name, "mount") ? 1 : 0;
	const char *s = json_string_value(json_array_get(pos, i));
	char path[PATH_MAX], above[PATH_MAX], full[PATH_MAX];
	if ((strcmp(v->name, "mount") && strcmp(v->name, "umount")) || !s || !strchr(s, '/') || strlen(s) >= sizeof(path))
		return;
	strcpy(path, s);
	if (i) {
		if (realpath(path, full))
			json_array_set_new(pos, i, json_string(full));
		return;
	}
	strcpy(above, path);
	if (realpath(dirname(above), full) && strlen(full) + strlen(path) + 2 < sizeof(full)) {
		size_t n = strlen(full);
		snprintf(full + n, sizeof(full) - n, "%s%s", n > 1 ? "/" : "", basename(path));
		json_array_set_new(pos, i, json_string(full));
	}
}

static int connect_daemon(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	if (strlen(socket_path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	strcpy(a.sun_path, socket_path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		int err = errno;
		close(fd);
		return -err;
	}
	return fd;
}

static void show_progress(json_t *p)
{
	static bool tty, asked;
	if (!asked) {
		tty = isatty(2);
		asked = true;
	}
	if (tty)
		fprintf(stderr, "\r\033[K%s %d%%", json_string_value(json_object_get(p, "step")),
			(int)json_integer_value(json_object_get(p, "permille")) / 10);
}

static int show_answer(const struct verb *v, json_t *o)
{
	json_t *data = json_object_get(o, "data");
	if (want_json) {
		json_dumpf(data ? data : o, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (data)
		cli_print(v, data);
	if (json_is_true(json_object_get(o, "ok")))
		return 0;
	return fail(verb_exit_of((int)json_integer_value(json_object_get(o, "errno"))), "%s", json_string_value(json_object_get(o, "error")));
}

static int ask(const struct verb *v, json_t *pos, json_t *opt)
{
	int fd = connect_daemon();
	if (fd < 0)
		return fail(3, "%s: no tesserad answers at %s (%s); start it, or name its socket with --socket", v->name, socket_path, strerror(-fd));
	json_t *req = json_pack("{s:s,s:O,s:O}", "verb", v->name, "pos", pos, "opt", opt);
	char *text = json_dumps(req, JSON_COMPACT);
	FILE *f = fdopen(fd, "r+");
	json_decref(req);
	if (!text || !f || fprintf(f, "%s\n", text) < 0 || fflush(f))
		return fail(3, "%s: the daemon hung up", v->name);
	free(text);
	char *line = NULL;
	size_t cap = 0;
	int status = -1;
	bool progress = false;
	while (status < 0 && getline(&line, &cap, f) > 0) {
		json_t *o = json_loads(line, 0, NULL), *p = json_object_get(o, "progress");
		if (p) {
			show_progress(p);
			progress = true;
		} else {
			if (progress && isatty(2))
				fprintf(stderr, "\r\033[K");
			status = o ? show_answer(v, o) : fail(3, "%s: the daemon's answer is no JSON", v->name);
		}
		json_decref(o);
	}
	free(line);
	fclose(f);
	return status < 0 ? fail(3, "%s: the daemon ended without an answer; see its log", v->name) : status;
}

/* The sandbox is a program beside us: libexec of the installation or of the build. */
static int exec_sandbox(int argc, char **argv)
{
	static const char *const places[] = {"../libexec/tessera/tessera-sandbox", "libexec/tessera/tessera-sandbox",
					     "../../libexec/tessera/tessera-sandbox", "../../../admin/sandbox/tessera-sandbox"};
	char self[PATH_MAX], path[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return fail(1, "sandbox: /proc/self/exe: %s", strerror(errno));
	self[n] = 0;
	char *dir = dirname(self);
	setenv("TESSERA_BINDIR", dir, 0);
	char **v = ts_xalloc(((size_t)argc + 2) * sizeof(*v));
	for (int i = 0; i < argc; i++)
		v[i + 1] = argv[i];
	for (size_t i = 0; i < TS_ARRAY_LEN(places); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, places[i]);
		v[0] = path;
		if (access(path, X_OK) == 0)
			execv(path, v);
	}
	return fail(1, "sandbox: tessera-sandbox not found beside %s; reinstall the package", dir);
}

static void print_json(json_t *o)
{
	json_dumpf(o, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(o);
}

static int man(json_t *pos, json_t *opt)
{
	const char *dir = json_string_value(json_object_get(opt, "dir")), *page = json_string_value(json_array_get(pos, 0));
	char err[640];
	if (dir)
		return cli_man_all(dir, err, sizeof(err)) ? fail(VERB_REFUSED, "%s", err) : 0;
	if (cli_man(stdout, page ? page : "tessera"))
		return fail(VERB_USAGE, "man: no page '%s'; see `tessera help man`", page);
	return 0;
}

static int schema(json_t *pos)
{
	char name[128] = "";
	for (size_t i = 0; i < json_array_size(pos); i++) {
		size_t n = strlen(name);
		snprintf(name + n, sizeof(name) - n, "%s%s", i ? " " : "", json_string_value(json_array_get(pos, i)));
	}
	const struct verb *v = *name ? verb_by_name(name) : NULL;
	if (*name && !v)
		return fail(VERB_USAGE, "schema: unknown verb '%s'; `tessera help` lists them", name);
	json_t *o = v ? verb_schema(v) : json_object();
	for (size_t i = 0; !v && i < verb_count; i++)
		if (verb_table[i].json)
			json_object_set_new(o, verb_table[i].name, verb_schema(&verb_table[i]));
	print_json(o);
	return 0;
}

static int local_verb(const struct verb *v, json_t *pos, json_t *opt)
{
	if (!strcmp(v->name, "version"))
		printf("tessera %s\n", TESSERA_VERSION);
	else if (!strcmp(v->name, "man"))
		return man(pos, opt);
	else if (!strcmp(v->name, "completion"))
		return cli_completion(json_string_value(json_array_get(pos, 0)));
	else if (!strcmp(v->name, "schema"))
		return schema(pos);
	else {
		char *words[2] = {(char *)json_string_value(json_array_get(pos, 0)), (char *)json_string_value(json_array_get(pos, 1))};
		int used, n = (int)json_array_size(pos);
		const struct verb *h = n ? verb_find(n, words, &used) : NULL;
		if (n && !h)
			return fail(2, "unknown verb '%s'; `tessera help` lists them", words[0]);
		if (h)
			cli_help(h);
		else if (want_json)
			print_json(cli_table());
		else
			cli_usage();
	}
	return 0;
}

int main(int argc, char **argv)
{
	int i = 1, used;
	socket_path = getenv("TESSERA_SOCKET");
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "--json"))
			want_json = true;
		else if (!strcmp(argv[i], "--socket") && i + 1 < argc)
			socket_path = argv[++i];
		else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			cli_usage();
			return 0;
		} else
			return fail(2, "unknown option %s; see `tessera --help`", argv[i]);
	}
	if (!socket_path)
		socket_path = SOCKET_DEFAULT;
	if (i == argc) {
		cli_usage();
		return 2;
	}
	const struct verb *v = verb_find(argc - i, argv + i, &used);
	if (!v)
		return fail(2, "unknown verb '%s'; `tessera help` lists them", argv[i]);
	i += used;
	if (v->where == VERB_EXEC)
		return exec_sandbox(argc - i, argv + i);
	json_t *pos = json_array(), *opt = json_object();
	int rc = args_parse(v, argc - i, argv + i, pos, opt);
	if (rc == 0)
		resolve(v, pos);
	if (rc == 0)
		rc = confirmed(v, pos, opt);
	if (rc == 0)
		rc = v->where == VERB_LOCAL ? local_verb(v, pos, opt) : ask(v, pos, opt);
	json_decref(pos);
	json_decref(opt);
	return rc;
}
