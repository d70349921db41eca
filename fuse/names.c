/* SPDX-License-Identifier: Apache-2.0 */
/* Names that the kernel keeps: which it was told it may (an entry timeout went out), by directory. What is in the list is
 * more than what the kernel has, never less: names_drop.c takes them back when the directory's token goes.
 *
 *   armed (a reply with a timeout) --> renamed: with its timeout, into the other directory's list
 *                                  --> removed, or renamed away: out of the list; the caller applies the answer with the directory
 *                                      locked, so who takes that lock behind it finds nothing (changed_ns)
 *                                  --> the kernel forgot the inode: it has no name of it
 *
 * Must never happen: a timeout in a reply whose name is not in the list; a list without bound. */
#include "fuse/fuse_int.h"

#define TF_NAMES	  262144 /* of a mount */
#define TF_NAMES_DIR	  16384
#define TF_NEGATIVE_DIR	  1024 /* names that are not there: nothing makes the kernel forget them but a call each */
#define TF_NAME_REST_NS	  (200 * TS_NS_PER_MS)
#define TF_NAME_REST_MAX  6 /* doublings */
#define TF_NEGATIVE_CALM_NS (3 * TS_NS_PER_S)
#define TF_NAME_CALM_NS	  (30 * TS_NS_PER_S)

static uint64_t name_hash(uint64_t dir, const char *name, size_t len)
{
	return ts_hash_2(dir, ts_csum64(name, len, 0));
}

static struct tf_name *name_find(struct tfuse *tf, const struct tf_node *dir, const char *name, size_t len)
{
	for (struct ts_map_node *m = ts_map_first(&tf->names, name_hash(dir->ino, name, len)); m; m = ts_map_next(m)) {
		struct tf_name *e = TS_CONTAINER(m, struct tf_name, node);
		if (e->dir == dir && e->len == len && !memcmp(e->name, name, len))
			return e;
	}
	return NULL;
}

static void child_set(struct tf_name *e, struct tf_node *child)
{
	if (e->child)
		e->child->name = NULL;
	e->dir->nnegative -= !e->child;
	e->child = child;
	e->dir->nnegative += !child;
	if (child)
		child->name = e;
}

void tf_name_free(struct tfuse *tf, struct tf_name *e)
{
	if (e->child)
		e->child->name = NULL;
	e->dir->nnegative -= !e->child;
	e->dir->nnames--;
	tf->st.names--;
	ts_map_remove(&tf->names, &e->node);
	ts_list_del(&e->link);
	ts_free(e);
}

static struct tf_name *name_new(struct tfuse *tf, struct tf_node *dir, const char *name, size_t len, struct tf_node *child)
{
	struct tf_name *e = ts_alloc(sizeof(*e) + len);
	if (!e)
		return NULL;
	memcpy(e->name, name, len);
	e->len = (uint8_t)len;
	e->dir = dir;
	e->armed_ns = ts_exec_now(tf->exec);
	e->stamp = ++tf->name_stamp;
	if (ts_map_insert(&tf->names, &e->node, name_hash(dir->ino, name, len))) {
		ts_free(e);
		return NULL;
	}
	ts_list_push_back(&dir->names, &e->link);
	dir->nnames++;
	dir->nnegative++;
	tf->st.names++;
	child_set(e, child);
	return e;
}

/* A name that is asked for and not there is often made next, which its being kept would make dearer: the second time counts. */
static bool missed_before(struct tfuse *tf, const struct tf_node *dir, const char *name, size_t len)
{
	uint64_t h = name_hash(dir->ino, name, len) | 1;
	uint64_t *slot = &tf->missed[h / 2 % TF_MISSED];
	bool before = *slot == h;
	*slot = h;
	return before;
}

static bool room(const struct tfuse *tf, const struct tf_node *dir, const struct tf_node *child)
{
	return tf->st.names < TF_NAMES && dir->nnames < TF_NAMES_DIR && (child || dir->nnegative < TF_NEGATIVE_DIR);
}

/* A thread that was told without the directory's lock being held; of each name so many at a time. */
static bool unlocked_note(struct tfuse *tf, struct tf_name *e, uint32_t tid)
{
	uint64_t now = ts_exec_now(tf->exec);
	for (unsigned i = 0; i < TF_UNLOCKED; i++)
		if (e->unlocked[i].tid == tid || e->unlocked[i].ns + TF_APPLY_NS < now) {
			e->unlocked[i] = (struct tf_unlocked){tid, now};
			return true;
		}
	return false;
}

/* Not in a directory that is being fought for: what is handed out there is only in the way. */
static bool calm(const struct tfuse *tf, const struct tf_node *dir, const struct fs_attr *a, bool negative)
{
	uint64_t now = ts_exec_now(tf->exec);
	if (dir->dropping || dir->parked || now < dir->rest_until)
		return false;
	/* Without the directory's lock the kernel drops what nobody uses, and that there is no such name never. */
	return a->entry_private || now >= dir->stirred_ns + (negative ? TF_NEGATIVE_CALM_NS : TF_NAME_REST_NS);
}

