/* SPDX-License-Identifier: Apache-2.0 */
/* passthru --memory: a tree of names in memory; files have no bytes (what is written is counted, what is read is zero). How fast names can
 * be made, looked at and removed when the file system costs nothing: P must come near it, or P is no measure.
 * What must never happen: an inode freed while the kernel has look-ups of it. */
#define FUSE_USE_VERSION 314
#include "passthru.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BUCKETS (1u << 18)

struct mem_node {
	struct stat st;
	uint64_t nlookup;
};
struct mem_name {
	struct mem_name *next;
	fuse_ino_t dir;
	struct mem_node *child;
	char name[];
};
static struct mem_name *buckets[BUCKETS];
static struct mem_node root = {.st = {.st_mode = S_IFDIR | 0755, .st_nlink = 2, .st_ino = FUSE_ROOT_ID}, .nlookup = 1};
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static struct mem_node *node_of(fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? &root : (struct mem_node *)(uintptr_t)ino;
}

static struct mem_name **place(fuse_ino_t dir, const char *name)
{
	uint64_t h = 14695981039346656037ull ^ dir;
	struct mem_name **p;

	for (const char *s = name; *s; s++)
		h = (h ^ (unsigned char)*s) * 1099511628211ull;
	for (p = &buckets[(h ^ h >> 32) & (BUCKETS - 1)]; *p; p = &(*p)->next)
		if ((*p)->dir == dir && !strcmp((*p)->name, name))
			break;
	return p;
}

static void drop(struct mem_node *n)
{
	if (n != &root && !n->nlookup && !n->st.st_nlink)
		free(n);
}

static void entry_fill(struct mem_node *n, struct fuse_entry_param *e)
{
	*e = (struct fuse_entry_param){.attr_timeout = pt_forever, .entry_timeout = pt_forever};
	if (!n)
		return;
	n->nlookup++;
	e->ino = (uintptr_t)n;
	e->attr = n->st;
}

static int make(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, struct fuse_entry_param *e)
{
	size_t len = strlen(name) + 1;
	struct mem_name **p, *nm = malloc(sizeof(*nm) + len);
	struct mem_node *n = calloc(1, sizeof(*n));
	int rc = ENOMEM;

	pthread_mutex_lock(&mutex);
	p = place(dir, name);
	if (nm && n && !*p) {
		n->st = (struct stat){.st_mode = mode, .st_nlink = S_ISDIR(mode) ? 2 : 1, .st_uid = fuse_req_ctx(req)->uid, .st_gid = fuse_req_ctx(req)->gid};
		clock_gettime(CLOCK_REALTIME_COARSE, &n->st.st_mtim);
		n->st.st_atim = n->st.st_ctim = n->st.st_mtim;
		n->st.st_ino = (uintptr_t)n;
		nm->dir = dir;
		nm->child = n;
		nm->next = NULL;
		memcpy(nm->name, name, len);
		*p = nm;
		entry_fill(n, e);
		rc = 0;
	} else if (*p) {
		rc = EEXIST;
	}
	pthread_mutex_unlock(&mutex);
	if (rc) {
		free(nm);
		free(n);
	}
	return rc;
}

static void op_lookup(fuse_req_t req, fuse_ino_t dir, const char *name)
{
	struct fuse_entry_param e;
	struct mem_name **p;

	pthread_mutex_lock(&mutex);
	p = place(dir, name);
	entry_fill(*p ? (*p)->child : NULL, &e);
	pthread_mutex_unlock(&mutex);
	fuse_reply_entry(req, &e);
}

static void forget_one(fuse_ino_t ino, uint64_t nlookup)
{
	pthread_mutex_lock(&mutex);
	node_of(ino)->nlookup -= nlookup;
	drop(node_of(ino));
	pthread_mutex_unlock(&mutex);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	forget_one(ino, nlookup);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *f)
{
	for (size_t i = 0; i < count; i++)
		forget_one(f[i].ino, f[i].nlookup);
	fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_reply_attr(req, &node_of(ino)->st, pt_forever);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *a, int set, struct fuse_file_info *fi)
{
	struct stat *st = &node_of(ino)->st;

	if (set & FUSE_SET_ATTR_MODE)
		st->st_mode = (st->st_mode & S_IFMT) | (a->st_mode & 07777);
	if (set & FUSE_SET_ATTR_SIZE)
		st->st_size = a->st_size;
	fuse_reply_attr(req, st, pt_forever);
}

static void op_create(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fuse_entry_param e;
	int rc = make(req, dir, name, S_IFREG | (mode & 07777), &e);

	fi->keep_cache = 1;
	if (rc)
		fuse_reply_err(req, rc);
	else
		fuse_reply_create(req, &e, fi);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t dir, const char *name, mode_t mode)
{
	struct fuse_entry_param e;
	int rc = make(req, dir, name, S_IFDIR | (mode & 07777), &e);

	if (rc)
		fuse_reply_err(req, rc);
	else
		fuse_reply_entry(req, &e);
}

static void op_unlink(fuse_req_t req, fuse_ino_t dir, const char *name)
{
	struct mem_name **p, *nm;

	pthread_mutex_lock(&mutex);
	p = place(dir, name);
	nm = *p;
	if (nm) {
		*p = nm->next;
		nm->child->st.st_nlink = 0;
		drop(nm->child);
	}
	pthread_mutex_unlock(&mutex);
	fuse_reply_err(req, nm ? 0 : ENOENT);
	free(nm);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fi->keep_cache = 1;
	fuse_reply_open(req, fi);
}

static void op_done(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_reply_err(req, 0);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct stat *st = &node_of(ino)->st;

	if (st->st_size < off + (off_t)size)
		st->st_size = off + (off_t)size;
	fuse_reply_write(req, size);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	static const char zero[1 << 20];

	fuse_reply_buf(req, zero, size < sizeof(zero) ? size : sizeof(zero));
}

struct fuse_lowlevel_ops pt_memory_ops = {
	.lookup = op_lookup, .forget = op_forget, .forget_multi = op_forget_multi, .getattr = op_getattr, .setattr = op_setattr,
	.create = op_create, .mkdir = op_mkdir, .unlink = op_unlink, .rmdir = op_unlink, .open = op_open, .release = op_done,
	.flush = op_done, .write = op_write, .read = op_read,
};

void pt_memory_init(bool bare)
{
	if (bare)
		pt_memory_ops.flush = NULL;
}
