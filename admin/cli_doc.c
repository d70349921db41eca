/* SPDX-License-Identifier: Apache-2.0 */
/* Help, manual page and completion, all printed from the verb table. */
#include "admin/verbs.h"
#include <stdio.h>

static void opt_line(const struct verb_opt *o, char *buf, size_t n)
{
	char letter[5] = "";
	if (o->letter)
		snprintf(letter, sizeof(letter), "-%c, ", o->letter);
	snprintf(buf, n, "%s--%s%s%s", letter, o->name, o->argname ? " " : "", o->argname ? o->argname : "");
}

void cli_help(const struct verb *v)
{
	char buf[96];
	printf("tessera %s %s\n  %s\n", v->name, v->args, v->help);
	if (v->detail[0])
		printf("\n%s\n", v->detail);
	for (size_t i = 0; i < VERB_MAX_OPTS && v->opts[i].name; i++) {
		if (i == 0)
			printf("\nOptions:\n");
		opt_line(&v->opts[i], buf, sizeof(buf));
		printf("  %-24s %s\n", buf, v->opts[i].help);
	}
}

void cli_usage(void)
{
	printf("usage: tessera [--socket PATH] [--json] VERB [ARGUMENTS]\n\n");
	for (size_t i = 0; i < verb_count; i++)
		printf("  %-17s %-18s %s\n", verb_table[i].name, verb_table[i].args, verb_table[i].help);
	printf("\n`tessera help VERB` explains one. Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no daemon.\n");
}

/* Dashes are typed characters in a manual, and a line must not begin with a dot. */
static void roff(const char *s)
{
	for (; *s; s++)
		if (*s == '-')
			fputs("\\-", stdout);
		else
			putchar(*s);
}

void cli_man(void)
{
	char buf[96];
	printf(".TH TESSERA 8 \"\" \"Tessera %s\" \"System Administration\"\n.SH NAME\ntessera \\- cluster file system administration\n", TESSERA_VERSION);
	printf(".SH SYNOPSIS\n.B tessera\n[\\-\\-socket PATH] [\\-\\-json] VERB [ARGUMENTS]\n.SH DESCRIPTION\n"
	       "Talks to the tesserad of this node over its UNIX socket (environment TESSERA_SOCKET, default /run/tessera/tesserad.sock). "
	       "With \\-\\-json the answer is printed as JSON.\n.SH VERBS\n");
	for (size_t i = 0; i < verb_count; i++) {
		const struct verb *v = &verb_table[i];
		printf(".TP\n.B tessera ");
		roff(v->name);
		printf(" \\fR");
		roff(v->args);
		printf("\n");
		roff(v->help);
		printf(". ");
		roff(v->detail);
		printf("\n");
		for (size_t k = 0; k < VERB_MAX_OPTS && v->opts[k].name; k++) {
			opt_line(&v->opts[k], buf, sizeof(buf));
			printf(".RS\n.TP\n");
			roff(buf);
			printf("\n");
			roff(v->opts[k].help);
			printf("\n.RE\n");
		}
	}
	printf(".SH EXIT STATUS\n0 done, 1 refused or failed, 2 wrong usage, 3 no daemon answers.\n.SH SEE ALSO\ntesserad(8), mount.tessera(8)\n");
}

/* Verbs of two words, by their first: "  fs) words="create list" ;;". They stand together in the table. */
static void groups(void)
{
	for (size_t i = 0, n; i < verb_count; i += n) {
		size_t len = strcspn(verb_table[i].name, " ");
		n = 1;
		if (!verb_table[i].name[len])
			continue;
		printf("  %.*s) words=\"%s", (int)len, verb_table[i].name, verb_table[i].name + len + 1);
		while (i + n < verb_count && !strncmp(verb_table[i + n].name, verb_table[i].name, len + 1))
			printf(" %s", verb_table[i + n++].name + len + 1);
		printf("\" ;;\n");
	}
}

void cli_completion(void)
{
	printf("_tessera() {\n  local cur=\"${COMP_WORDS[COMP_CWORD]}\" line=\"${COMP_WORDS[*]:1:COMP_CWORD-1}\" words=\"\"\n  case \"$line\" in\n");
	for (size_t i = 0; i < verb_count; i++) {
		printf("  \"%s\"*) words=\"--help --json", verb_table[i].name);
		for (size_t k = 0; k < VERB_MAX_OPTS && verb_table[i].opts[k].name; k++)
			printf(" --%s", verb_table[i].opts[k].name);
		printf("\" ;;\n");
	}
	groups();
	printf("  *) words=\"--json --socket");
	for (size_t i = 0; i < verb_count; i++) {
		size_t n = strcspn(verb_table[i].name, " ");
		if (i == 0 || strncmp(verb_table[i].name, verb_table[i - 1].name, n + 1))
			printf(" %.*s", (int)n, verb_table[i].name);
	}
	printf("\" ;;\n  esac\n  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n}\ncomplete -o default -F _tessera tessera\n");
}
