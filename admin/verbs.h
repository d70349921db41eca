/* SPDX-License-Identifier: Apache-2.0 */
/* The one table of commands: parser, help, man page and shell completion come from it, and the daemon dispatches by it. */
#ifndef TESSERA_ADMIN_VERBS_H
#define TESSERA_ADMIN_VERBS_H

#include "lib/lib.h"
#include <jansson.h>

#define VERB_MAX_OPTS 8
struct verb_opt {
	const char *name;    /* long option without dashes */
	char letter;	     /* 0 = none */
	const char *argname; /* NULL = a switch */
	const char *help;
};
enum verb_where { VERB_DAEMON, VERB_LOCAL, VERB_EXEC };
struct verb {
	const char *name; /* "fs create" */
	const char *args; /* usage of what stands behind */
	unsigned min_args, max_args;
	enum verb_where where;
	const char *help;   /* one line */
	const char *detail; /* paragraphs for the man page and --help */
	struct verb_opt opts[VERB_MAX_OPTS];
};
#define MOUNT_SOURCE "tessera:" /* before the name, in fstab and in the table of mounts */
#define VERB_SURE "yes-i-know" /* the option that stands for typing the first argument again */
extern const struct verb verb_table[];
extern const size_t verb_count;

/* The verb whose words stand first in argv; *used = how many words it takes. NULL: unknown. */
const struct verb *verb_find(int argc, char **argv, int *used);
/* What it does to its first argument, if that must be confirmed; else NULL. */
const char *verb_confirm(const struct verb *v);
/* "64K", "1M", "8GiB" to bytes; -EINVAL for anything else. */
int verb_size_parse(const char *text, uint64_t *out) TS_MUST_CHECK;

/* cli_print.c: text for people, per verb. */
void cli_print(const struct verb *v, json_t *data);
/* cli_doc.c */
void cli_help(const struct verb *v);
void cli_usage(void);
void cli_man(void);	   /* roff on stdout */
void cli_completion(void); /* bash on stdout */

#endif
