/* SPDX-License-Identifier: Apache-2.0 */
/* Job: every state of a label. Planted faults: each byte of a label flipped in turn, a write cut short at every step,
 * other people's data, newer versions, each I/O failing. */
#include "nsd/nsd.h"
#include "tests/unit/nsd_util.h"

#include <fcntl.h>
#include <unistd.h>

#define SIZE (16u << 20)

static char path[] = "/var/tmp/tessera_label_XXXXXX";
static char url[64];

static struct nsd_dev *fresh(void)
{
	struct nsd_open_args a = {.exec = ts_exec_self(), .url = url};
	struct nsd_dev *d;
	char err[200];

	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(truncate(path, SIZE), 0);
	if (nsd_open(&a, &d, err, sizeof(err)))
		fail_msg("%s", err);
	return d;
}

static void make(struct nsd_label_disk *l, uint64_t sequence)
{
	memset(l, 0, sizeof(*l));
	memset(l->cluster_id, 0x11, 16);
	l->disk_no = le16_make(3);
	l->usage = 1;
	l->size_bytes = le64_make(SIZE);
	l->sequence = le64_make(sequence);
	snprintf(l->fs_name, sizeof(l->fs_name), "fs1");
	snprintf(l->nsd_name, sizeof(l->nsd_name), "nsd%u", (unsigned)sequence);
	snprintf(l->pool, sizeof(l->pool), "system");
}

static enum nsd_label_state state_of(struct nsd_dev *d, struct nsd_label_disk *out, char *what)
{
	enum nsd_label_state st;

	assert_int_equal(nsd_label_read(d, out, &st, what, 200), 0);
	return st;
}

static void poke(uint64_t off, const void *p, size_t n)
{
	int fd = open(path, O_WRONLY);

	assert_int_equal(pwrite(fd, p, n, (off_t)off), n);
	close(fd);
}

static void peek(uint64_t off, void *p, size_t n)
{
	int fd = open(path, O_RDONLY);

	assert_int_equal(pread(fd, p, n, (off_t)off), n);
	close(fd);
}

static void written_read_erased(void *arg)
{
	struct nsd_dev *d = fresh();
	struct nsd_label_disk *l = ts_xalloc(sizeof(*l)), *m = ts_xalloc(sizeof(*m));
	char what[200];

	assert_int_equal(state_of(d, m, what), NSD_LABEL_NONE);
	make(l, 1);
	assert_int_equal(nsd_label_write(d, l), 0);
	assert_int_equal(state_of(d, m, what), NSD_LABEL_OK);
	assert_string_equal(m->nsd_name, "nsd1");
	assert_int_equal(le16_get(m->disk_no), 3);
	assert_int_equal(nsd_label_erase(d), 0);
	assert_int_equal(state_of(d, m, what), NSD_LABEL_NONE);
	ts_free(l);
	ts_free(m);
	nsd_close(d);
}

/* One flipped byte in one copy: the other is used. The same byte in both: never OK. */
static void every_byte_flipped(void *arg)
{
	struct nsd_dev *d = fresh();
	struct nsd_label_disk *l = ts_xalloc(sizeof(*l)), *m = ts_xalloc(sizeof(*m));
	uint8_t *good = ts_xalloc(8192);
	char what[200];
	unsigned other[5] = {0};

	make(l, 1);
	assert_int_equal(nsd_label_write(d, l), 0);
	peek(0, good, 8192);
	assert_memory_equal(good, good + 4096, 4096);
	for (unsigned i = 0; i < 4096; i++) {
		uint8_t bad = good[i] ^ (uint8_t)(1 << i % 8);

		poke(i + (i & 1) * 4096, &bad, 1);
		if (state_of(d, m, what) != NSD_LABEL_OK || memcmp(m, good, 4096))
			fail_msg("byte %u flipped in one copy: the other is not used", i);
		poke(i, &bad, 1);
		poke(i + 4096, &bad, 1);
		enum nsd_label_state st = state_of(d, m, what);

		if (st == NSD_LABEL_OK || st == NSD_LABEL_NONE)
			fail_msg("byte %u flipped in both copies: state %d", i, (int)st);
		assert_int_not_equal(strlen(what), 0);
		other[st]++;
		poke(i, &good[i], 1);
		poke(i + 4096, &good[i], 1);
	}
	assert_int_equal(other[NSD_LABEL_FOREIGN], 8); /* magic gone: data without a signature */
	assert_true(other[NSD_LABEL_NEWER] <= 4 && other[NSD_LABEL_NEWER] >= 3);
	ts_free(l);
	ts_free(m);
	ts_free(good);
	nsd_close(d);
}

