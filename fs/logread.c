/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the bytes of any slot's log brought into memory as far as the scan needs them, for replay and for the intents that a
 * predecessor left. Must never happen: a read past the ring, or past the seal of a log that is sealed. */
#include "fs/logread.h"

static int load_piece(void *arg, uint64_t off, uint64_t len)
{
	struct fs_logread *l = arg;

	for (uint64_t p = off / FS_LOGREAD_PIECE; p <= (off + len - 1) / FS_LOGREAD_PIECE; p++) {
		uint64_t at = p * FS_LOGREAD_PIECE;
		int rc;

		if (l->loaded[p])
			continue;
		rc = fs_io_read(l->fs, l->ring_addr + at / FS_SUB, l->ring + at, TS_MIN((uint64_t)FS_LOGREAD_PIECE, l->img.ring_bytes - at));
		if (rc)
			return rc;
		l->loaded[p] = true;
	}
	return 0;
}

int fs_logread_open(struct fs *fs, const struct fs_loghead_disk *head, uint64_t seal, struct fs_logread **out)
{
	struct fs_logread *l = ts_alloc(sizeof(*l));
	uint64_t bytes = fs_log_ring_bytes(fs);
	uint32_t slot = le32_get(head->slot);
	int rc = -ENOMEM;

	*out = NULL;
	if (!l)
		return -ENOMEM;
	l->fs = fs;
	l->ring = ts_alloc_aligned(FS_SUB, bytes);
	l->loaded = ts_alloc(bytes / FS_LOGREAD_PIECE + 1);
	if (!l->ring || !l->loaded)
		goto failed;
	l->ring_addr = fs_loghead_addr(fs, slot) + 2;
	l->img = (struct fs_logimage){.id = {.slot = slot, .incarnation = le64_get(head->incarnation)}, .ring = l->ring,
				      .ring_bytes = bytes, .tail = le64_get(head->tail_lsn), .seal = seal, .load = load_piece, .arg = l};
	memcpy(l->img.id.fs_id8, fs->super.fs_id, sizeof(l->img.id.fs_id8));
	rc = fs_replay_scan(&l->img, &l->replay);
	if (rc)
		goto failed;
	*out = l;
	return 0;
failed:
	fs_logread_close(l);
	return rc;
}

void fs_logread_close(struct fs_logread *l)
{
	if (!l)
		return;
	fs_replay_free(l->replay);
	ts_free(l->ring);
	ts_free(l->loaded);
	ts_free(l);
}

struct inherit {
	struct fs *fs;
	void (*fn)(void *arg, const struct fs_intent *it);
	void *arg;
};
static int inherit_one(struct ts_map_node *n, void *arg)
{
	const struct fs_replay_intent *it = TS_CONTAINER(n, struct fs_replay_intent, node);
	struct inherit *h = arg;

	return fs_intent_inherit(h->fs, it->type, it->subs, it->a, it->b);
}

int fs_replay_inherit(struct fs *fs, const struct fs_loghead_disk *head)
{
	struct inherit h = {.fs = fs};
	struct fs_logread *l;
	int rc = fs_logread_open(fs, head, le64_get(head->seal_lsn), &l);

	if (rc) {
		ts_err("%s: log slot %u: the intents its last owner left cannot be read (error %d): run tessera fsck", fs->super.name,
		       le32_get(head->slot), rc);
		return rc;
	}
	rc = ts_map_each(&l->replay->intents, inherit_one, &h);
	fs_logread_close(l);
	return rc;
}

static int show_one(struct ts_map_node *n, void *arg)
{
	const struct fs_replay_intent *it = TS_CONTAINER(n, struct fs_replay_intent, node);
	const struct inherit *h = arg;
	struct fs_intent out = {.number = it->number, .type = it->type, .subs = it->subs, .a = it->a, .b = it->b};

	h->fn(h->arg, &out);
	return 0;
}

int fs_slot_intents(struct fs *fs, uint32_t slot, void (*fn)(void *arg, const struct fs_intent *it), void *arg)
{
	struct inherit h = {.fs = fs, .fn = fn, .arg = arg};
	struct fs_loghead_disk head;
	struct fs_logread *l;
	uint32_t state;
	int rc = fs_loghead_read(fs, slot, &head);

	if (rc)
		return rc;
	state = le32_get(head.state);
	if (state == FS_LOG_FREE || (state != FS_LOG_ACTIVE && le64_get(head.tail_lsn) == le64_get(head.seal_lsn)))
		return 0;
	rc = fs_logread_open(fs, &head, state == FS_LOG_ACTIVE ? 0 : le64_get(head.seal_lsn), &l);
	if (rc)
		return rc;
	ts_map_each(&l->replay->intents, show_one, &h);
	fs_logread_close(l);
	return 0;
}
