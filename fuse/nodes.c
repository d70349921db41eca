/* SPDX-License-Identifier: Apache-2.0 */
/* The inodes the kernel may know, with their look-up counts. The count changes in two functions only: tf_node_get (an
 * entry that reaches the kernel) and tf_node_forget. A node outlives its count while a job or request uses it.
 * Must never happen: a node freed while the kernel still knows it, or an invalidation skipped because of that. */
#include "fuse/fuse_int.h"

struct tf_node *tf_node_find(struct tfuse *tf, uint64_t ino)
{
	uint64_t h = ts_hash_u64(ino);
	for (struct ts_map_node *m = ts_map_first(&tf->nodes, h); m; m = ts_map_next(m)) {
		struct tf_node *n = TS_CONTAINER(m, struct tf_node, node);
		if (n->ino == ino)
			return n;
	}
	return NULL;
}

static void node_free_if_idle(struct tfuse *tf, struct tf_node *n)
{
	if (n->nlookup || n->refs)
		return;
	ts_map_remove(&tf->nodes, &n->node);
	tf->st.nodes--;
	ts_free(n);
}

struct tf_node *tf_node_get(struct tfuse *tf, uint64_t ino, uint32_t gen)
{
	struct tf_node *n = tf_node_find(tf, ino);
	if (!n) {
		n = ts_alloc(sizeof(*n));
		if (!n)
			return NULL;
		n->ino = ino;
		ts_list_init(&n->writes);
		ts_list_init(&n->reads);
		ts_cond_init(&n->reads_cond);
		ts_cond_init(&n->late_cond);
		if (ts_map_insert(&tf->nodes, &n->node, ts_hash_u64(ino))) {
			ts_free(n);
			return NULL;
		}
		tf->st.nodes++;
	}
	n->gen = gen;
	n->nlookup++;
	atomic_store(&n->replied_ns, ts_exec_now(tf->exec));
	atomic_store(&n->known, true);
	return n;
}

void tf_node_forget(struct tfuse *tf, uint64_t ino, uint64_t count)
{
	struct tf_node *n = tf_node_find(tf, ino);
	if (!n)
		return;
	n->nlookup -= TS_MIN(count, n->nlookup);
	if (n->nlookup)
		return;
	atomic_store(&n->known, false);
	n->attr_cached = n->pages_cached = false;
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
	ts_map_remove(&tf->nodes, &n->node);
	ts_free(n);
	return 0;
}

void tf_nodes_clear(struct tfuse *tf)
{
	ts_map_each(&tf->nodes, node_drop, tf);
	tf->st.nodes = 0;
}
