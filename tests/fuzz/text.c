/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what people write: configuration files, key files, iSCSI URLs, sizes. Checked beside memory: what is refused says why in the
 * room it has; what is taken is within its bounds. */
#include "admin/conf.h"
#include "admin/verbs.h"
#include "nsd/iscsi_int.h"
#include "nsd/nvme_int.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { T_CONF, T_KEY, T_URL, T_SIZE, T_NVME_URL, T_KINDS };

/* The text as a file; its path is a number of this process's own. */
static int file_of(const void *p, size_t n, char path[64])
{
	int fd = memfd_create("fuzz", 0);

	TS_ASSERT(fd >= 0 && write(fd, p, n) == (ssize_t)n && fchmod(fd, 0600) == 0);
	snprintf(path, 64, "/proc/self/fd/%d", fd);
	return fd;
}

static void try_conf(const char *text)
{
	static struct conf c;
	char path[64], err[64];
	int fd = file_of(text, strlen(text), path);

	if (conf_load(path, &c, err, sizeof(err)) == 0)
		TS_ASSERT(c.node_id && c.node_id < 256 && c.port && c.port < 65536 && c.lease_ms >= 1000 && c.ndisks <= CONF_MAX_DISKS);
	else
		TS_ASSERT(memchr(err, 0, sizeof(err)) && err[0]);
	conf_free(&c);
	close(fd);
}

static void try_key(const char *key, size_t n)
{
	static struct conf c;
	char name[] = "/tmp/fuzz-key-XXXXXX", text[256], path[64], err[300];
	int fd = mkstemp(name), conf;

	TS_ASSERT(fd >= 0 && write(fd, key, n) == (ssize_t)n);
	snprintf(text, sizeof(text), "cluster_name = c\nnode_id = 1\nstate_dir = /s\nrun_dir = /r\ncluster_key_file = %s\n", name);
	conf = file_of(text, strlen(text), path);
	(void)!conf_load(path, &c, err, sizeof(err));
	conf_free(&c);
	close(conf);
	close(fd);
	unlink(name);
}

static void try_url(const char *text)
{
	struct iscsi_target *t = malloc(sizeof(*t));
	char err[80], url[4200];

	snprintf(url, sizeof(url), "iscsi://%s", text);
	TS_ASSERT(t);
	if (nsd_iscsi_url_parse(url, t, err, sizeof(err)) == 0) {
		TS_ASSERT(t->host[0] && strlen(t->iqn) < sizeof(t->iqn) && t->lun >= 0 && t->lun <= 16383 && strlen(t->port) < sizeof(t->port));
		TS_ASSERT(strtoul(t->port, NULL, 10) > 0);
	} else {
		TS_ASSERT(memchr(err, 0, sizeof(err)));
	}
	free(t);
}

static void try_nvme_url(const char *text)
{
	struct nvme_target *t = malloc(sizeof(*t));
	char err[80], url[4200];

	snprintf(url, sizeof(url), "nvme-tcp://%s", text);
	TS_ASSERT(t);
	if (nvme_url_parse(url, t, err, sizeof(err)) == 0) {
		TS_ASSERT(t->host[0] && memchr(t->nqn, 0, sizeof(t->nqn)) && t->queues && t->queues <= NVME_QUEUES_MAX && t->dgst < 4);
		TS_ASSERT(strtoul(t->port, NULL, 10) > 0 && strlen(t->port) < sizeof(t->port) && !(t->by_uuid && t->nsid));
	} else {
		TS_ASSERT(memchr(err, 0, sizeof(err)));
	}
	free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct ts_rd rd = fuzz_in(p, n);
	unsigned kind = ts_rd_u8(&rd) % T_KINDS;
	size_t len = TS_MIN(rd.left, (size_t)4096);
	char *text = malloc(len + 1);
	uint64_t size;

	TS_ASSERT(text);
	memcpy(text, rd.p, len);
	text[len] = 0;
	switch (kind) {
	case T_CONF: try_conf(text); break;
	case T_KEY: try_key(text, len); break;
	case T_URL: try_url(text); break;
	case T_NVME_URL: try_nvme_url(text); break;
	case T_SIZE: (void)!verb_size_parse(text, &size); break;
	}
	free(text);
	return 0;
}

void fuzz_seeds(void)
{
	static const struct {
		uint8_t kind;
		const char *text;
	} seeds[] = {
		{T_CONF, "cluster_name = demo\nnode_id = 3\nstate_dir = /s\nrun_dir = /r\ncluster_key_file = /nonexistent\n"
			 "port=7420\nlog_level = 6\nlease_ms=2000\npage_pool = 64M\nmeta_pool = 1GiB\nfault_points = yes\n"
			 "initiator_name = iqn.x\ndisk = iscsi://h/iqn/1\n# comment\ndisk = file:///dev/x\n"},
		{T_KEY, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n"},
		{T_KEY, "0123456789abcdef0123456789abcdef"},
		{T_URL, "user%pass@host:3260/iqn.2026-11.com.example:san/1"},
		{T_URL, "[fe80::1]:860/iqn.x/0"},
		{T_NVME_URL, "host:4420/nqn.2026-11.com.example:san?ns=1&hdgst=1&ddgst=1&queues=4"},
		{T_NVME_URL, "[fe80::1]/?uuid=00112233-4455-6677-8899-aabbccddeeff"},
		{T_SIZE, "64KiB"},
		{T_SIZE, "18446744073709551615"},
	};
	char buf[1024];

	for (size_t i = 0; i < TS_ARRAY_LEN(seeds); i++) {
		buf[0] = (char)seeds[i].kind;
		memcpy(buf + 1, seeds[i].text, strlen(seeds[i].text));
		fuzz_seed(buf, 1 + strlen(seeds[i].text));
	}
}
