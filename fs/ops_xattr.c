/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the calls on extended attributes: name spaces, who may, and ACLs that change permission bits.
 * What must never happen: an attribute of trusted.* shown to or changed by a user who is not root. */
#include "fs/layout.h"
#include "fs/take.h"
#include "fs/xattr_int.h"

enum space { SP_NONE, SP_USER, SP_TRUSTED, SP_SECURITY, SP_ACL, SP_LAYOUT /* kept in other fields of the inode */ };

static enum space space_of(const char *name)
{
	static const struct {
		const char *prefix;
		enum space sp;
	} spaces[] = {{"user.", SP_USER}, {"trusted.", SP_TRUSTED}, {"security.", SP_SECURITY}};

	if (!strcmp(name, FS_ACL_ACCESS) || !strcmp(name, FS_ACL_DEFAULT))
		return SP_ACL;
	if (!strcmp(name, FS_XATTR_LAYOUT))
		return SP_LAYOUT;
	for (size_t i = 0; i < TS_ARRAY_LEN(spaces); i++) {
		size_t n = strlen(spaces[i].prefix);

		if (!strncmp(name, spaces[i].prefix, n))
			return name[n] ? spaces[i].sp : SP_NONE;
	}
	return SP_NONE;
}

static int name_check(const struct fs_cred *c, const char *name, bool change)
{
	enum space sp = space_of(name);

	if (strlen(name) > FS_NAME_MAX)
		return -ERANGE;
	if (sp == SP_NONE)
		return -EOPNOTSUPP;
	if (sp == SP_TRUSTED && c->uid)
		return change ? -EPERM : -ENODATA;
	return sp == SP_LAYOUT && change && c->uid ? -EPERM : 0; /* which disks are used is root's to say */
}

static int inode_check(struct fs_inode *ip, const char *name, bool change)
{
	unsigned mode = le16_get(fs_idisk(ip)->mode);

	if (space_of(name) == SP_USER && !S_ISREG(mode) && !S_ISDIR(mode))
		return change ? -EPERM : -ENODATA;
	if (space_of(name) == SP_ACL && S_ISLNK(mode))
		return -EOPNOTSUPP;
	if (change && le32_get(fs_idisk(ip)->flags) & (FS_IF_IMMUTABLE | FS_IF_APPEND))
		return -EPERM;
	return 0;
}

struct change {
	const struct fs_cred *cred;
	uint64_t ino;
	const char *name;
	const void *value; /* NULL: remove */
	size_t len;
	int flags;
	bool with_data; /* inline file data must leave the inode first */
	struct fs_xattr_set set;
};

/* An access ACL sets permission bits, and is no xattr at all when it says nothing more. */
static int acl_apply(struct fs_inode *ip, struct change *c, uint32_t *mode, bool *has_mode)
{
	unsigned now = le16_get(fs_idisk(ip)->mode);
	bool only_mode;
	int rc;

	if (space_of(c->name) != SP_ACL || !c->value)
		return 0;
	rc = fs_acl_check(c->value, c->len);
	if (rc)
		return rc;
	if (!strcmp(c->name, FS_ACL_DEFAULT)) {
		if (!S_ISDIR(now))
			return -EACCES;
		return c->len > FS_ACL_DEFAULT_MAX ? -ENOSPC : 0; /* every new entry inherits it, inline */
	}
	*mode = fs_acl_mode(c->value, c->len, now, &only_mode);
	if (c->flags & FS_XATTR_KILL_SGID)
		*mode &= ~(uint32_t)S_ISGID;
	*has_mode = true;
	if (only_mode)
		c->value = NULL;
	return 0;
}

static int flags_check(const struct change *c, bool was_there, bool remove)
{
	if (remove && !was_there)
		return -ENODATA;
	if (!remove && (c->flags & FS_XATTR_CREATE) && was_there)
		return -EEXIST;
	return !remove && (c->flags & FS_XATTR_REPLACE) && !was_there ? -ENODATA : 0;
}

