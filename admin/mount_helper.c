/* SPDX-License-Identifier: Apache-2.0 */
/* mount.tessera: called by mount(8) for `mount -t tessera NAME DIR` and fstab; turns its arguments into `tessera mount`.
 * Not set-uid; drops nothing because it holds nothing: the daemon does the work and checks who asks. */
#include "lib/base.h"
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

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
		fprintf(stderr, "usage: mount.tessera NAME DIRECTORY [-o OPTIONS]\n");
		return 1;
	}
	if (fake)
		return 0;
	char self[PATH_MAX], path[PATH_MAX + 16], full[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n > 0) {
		self[n] = 0;
		snprintf(path, sizeof(path), "%s/tessera", dirname(self));
	}
	if (!realpath(dir, full)) {
		fprintf(stderr, "mount.tessera: %s: %s\n", dir, strerror(errno));
		return 32;
	}
	if (n > 0)
		execl(path, "tessera", "mount", "-o", opts, name, full, (char *)NULL);
	execlp("tessera", "tessera", "mount", "-o", opts, name, full, (char *)NULL);
	fprintf(stderr, "mount.tessera: the tessera command is not in PATH\n");
	return 32;
}
