/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration: every key, every refusal by line and name; numbers that must never go back. */
#include "admin/conf.h"
#include "admin/daemon.h"
#include "admin/verbs.h"
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[] = "/tmp/tessera-conf-XXXXXX", path[64], keyfile[64];

static void put(const char *file, const char *text, mode_t mode)
{
	FILE *f = fopen(file, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	chmod(file, mode);
}

#define GOOD "# a comment\ncluster_name = c1\nnode_id = 7\nstate_dir = /tmp\nrun_dir = /tmp\ncluster_key_file = %s\n" \
	     "disk = iscsi://10.0.0.1:3260/iqn.x/1\n  disk=file:///tmp/x  \npage_pool = 64M\n%s"

static int load(const char *extra, struct conf *c, char *err)
{
	char text[4096];
	snprintf(text, sizeof(text), GOOD, keyfile, extra);
	put(path, text, 0644);
	return conf_load(path, c, err, 256);
}

static void good(void **state)
{
	struct conf c;
	char err[256] = "";
	assert_int_equal(load("", &c, err), 0);
	assert_string_equal(c.cluster_name, "c1");
	assert_int_equal(c.node_id, 7);
	assert_int_equal(c.ndisks, 2);
	assert_string_equal(c.disks[1], "file:///tmp/x");
	assert_int_equal(c.page_pool_bytes, 64 << 20);
	assert_int_equal(c.port, 7420);
	assert_int_equal(conf_times(&c).lease_ms, quorum_times_default.lease_ms);
	assert_int_equal(conf_times(&c).margin_ms, quorum_times_default.margin_ms);
	assert_int_equal(c.key[0], 0xab);
	assert_string_equal(c.initiator, "iqn.2026-11.io.tessera:c1-n7");
	conf_free(&c);
}

static void lease(void **state)
{
	struct conf c;
	char err[256] = "";
	assert_int_equal(load("lease_ms = 10000\n", &c, err), 0);
	struct quorum_times t = conf_times(&c);
	assert_int_equal(t.lease_ms, 10000);
	assert_int_equal(t.renew_ms, 2000);
	assert_int_equal(t.margin_ms, 2500);
	assert_int_equal(t.settle_ms, quorum_times_default.settle_ms);
	conf_free(&c);
}

static void refused(void **state)
{
	static const char *const bad[] = {"colour = red\n", "node_id = 0\n", "node_id = 256\n", "node_id = x\n", "port = 70000\n", "port\n",
					  "disk = /dev/sda\n", "page_pool = 5Q\n", "page_pool = 0\n", "cluster_name =\n", "log_level = 9\n", "fault_points = maybe\n", "lease_ms = 999\n", "lease_ms = 60001\n"};
	for (size_t i = 0; i < TS_ARRAY_LEN(bad); i++) {
		struct conf c;
		char err[256] = "";
		assert_int_not_equal(load(bad[i], &c, err), 0);
		if (!strstr(err, "line 10"))
			fail_msg("'%s': the message does not name line 10: %s", bad[i], err);
		conf_free(&c);
	}
}

static void key_refused(void **state)
{
	struct conf c;
	char err[256] = "";
	chmod(keyfile, 0644);
	assert_int_not_equal(load("", &c, err), 0);
	assert_non_null(strstr(err, "chmod 600"));
	conf_free(&c);
	put(keyfile, "abc\n", 0600);
	assert_int_not_equal(load("", &c, err), 0);
	assert_non_null(strstr(err, keyfile));
	conf_free(&c);
	put(keyfile, "abababababababababababababababababababababababababababababababab\n", 0600);
}

/* A key that is no file of root's or our own, or no key: refused, and nothing waits for whoever sits behind it. */
static void key_hostile(void **state)
{
	static const char *const bad[] = {"0123456789`bcdef0123456789abcdef0123456789abcdef0123456789abcdef\n", "x", "",
					  "ababababababababababababababababababababababababababababababababab\n"};
	char other[80], err[256] = "";
	struct conf c;
	for (size_t i = 0; i < TS_ARRAY_LEN(bad); i++) {
		put(keyfile, bad[i], 0600);
		assert_int_not_equal(load("", &c, err), 0);
		conf_free(&c);
	}
	unlink(keyfile);
	assert_int_equal(mkfifo(keyfile, 0600), 0);
	assert_int_not_equal(load("", &c, err), 0);
	conf_free(&c);
	unlink(keyfile);
	snprintf(other, sizeof(other), "%s.other", keyfile);
	put(other, "abababababababababababababababababababababababababababababababab\n", 0600);
	assert_int_equal(symlink(other, keyfile), 0);
	assert_int_not_equal(load("", &c, err), 0);
	conf_free(&c);
	unlink(keyfile);
	if (geteuid() == 0) {
		assert_int_equal(rename(other, keyfile), 0);
		assert_int_equal(chown(keyfile, 1000, 1000), 0);
		assert_int_not_equal(load("", &c, err), 0);
		assert_non_null(strstr(err, "1000"));
		conf_free(&c);
		unlink(keyfile);
	}
	put(keyfile, "abababababababababababababababababababababababababababababababab\n", 0600);
}

/* The rest of a line that is too long is no line of its own; nor is what stands behind a NUL. */
static void long_lines(void **state)
{
	char text[1200], err[256] = "";
	struct conf c;
	memset(text, '#', sizeof(text));
	strcpy(text + 1023, "node_id = 9\n");
	assert_int_not_equal(load(text, &c, err), 0);
	assert_non_null(strstr(err, "line 10"));
	conf_free(&c);
}

static void incarnation_grows(void **state)
{
	struct conf c = {.node_id = 3};
	char err[256], file[128];
	uint64_t a, b, d, e;
	snprintf(c.state_dir, sizeof(c.state_dir), "%s", dir);
	assert_int_equal(conf_incarnation_next(&c, 5000 * TS_NS_PER_MS, &a, err, sizeof(err)), 0);
	assert_int_equal(conf_incarnation_next(&c, 4000 * TS_NS_PER_MS, &b, err, sizeof(err)), 0); /* the clock went back */
	assert_int_equal(conf_incarnation_next(&c, 9000 * TS_NS_PER_MS, &d, err, sizeof(err)), 0);
	assert_true(quorum_incarnation_counter(a) == 5000 && quorum_incarnation_counter(b) == 5001 && quorum_incarnation_counter(d) == 9000);
	/* Another node that starts in the same millisecond: no log and no seal of the two may be taken for each other's. */
	c.node_id = 4;
	snprintf(file, sizeof(file), "%s/incarnation", dir);
	assert_int_equal(unlink(file), 0);
	assert_int_equal(conf_incarnation_next(&c, 9000 * TS_NS_PER_MS, &e, err, sizeof(err)), 0);
	assert_true(e != d && quorum_incarnation_counter(e) == 9000);
	assert_true(key_of(NULL, 3, d) != key_of(NULL, 4, e) && key_of(NULL, 3, a) != key_of(NULL, 3, b));
	uint64_t v[CONF_DURABLE] = {77, 76, 5}, w[CONF_DURABLE];
	conf_durable_load(&c, w);
	assert_true(w[0] == 0 && w[1] == 0 && w[2] == 0);
	assert_int_equal(conf_durable_store(&c, v), 0);
	conf_durable_load(&c, w);
	assert_memory_equal(v, w, sizeof(v));
	snprintf(c.state_dir, sizeof(c.state_dir), "%s/none", dir);
	assert_int_not_equal(conf_incarnation_next(&c, 1, &a, err, sizeof(err)), 0);
	assert_non_null(strstr(err, "durable"));
}

static void sizes(void **state)
{
	uint64_t n;
	static const struct {
		const char *text;
		uint64_t want;
	} good_sizes[] = {{"1", 1}, {"64k", 65536}, {"1M", 1 << 20}, {"2GiB", 2ull << 30}, {"3TB", 3ull << 40}};
	static const char *const bad[] = {"", "0", "-1", "M", "1X", "1MM", "1.5M", "99999999999999999999", "18446744073709551615K", " 1"};
	for (size_t i = 0; i < TS_ARRAY_LEN(good_sizes); i++) {
		assert_int_equal(verb_size_parse(good_sizes[i].text, &n), 0);
		assert_true(n == good_sizes[i].want);
	}
	for (size_t i = 0; i < TS_ARRAY_LEN(bad); i++)
		if (verb_size_parse(bad[i], &n) == 0)
			fail_msg("'%s' was taken for a size", bad[i]);
}

static void agents(void **state)
{
	static const char *const bad[] = {"fence_agent = 2 /a", "fence_agent = 0 /a /b", "fence_agent = x /a /b", "fence_agent = 256 /a /b",
					  "fence_agent = 2 a /b", "fence_agent = 2 /a b", "fence_agent = 2 /a /b c",
					  "fence_agent = 2 /a /b\nfence_agent = 2 /c /d"};
	struct conf c;
	char err[256];
	assert_int_equal(load("fence_agent = 2 /usr/sbin/fence_x /etc/n2\nfence_agent = 3   /usr/sbin/fence_y\t/etc/n3  \n", &c, err), 0);
	assert_int_equal(c.nagents, 2);
	assert_int_equal(c.agents[1].node, 3);
	assert_string_equal(c.agents[1].program, "/usr/sbin/fence_y");
	assert_string_equal(c.agents[1].file, "/etc/n3");
	conf_free(&c);
	for (size_t i = 0; i < TS_ARRAY_LEN(bad); i++) {
		if (load(bad[i], &c, err) == 0)
			fail_msg("taken: %s", bad[i]);
		conf_free(&c);
	}
}

static void verbs(void **state)
{
	int used;
	for (size_t i = 0; i < verb_count; i++) { /* each verb is found by its own words and by no fewer */
		char words[64], *argv[4];
		int argc = 0;
		snprintf(words, sizeof(words), "%s", verb_table[i].name);
		for (char *w = strtok(words, " "); w; w = strtok(NULL, " "))
			argv[argc++] = w;
		assert_ptr_equal(verb_find(argc, argv, &used), &verb_table[i]);
		assert_int_equal(used, argc);
		if (argc > 1)
			assert_null(verb_find(argc - 1, argv, &used));
		assert_true(verb_table[i].help[0]);
		/* What must be confirmed has an option for it and a first argument to type. */
		bool sure = false;
		for (size_t k = 0; k < VERB_MAX_OPTS && verb_table[i].opts[k].name; k++)
			sure |= !strcmp(verb_table[i].opts[k].name, VERB_SURE);
		assert_int_equal(sure, verb_table[i].confirm != NULL);
		assert_true(!sure || verb_table[i].min_args);
	}
	char *nonsense[] = {"stat"};
	assert_null(verb_find(1, nonsense, &used));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(good), cmocka_unit_test(lease), cmocka_unit_test(refused), cmocka_unit_test(key_refused),
					   cmocka_unit_test(key_hostile), cmocka_unit_test(long_lines), cmocka_unit_test(incarnation_grows),
					   cmocka_unit_test(sizes), cmocka_unit_test(agents), cmocka_unit_test(verbs)};
	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/conf", dir);
	snprintf(keyfile, sizeof(keyfile), "%s/key", dir);
	put(keyfile, "abababababababababababababababababababababababababababababababab\n", 0600);
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	char cmd[128];
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return rc | (system(cmd) != 0);
}