static void newer_and_mixed(void *arg)
{
	struct nsd_dev *d = fresh();
	struct nsd_label_disk *l = ts_xalloc(sizeof(*l)), *m = ts_xalloc(sizeof(*m));
	char what[200];

	make(l, 7);
	assert_int_equal(nsd_label_write(d, l), 0);
	peek(0, l, 4096);
	/* A higher sequence in the second copy wins. */
	snprintf(l->nsd_name, sizeof(l->nsd_name), "younger");
	l->sequence = le64_make(8);
	l->csum = le64_make(ts_csum64_skip(l, 4096, offsetof(struct nsd_label_disk, csum), 0));
	poke(4096, l, 4096);
	assert_int_equal(state_of(d, m, what), NSD_LABEL_OK);
	assert_string_equal(m->nsd_name, "younger");
	/* A sound label whose text is not terminated is no label. */
	memset(l->pool, 'x', sizeof(l->pool));
	l->csum = le64_make(ts_csum64_skip(l, 4096, offsetof(struct nsd_label_disk, csum), 0));
	poke(4096, l, 4096);
	assert_int_equal(state_of(d, m, what), NSD_LABEL_OK);
	assert_string_equal(m->nsd_name, "nsd7");
	/* Nor is one whose name would do something to a terminal, or is no text. */
	snprintf(l->pool, sizeof(l->pool), "system");
	for (unsigned i = 0; i < 3; i++) {
		static const char *const bad[] = {"fs\033[2J", "\xff\xfe", "a b"};

		memset(l->fs_name, 0, sizeof(l->fs_name));
		memcpy(l->fs_name, bad[i], strlen(bad[i]));
		l->csum = le64_make(ts_csum64_skip(l, 4096, offsetof(struct nsd_label_disk, csum), 0));
		poke(4096, l, 4096);
		assert_int_equal(state_of(d, m, what), NSD_LABEL_OK);
		assert_string_equal(m->nsd_name, "nsd7");
	}
	/* A sound newer copy beside an old one: an upgrade was cut short, hands off. */
	l->version = le32_make(7);
	l->csum = le64_make(ts_csum64_skip(l, 4096, offsetof(struct nsd_label_disk, csum), 0));
	poke(4096, l, 4096);
	assert_int_equal(state_of(d, m, what), NSD_LABEL_NEWER);
	assert_non_null(strstr(what, "7"));
	/* Newer in both, checksum unknown to us. */
	l->csum = le64_make(1);
	poke(0, l, 4096);
	poke(4096, l, 4096);
	assert_int_equal(state_of(d, m, what), NSD_LABEL_NEWER);
	ts_free(l);
	ts_free(m);
	nsd_close(d);
}

