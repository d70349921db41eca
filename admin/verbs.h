/* SPDX-License-Identifier: Apache-2.0 */
/* The one table of commands: parser, help, man page and shell completion come from it, and the daemon dispatches by it. */
#ifndef TESSERA_ADMIN_VERBS_H
#define TESSERA_ADMIN_VERBS_H

#include "lib/lib.h"
#include <jansson.h>
#include <stdio.h>

#define VERB_MAX_OPTS 8
struct verb_opt {
	const char *name;    /* long option without dashes */
	char letter;	     /* 0 = none */
	const char *argname; /* NULL = a switch; N, MS, SIZE: a number within min and max, in that unit */
	const char *help;
	uint64_t min, max; /* max 0: any */
	bool pow2;
};
enum verb_where { VERB_DAEMON, VERB_LOCAL, VERB_EXEC };
enum {
	VERB_LOOKS = 1,	 /* changes nothing: may be repeated (--watch) */
	VERB_ROUTED = 2, /* may be asked of other nodes, too (--node) */
};
struct verb {
	const char *name; /* "fs create" */
	/* Usage of what stands behind: words that say what is checked (verb_check): NAME, URL, DIRECTORY, NODE, N, PAGE, VERB ...; a|b|c in
	 * small letters: one of these; [..] may be missing, the last may be followed by "..." */
	const char *args;
	unsigned min_args, max_args;
	enum verb_where where;
	const char *help;   /* one line */
	const char *detail; /* paragraphs for the man page and --help */
	struct verb_opt opts[VERB_MAX_OPTS];
	/* From here on rows name what they set; the rest is 0. */
	unsigned flags;
	const char *confirm; /* what it does to its first argument, which must be typed again, or --yes-i-know said; NULL: nothing to fear */
	/* What --json answers, as verb_schema() explains: s text, i integer, n number, b yes or no, * anything, [x] a list of x, {key:x key?:x}
	 * an object, ? where a key may be missing. NULL: no answer but success. */
	const char *json;
};
#define MOUNT_SOURCE "tessera:" /* before the name, in fstab and in the table of mounts */
#define VERB_SURE "yes-i-know" /* the option that stands for typing the first argument again */
extern const struct verb verb_table[];
extern const size_t verb_count;

enum verb_exit {
	VERB_DONE = 0,
	VERB_REFUSED = 1,
	VERB_USAGE = 2,
	VERB_NO_DAEMON = 3,
	VERB_NOT_NOW = 4,
	VERB_NOT_PERMITTED = 5,
	VERB_WARNING = 20,
	VERB_ERROR = 21,
	VERB_CRITICAL = 22
};
struct verb_exit_row {
	int status;
	const char *meaning;
};
extern const struct verb_exit_row verb_exits[];
extern const size_t verb_exit_count;
int verb_exit_of(int err); /* exit status of a refusal with that errno */

struct verb_page { /* of the manual: verbs of two words have one a group */
	const char *name;
	unsigned section;
};
#define VERB_PAGES_MAX 32
unsigned verb_pages(struct verb_page v[VERB_PAGES_MAX], char names[VERB_PAGES_MAX][32]);

/* The verb whose words stand first in argv; *used = how many words it takes. NULL: unknown. */
const struct verb *verb_find(int argc, char **argv, int *used);
const struct verb *verb_by_name(const char *name);
/* Does it fit the table? -EINVAL and one line with object, cause and remedy. The same for the command and for the daemon. */
int verb_check(const struct verb *v, json_t *pos, json_t *opt, char *errmsg, size_t errlen) TS_MUST_CHECK;
/* The usage word of the i-th argument ("NAME|URL"), without brackets and dots. */
void verb_arg_word(const struct verb *v, unsigned i, char *buf, size_t n);
/* The JSON schema of its answer; of a description in the table's letters (NULL: malformed). */
json_t *verb_schema(const struct verb *v);
json_t *verb_schema_of(const char *letters);
bool verb_name_ok(const char *name); /* of a file system: 1 to 63 letters, digits, '_', '.', '-' */
/* "64K", "1M", "8GiB" to bytes; -EINVAL for anything else. */
int verb_size_parse(const char *text, uint64_t *out) TS_MUST_CHECK;

/* cli_print.c: text for people, per verb. */
void cli_print(const struct verb *v, json_t *data);
void cli_heading(const char *fmt, ...) TS_PRINTF(1, 2);
void cli_event(json_t *e);			     /* one line */
int cli_health_status(json_t *data, bool of_nodes); /* exit status of the worst condition */
/* cli_doc.c */
void cli_help(const struct verb *v);
void cli_usage(void);
json_t *cli_table(void); /* the whole table: `tessera --json help` */
int cli_completion(const char *shell) TS_MUST_CHECK; /* bash or zsh, on stdout; -ENOENT: no such shell */
/* cli_man.c: roff */
int cli_man(FILE *f, const char *page) TS_MUST_CHECK; /* -ENOENT: no such page */
int cli_man_all(const char *dir, char *errmsg, size_t errlen) TS_MUST_CHECK; /* DIR/man5, DIR/man8 */

#endif