static int change_pinned(struct fs *fs, struct fs_inode *ip, struct change *c)
{
	bool remove = !c->value, has_mode = false;
	const void *value = c->value;
	struct fs_xattr_at at;
	uint32_t mode = 0;
	int rc = inode_check(ip, c->name, true);

	if (!rc)
		rc = acl_apply(ip, c, &mode, &has_mode);
	if (!rc)
		rc = fs_xattr_load(fs, ip, &c->set);
	if (!rc)
		rc = flags_check(c, fs_xattr_lookup(&c->set, c->name, &at), remove);
	if (!rc)
		rc = fs_xattr_change(fs, ip, &c->set, c->name, c->value, c->len, has_mode ? &mode : NULL);
	fs_xattr_unload(fs, &c->set);
	c->value = value; /* this may be called again */
	return rc;
}

static int change_once(struct fs_take *t, void *arg)
{
	struct change *c = arg;
	struct fs_inode *ip;
	int rc;

	if (c->with_data)
		fs_take_add(t, TOK_DATA, c->ino, TOK_EX);
	fs_take_add(t, TOK_INODE, c->ino, TOK_EX);
	rc = fs_take_all(t);
	if (!rc)
		rc = fs_inode_get(t->fs, c->ino, &ip);
	if (rc)
		return rc;
	if (c->with_data && fs_idisk(ip)->payload_type == FS_PL_INLINE && S_ISREG(le16_get(fs_idisk(ip)->mode)))
		rc = fs_data_uninline(t->fs, ip);
	if (!rc)
		rc = change_pinned(t->fs, ip, c);
	fs_inode_put(t->fs, ip);
	if (rc == -TS_ERR_MOVED) {
		c->with_data = true;
		rc = -TS_ERR_RETRY;
	}
	return rc;
}

