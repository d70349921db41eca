/* SPDX-License-Identifier: Apache-2.0 */
/* Help and completion, printed from the verb table. */
#include "admin/conf.h"
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
	if (v->where == VERB_DAEMON && v->flags & VERB_ROUTED)
		printf("\n--node N,N or --node all: on those nodes; this daemon asks theirs.\n");
	if (v->where == VERB_DAEMON && v->flags & VERB_LOOKS)
		printf("--watch [SECONDS]: again and again, until interrupted.\n");
}

void cli_usage(void)
{
	printf("usage: tessera [--socket PATH] [--json] [--node N[,N...]|all] [--watch [SECONDS]] VERB [ARGUMENTS]\n\n");
	for (size_t i = 0; i < verb_count; i++)
		printf("  %-17s %-24s %s\n", verb_table[i].name, verb_table[i].args, verb_table[i].help);
	printf("\n`tessera help VERB` explains one. Exit status:\n");
	for (size_t i = 0; i < verb_exit_count; i++)
		printf("  %2d  %s\n", verb_exits[i].status, verb_exits[i].meaning);
}

static json_t *opts_json(const struct verb *v)
{
	json_t *a = json_array();
	for (size_t k = 0; k < VERB_MAX_OPTS && v->opts[k].name; k++) {
		const struct verb_opt *o = &v->opts[k];
		json_t *x = json_pack("{s:s,s:s*,s:s}", "name", o->name, "value", o->argname, "help", o->help);
		if (o->max)
			json_object_update_new(x, json_pack("{s:I,s:I,s:b}", "min", (json_int_t)o->min, "max", (json_int_t)o->max, "pow2", o->pow2));
		json_array_append_new(a, x);
	}
	return a;
}

json_t *cli_table(void)
{
	static const char *const where[] = {[VERB_DAEMON] = "daemon", [VERB_LOCAL] = "local", [VERB_EXEC] = "exec"};
	json_t *verbs = json_array(), *exits = json_array();
	for (size_t i = 0; i < verb_count; i++) {
		const struct verb *v = &verb_table[i];
		json_array_append_new(verbs, json_pack("{s:s,s:s,s:i,s:i,s:s,s:s,s:b,s:b,s:b,s:o}", "verb", v->name, "args", v->args, "min_args",
						       (int)v->min_args, "max_args", (int)v->max_args, "where", where[v->where], "help", v->help,
						       "looks", (v->flags & VERB_LOOKS) != 0, "routed", (v->flags & VERB_ROUTED) != 0, "confirm",
						       v->confirm != NULL, "options", opts_json(v)));
	}
	for (size_t i = 0; i < verb_exit_count; i++)
		json_array_append_new(exits, json_pack("{s:i,s:s}", "status", verb_exits[i].status, "meaning", verb_exits[i].meaning));
	return json_pack("{s:o,s:o}", "verbs", verbs, "exits", exits);
}

/* ---- completion -------------------------------------------------------------------------------------------------------------- */

/* What the daemon can name for a usage word; NULL: nothing, or files. */
static const char *names_of(const char *word)
{
	static const char *const rows[][2] = {
		{"NAME", "fs"}, {"NAME|DIRECTORY", "mount"}, {"NAME|URL", "fs"}, {"NODE", "node"}, {"URL", "disk"},
	};
	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++)
		if (!strcmp(rows[i][0], word))
			return rows[i][1];
	return NULL;
}

static void verbs_words(void)
{
	for (size_t i = 0; i < verb_count; i++) {
		size_t n = strcspn(verb_table[i].name, " ");
		if (i == 0 || strncmp(verb_table[i].name, verb_table[i - 1].name, n) || (verb_table[i - 1].name[n] != ' ' && verb_table[i - 1].name[n]))
			printf("%s%.*s", i ? " " : "", (int)n, verb_table[i].name);
	}
}

/* Words for the i-th argument of a verb, as shell code that sets w. */
static void argument(const struct verb *v, unsigned i)
{
	char word[128];
	verb_arg_word(v, i, word, sizeof(word));
	const char *what = names_of(word);
	if (!strncmp(v->name, "config ", 7) && !strcmp(word, "KEY")) {
		printf("w=\"");
		for (size_t k = 0; k < conf_key_count; k++)
			printf("%s%s", k ? " " : "", conf_keys[k].name);
		printf("\"");
	} else if (!strcmp(word, "VERB")) {
		printf("w=\"");
		verbs_words();
		printf("\"");
	} else if (!strcmp(word, "PAGE")) {
		struct verb_page pages[VERB_PAGES_MAX];
		char names[VERB_PAGES_MAX][32];
		unsigned n = verb_pages(pages, names);
		printf("w=\"");
		for (unsigned k = 0; k < n; k++)
			printf("%s%s", k ? " " : "", pages[k].name);
		printf("\"");
	} else if (what)
		printf("w=$(tessera names %s 2>/dev/null)", what);
	else if (word[0] >= 'a' && word[0] <= 'z') {
		printf("w=\"");
		for (const char *p = word; *p; p++)
			putchar(*p == '|' ? ' ' : *p);
		printf("\"");
	} else
		printf("w=");
}

