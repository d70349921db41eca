/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the command share. */
#ifndef TESSERA_ADMIN_CLI_H
#define TESSERA_ADMIN_CLI_H

#include "admin/verbs.h"
#include <time.h>

extern bool want_json;
extern const char *cli_socket; /* NULL: the default */
int fail(int status, const char *fmt, ...) TS_PRINTF(2, 3); /* one line on stderr; returns status */

/* The file of an option, else that of the environment, else where packages put it: "config" (TESSERA_CONFIG), "corosync" (TESSERA_COROSYNC). */
const char *cli_file(json_t *opt, const char *name);
/* cli_ask.c. One question to the daemon; nodes: of others ("all", "2,3"), or NULL. 0: *out is its last line, ok or not. Else an exit
 * status, and a line was printed. */
int cli_ask(const struct verb *v, json_t *pos, json_t *opt, const char *nodes, void (*progress)(json_t *p, bool over), json_t **out) TS_MUST_CHECK;
/* cli_top.c, cli_snap.c: exit statuses */
int cli_top(json_t *opt, const char *nodes);
int cli_snap(const char *path);
/* cli_changes.c */
int cli_changes(json_t *pos, json_t *opt);
/* cli_tar.c */
FILE *cli_tar_new(const char *path); /* a file that is not there yet, for its owner only; NULL: errno */
bool cli_tar_member(FILE *f, const char *name, const char *text, size_t len, time_t when); /* errno says why not */
int cli_tar_next(FILE *f, char name[101], char **text, size_t *len, size_t max) TS_MUST_CHECK; /* 1, 0 at the end, -EINVAL; text is malloc'd, ended by 0 */
/* cli_backup.c */
int cli_backup(json_t *pos, json_t *opt);
int cli_restore(json_t *pos, json_t *opt);
/* preflight.c */
int cli_preflight(const struct verb *v, json_t *pos, json_t *opt);

#endif