static void foreign_contents(void *arg)
{
	static const struct {
		const char *make, *says;
	} kind[] = {{"mkfs.ext4 -qF %s 2>/dev/null", "ext4"},
		    {"mkfs.xfs -qf %s 2>/dev/null", "xfs"},
		    {"mkswap %s >/dev/null 2>&1", "swap"},
		    {"echo ',,' | sfdisk -q %s >/dev/null 2>&1", "partition table"},
		    {"echo 'label: gpt' | sfdisk -q %s >/dev/null 2>&1", "partition table"},
		    {"echo hello | dd of=%s conv=notrunc bs=1 seek=500000 2>/dev/null", "without a known signature"}};
	struct nsd_label_disk *m = ts_xalloc(sizeof(*m));
	unsigned tried = 0;
	char what[200], cmd[200];

	for (size_t i = 0; i < TS_ARRAY_LEN(kind); i++) {
		struct nsd_dev *d = fresh();

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(cmd, sizeof(cmd), kind[i].make, path);
#pragma GCC diagnostic pop
		if (system(cmd) == 0) {
			assert_int_equal(state_of(d, m, what), NSD_LABEL_FOREIGN);
			if (!strstr(what, kind[i].says))
				fail_msg("%s: \"%s\" does not say %s", cmd, what, kind[i].says);
			tried++;
		}
		nsd_close(d);
	}
	printf("%u of %zu kinds of foreign contents were tried\n", tried, TS_ARRAY_LEN(kind));
	assert_true(tried >= 2);
	ts_free(m);
}

/* Old label there, new one being written, the n-th write or flush fails or is torn: always one of the two is read. */
static void cut_short_at_every_step(void *arg)
{
	struct nsd_label_disk *l = ts_xalloc(sizeof(*l)), *m = ts_xalloc(sizeof(*m));
	char what[200];

	for (int broken_copy = 0; broken_copy < 3; broken_copy++) {
		for (uint64_t n = 1; n <= 6; n++) {
			struct nsd_fault_plan plan = {0};
			struct nsd_dev *d = nsd_fault_new(fresh(), &plan);
			int rc;

			make(l, 1);
			assert_int_equal(nsd_label_write(d, l), 0);
			if (broken_copy)
				poke(broken_copy == 1 ? 100 : 4196, "garbage", 7);
			make(l, 2);
			plan.rc = -EIO;
			if (n <= 2)
				plan.tear_nth_write = n;
			else {
				plan.fail_nth = (n - 3) % 2 + 1;
				plan.fail_op = n < 5 ? NSD_WRITE : NSD_FLUSH;
			}
			rc = nsd_label_write(d, l);
			assert_int_equal(rc, -EIO);
			assert_int_equal(state_of(d, m, what), NSD_LABEL_OK);
			assert_in_range(le64_get(m->sequence), 1, 2);
			nsd_close(d);
		}
	}
	ts_free(l);
	ts_free(m);
}

/* An I/O error is an error, never a state. */
static void io_errors_are_errors(void *arg)
{
	struct nsd_label_disk *m = ts_xalloc(sizeof(*m));

	for (uint64_t n = 1;; n++) {
		struct nsd_fault_plan plan = {.fail_nth = n, .fail_op = NSD_READ, .rc = -EIO};
		struct nsd_dev *d = nsd_fault_new(fresh(), &plan);
		enum nsd_label_state st;
		char what[200];
		int rc = nsd_label_read(d, m, &st, what, sizeof(what));

		nsd_close(d);
		if (plan.fail_nth) {
			assert_int_equal(rc, 0);
			assert_true(n > 5);
			break;
		}
		assert_int_equal(rc, -EIO);
	}
	for (uint64_t n = 1; n < 6; n++) {
		struct nsd_dev *d = fresh();
		enum nsd_label_state st;
		char what[200];
		int rc;

		ts_alloc_fail_nth(n);
		rc = nsd_label_read(d, m, &st, what, sizeof(what));
		ts_alloc_fail_nth(0);
		assert_true(rc == -ENOMEM || (rc == 0 && st == NSD_LABEL_NONE));
		nsd_close(d);
	}
	ts_free(m);
}

#define T(fn) {#fn, in_fiber, NULL, NULL, fn}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(written_read_erased), T(every_byte_flipped), T(newer_and_mixed), T(foreign_contents),
		T(cut_short_at_every_step), T(io_errors_are_errors),
	};
	int fd = mkstemp(path), rc;

	if (fd < 0)
		return 1;
	close(fd);
	snprintf(url, sizeof(url), "file://%s", path);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	return rc;
}
