/* SPDX-License-Identifier: Apache-2.0 */
/* Job: requests as from /dev/fuse, on a real file system (image.h), through a pair of sockets. The kernel is believed in what it was
 * given (handles, and that nothing open is forgotten); lengths, numbers, strings and everything else come from the input.
 * Checked beside memory: each request has exactly one answer of a sound form, those that want none have none. */
#include "fuse/fuse_int.h"
#include "tests/fuzz/image.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUESTS 48u
#define NODES	 32u
#define HANDLES	 16u

struct handle {
	uint64_t fh, nodeid;
	uint32_t flags;
};
struct sent {
	uint64_t nodeid;
	uint32_t opcode, flags; /* flags: of an open */
	bool answered, silent;
};
static struct {
	struct fsh *h;
	struct tfuse *tf;
	int fd;
	unsigned nsent, nnodes, nhandles;
	struct sent sent[2 * REQUESTS + HANDLES];
	uint64_t nodes[NODES];
	struct handle handles[HANDLES];
} k;

/* ---- answers -------------------------------------------------------------------------------------------------------------- */

static void note_node(uint64_t nodeid)
{
	if (nodeid && k.nnodes < NODES)
		k.nodes[k.nnodes++] = nodeid;
}

static void note_handle(const struct fuse_open_out *o, uint64_t nodeid, uint32_t flags)
{
	TS_ASSERT(k.nhandles < HANDLES);
	k.handles[k.nhandles++] = (struct handle){o->fh, nodeid, flags};
}

static void on_answer(const uint8_t *p, size_t n)
{
	const struct fuse_out_header *h = (const struct fuse_out_header *)p;
	const struct fuse_entry_out *e = (const struct fuse_entry_out *)(h + 1);
	struct sent *s;

	TS_ASSERT(n >= sizeof(*h) && h->len == n);
	if (!h->unique)
		return; /* a notification */
	TS_ASSERT(h->unique <= k.nsent && h->error <= 0 && h->error > -512);
	s = &k.sent[h->unique - 1];
	TS_ASSERT(!s->answered && !s->silent);
	s->answered = true;
	if (h->error) {
		TS_ASSERT(n == sizeof(*h));
		return;
	}
	switch (s->opcode) {
	case FUSE_LOOKUP: case FUSE_MKNOD: case FUSE_MKDIR: case FUSE_SYMLINK: case FUSE_LINK:
		TS_ASSERT(n == sizeof(*h) + sizeof(*e));
		note_node(e->nodeid);
		break;
	case FUSE_CREATE: case FUSE_TMPFILE:
		TS_ASSERT(n == sizeof(*h) + sizeof(*e) + sizeof(struct fuse_open_out));
		note_node(e->nodeid);
		note_handle((const struct fuse_open_out *)(e + 1), e->nodeid, s->flags);
		break;
	case FUSE_OPEN:
		note_handle((const struct fuse_open_out *)(h + 1), s->nodeid, s->flags);
		break;
	}
}

