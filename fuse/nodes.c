/* SPDX-License-Identifier: Apache-2.0 */
/* The inodes the kernel may know, with their look-up counts. The count changes in two functions only: tf_node_get (an
 * entry that reaches the kernel) and tf_node_forget. A node outlives its count while a job or request uses it.
 * Must never happen: a node freed while the kernel still knows it, or an invalidation skipped because of that. */
#include "fuse/fuse_int.h"

#define INO_MASK ((1ULL << TF_INO_BITS) - 1)

uint64_t tf_nodeid(uint64_t ino, uint32_t gen)
{
	return ino == FUSE_ROOT_ID ? ino : ino | (uint64_t)gen << TF_INO_BITS;
}

/* Nodes of one number are few: those that the kernel has not forgotten since it was used again. */
static struct tf_node *find(struct tfuse *tf, uint64_t ino, uint64_t nodeid)
{
	uint64_t h = ts_hash_u64(ino);
	for (struct ts_map_node *m = ts_map_first(&tf->nodes, h); m; m = ts_map_next(m)) {
		struct tf_node *n = TS_CONTAINER(m, struct tf_node, node);
		if (n->ino == ino && (nodeid ? tf_nodeid(ino, n->gen) == nodeid : !n->old))
			return n;
	}
	return NULL;
}

struct tf_node *tf_node_find(struct tfuse *tf, uint64_t ino)
{
	return find(tf, ino, 0);
}

struct tf_node *tf_node_by_id(struct tfuse *tf, uint64_t nodeid)
{
	return find(tf, nodeid & INO_MASK, nodeid);
}

uint64_t tf_node_ino(uint64_t nodeid)
{
	return nodeid & INO_MASK;
}

/* Asked by fs/ before it frees an inode without names. */
bool tf_known(void *arg, uint64_t ino, uint32_t gen)
{
	struct tfuse *tf = arg;
	struct tf_node *n = tf->is_gone ? NULL : tf_node_by_id(tf, tf_nodeid(ino, gen));
	if (!n || !n->nlookup || n->gen != gen)
		return false;
	n->awaited = true;
	return true;
}

void tf_node_saw(struct tf_node *n, const struct fs_attr *a)
{
	if (!S_ISDIR(a->mode) || (!n->last && !(n->last = ts_alloc(sizeof(*n->last)))))
		return; /* without memory a removed directory answers ESTALE */
	*n->last = *a;
}

static void node_free_if_idle(struct tfuse *tf, struct tf_node *n)
{
	if (n->nlookup || n->refs)
		return;
	tf_names_forget(tf, n);
	ts_map_remove(&tf->nodes, &n->node);
	tf->st.nodes--;
	ts_free(n->last);
	ts_free(n);
}

struct tf_node *tf_node_get(struct tfuse *tf, uint64_t ino, uint32_t gen)
{
	struct tf_node *n = tf_node_by_id(tf, tf_nodeid(ino, gen)), *was = tf_node_find(tf, ino);
	if (was && was != n)
		was->old = true;
	if (!n) {
		n = ts_alloc(sizeof(*n));
		if (!n)
			return NULL;
		n->ino = ino;
		ts_list_init(&n->writes);
		ts_list_init(&n->reads);
		ts_cond_init(&n->late_cond);
		ts_cond_init(&n->clear_cond);
		ts_cond_init(&n->names_cond);
		ts_list_init(&n->names);
		if (ts_map_insert(&tf->nodes, &n->node, ts_hash_u64(ino))) {
			ts_free(n);
			return NULL;
		}
		tf->st.nodes++;
	}
	n->gen = gen;
	n->old = false;
	n->nlookup++;
	atomic_store(&n->replied_ns, ts_exec_now(tf->exec));
	atomic_store(&n->known, true);
	return n;
}

void tf_node_forget(struct tfuse *tf, uint64_t nodeid, uint64_t count)
{
	struct tf_node *n = tf_node_by_id(tf, nodeid);
	if (!n)
		return;
	n->nlookup -= TS_MIN(count, n->nlookup);
	if (n->nlookup)
		return;
	atomic_store(&n->known, false);
	n->attr_cached = n->pages_cached = false;
	tf_names_forget(tf, n);
	if (n->awaited)
		fs_forgotten(tf->fs, n->ino);
	n->awaited = false;
	node_free_if_idle(tf, n);
}

void tf_node_ref(struct tf_node *n)
{
	n->refs++;
}

void tf_node_unref(struct tfuse *tf, struct tf_node *n)
{
	TS_ASSERT(n->refs);
	n->refs--;
	node_free_if_idle(tf, n);
}

static int node_drop(struct ts_map_node *m, void *arg)
{
	struct tfuse *tf = arg;
	struct tf_node *n = TS_CONTAINER(m, struct tf_node, node);
	TS_ASSERT(!n->refs);
	tf_names_forget(tf, n);
	ts_map_remove(&tf->nodes, &n->node);
	ts_free(n->last);
	ts_free(n);
	return 0;
}

void tf_nodes_clear(struct tfuse *tf)
{
	ts_map_each(&tf->nodes, node_drop, tf);
	tf->st.nodes = 0;
}
