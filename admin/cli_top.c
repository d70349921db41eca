/* SPDX-License-Identifier: Apache-2.0 */
/* `tessera top`: the difference between two looks at the counters, as rates. Must never happen: a rate over a counter that began anew
 * (the daemon was restarted, a file system mounted again): it is shown from the next look on. */
#include "admin/cli.h"
#include <limits.h>
#include <time.h>
#include <unistd.h>

static json_int_t at(json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static json_t *same(json_t *list, const char *key, json_t *x)
{
	json_t *o, *want = json_object_get(x, key);
	size_t i;
	json_array_foreach(list, i, o)
		if (json_equal(json_object_get(o, key), want))
			return o;
	return NULL;
}

struct look {
	double s; /* between the two */
};

static double rate(const struct look *l, json_t *now, json_t *then, const char *key)
{
	json_int_t d = at(now, key) - at(then, key);
	return then && d > 0 && l->s > 0 ? (double)d / l->s : 0;
}

static void rates(const struct look *l, json_t *to, json_t *now, json_t *then, const char *const keys[][2])
{
	for (; (*keys)[0]; keys++)
		json_object_set_new(to, (*keys)[1], json_real(rate(l, now, then, (*keys)[0])));
}

static json_t *ops(const struct look *l, json_t *now, json_t *then)
{
	json_t *a = json_array(), *x;
	const char *name;
	json_object_foreach(now, name, x) {
		json_t *old = json_object_get(then, name);
		json_int_t n = at(x, "count") - at(old, "count"), us = at(x, "us") - at(old, "us");
		if (then && n > 0)
			json_array_append_new(a, json_pack("{s:s,s:f,s:f}", "op", name, "per_s", l->s > 0 ? (double)n / l->s : 0, "mean_us", (double)us / (double)n));
	}
	return a;
}

static json_t *users(const struct look *l, json_t *now, json_t *then, const char *fs)
{
	static const char *const keys[][2] = {{"ops", "ops_s"}, {"read_bytes", "read_bytes_s"}, {"write_bytes", "write_bytes_s"}, {NULL, NULL}};
	json_t *a = json_array(), *x;
	size_t i;
	json_array_foreach(now, i, x) {
		json_t *old = same(then, "pid", x);
		if (old && at(x, "ops") > at(old, "ops")) {
			json_t *o = json_pack("{s:I,s:I,s:s}", "pid", at(x, "pid"), "uid", at(x, "uid"), "fs", fs);
			rates(l, o, x, old, keys);
			json_array_append_new(a, o);
		}
	}
	return a;
}

static json_t *node(json_t *now, json_t *then)
{
	static const char *const fs_keys[][2] = {{"requests", "ops_s"}, {"read_bytes", "read_bytes_s"}, {"write_bytes", "write_bytes_s"}, {"log_forces", "forces_s"},
						 {"token_requests", "token_requests_s"}, {"revokes", "revokes_s"}, {"token_waits", "token_waits_s"}, {NULL, NULL}};
	static const char *const disk_keys[][2] = {{"reads", "reads_s"}, {"writes", "writes_s"}, {"flushes", "flushes_s"}, {"read_bytes", "read_bytes_s"},
						   {"write_bytes", "write_bytes_s"}, {NULL, NULL}};
	static const char *const net_keys[][2] = {{"frames_sent", "frames_sent_s"}, {"frames_received", "frames_received_s"}, {"bytes_sent", "bytes_sent_s"},
						  {"bytes_received", "bytes_received_s"}, {NULL, NULL}};
	struct look l = {.s = (double)(at(now, "time_us") - at(then, "time_us")) / 1e6};
	json_t *mounts = json_array(), *disks = json_array(), *net = json_object(), *x;
	size_t i;
	json_array_foreach(json_object_get(now, "mounts"), i, x) {
		json_t *old = same(json_object_get(then, "mounts"), "name", x), *o = json_pack("{s:O,s:I,s:I}", "name", json_object_get(x, "name"), "in_flight",
											     at(x, "in_flight"), "dirty_bytes", at(x, "dirty_bytes"));
		rates(&l, o, x, old, fs_keys);
		json_object_set_new(o, "ops", ops(&l, json_object_get(x, "ops"), json_object_get(old, "ops")));
		json_object_set_new(o, "processes", users(&l, json_object_get(x, "users"), json_object_get(old, "users"), json_string_value(json_object_get(x, "name"))));
		json_array_append_new(mounts, o);
	}
	json_array_foreach(json_object_get(now, "disks"), i, x) {
		json_t *o = json_pack("{s:O,s:I}", "url", json_object_get(x, "url"), "in_flight", at(x, "in_flight"));
		rates(&l, o, x, same(json_object_get(then, "disks"), "url", x), disk_keys);
		json_array_append_new(disks, o);
	}
	rates(&l, net, json_object_get(now, "net"), json_object_get(then, "net"), net_keys);
	return json_pack("{s:I,s:f,s:o,s:o,s:o}", "node", at(now, "node"), "seconds", l.s, "mounts", mounts, "disks", disks, "net", net);
}

/* ---- for people ------------------------------------------------------------------------------------------------------------- */

static const char *human(double v, char buf[16])
{
	static const char units[] = " KMGT";
	unsigned u = 0;
	while (v >= 10000 && u < 4) {
		v /= 1000;
		u++;
	}
	snprintf(buf, 16, v < 10 && v > 0 ? "%.1f%c" : "%.0f%c", v, units[u]);
	if (buf[strlen(buf) - 1] == ' ')
		buf[strlen(buf) - 1] = 0;
	return buf;
}

static double real(json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

static void print_fs(json_t *m)
{
	char a[16], b[16], c[16], d[16], e[16], f[16], g[16];
	json_t *x;
	size_t i;
	printf("  fs %-16s %8s %9s %9s %8s %8s %8s %7lld %9s\n", json_string_value(json_object_get(m, "name")), human(real(m, "ops_s"), a),
	       human(real(m, "read_bytes_s"), b), human(real(m, "write_bytes_s"), c), human(real(m, "forces_s"), d), human(real(m, "token_waits_s"), e),
	       human(real(m, "revokes_s"), f), (long long)at(m, "in_flight"), human((double)at(m, "dirty_bytes"), g));
	json_array_foreach(json_object_get(m, "ops"), i, x)
		printf("     op %-16s %8s  mean %s us\n", json_string_value(json_object_get(x, "op")), human(real(x, "per_s"), a), human(real(x, "mean_us"), b));
	json_array_foreach(json_object_get(m, "processes"), i, x)
		printf("     process %-11lld %8s %9s %9s  uid %lld\n", (long long)at(x, "pid"), human(real(x, "ops_s"), a), human(real(x, "read_bytes_s"), b),
		       human(real(x, "write_bytes_s"), c), (long long)at(x, "uid"));
}

static void print_node(json_t *n)
{
	char a[16], b[16], c[16], d[16], e[16];
	json_t *x, *net = json_object_get(n, "net");
	size_t i;
	cli_heading("node %lld", (long long)at(n, "node"));
	printf("  %-19s %8s %9s %9s %8s %8s %8s %7s %9s\n", "per second", "ops", "read B", "write B", "forces", "waits", "revokes", "running", "dirty B");
	json_array_foreach(json_object_get(n, "mounts"), i, x)
		print_fs(x);
	json_array_foreach(json_object_get(n, "disks"), i, x)
		printf("  disk ...%-40.40s %8s r %8s w %8s f %9s B r %9s B w\n",
		       json_string_value(json_object_get(x, "url")) + TS_MAX(0, (int)json_string_length(json_object_get(x, "url")) - 40), human(real(x, "reads_s"), a),
		       human(real(x, "writes_s"), b), human(real(x, "flushes_s"), c), human(real(x, "read_bytes_s"), d), human(real(x, "write_bytes_s"), e));
	printf("  net  sent %s frames, %s B; received %s frames, %s B\n", human(real(net, "frames_sent_s"), a), human(real(net, "bytes_sent_s"), b),
	       human(real(net, "frames_received_s"), c), human(real(net, "bytes_received_s"), d));
}

/* The counters of one node, or of several: always a list. */
static int look(const char *nodes, json_t **out)
{
	json_t *pos = json_array(), *opt = json_object(), *o = NULL, *data, *x;
	size_t i;
	int rc = cli_ask(verb_by_name("diag counters"), pos, opt, nodes, NULL, &o);
	json_decref(pos);
	json_decref(opt);
	*out = json_array();
	if (rc)
		return rc;
	data = json_object_get(o, "data");
	if (!nodes)
		json_array_append(*out, data);
	json_array_foreach(nodes ? data : NULL, i, x)
		if (json_object_get(x, "data"))
			json_array_append(*out, json_object_get(x, "data"));
	if (!json_array_size(*out))
		rc = fail(verb_exit_of((int)at(o, "errno")), "top: %s", json_string_value(json_object_get(o, "error")));
	json_decref(o);
	return rc;
}

int cli_top(json_t *opt, const char *nodes)
{
	const char *i = json_string_value(json_object_get(opt, "interval")), *n = json_string_value(json_object_get(opt, "count"));
	unsigned ms = i ? (unsigned)strtoul(i, NULL, 10) : 2000;
	unsigned long count = n ? strtoul(n, NULL, 10) : isatty(1) ? ULONG_MAX : 1;
	struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
	json_t *then = NULL, *now = NULL, *x;
	int rc = look(nodes, &then);
	for (; rc == 0 && count; count--) {
		nanosleep(&t, NULL);
		rc = look(nodes, &now);
		json_t *all = json_array();
		size_t k;
		json_array_foreach(rc ? NULL : now, k, x) {
			json_t *old = same(then, "node", x);
			if (old)
				json_array_append_new(all, node(x, old));
		}
		if (rc == 0 && want_json) {
			json_dumpf(all, stdout, JSON_INDENT(2));
			putchar('\n');
		} else if (rc == 0) {
			if (isatty(1))
				printf("\033[H\033[2J");
			json_array_foreach(all, k, x)
				print_node(x);
		}
		fflush(stdout);
		json_decref(all);
		json_decref(then);
		then = now;
		now = NULL;
	}
	json_decref(then);
	return rc;
}
