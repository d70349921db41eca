/* SPDX-License-Identifier: Apache-2.0 */
/* Job: POSIX ACLs as the kernel hands them over (version 2: le32 version, then entries of le16 tag, le16 permissions, le32
 * id), as far as they and the permission bits depend on each other. Checking access is the kernel's work (default_permissions).
 * What must never happen: an ACL and permission bits that say different things. */
#include "fs/xattr_int.h"

enum { ACL_USER_OBJ = 0x01, ACL_USER = 0x02, ACL_GROUP_OBJ = 0x04, ACL_GROUP = 0x08, ACL_MASK = 0x10, ACL_OTHER = 0x20 };
struct ent {
	le16 tag, perm;
	le32 id;
};
#define ACL_HEAD 4u

static size_t count(size_t len)
{
	return (len - ACL_HEAD) / sizeof(struct ent);
}

static struct ent ent_get(const void *value, size_t i)
{
	struct ent e;

	memcpy(&e, (const uint8_t *)value + ACL_HEAD + i * sizeof(e), sizeof(e));
	return e;
}

static void perm_set(void *value, size_t i, uint32_t perm)
{
	struct ent e = ent_get(value, i);

	e.perm = le16_make((uint16_t)(perm & 7));
	memcpy((uint8_t *)value + ACL_HEAD + i * sizeof(e), &e, sizeof(e));
}

/* Index of the (single) entry with this tag, or -1. */
static long find(const void *value, size_t len, unsigned tag)
{
	for (size_t i = 0; i < count(len); i++) {
		if (le16_get(ent_get(value, i).tag) == tag)
			return (long)i;
	}
	return -1;
}

int fs_acl_check(const void *value, size_t len)
{
	unsigned seen[ACL_OTHER + 1] = {0}, last = 0;
	le32 version;

	if (len < ACL_HEAD || (len - ACL_HEAD) % sizeof(struct ent))
		return -EINVAL;
	memcpy(&version, value, sizeof(version));
	if (le32_get(version) != 2)
		return -EINVAL;
	for (size_t i = 0; i < count(len); i++) {
		struct ent e = ent_get(value, i);
		unsigned tag = le16_get(e.tag);

		if (tag > ACL_OTHER || !tag || (tag & (tag - 1)) || tag < last || le16_get(e.perm) > 7)
			return -EINVAL;
		last = tag;
		seen[tag]++;
	}
	if (seen[ACL_USER_OBJ] != 1 || seen[ACL_GROUP_OBJ] != 1 || seen[ACL_OTHER] != 1 || seen[ACL_MASK] > 1)
		return -EINVAL;
	return (seen[ACL_USER] || seen[ACL_GROUP]) && !seen[ACL_MASK] ? -EINVAL : 0;
}

static uint32_t perm_of(const void *value, size_t len, unsigned tag)
{
	return le16_get(ent_get(value, (size_t)find(value, len, tag)).perm);
}

/* What the group bits of the mode stand for. */
static unsigned group_tag(const void *value, size_t len)
{
	return find(value, len, ACL_MASK) >= 0 ? ACL_MASK : ACL_GROUP_OBJ;
}

uint32_t fs_acl_mode(const void *value, size_t len, uint32_t mode, bool *only_mode)
{
	*only_mode = count(len) == 3;
	mode &= ~0777u;
	mode |= perm_of(value, len, ACL_USER_OBJ) << 6;
	mode |= perm_of(value, len, group_tag(value, len)) << 3;
	return mode | perm_of(value, len, ACL_OTHER);
}

void fs_acl_set_mode(void *value, size_t len, uint32_t mode)
{
	perm_set(value, (size_t)find(value, len, ACL_USER_OBJ), mode >> 6);
	perm_set(value, (size_t)find(value, len, group_tag(value, len)), mode >> 3);
	perm_set(value, (size_t)find(value, len, ACL_OTHER), mode);
}

bool fs_acl_create(void *value, size_t len, uint32_t *mode)
{
	bool only_mode;
	uint32_t m = *mode & fs_acl_mode(value, len, 0, &only_mode);

	fs_acl_set_mode(value, len, m);
	*mode = (*mode & ~0777u) | m;
	return !only_mode;
}
