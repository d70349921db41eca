/* SPDX-License-Identifier: Apache-2.0 */
/* Job: what of root's power the daemon keeps, and that the directories it trusts are nobody else's. Must never happen: a thread
 * started before the power was given away (it would keep it); a capability kept that has no line here. */
#include "admin/daemon.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct {
	unsigned cap;
	const char *why;
} kept[] = {
	{CAP_SYS_ADMIN, "mount(2), umount2(2)"},
	{CAP_DAC_READ_SEARCH, "mount points below directories of users; open_by_handle_at(2), which makes the kernel ask for a size"},
	{CAP_SYS_PTRACE, "/proc/PID/syscall of a thread that waits for a lock: is it of the process or of the open file?"},
	{CAP_SYS_NICE, "a thread of real-time priority is next in line for a directory's lock (fuse/names_drop.c)"},
	{CAP_IPC_LOCK, "memory that comes behind mlockall(MCL_FUTURE) is locked, too"},
};

static uint64_t kept_mask(const struct conf *c)
{
	uint64_t mask = c->port < 1024 ? 1ull << CAP_NET_BIND_SERVICE : 0;
	for (size_t i = 0; i < TS_ARRAY_LEN(kept); i++)
		mask |= 1ull << kept[i].cap;
	return mask;
}

/* Never to come back by execve(2) of anything: the programs that it runs (fence_agent) have no more than it has. */
static int bound(uint64_t mask)
{
	for (unsigned cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(mask >> cap & 1) && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
			return -errno;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	return 0;
}

int privilege_drop(const struct conf *c)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[_LINUX_CAPABILITY_U32S_3];
	uint64_t mask = kept_mask(c);
	if (syscall(SYS_capget, &h, d))
		return -errno;
	/* Who has no right to give the rest away (a container) has little to give. */
	int rc = d[CAP_TO_INDEX(CAP_SETPCAP)].effective & CAP_TO_MASK(CAP_SETPCAP) ? bound(mask) : 0;
	for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		d[i].permitted &= (uint32_t)(mask >> (32 * i));
		d[i].effective = d[i].permitted;
		d[i].inheritable = 0;
	}
	if (rc == 0 && syscall(SYS_capset, &h, d))
		rc = -errno;
	return rc;
}

/* A directory in which others could put a symbolic link, or another file, under a name that is ours. */
int privilege_dir_check(const char *path, char *errmsg, size_t errlen)
{
	struct stat st;
	if (lstat(path, &st)) {
		int err = errno;
		snprintf(errmsg, errlen, "%s: %s", path, strerror(err));
		return -err;
	}
	if (!S_ISDIR(st.st_mode) || (st.st_uid != 0 && st.st_uid != geteuid()) || st.st_mode & 022) {
		snprintf(errmsg, errlen, "%s: must be a directory of root's that only root can write to (is mode %03o, of user %u); chown root and chmod go-w it",
			 path, st.st_mode & 0777u, st.st_uid);
		return -EPERM;
	}
	return 0;
}