bool tf_name_arm(struct tf_req *q, const char *name, size_t len, const struct fs_attr *a, struct tf_node *child, uint32_t unlocked)
{
	struct tfuse *tf = q->tf;
	struct tf_node *dir = tf->have_prune && a->entry_cacheable ? tf_node_find(tf, q->in->nodeid) : NULL;
	if (!dir || tf->is_gone || !calm(tf, dir, a, !child))
		return false;
	struct tf_name *e = name_find(tf, dir, name, len);
	if (e && e->child != child) { /* an older one of that name: whatever becomes of it, there is one name more */
		if (child && child->name)
			return false;
		child_set(e, child);
	}
	if (!e && ((child && child->name) || !room(tf, dir, child) || (!child && !missed_before(tf, dir, name, len))))
		return false;
	if (!e)
		e = name_new(tf, dir, name, len, child);
	if (!e || (unlocked && !unlocked_note(tf, e, unlocked)))
		return false; /* in the list or not: there it does no harm */
	e->armed_ns = ts_exec_now(tf->exec);
	tf_names_unanswered(q, dir);
	return true;
}

/* Whoever removed a name that was kept applies that later. */
static void name_left(struct tf_req *q, struct tf_name *e)
{
	e->dir->changed_ns = ts_exec_now(q->tf->exec);
	tf_names_unanswered(q, e->dir);
	tf_name_free(q->tf, e);
}

static struct tf_node *stir(const struct tf_req *q, uint64_t ino)
{
	struct tf_node *dir = tf_node_find(q->tf, ino);
	if (dir)
		dir->stirred_ns = ts_exec_now(q->tf->exec);
	return dir;
}

void tf_name_made(const struct tf_req *q)
{
	(void)stir(q, q->in->nodeid);
}

void tf_name_removed(struct tf_req *q, const char *name, size_t len)
{
	struct tf_node *dir = stir(q, q->in->nodeid);
	struct tf_name *e = dir ? name_find(q->tf, dir, name, len) : NULL;
	if (e)
		name_left(q, e);
}

/* The kernel moves the entry with its timeout, whether that suits the new directory or not. */
static void moved(struct tf_req *q, struct tf_name *was, struct tf_node *dir, const char *name, size_t len)
{
	struct tf_node *child = was->child;
	child_set(was, NULL);
	struct tf_name *e = name_new(q->tf, dir, name, len, child);
	if (!e)
		TS_PANIC("mount %s: no memory to remember a name in directory %llu: it could not be taken back", q->tf->mountpoint,
			 (unsigned long long)dir->ino);
	memcpy(e->unlocked, was->unlocked, sizeof(e->unlocked));
	tf_names_unanswered(q, dir);
}

void tf_name_renamed(struct tf_req *q, uint64_t from, const char *name, size_t len, uint64_t to, const char *newname, size_t nlen, bool exchange)
{
	struct tf_node *d = stir(q, from), *t = stir(q, to);
	struct tf_name *a = d ? name_find(q->tf, d, name, len) : NULL, *b = t ? name_find(q->tf, t, newname, nlen) : NULL;
	if (a == b) /* or neither is kept */
		return;
	/* The kernel has both directories locked: it knows them. */
	if (a && a->child && t)
		moved(q, a, t, newname, nlen);
	if (exchange && b && b->child && d)
		moved(q, b, d, name, len);
	if (a)
		name_left(q, a);
	if (b)
		name_left(q, b);
}

/* The request keeps the directory in a list of its own; false: it is there already. */
static bool dir_keep(struct tf_node **list, size_t n, struct tf_node *dir)
{
	for (size_t i = 0; i < n && list[i] != dir; i++) {
		if (list[i])
			continue;
		list[i] = dir;
		tf_node_ref(dir);
		return true;
	}
	return false;
}

void tf_names_unanswered(struct tf_req *q, struct tf_node *dir)
{
	dir->unanswered += dir_keep(q->telling, TS_ARRAY_LEN(q->telling), dir);
}

void tf_names_park(struct tf_req *q, struct tf_node *dir)
{
	dir->parked += dir_keep(q->parked, TS_ARRAY_LEN(q->parked), dir);
}

void tf_names_answered(struct tf_req *q)
{
	for (unsigned i = 0; i < TS_ARRAY_LEN(q->telling) && q->telling[i]; i++) {
		struct tf_node *dir = q->telling[i];
		if (dir->changed_ns)
			dir->changed_ns = ts_exec_now(q->tf->exec);
		if (--dir->unanswered == 0)
			ts_cond_broadcast(&dir->names_cond);
		tf_node_unref(q->tf, dir);
	}
	for (unsigned i = 0; i < TS_ARRAY_LEN(q->parked) && q->parked[i]; i++) {
		q->parked[i]->parked--;
		tf_node_unref(q->tf, q->parked[i]);
	}
}

void tf_names_forget(struct tfuse *tf, struct tf_node *n)
{
	ts_list_for_safe(l, t, &n->names)
		tf_name_free(tf, ts_list_entry(l, struct tf_name, link));
	if (n->name)
		tf_name_free(tf, n->name);
}

/* The token goes. Handing out begins again some time later, the later the sooner the last names had to be taken back. */
void tf_names_rest(struct tfuse *tf, struct tf_node *dir)
{
	uint64_t now = dir->stirred_ns = ts_exec_now(tf->exec);
	if (dir->nnames)
		dir->rests = now > dir->rest_until + TF_NAME_CALM_NS ? 0 : TS_MIN(dir->rests + 1, (unsigned)TF_NAME_REST_MAX);
	dir->rest_until = TS_MAX(dir->rest_until, now + (TF_NAME_REST_NS << dir->rests));
}
