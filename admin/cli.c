/* SPDX-License-Identifier: Apache-2.0 */
/* tessera: parses a verb by the table, asks the local daemon, prints the answer. Exit status: enum verb_exit. Nothing is changed by a
 * command that is refused. */
#include "admin/cli.h"
#include <ctype.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define WATCH_S 2

bool want_json;
static const char *nodes; /* --node */
static unsigned watch_s;  /* --watch; 0: once */

int fail(int status, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fprintf(stderr, "tessera: ");
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	return status;
}

const char *cli_file(json_t *opt, const char *name)
{
	bool config = !strcmp(name, "config");
	const char *s = json_string_value(json_object_get(opt, name)), *env = getenv(config ? "TESSERA_CONFIG" : "TESSERA_COROSYNC");
	return s ? s : env && *env ? env : config ? "/etc/tessera/tesserad.conf" : "/etc/corosync/corosync.conf";
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
		return fail(VERB_USAGE, "%s: unknown option %s; see `tessera help %s`", v->name, arg, v->name);
	if (!o->argname && value)
		return fail(VERB_USAGE, "%s: option --%s takes no value", v->name, o->name);
	if (o->argname && !value && ++*i < argc)
		value = argv[*i];
	if (o->argname && !value)
		return fail(VERB_USAGE, "%s: option --%s needs %s", v->name, o->name, o->argname);
	json_object_set_new(opt, o->name, value ? json_string(value) : json_true());
	return 0;
}

/* "2,3" or "all". */
static bool nodes_ok(const char *s)
{
	if (!strcmp(s, "all"))
		return true;
	for (const char *p = s; *p;) {
		char *end;
		unsigned long n = isdigit((unsigned char)*p) ? strtoul(p, &end, 10) : 0;
		if (n < 1 || n > 255 || (*end && *end != ','))
			return false;
		p = end + (*end == ',');
		if (*end == ',' && !*p)
			return false;
	}
	return *s != 0;
}

/* Options of every verb, in front of it or behind: -1 it is none of these, else 0 or an exit status. */
static int opt_common(int argc, char **argv, int *i)
{
	const char *a = argv[*i], *v = *i + 1 < argc ? argv[*i + 1] : NULL;
	if (!strcmp(a, "--json"))
		want_json = true;
	else if (!strcmp(a, "--watch")) {
		watch_s = WATCH_S;
		if (v && isdigit((unsigned char)*v)) {
			char *end;
			unsigned long n = strtoul(v, &end, 10);
			if (*end || n < 1 || n > 86400)
				return fail(VERB_USAGE, "--watch %s: must be a number of seconds from 1 to 86400", v);
			watch_s = (unsigned)n;
			++*i;
		}
	} else if (!strcmp(a, "--node") || !strncmp(a, "--node=", 7) || !strcmp(a, "--socket") || !strncmp(a, "--socket=", 9)) {
		bool node = a[2] == 'n';
		if (strchr(a, '='))
			v = strchr(a, '=') + 1;
		else
			++*i;
		if (!v)
			return fail(VERB_USAGE, "option %s needs a value; see `tessera --help`", a);
		if (node && !nodes_ok(v))
			return fail(VERB_USAGE, "--node '%s': neither `all` nor node numbers with commas; see `tessera node list`", v);
		*(node ? &nodes : &cli_socket) = v;
	} else
		return -1;
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
			int rc = opt_common(argc, argv, &i);
			if (rc < 0)
				rc = opt_take(v, argc, argv, &i, opt);
			if (rc)
				return rc;
		} else if (json_array_append_new(pos, json_string(argv[i]))) {
			return fail(VERB_USAGE, "%s: argument '%s' is not UTF-8; use names that are", v->name, argv[i]);
		}
	}
	if (nodes && !(v->flags & VERB_ROUTED))
		return fail(VERB_USAGE, "%s: takes no --node: it is for this node, or about all; see `tessera help %s`", v->name, v->name);
	if (watch_s && !(v->flags & VERB_LOOKS && v->where == VERB_DAEMON))
		return fail(VERB_USAGE, "%s: takes no --watch: only what changes nothing is repeated; see `tessera help %s`", v->name, v->name);
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
/* PATH of a file becomes NAME:INODE: the daemon looks up no path through its own mounts, and these have the rights of who asks. What is no file of
 * ours is left as it is, and refused there. */