static void verb_case(const struct verb *v)
{
	printf("  \"%s\")\n    o=\"--help --json", v->name);
	if (v->where == VERB_DAEMON && v->flags & VERB_ROUTED)
		printf(" --node");
	if (v->where == VERB_DAEMON && v->flags & VERB_LOOKS)
		printf(" --watch");
	for (size_t k = 0; k < VERB_MAX_OPTS && v->opts[k].name; k++)
		printf(" --%s", v->opts[k].name);
	printf("\"\n    case $n in\n");
	for (unsigned i = 0; i < v->max_args && i < 4; i++) {
		printf("    %u%s) ", i, i + 1 < 4 && i + 1 == v->max_args ? "" : i == 3 ? "|*" : "");
		argument(v, i);
		printf(" ;;\n");
	}
	printf("    esac ;;\n");
}

/* The length of the next proper prefix of a name, in whole words, behind `len`; 0: there is none. */
static size_t prefix_next(const char *name, size_t len)
{
	const char *p = strchr(name + len + (len != 0), ' ');
	return p ? (size_t)(p - name) : 0;
}

static bool begins(const struct verb *v, const char *prefix, size_t len)
{
	return !strncmp(v->name, prefix, len) && v->name[len] == ' ';
}

/* Is that verb the first whose name begins so? */
static bool first_of(size_t i, size_t len)
{
	for (size_t k = 0; k < i; k++)
		if (begins(&verb_table[k], verb_table[i].name, len))
			return false;
	return true;
}

/* Behind words that are no verb yet: the words that may follow. */
static void groups(void)
{
	for (size_t i = 0; i < verb_count; i++)
		for (size_t len = 0; (len = prefix_next(verb_table[i].name, len));) {
			const char *prefix = verb_table[i].name, *last = "";
			if (!first_of(i, len))
				continue;
			printf("  \"%.*s\") w=\"", (int)len, prefix);
			for (size_t k = i; k < verb_count; k++) {
				const char *next = verb_table[k].name + len + 1;
				size_t n = begins(&verb_table[k], prefix, len) ? strcspn(next, " ") : 0;
				if (!n || (!strncmp(last, next, n) && (last[n] == ' ' || !last[n])))
					continue;
				printf("%s%.*s", *last ? " " : "", (int)n, next);
				last = next;
			}
			printf("\" ;;\n");
		}
}

/* One function that both shells understand: _tessera_words WORD... (those in front of the cursor) sets w (words) and o (options). */
static void words_function(void)
{
	printf("_tessera_words() {\n  local verb= n=0 skip= x\n  w= o=\n  for x in \"$@\"; do\n    if [ -n \"$skip\" ]; then skip=; continue; fi\n"
	       "    case $x in\n    --socket|--node) skip=1 ;;\n    -*) ;;\n    *)\n      case \"$verb\" in\n      '') verb=$x ;;\n");
	printf("      ");
	bool first = true;
	for (size_t i = 0; i < verb_count; i++)
		for (size_t len = 0; (len = prefix_next(verb_table[i].name, len));)
			if (first_of(i, len)) {
				printf("%s\"%.*s\"", first ? "" : "|", (int)len, verb_table[i].name);
				first = false;
			}
	printf(") verb=\"$verb $x\" ;;\n      *) n=$((n + 1)) ;;\n      esac ;;\n    esac\n  done\n  case \"$verb\" in\n");
	for (size_t i = 0; i < verb_count; i++)
		verb_case(&verb_table[i]);
	groups();
	printf("  '') o=\"--json --socket --node --watch --help\" w=\"");
	verbs_words();
	printf("\" ;;\n  esac\n}\n");
}

int cli_completion(const char *shell)
{
	bool zsh = !strcmp(shell, "zsh");
	if (!zsh && strcmp(shell, "bash"))
		return -ENOENT;
	if (zsh)
		printf("#compdef tessera\n");
	printf("# made by `tessera completion %s` from the table of verbs\n", shell);
	words_function();
	if (zsh)
		printf("_tessera() {\n  local w o\n  _tessera_words \"${(@)words[2,CURRENT-1]}\"\n  case $PREFIX in\n  -*) compadd -- ${=o} ;;\n"
		       "  *) if [ -n \"$w\" ]; then compadd -- ${=w}; else _files; fi ;;\n  esac\n}\n"
		       "if [ \"${funcstack[1]}\" = _tessera ]; then _tessera \"$@\"; else compdef _tessera tessera; fi\n");
	else
		printf("_tessera() {\n  local w o cur=\"${COMP_WORDS[COMP_CWORD]}\"\n  _tessera_words \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"\n"
		       "  case $cur in -*) w=$o ;; esac\n  mapfile -t COMPREPLY < <(compgen -W \"$w\" -- \"$cur\")\n}\n"
		       "complete -o default -F _tessera tessera\n");
	return 0;
}
