/* SPDX-License-Identifier: Apache-2.0 */
/* The manual, printed from the tables: tessera(8), one page a group of verbs, tesserad(8), mount.tessera(8), tesserad.conf(5).
 * Must never happen: text of a table taken for a request of roff (a line that begins with a dot or quote). */
#include "admin/conf.h"
#include "admin/verbs.h"
#include <ctype.h>
#include <sys/stat.h>

#define MAN_DATE "2026-11-26"

/* One line of text: dashes are typed characters in a manual, backslashes none of roff's, and `code` is bold. */
static void put(FILE *f, const char *s)
{
	bool bold = false;
	if (*s == '.' || *s == '\'')
		fputs("\\&", f);
	for (; *s; s++)
		switch (*s) {
		case '-':
			fputs("\\-", f);
			break;
		case '\\':
			fputs("\\e", f);
			break;
		case '`':
			bold = !bold;
			fputs(bold ? "\\fB" : "\\fR", f);
			break;
		default:
			/* A sentence ends a line, or roff spaces it wrongly. */
			if (s[0] == ' ' && s[-1] == '.' && isupper((unsigned char)s[1]) && !bold)
				putc('\n', f);
			else
				putc(*s, f);
		}
}

static void para(FILE *f, const char *s)
{
	put(f, s);
	putc('\n', f);
}

static void bold(FILE *f, const char *s)
{
	fputs("\\fB", f);
	for (; *s; s++)
		fputs(*s == '-' ? "\\-" : (char[2]){*s, 0}, f);
	fputs("\\fR", f);
}

static void head(FILE *f, const char *name, unsigned section, const char *what)
{
	fputs(".TH ", f);
	for (const char *p = name; *p; p++)
		if (*p == '-')
			fputs("\\-", f);
		else
			putc(toupper((unsigned char)*p), f);
	fprintf(f, " %u \"%s\" \"Tessera %s\" \"System Administration\"\n.SH NAME\n", section, MAN_DATE, TESSERA_VERSION);
	put(f, name);
	fputs(" \\- ", f);
	para(f, what);
}

static void opts(FILE *f, const struct verb *v)
{
	for (size_t k = 0; k < VERB_MAX_OPTS && v->opts[k].name; k++) {
		const struct verb_opt *o = &v->opts[k];
		fputs(".TP\n", f);
		if (o->letter) {
			bold(f, (char[3]){'-', o->letter, 0});
			fputs(", ", f);
		}
		bold(f, "--");
		bold(f, o->name);
		if (o->argname)
			fprintf(f, " \\fI%s\\fR", o->argname);
		putc('\n', f);
		para(f, o->help);
	}
}

static void verb(FILE *f, const struct verb *v)
{
	fputs(".SS \"tessera ", f);
	put(f, v->name);
	putc(*v->args ? ' ' : '"', f);
	if (*v->args) {
		put(f, v->args);
		putc('"', f);
	}
	putc('\n', f);
	char first = (char)toupper((unsigned char)v->help[0]);
	putc(first, f);
	put(f, v->help + 1);
	fputs(".\n", f);
	if (*v->detail)
		para(f, v->detail);
	if (v->confirm) {
		fputs("Asks you to type the first argument again: it ", f);
		put(f, v->confirm);
		fputs(".\n", f);
	}
	opts(f, v);
}

static bool in_group(const struct verb *v, const char *group) /* NULL: verbs of one word */
{
	size_t len = strcspn(v->name, " ");
	return group ? v->name[len] && strlen(group) == len && !strncmp(v->name, group, len) : !v->name[len];
}

static void tail(FILE *f, const char *self)
{
	struct verb_page pages[VERB_PAGES_MAX];
	char names[VERB_PAGES_MAX][32];
	unsigned n = verb_pages(pages, names);
	bool first = true;
	fputs(".SH SEE ALSO\n", f);
	for (unsigned i = 0; i < n; i++) {
		if (!strcmp(pages[i].name, self))
			continue;
		fputs(first ? "" : ",\n", f);
		fputs(".BR ", f);
		put(f, pages[i].name);
		fprintf(f, " (%u)", pages[i].section);
		first = false;
	}
	putc('\n', f);
}