static int change(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *name, const void *value, size_t len, int flags)
{
	struct change *c;
	int rc = name_check(cred, name, true);

	if (!rc && fs->args.read_only)
		rc = -EROFS;
	if (!rc && value && len > FS_XATTR_VALUE_MAX)
		rc = -E2BIG;
	if (rc)
		return rc;
	c = ts_alloc(sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->cred = cred;
	c->ino = ino;
	c->name = name;
	c->value = value;
	c->len = len;
	c->flags = flags;
	rc = fs_take_run(fs, cred->flags & FS_NOWAIT, change_once, c);
	ts_free(c);
	return rc;
}

/* NULL: to what it was at first. */
static int layout_change(struct fs *fs, const struct fs_cred *c, uint64_t ino, const char *text, size_t len)
{
	struct fs_layout_set s = {.pool = "system"};
	int rc = name_check(c, FS_XATTR_LAYOUT, true);

	if (!rc && text)
		rc = fs_layout_parse(text, len, &s);
	rc = rc ? rc : fs_layout_set(fs, ino, &s);
	return rc == -ENOENT ? -EINVAL : rc; /* the pool, not the file */
}

int fs_setxattr(struct fs *fs, const struct fs_cred *c, uint64_t ino, const char *name, const void *value, size_t len, int flags)
{
	int rc = fs_enter(fs, FS_OP_SETXATTR);

	if (!rc && space_of(name) == SP_LAYOUT)
		return flags & FS_XATTR_CREATE ? -EEXIST : layout_change(fs, c, ino, value ? value : "", value ? len : 0);
	return rc ? rc : change(fs, c, ino, name, value ? value : "", value ? len : 0, flags);
}

int fs_removexattr(struct fs *fs, const struct fs_cred *c, uint64_t ino, const char *name)
{
	int rc = fs_enter(fs, FS_OP_REMOVEXATTR);

	if (!rc && space_of(name) == SP_LAYOUT)
		return layout_change(fs, c, ino, NULL, 0);
	return rc ? rc : change(fs, c, ino, name, NULL, 0, 0);
}

/* ---- looking ---------------------------------------------------------------------------------------------------------- */
struct look {
	uint64_t ino;
	const char *name; /* NULL: list */
	bool root;
	void *out;
	size_t size;
	ssize_t result;
	struct fs_xattr_set set;
};

static bool shown(const struct look *l, const struct fs_xattr_at *at)
{
	if (!l->root && at->name_len > 8 && !memcmp(at->name, "trusted.", 8))
		return false;
	return at->name_len != strlen(FS_XATTR_TARGET) || memcmp(at->name, FS_XATTR_TARGET, at->name_len);
}

static ssize_t list_names(struct look *l)
{
	struct ts_wr w = {.p = l->out, .left = l->size};
	struct fs_xattr_at at;
	struct ts_rd r;
	size_t total = 0;

	for (unsigned i = 0; fs_xattr_part(&l->set, i, &r); i++) {
		while (fs_xattr_next(&r, &at)) {
			if (!shown(l, &at))
				continue;
			total += at.name_len + 1;
			if (l->size) {
				ts_wr_bytes(&w, at.name, at.name_len);
				ts_wr_u8(&w, 0);
			}
		}
	}
	return w.bad ? -ERANGE : (ssize_t)total;
}

static ssize_t one_value(struct fs *fs, struct fs_inode *ip, struct look *l)
{
	struct fs_xattr_at at;
	size_t len;
	int rc;

	if (!fs_xattr_lookup(&l->set, l->name, &at))
		return -ENODATA;
	len = fs_xattr_len(&at);
	if (!l->size)
		return (ssize_t)len;
	if (len > l->size)
		return -ERANGE;
	rc = fs_xattr_value(fs, ip, &at, l->out);
	return rc ? rc : (ssize_t)len;
}

static ssize_t layout_value(struct fs *fs, struct fs_inode *ip, struct look *l)
{
	char text[FS_LAYOUT_TEXT];
	int n = fs_layout_text(fs, fs_idisk(ip), text, sizeof(text));

	if (!S_ISREG(le16_get(fs_idisk(ip)->mode)) && !S_ISDIR(le16_get(fs_idisk(ip)->mode)))
		return -ENODATA;
	if (!l->size)
		return n;
	if ((size_t)n > l->size)
		return -ERANGE;
	memcpy(l->out, text, (size_t)n);
	return n;
}

static int look_once(struct fs_take *t, void *arg)
{
	struct look *l = arg;
	struct fs_inode *ip;
	int rc;

	fs_take_add(t, TOK_INODE, l->ino, TOK_SH);
	rc = fs_take_all(t);
	if (!rc)
		rc = fs_inode_get(t->fs, l->ino, &ip);
	if (rc)
		return rc;
	rc = l->name ? inode_check(ip, l->name, false) : 0;
	if (!rc && l->name && space_of(l->name) == SP_LAYOUT) {
		l->result = layout_value(t->fs, ip, l);
		fs_inode_put(t->fs, ip);
		return 0;
	}
	if (!rc)
		rc = fs_xattr_load(t->fs, ip, &l->set);
	if (!rc)
		l->result = l->name ? one_value(t->fs, ip, l) : list_names(l);
	fs_xattr_unload(t->fs, &l->set);
	fs_inode_put(t->fs, ip);
	return rc;
}

static ssize_t look(struct fs *fs, const struct fs_cred *c, uint64_t ino, const char *name, void *out, size_t size)
{
	struct look *l = ts_alloc(sizeof(*l));
	ssize_t rc;

	if (!l)
		return -ENOMEM;
	l->ino = ino;
	l->name = name;
	l->root = c->uid == 0;
	l->out = out;
	l->size = size;
	rc = fs_take_run(fs, c->flags & FS_NOWAIT, look_once, l);
	if (!rc)
		rc = l->result;
	ts_free(l);
	return rc;
}

ssize_t fs_getxattr(struct fs *fs, const struct fs_cred *c, uint64_t ino, const char *name, void *value, size_t size)
{
	int rc = fs_enter(fs, FS_OP_GETXATTR);

	if (!rc)
		rc = name_check(c, name, false);
	return rc ? rc : look(fs, c, ino, name, value, size);
}

ssize_t fs_listxattr(struct fs *fs, const struct fs_cred *c, uint64_t ino, char *list, size_t size)
{
	int rc = fs_enter(fs, FS_OP_LISTXATTR);

	return rc ? rc : look(fs, c, ino, NULL, list, size);
}
