/* SPDX-License-Identifier: Apache-2.0 */
/* Job: read, write and erase the label of a disk. Must never happen: a label believed whose checksum is wrong, a disk
 * with somebody's data called blank, or a write that leaves no valid copy if it is cut short. */
#include "nsd/nsd_int.h"

#include <stdio.h>

static const char label_magic[8] = {'T', 'S', 'S', 'R', 'N', 'S', 'D', '\n'};

enum copy_state { COPY_VALID, COPY_NO_MAGIC, COPY_NEWER, COPY_BROKEN };

static uint64_t csum_of(const struct nsd_label_disk *l)
{
	return ts_csum64_skip(l, sizeof(*l), offsetof(struct nsd_label_disk, csum), 0);
}

static enum copy_state judge(const struct nsd_label_disk *l)
{
	bool sound;

	if (memcmp(l->magic, label_magic, sizeof(label_magic)))
		return COPY_NO_MAGIC;
	sound = le64_get(l->csum) == csum_of(l);
	if (sound && le32_get(l->version) == NSD_LABEL_VERSION)
		return COPY_VALID;
	/* A newer version may keep its checksum elsewhere: the number alone decides, unless the other copy is ours. */
	return le32_get(l->version) > NSD_LABEL_VERSION ? COPY_NEWER : COPY_BROKEN;
}

bool nsd_name_ok(const char *s, size_t room)
{
	return memchr(s, 0, room) && !s[strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")];
}

/* What a sound checksum does not promise: that the writer was sane. */
static bool sane(const struct nsd_label_disk *l)
{
	return nsd_name_ok(l->fs_name, sizeof(l->fs_name)) && nsd_name_ok(l->nsd_name, sizeof(l->nsd_name)) &&
	       nsd_name_ok(l->pool, sizeof(l->pool)) && l->usage <= 3;
}

static void choose(const struct nsd_label_disk c[2], struct nsd_label_disk *out, enum nsd_label_state *state,
		   char *what, size_t whatlen)
{
	enum copy_state s[2] = {judge(&c[0]), judge(&c[1])};
	int best = -1, newer = -1;

	for (int i = 0; i < 2; i++) {
		if (s[i] == COPY_VALID && !sane(&c[i]))
			s[i] = COPY_BROKEN;
		if (s[i] == COPY_VALID && (best < 0 || le64_get(c[i].sequence) > le64_get(c[best].sequence)))
			best = i;
		if (s[i] == COPY_NEWER && (newer < 0 || le64_get(c[i].csum) == csum_of(&c[i])))
			newer = i;
	}
	/* Beside a valid copy of ours a newer one counts only if it is sound: an upgrade that was cut short. */
	if (newer >= 0 && (best < 0 || le64_get(c[newer].csum) == csum_of(&c[newer]))) {
		*state = NSD_LABEL_NEWER;
		snprintf(what, whatlen, "label format version %u (this software knows %u)",
			 le32_get(c[newer].version), NSD_LABEL_VERSION);
	} else if (best >= 0) {
		*state = NSD_LABEL_OK;
		*out = c[best];
	} else if (s[0] == COPY_NO_MAGIC && s[1] == COPY_NO_MAGIC) {
		*state = NSD_LABEL_NONE;
	} else {
		*state = NSD_LABEL_BROKEN;
		snprintf(what, whatlen, "a Tessera label whose copies are both damaged");
	}
}

int nsd_label_read(struct nsd_dev *d, struct nsd_label_disk *out, enum nsd_label_state *state, char *what,
		   size_t whatlen)
{
	struct nsd_label_disk *c;
	bool foreign;
	int rc;

	if (whatlen)
		what[0] = 0;
	*state = NSD_LABEL_NONE;
	memset(out, 0, sizeof(*out));
	if (d->info.size_bytes < NSD_DATA_START) {
		*state = NSD_LABEL_FOREIGN;
		snprintf(what, whatlen, "a disk too small for Tessera (%llu bytes)",
			 (unsigned long long)d->info.size_bytes);
		return 0;
	}
	c = ts_alloc_aligned(4096, 2 * sizeof(*c));
	if (!c)
		return -ENOMEM;
	_Static_assert(NSD_LABEL_COPY2_OFF == sizeof(struct nsd_label_disk), "the copies are read as one");
	rc = nsd_read(d, c, 2 * sizeof(*c), 0);
	if (!rc)
		choose(c, out, state, what, whatlen);
	ts_free(c);
	if (rc || *state != NSD_LABEL_NONE)
		return rc;
	rc = nsd_probe_foreign(d, &foreign, what, whatlen);
	if (!rc && foreign)
		*state = NSD_LABEL_FOREIGN;
	return rc;
}

/* The copy that is not the last good one goes first, so that one good copy exists at every moment. */
static int first_to_write(struct nsd_dev *d, struct nsd_label_disk *buf, uint64_t *off)
{
	int rc = nsd_read(d, buf, sizeof(*buf), NSD_LABEL_COPY2_OFF);

	*off = !rc && judge(buf) == COPY_VALID ? 0 : NSD_LABEL_COPY2_OFF;
	return rc;
}

int nsd_label_write(struct nsd_dev *d, const struct nsd_label_disk *l)
{
	struct nsd_label_disk *buf;
	uint64_t off = 0;
	int rc;

	if (d->info.size_bytes < NSD_DATA_START)
		return -ENOSPC;
	buf = ts_alloc_aligned(4096, sizeof(*buf));
	if (!buf)
		return -ENOMEM;
	rc = first_to_write(d, buf, &off);
	memcpy(buf, l, sizeof(*buf));
	memcpy(buf->magic, label_magic, sizeof(label_magic));
	buf->version = le32_make(NSD_LABEL_VERSION);
	buf->csum = le64_make(csum_of(buf));
	for (int i = 0; i < 2 && !rc; i++) {
		rc = nsd_write(d, buf, sizeof(*buf), off);
		if (!rc)
			rc = nsd_flush(d);
		off = NSD_LABEL_COPY2_OFF - off;
	}
	ts_free(buf);
	return rc;
}

static void erased(struct nsd_req *r, int rc)
{
	ts_done_set(r->arg, rc);
}

int nsd_label_erase(struct nsd_dev *d)
{
	struct ts_done done;
	struct nsd_req r = {.op = NSD_ZERO, .len = TS_MIN(NSD_DATA_START, d->info.size_bytes), .done = erased,
			    .arg = &done};
	int rc;

	ts_done_init(&done);
	nsd_submit(d, &r);
	rc = ts_done_wait(&done, "disk label erase", 0, r.len);
	return rc ? rc : nsd_flush(d);
}