static void statuses(FILE *f)
{
	fputs(".SH EXIT STATUS\n", f);
	for (size_t i = 0; i < verb_exit_count; i++) {
		fprintf(f, ".TP\n%d\n", verb_exits[i].status);
		para(f, verb_exits[i].meaning);
	}
}

static void page_verbs(FILE *f, const char *name, const char *group)
{
	char what[96];
	snprintf(what, sizeof(what), group ? "administration of a Tessera cluster: verbs about %s" : "administration of a Tessera cluster",
		 group ? group : "");
	head(f, name, 8, what);
	fputs(".SH SYNOPSIS\n.B tessera\n[\\fB\\-\\-socket\\fR \\fIPATH\\fR] [\\fB\\-\\-json\\fR] [\\fB\\-\\-node\\fR \\fIN\\fR[,\\fIN\\fR...]|all]\n"
	      "[\\fB\\-\\-watch\\fR [\\fISECONDS\\fR]] \\fIVERB\\fR [\\fIARGUMENTS\\fR]\n.SH DESCRIPTION\n", f);
	para(f, "Talks to the tesserad of this node over its UNIX socket. Tables for people on a terminal, the same without colours in a pipe. "
		"What is refused changes nothing and says in one line what, why, and what to do.");
	if (!group) {
		fputs(".TP\n\\fB\\-\\-socket\\fR \\fIPATH\\fR\n", f);
		para(f, "of the daemon; else the environment's TESSERA_SOCKET, else /run/tessera/tesserad.sock.");
		fputs(".TP\n\\fB\\-\\-json\\fR\n", f);
		para(f, "The answer as JSON; `tessera schema VERB` describes it.");
		fputs(".TP\n\\fB\\-\\-node\\fR \\fIN\\fR[,\\fIN\\fR...]|all\n", f);
		para(f, "On other nodes, for verbs that allow it: this node's daemon asks theirs, each within 30 s, without ssh.");
		fputs(".TP\n\\fB\\-\\-watch\\fR [\\fISECONDS\\fR]\n", f);
		para(f, "Again and again (every 2 s), for verbs that only look.");
	}
	fputs(".SH VERBS\n", f);
	for (size_t i = 0; i < verb_count; i++)
		if (in_group(&verb_table[i], group))
			verb(f, &verb_table[i]);
	statuses(f);
	tail(f, name);
}

static void page_tesserad(FILE *f)
{
	head(f, "tesserad", 8, "daemon of the Tessera cluster file system");
	fputs(".SH SYNOPSIS\n.B tesserad\n[\\fB\\-f\\fR] [\\fB\\-c\\fR \\fICONFIGURATION\\fR]\n.SH DESCRIPTION\n", f);
	para(f, "One runs on every node. It opens the shared disks, joins the cluster through corosync, keeps caches coherent with the other nodes, "
		"and serves the mounts that `tessera mount` asks for. Its log goes to the journal and to stderr.");
	fputs(".TP\n\\fB\\-c\\fR, \\fB\\-\\-config\\fR \\fIFILE\\fR\n", f);
	para(f, "Configuration, /etc/tessera/tesserad.conf if not given; see tesserad.conf(5).");
	fputs(".TP\n\\fB\\-f\\fR, \\fB\\-\\-foreground\\fR\n", f);
	para(f, "Stay in the foreground: the default, kept for scripts.");
	fputs(".TP\n\\fB\\-V\\fR, \\fB\\-\\-version\\fR\n", f);
	para(f, "Print the version.");
	fputs(".SH SIGNALS\n.TP\nSIGTERM, SIGINT\n", f);
	para(f, "Unmount (lazily, where files are open), leave the cluster, end with status 0.");
	fputs(".SH EXIT STATUS\n.TP\n0\n", f);
	para(f, "ended as told.");
	fputs(".TP\n1\n", f);
	para(f, "could not start; one line on stderr says why and what to do.");
	fputs(".TP\n2\nwrong usage.\n.TP\n75\n", f);
	para(f, "out of the cluster, or refused by it (another lease_ms): what it had not written is lost, the others recover its log, and it may be "
		"started again.");
	tail(f, "tesserad");
}