static void answers(void)
{
	static uint8_t buf[TF_BUF_BYTES];
	ssize_t n;

	while ((n = recv(k.fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		on_answer(buf, (size_t)n);
}

/* One step; time jumps where only timers are left, and threads of the mount get their chance. */
static void step(unsigned *patience)
{
	bool more = ts_exec_run(k.h->x, 10000);
	uint64_t next = ts_exec_next_timer(k.h->x);

	answers();
	if (more)
		return;
	if (!--*patience)
		TS_PANIC("something waits for ever");
	if (next != UINT64_MAX && *patience % 4) /* a thread may be what is waited for */
		k.h->now_ns = TS_MAX(k.h->now_ns, next);
	else
		usleep(20);
}

/* On the executor, as the loop does it. */
static void readable(void *arg)
{
	tf_readable(k.tf, 0);
}
static void look(void)
{
	TS_ASSERT(ts_exec_post(k.h->x, readable, NULL) == 0);
}

/* Until nothing is in flight. */
static void settle(void)
{
	unsigned patience = 100000;

	do {
		look();
		step(&patience);
	} while (k.tf->in_flight);
}

struct running {
	ts_fn fn;
	bool ended;
};
static void run_fiber(void *arg)
{
	struct running *r = arg;

	r->fn(k.h);
	r->ended = true;
}
static void run(ts_fn fn)
{
	struct running r = {.fn = fn};
	unsigned patience = 100000;

	TS_ASSERT(ts_fiber_spawn(k.h->x, "fuzz", run_fiber, &r) == 0);
	while (!r.ended)
		step(&patience);
}

/* ---- requests --------------------------------------------------------------------------------------------------------------- */

static bool silent(uint32_t opcode)
{
	return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

static bool wants_handle(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_READ: case FUSE_WRITE: case FUSE_RELEASE: case FUSE_FSYNC: case FUSE_FLUSH: case FUSE_GETLK: case FUSE_SETLK:
	case FUSE_SETLKW: case FUSE_FALLOCATE: case FUSE_LSEEK: case FUSE_COPY_FILE_RANGE:
		return true;
	default:
		return false;
	}
}

struct request {
	struct fuse_in_header h;
	uint8_t arg[8192];
};

static uint64_t handle_take(struct request *r, unsigned which, size_t arg_len)
{
	unsigned i = which % k.nhandles;
	struct handle hd = k.handles[i];

	if (arg_len >= 8)
		memcpy(r->arg, &hd.fh, 8);
	if (r->h.opcode == FUSE_COPY_FILE_RANGE && arg_len >= sizeof(struct fuse_copy_file_range_in))
		memcpy(r->arg + offsetof(struct fuse_copy_file_range_in, fh_out), &k.handles[(which / 16) % k.nhandles].fh, 8);
	if (r->h.opcode == FUSE_RELEASE && arg_len >= sizeof(struct fuse_release_in)) {
		memcpy(r->arg + offsetof(struct fuse_release_in, flags), &hd.flags, 4);
		k.handles[i] = k.handles[--k.nhandles];
	}
	return hd.nodeid;
}

/* false: it was not sent, as no kernel would. */
static bool request(uint32_t opcode, unsigned which, unsigned how, const uint8_t *arg, size_t n)
{
	static struct request r;
	struct sent *s = &k.sent[k.nsent];

	n = TS_MIN(n, sizeof(r.arg));
	r.h = (struct fuse_in_header){.len = (uint32_t)(sizeof(r.h) + n), .opcode = opcode, .unique = k.nsent + 1,
				      .nodeid = how & 1 ? which : k.nodes[which % k.nnodes], .uid = how & 2 ? 1000 : 0, .gid = 100, .pid = 1 + (how >> 2 & 3)};
	memcpy(r.arg, arg, n);
	if (wants_handle(opcode) && !k.nhandles)
		return false;
	if (opcode == FUSE_RELEASE && how & (64 | 128)) /* the handle would stay open: nobody gives it back a second time */
		return false;
	if (wants_handle(opcode))
		r.h.nodeid = handle_take(&r, which, n);
	if ((opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET) && k.nhandles)
		return false;
	if ((opcode == FUSE_OPEN || opcode == FUSE_CREATE || opcode == FUSE_TMPFILE) && k.nhandles + 4 >= HANDLES)
		return false;
	*s = (struct sent){.nodeid = r.h.nodeid, .opcode = opcode, .silent = silent(opcode)};
	if (n >= 4)
		memcpy(&s->flags, r.arg, 4); /* open, create, tmpfile begin with them */
	if (how & 64)
		r.h.len += 1 + which;
	if (how & 64 || (how & 128 && n >= 8)) /* a length that is not true, or less than a header: no answer can be expected */
		s->silent = true;
	k.nsent++;
	return send(k.fd, &r, how & 128 && n >= 8 ? 8 + n % 32 : sizeof(r.h) + n, MSG_DONTWAIT) > 0;
}

/* ---- a run --------------------------------------------------------------------------------------------------------------------- */

static void view(void *arg, const struct quorum_group_view *v)
{
	struct fsh *h = arg;

	if (h->fs)
		fs_group_view(h->fs, v);
}

static void up_fiber(void *arg)
{
	struct fsh *h = arg;
	struct tfuse_args ta = {.exec = h->x, .source = "fuzz", .mountpoint = "/nonexistent/fuzz", .names = true};
	struct fs_mount_args a = {.exec = h->x, .disks = h->devs, .ndisks = h->ndisks, .net = h->net, .quorum = h->quorum,
				  .times = {2000, 400, 500, 150}, .page_pool_bytes = 8u << 20, .meta_pool_bytes = 8u << 20};
	struct fs_cred cred = {0};
	char err[256];

	k.tf = tfuse_new(&ta);
	TS_ASSERT(k.tf);
	tfuse_upcalls(k.tf, &a.up);
	TS_ASSERT(fs_mount(&a, &h->fs, err, sizeof(err)) == 0);
	k.tf->fs = h->fs; /* as tfuse_mount does, but for the mount */
	TS_ASSERT(fs_getattr(h->fs, &cred, FUSE_ROOT_ID, &k.tf->root) == 0 && tf_node_get(k.tf, FUSE_ROOT_ID, k.tf->root.gen));
}

static void down_fiber(void *arg)
{
	struct fsh *h = arg;

	tfuse_drain(k.tf);
	TS_ASSERT(fs_unmount(h->fs, false) == 0);
	h->fs = NULL;
	tfuse_free(k.tf);
}

static void up(void)
{
	struct ts_rd none = {.bad = true};
	int fds[2];

	memset(&k, 0, sizeof(k));
	k.fd = -1;
	k.h = image_open(0, &none);
	k.h->net = fsw_net_new(k.h->x, 1, k.h->incarnation);
	k.h->quorum = fsw_quorum_new(k.h->x, 1, k.h->incarnation);
	fsw_quorum_views(k.h->quorum, view, k.h);
	run(up_fiber);
	TS_ASSERT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
	k.tf->fd = fds[0];
	k.fd = fds[1];
	note_node(FUSE_ROOT_ID);
}

static void down(void)
{
	struct fuse_release_in in = {0};

	settle();
	while (k.nhandles) {
		TS_ASSERT(request(FUSE_RELEASE, 0, 0, (const uint8_t *)&in, sizeof(in)));
		settle();
	}
	for (unsigned i = 0; i < k.nsent; i++)
		if (!k.sent[i].answered && !k.sent[i].silent)
			TS_PANIC("request %u, %s, has no answer", i, tfuse_op_name(k.sent[i].opcode));
	run(down_fiber);
	close(k.fd);
	fsh_free(k.h);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct ts_rd rd = fuzz_in(p, n);

	up();
	for (unsigned i = 0; i < REQUESTS && rd.left && !rd.bad; i++) {
		uint32_t opcode = ts_rd_u8(&rd) % 66;
		unsigned which = ts_rd_u8(&rd), how = ts_rd_u8(&rd);
		size_t len;
		const uint8_t *arg = fuzz_run(&rd, &len);

		if (request(opcode, which, how, arg, len) && !(how & 32 && i % 4 && !wants_handle(opcode)))
			settle();
		else
			look(); /* the next one comes while it runs */
	}
	down();
	return 0;
}

/* ---- seeds ---------------------------------------------------------------------------------------------------------------------- */

static struct ts_wr w;
static void put(uint32_t opcode, unsigned which, const void *arg, size_t n, const char *name, const char *name2)
{
	uint8_t buf[1024];
	size_t len = n;

	if (n)
		memcpy(buf, arg, n);
	for (unsigned i = 0; i < 2; i++) {
		const char *s = i ? name2 : name;

		if (s) {
			memcpy(buf + len, s, strlen(s) + 1);
			len += strlen(s) + 1;
		}
	}
	ts_wr_u8(&w, (uint8_t)opcode);
	ts_wr_u8(&w, (uint8_t)which);
	ts_wr_u8(&w, 0);
	fuzz_run_put(&w, buf, len);
}
#define PUT(op, which, name, name2, type, ...) put(op, which, &(struct type){__VA_ARGS__}, sizeof(struct type), name, name2)

static void seed_names(void)
{
	PUT(FUSE_MKDIR, 0, "d", NULL, fuse_mkdir_in, .mode = 0755);
	PUT(FUSE_MKNOD, 1, "f", NULL, fuse_mknod_in, .mode = S_IFREG | 0644);
	put(FUSE_SYMLINK, 1, NULL, 0, "l", "target");
	put(FUSE_READLINK, 3, NULL, 0, NULL, NULL);
	PUT(FUSE_RENAME, 1, "f", "g", fuse_rename_in, .newdir = FUSE_ROOT_ID);
	PUT(FUSE_RENAME2, 0, "g", "dir", fuse_rename2_in, .newdir = FUSE_ROOT_ID, .flags = 2);
	put(FUSE_LOOKUP, 0, NULL, 0, "dir", NULL);
	PUT(FUSE_READDIRPLUS, 0, NULL, NULL, fuse_read_in, .size = 4096);
	PUT(FUSE_READDIR, 0, NULL, NULL, fuse_read_in, .size = 4096);
	put(FUSE_UNLINK, 0, NULL, 0, "g", NULL);
	put(FUSE_RMDIR, 0, NULL, 0, "d", NULL);
	PUT(FUSE_FORGET, 1, NULL, NULL, fuse_forget_in, .nlookup = 1);
}

static void seed_attrs(void)
{
	put(FUSE_LOOKUP, 0, NULL, 0, "tree", NULL);
	PUT(FUSE_GETATTR, 1, NULL, NULL, fuse_getattr_in, 0);
	PUT(FUSE_SETATTR, 1, NULL, NULL, fuse_setattr_in, .valid = FATTR_MODE | FATTR_ATIME | FATTR_MTIME, .mode = 0700, .atime = 5);
	PUT(FUSE_SETXATTR, 1, "user.x", "value", fuse_setxattr_in, .size = 5);
	PUT(FUSE_GETXATTR, 1, "user.x", NULL, fuse_getxattr_in, .size = 100);
	PUT(FUSE_LISTXATTR, 1, NULL, NULL, fuse_getxattr_in, .size = 100);
	put(FUSE_REMOVEXATTR, 1, NULL, 0, "user.x", NULL);
	put(FUSE_STATFS, 0, NULL, 0, NULL, NULL);
	PUT(FUSE_IOCTL, 1, NULL, NULL, fuse_ioctl_in, .cmd = 0x80086601, .out_size = 4);
	put(TF_STATX, 1, "0123456789012345678901234567890123456789", 40, NULL, NULL);
}

static void seed_data(void)
{
	PUT(FUSE_CREATE, 0, "new", NULL, fuse_create_in, .flags = O_RDWR, .mode = 0644);
	PUT(FUSE_WRITE, 0, "some bytes", NULL, fuse_write_in, .size = 10, .offset = 4090);
	PUT(FUSE_READ, 0, NULL, NULL, fuse_read_in, .size = 4096);
	PUT(FUSE_FALLOCATE, 0, NULL, NULL, fuse_fallocate_in, .length = 100000);
	PUT(FUSE_LSEEK, 0, NULL, NULL, fuse_lseek_in, .whence = SEEK_HOLE);
	PUT(FUSE_COPY_FILE_RANGE, 0, NULL, NULL, fuse_copy_file_range_in, .len = 10, .off_out = 100);
	PUT(FUSE_SETLK, 0, NULL, NULL, fuse_lk_in, .owner = 5, .lk = {.start = 0, .end = 9, .type = F_WRLCK});
	PUT(FUSE_GETLK, 0, NULL, NULL, fuse_lk_in, .owner = 6, .lk = {.start = 0, .end = 9, .type = F_RDLCK});
	PUT(FUSE_FSYNC, 0, NULL, NULL, fuse_fsync_in, 0);
	PUT(FUSE_FLUSH, 0, NULL, NULL, fuse_flush_in, 0);
	PUT(FUSE_INTERRUPT, 0, NULL, NULL, fuse_interrupt_in, .unique = 3);
	PUT(FUSE_RELEASE, 0, NULL, NULL, fuse_release_in, 0);
	PUT(FUSE_OPEN, 1, NULL, NULL, fuse_open_in, .flags = O_WRONLY | O_APPEND);
	PUT(FUSE_WRITE, 0, "append", NULL, fuse_write_in, .size = 6, .flags = O_APPEND);
	PUT(FUSE_TMPFILE, 0, "#1", NULL, fuse_create_in, .flags = O_RDWR, .mode = 0600);
}

void fuzz_seeds(void)
{
	static uint8_t buf[16384];
	void (*const parts[])(void) = {seed_names, seed_attrs, seed_data};

	for (unsigned i = 0; i < TS_ARRAY_LEN(parts); i++) {
		w = (struct ts_wr){.p = buf, .left = sizeof(buf)};
		PUT(FUSE_INIT, 0, NULL, NULL, fuse_init_in, .major = 7, .minor = 44, .max_readahead = 65536, .flags = UINT32_MAX, .flags2 = UINT32_MAX);
		parts[i]();
		fuzz_seed(buf, w.used);
	}
}
