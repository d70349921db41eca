/* SPDX-License-Identifier: Apache-2.0 */
/* mount.tessera: called by mount(8) for `mount -t tessera tessera:NAME DIR` and fstab; turns its arguments into
 * `tessera mount --wait`: at boot the other nodes may need a while.
 * Not set-uid; drops nothing because it holds nothing: the daemon does the
 * work and checks who asks. Then notes the options in libmount's table. */
#include "admin/verbs.h"
#include <libgen.h>
#include <libmount.h>
#include <limits.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT_SECONDS "75" /* less than systemd gives a mount: 90 */

/* Of a dead mount only the way to it can be looked at. */
static bool resolve(const char *dir, char full[PATH_MAX])
{
	char above[PATH_MAX], name[PATH_MAX];
	if (realpath(dir, full))
		return true;
	if (errno != ENOTCONN || strlen(dir) >= PATH_MAX)
		return false;
	strcpy(above, dir);
	strcpy(name, dir);
	if (!realpath(dirname(above), full))
		return false;
	size_t n = strlen(full);
	return snprintf(full + n, PATH_MAX - n, "%s%s", n > 1 ? "/" : "", basename(name)) < (int)(PATH_MAX - n);
}

struct wish {
	char seconds[16];
	bool again;
};

/* wait=SECONDS and again are ours, the rest is the daemon's. */
static void options_split(const char *opts, char *rest, struct wish *w)
{
	char *out = rest;
	for (const char *p = opts; *p;) {
		size_t len = strcspn(p, ",");
		if (len > 5 && len - 5 < sizeof(w->seconds) && !strncmp(p, "wait=", 5)) {
			memcpy(w->seconds, p + 5, len - 5);
			w->seconds[len - 5] = 0;
		} else if (len == 5 && !strncmp(p, "again", 5)) {
			w->again = true;
		} else if (len) {
			if (out > rest)
				*out++ = ',';
			memcpy(out, p, len);
			out += len;
		}
		p += len;
		p += *p == ',';
	}
	*out = 0;
}

/* The command beside us, or the one in PATH. 0, or the status for mount(8). */
static int command_run(const char *path, char *const argv[])
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		if (path)
			execv(path, argv);
		execvp(argv[0], argv);
		fprintf(stderr, "mount.tessera: the tessera command is not in PATH\n");
		_exit(32);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		fprintf(stderr, "mount.tessera: %s\n", strerror(errno));
		return 32;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 32;
}

/* The kernel forgets options like _netdev; systemd looks here for them: a mount without it would be taken for a local one and be
 * stopped behind the network. */
static void table_note(const char *name, const char *dir, const char *opts)
{
	struct libmnt_update *u = mnt_new_update();
	struct libmnt_fs *fs = mnt_new_fs();
	char source[80];
	snprintf(source, sizeof(source), MOUNT_SOURCE "%s", name);
	/* What an earlier mount left there goes first. */
	bool ok = u && fs && mnt_update_set_fs(u, 0, dir, NULL) >= 0 && mnt_update_table(u, NULL) >= 0;
	ok = ok && !mnt_fs_set_source(fs, source) && !mnt_fs_set_target(fs, dir) && !mnt_fs_set_root(fs, "/") &&
	     !mnt_fs_set_fstype(fs, "fuse.tessera") && !mnt_fs_append_options(fs, opts);
	if (!ok || mnt_update_set_fs(u, 0, NULL, fs) < 0 || mnt_update_table(u, NULL) < 0)
		fprintf(stderr, "mount.tessera: %s: mounted, but not noted in the table of mounts\n", dir);
	mnt_unref_fs(fs);
	mnt_free_update(u);
}

int main(int argc, char **argv)
{
	const char *name = NULL, *dir = NULL, *opts = "";
	bool fake = false;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-o") && i + 1 < argc)
			opts = argv[++i];
		else if (!strcmp(argv[i], "-f"))
			fake = true;
		else if (argv[i][0] == '-' && strspn(argv[i] + 1, "svnN") == strlen(argv[i] + 1))
			continue;
		else if (argv[i][0] == '-') {
			fprintf(stderr, "mount.tessera: unknown option %s\n", argv[i]);
			return 1;
		} else if (!name)
			name = argv[i];
		else if (!dir)
			dir = argv[i];
	}
	if (!name || !dir) {
		fprintf(stderr, "usage: mount.tessera " MOUNT_SOURCE "NAME DIRECTORY [-o OPTIONS]\n");
		return 1;
	}
	if (fake)
		return 0;
	/* mount(8) takes a bare name for a path, and makes it one if there is a file of that name where it stands. */
	if (!strncmp(name, MOUNT_SOURCE, strlen(MOUNT_SOURCE)))
		name += strlen(MOUNT_SOURCE);
	if (strchr(name, '/')) {
		fprintf(stderr, "mount.tessera: %s: no name of a file system; write " MOUNT_SOURCE "NAME\n", name);
		return 1;
	}
	char self[PATH_MAX], path[PATH_MAX + 16], full[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n > 0) {
		self[n] = 0;
		snprintf(path, sizeof(path), "%s/tessera", dirname(self));
	}
	if (!resolve(dir, full)) {
		fprintf(stderr, "mount.tessera: %s: %s\n", dir, strerror(errno));
		return 32;
	}
	char *rest = malloc(strlen(opts) + 1);
	struct wish w = {.seconds = WAIT_SECONDS};
	if (!rest) {
		fprintf(stderr, "mount.tessera: out of memory\n");
		return 32;
	}
	options_split(opts, rest, &w);
	int rc = command_run(n > 0 ? path : NULL, (char *const[]){"tessera", "mount", "--wait", w.seconds, "-o", rest, (char *)name, full, w.again ? "--again" : NULL, NULL});
	if (rc == 0)
		table_note(name, full, rest);
	free(rest);
	return rc;
}