static void page_mount(FILE *f)
{
	head(f, "mount.tessera", 8, "lets mount(8) and fstab mount a Tessera file system");
	fputs(".SH SYNOPSIS\n.B mount \\-t tessera\n\\fINAME DIRECTORY\\fR [\\fB\\-o\\fR \\fIOPTIONS\\fR]\n.SH DESCRIPTION\n", f);
	para(f, "Called by mount(8). It asks the daemon of this node, as `tessera mount` does. In fstab: NAME DIRECTORY tessera _netdev 0 0.");
	fputs(".SH OPTIONS\n", f);
	para(f, verb_by_name("mount")->detail);
	fputs(".SH EXIT STATUS\n", f);
	para(f, "0 mounted, 1 wrong usage, 32 the directory is not there, else that of `tessera mount`.");
	tail(f, "mount.tessera");
}

static void page_conf(FILE *f)
{
	head(f, "tesserad.conf", 5, "configuration of tesserad");
	fputs(".SH DESCRIPTION\n", f);
	para(f, "Lines of `key = value`. A # at the beginning makes a comment. Unknown keys and bad values are refused with file and line: nothing is "
		"guessed. `tessera config get` shows what is in force, `tessera config set` changes a line of the file, and at once what can be "
		"changed while the daemon runs.");
	fputs(".SH KEYS\n", f);
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct conf_key *k = &conf_keys[i];
		fputs(".TP\n", f);
		bold(f, k->name);
		fputs(" (", f);
		put(f, k->unit ? k->unit : "text");
		if (k->max && k->kind == CONF_UINT)
			fprintf(f, ", %llu to %llu", (unsigned long long)k->min, (unsigned long long)k->max);
		else if (k->max)
			fprintf(f, ", %lluM to %lluG", (unsigned long long)k->min >> 20, (unsigned long long)k->max >> 30);
		fputs(k->must ? ", must be set" : "", f);
		if (k->def) {
			fputs("; default ", f);
			put(f, k->def);
		}
		fputs(k->live ? "; live" : "", f);
		fputs(")\n", f);
		para(f, k->help ? k->help : "See the guides.");
	}
	tail(f, "tesserad.conf");
}

int cli_man(FILE *f, const char *page)
{
	static const struct {
		const char *name;
		void (*fn)(FILE *f);
	} fixed[] = {{"tesserad", page_tesserad}, {"mount.tessera", page_mount}, {"tesserad.conf", page_conf}};
	struct verb_page pages[VERB_PAGES_MAX];
	char names[VERB_PAGES_MAX][32];
	unsigned n = verb_pages(pages, names);
	for (size_t i = 0; i < TS_ARRAY_LEN(fixed); i++)
		if (!strcmp(fixed[i].name, page)) {
			fixed[i].fn(f);
			return 0;
		}
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(pages[i].name, page)) {
			page_verbs(f, page, page[7] == '-' ? page + 8 : NULL);
			return 0;
		}
	return -ENOENT;
}

int cli_man_all(const char *dir, char *errmsg, size_t errlen)
{
	struct verb_page pages[VERB_PAGES_MAX];
	char names[VERB_PAGES_MAX][32], path[512];
	unsigned n = verb_pages(pages, names);
	for (unsigned i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/man%u", dir, pages[i].section);
		if (mkdir(path, 0755) && errno != EEXIST)
			goto bad;
		snprintf(path, sizeof(path), "%s/man%u/%s.%u", dir, pages[i].section, pages[i].name, pages[i].section);
		FILE *f = fopen(path, "we");
		if (!f)
			goto bad;
		int rc = cli_man(f, pages[i].name);
		if (fclose(f) || rc)
			goto bad;
	}
	return 0;
bad:
	snprintf(errmsg, errlen, "man: %s: %s; make the directory first, and see that it can be written to", path, strerror(errno));
	return -EIO;
}