static void resolve_file(json_t *pos)
{
	const char *path = json_string_value(json_array_get(pos, 0));
	struct stat st;
	char line[4096], want[32];
	FILE *f = !path || stat(path, &st) ? NULL : fopen("/proc/self/mountinfo", "re");
	if (!f)
		return;
	snprintf(want, sizeof(want), "%u:%u", major(st.st_dev), minor(st.st_dev));
	while (fgets(line, sizeof(line), f)) {
		char dev[32], name[64], *type = strstr(line, " - fuse.tessera " MOUNT_SOURCE);
		if (type && sscanf(line, "%*s %*s %31s", dev) == 1 && !strcmp(dev, want) && sscanf(type, " - fuse.tessera " MOUNT_SOURCE "%63s", name) == 1) {
			json_array_set_new(pos, 0, json_sprintf("%s:%llu", name, (unsigned long long)st.st_ino));
			break;
		}
	}
	fclose(f);
}

static void resolve(const struct verb *v, json_t *pos)
{
	if (!strncmp(v->name, "layout ", 7)) {
		resolve_file(pos);
		return;
	}
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

static void progress(json_t *p, bool over)
{
	static int tty = -1;
	static bool shown;
	if (tty < 0)
		tty = isatty(2);
	if (tty && p)
		fprintf(stderr, "\r\033[K%s %d%%", json_string_value(json_object_get(p, "step")),
			(int)json_integer_value(json_object_get(p, "permille")) / 10);
	if (shown && over)
		fprintf(stderr, "\r\033[K");
	shown = tty && !over;
}

/* The answer of one node, or the list of those of several. */
static int show_answer(const struct verb *v, json_t *o)
{
	json_t *data = json_object_get(o, "data"), *x;
	size_t i;
	if (want_json) {
		json_dumpf(data ? data : o, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (nodes && json_is_array(data)) {
		json_array_foreach(data, i, x) {
			cli_heading("node %lld", (long long)json_integer_value(json_object_get(x, "node")));
			if (json_object_get(x, "data"))
				cli_print(v, json_object_get(x, "data"));
			if (!json_is_true(json_object_get(x, "ok")))
				printf("%s\n", json_string_value(json_object_get(x, "error")));
			else if (!v->json)
				printf("done\n");
		}
	} else if (data)
		cli_print(v, data);
	fflush(stdout);
	if (json_is_true(json_object_get(o, "ok")))
		return !strcmp(v->name, "health") ? cli_health_status(data, nodes) : 0;
	return fail(verb_exit_of((int)json_integer_value(json_object_get(o, "errno"))), "%s", json_string_value(json_object_get(o, "error")));
}

static int ask(const struct verb *v, json_t *pos, json_t *opt)
{
	json_t *o = NULL;
	int rc = cli_ask(v, pos, opt, nodes, progress, &o);
	if (rc == 0)
		rc = show_answer(v, o);
	json_decref(o);
	return rc;
}

static volatile sig_atomic_t interrupted;
static void on_interrupt(int sig)
{
	interrupted = sig;
}

static void pause_ms(unsigned ms)
{
	struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
	nanosleep(&t, NULL); /* ends early when interrupted */
}

static void watch_begin(void)
{
	struct sigaction sa = {.sa_handler = on_interrupt};
	sigaction(SIGINT, &sa, NULL);
}

/* Again and again, until interrupted or refused. */
static int watch(const struct verb *v, json_t *pos, json_t *opt)
{
	int rc = 0;
	watch_begin();
	while (!interrupted) {
		char when[32];
		time_t t = time(NULL);
		strftime(when, sizeof(when), "%H:%M:%S", localtime(&t));
		if (isatty(1))
			printf("\033[H\033[2J");
		if (!want_json)
			cli_heading("tessera %s, %s", v->name, when);
		rc = ask(v, pos, opt);
		if (rc && rc < VERB_WARNING)
			return rc;
		pause_ms(watch_s * 1000);
	}
	return rc;
}

/* Events as they come: the daemon holds the answer back until there is one. */
static int follow(const struct verb *v, json_t *pos, json_t *opt)
{
	json_object_del(opt, "follow");
	watch_begin();
	while (!interrupted) {
		json_t *o = NULL;
		int rc = cli_ask(v, pos, opt, nodes, NULL, &o);
		if (rc)
			return interrupted ? 0 : rc;
		json_t *data = json_object_get(o, "data"), *x;
		size_t i;
		json_array_foreach(json_object_get(data, "events"), i, x) {
			if (want_json) {
				json_dumpf(x, stdout, JSON_COMPACT);
				putchar('\n');
			} else
				cli_event(x);
		}
		fflush(stdout);
		json_object_set_new(opt, "since", json_sprintf("%lld", (long long)json_integer_value(json_object_get(data, "last"))));
		json_object_set_new(opt, "wait", json_string("10000"));
		json_decref(o);
	}
	return 0;
}

/* The sandbox is a program beside us: libexec of the installation or of the build. */
static int exec_sandbox(int argc, char **argv)
{
	static const char *const places[] = {"../libexec/tessera/tessera-sandbox", "libexec/tessera/tessera-sandbox",
					     "../../libexec/tessera/tessera-sandbox", "../../../admin/sandbox/tessera-sandbox"};
	char self[PATH_MAX], path[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return fail(VERB_REFUSED, "sandbox: /proc/self/exe: %s", strerror(errno));
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
	return fail(VERB_REFUSED, "sandbox: tessera-sandbox not found beside %s; reinstall the package", dir);
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
	else if (!strcmp(v->name, "top"))
		return cli_top(opt, nodes);
	else if (!strcmp(v->name, "fs changes"))
		return cli_changes(pos, opt);
	else if (!strcmp(v->name, "cluster backup"))
		return cli_backup(pos, opt);
	else if (!strcmp(v->name, "cluster restore"))
		return cli_restore(pos, opt);
	else if (!strcmp(v->name, "preflight"))
		return cli_preflight(v, pos, opt);
	else if (!strcmp(v->name, "snap"))
		return cli_snap(json_string_value(json_array_get(pos, 0)));
	else {
		char *words[2] = {(char *)json_string_value(json_array_get(pos, 0)), (char *)json_string_value(json_array_get(pos, 1))};
		int used, n = (int)json_array_size(pos);
		const struct verb *h = n ? verb_find(n, words, &used) : NULL;
		if (n && !h)
			return fail(VERB_USAGE, "unknown verb '%s'; `tessera help` lists them", words[0]);
		if (h)
			cli_help(h);
		else if (want_json)
			print_json(cli_table());
		else
			cli_usage();
	}
	return 0;
}

static int run(const struct verb *v, json_t *pos, json_t *opt)
{
	if (v->where == VERB_LOCAL)
		return local_verb(v, pos, opt);
	if (!strcmp(v->name, "events") && json_object_get(opt, "follow"))
		return nodes ? fail(VERB_USAGE, "events: --follow and --node exclude each other; see `tessera help events`") : follow(v, pos, opt);
	return watch_s ? watch(v, pos, opt) : ask(v, pos, opt);
}

int main(int argc, char **argv)
{
	int i = 1, used, rc;
	cli_socket = getenv("TESSERA_SOCKET");
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			cli_usage();
			return 0;
		}
		rc = opt_common(argc, argv, &i);
		if (rc)
			return rc < 0 ? fail(VERB_USAGE, "unknown option %s; see `tessera --help`", argv[i]) : rc;
	}
	if (i >= argc) {
		cli_usage();
		return VERB_USAGE;
	}
	const struct verb *v = verb_find(argc - i, argv + i, &used);
	if (!v)
		return fail(VERB_USAGE, "unknown verb '%s'; `tessera help` lists them", argv[i]);
	i += used;
	if (v->where == VERB_EXEC)
		return exec_sandbox(argc - i, argv + i);
	json_t *pos = json_array(), *opt = json_object();
	rc = args_parse(v, argc - i, argv + i, pos, opt);
	if (rc == 0)
		resolve(v, pos);
	if (rc == 0)
		rc = confirmed(v, pos, opt);
	if (rc == 0)
		rc = run(v, pos, opt);
	json_decref(pos);
	json_decref(opt);
	return rc;
}
