/* SPDX-License-Identifier: Apache-2.0 */
/* The command's side of the socket: one line out, lines of progress and one answer in. */
#include "admin/cli.h"
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_DEFAULT "/run/tessera/tesserad.sock"

const char *cli_socket;

static int connect_daemon(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	strcpy(a.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		int err = errno;
		close(fd);
		return -err;
	}
	return fd;
}

int cli_ask(const struct verb *v, json_t *pos, json_t *opt, const char *nodes, void (*progress)(json_t *p, bool over), json_t **out)
{
	const char *path = cli_socket ? cli_socket : SOCKET_DEFAULT;
	int fd = connect_daemon(path);
	if (fd == -EACCES || fd == -EPERM)
		return fail(VERB_NOT_PERMITTED, "%s: %s is not for you (%s); run as root", v->name, path, strerror(-fd));
	if (fd < 0)
		return fail(VERB_NO_DAEMON, "%s: no tesserad answers at %s (%s); start it, or name its socket with --socket", v->name, path, strerror(-fd));
	json_t *req = json_pack("{s:s,s:O,s:O,s:s*}", "verb", v->name, "pos", pos, "opt", opt, "nodes", nodes);
	char *text = json_dumps(req, JSON_COMPACT), *line = NULL;
	size_t cap = 0;
	FILE *f = fdopen(fd, "r+");
	json_decref(req);
	bool sent = text && f && fprintf(f, "%s\n", text) > 0 && fflush(f) == 0;
	free(text);
	*out = NULL;
	while (sent && !*out && getline(&line, &cap, f) > 0) {
		json_t *o = json_loads(line, 0, NULL), *p = json_object_get(o, "progress");
		if (!p)
			*out = o;
		else {
			if (progress)
				progress(p, false);
			json_decref(o);
		}
		if (!o)
			break;
	}
	free(line);
	if (f)
		fclose(f);
	else
		close(fd);
	if (progress)
		progress(NULL, true);
	return *out ? 0 : fail(VERB_NO_DAEMON, "%s: the daemon ended, or would not talk to us; see its log (journalctl -u tesserad)", v->name);
}
