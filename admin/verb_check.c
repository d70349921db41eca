/* SPDX-License-Identifier: Apache-2.0 */
/* Does a command fit the table: its arguments by their usage words, its options by unit and range? Asked by the command, for a quick and
 * clear refusal, and by the daemon, which believes nobody. Also what can be read off the table: exit statuses, pages, answers.
 * Must never happen: something passes here that the usage line does not allow. */
#include "admin/verbs.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <stdarg.h>

static int bad(char *errmsg, size_t errlen, const char *fmt, ...) TS_PRINTF(3, 4);
static int bad(char *errmsg, size_t errlen, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(errmsg, errlen, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* ---- arguments -------------------------------------------------------------------------------------------------------------- */

void verb_arg_word(const struct verb *v, unsigned i, char *buf, size_t n)
{
	const char *p = v->args, *word = p;
	size_t len = 0;
	for (unsigned k = 0; *p; k++) {
		word = p += strspn(p, " ");
		len = strcspn(p, " ");
		p += len;
		if (k == i || !strcmp(p, " ...") || !strcmp(p, " ...]"))
			break;
	}
	if (len && *word == '[') {
		word++;
		len--;
	}
	while (len && (word[len - 1] == ']' || word[len - 1] == '.'))
		len--;
	snprintf(buf, n, "%.*s", (int)TS_MIN(len, n - 1), word);
}

bool verb_name_ok(const char *n)
{
	size_t len = strlen(n);
	if (len < 1 || len > 63)
		return false;
	for (; *n; n++)
		if (!isalnum((unsigned char)*n) && !strchr("_.-", *n))
			return false;
	return true;
}

static bool number_ok(const char *s, uint64_t min, uint64_t max)
{
	char *end;
	errno = 0;
	unsigned long long n = isdigit((unsigned char)*s) ? strtoull(s, &end, 10) : 0;
	return isdigit((unsigned char)*s) && !*end && !errno && n >= min && n <= max;
}

static bool arg_name(const char *s) { return verb_name_ok(s); }
static bool arg_url(const char *s) { return strstr(s, "://") != NULL && s[0] != ':'; }
static bool arg_dir(const char *s) { return strchr(s, '/') != NULL && !strstr(s, "://"); }
static bool arg_node(const char *s) { return number_ok(s, 1, 255); }
static bool arg_address(const char *s)
{
	struct in_addr a;
	return inet_pton(AF_INET, s, &a) == 1;
}
static bool arg_number(const char *s) { return number_ok(s, 0, UINT64_MAX); }

static const struct {
	const char *word;
	bool (*ok)(const char *s);
	const char *what, *remedy;
} kinds[] = {
	{"NAME", arg_name, "not the name of a file system", "use 1 to 63 letters, digits, '_', '.', '-'"},
	{"URL", arg_url, "not the URL of a disk", "write iscsi://HOST:PORT/IQN/LUN, nvme-tcp://HOST:PORT/NQN?ns=N or file:///PATH"},
	{"DIRECTORY", arg_dir, "not a directory's path", "write it with a '/'"},
	{"NODE", arg_node, "not a node number", "see `tessera node list`"},
	{"N", arg_number, "not a number", "use digits only"},
	{"ADDRESS", arg_address, "not an IPv4 address", "write it as numbers, such as 10.0.0.2"},
};

/* Is s what that alternative allows? what and remedy are set if not. */
static bool alternative(const char *word, size_t len, const char *s, const char **what, const char **remedy)
{
	for (size_t i = 0; i < TS_ARRAY_LEN(kinds); i++)
		if (strlen(kinds[i].word) == len && !strncmp(kinds[i].word, word, len)) {
			if (kinds[i].ok(s))
				return true;
			if (!*what) {
				*what = kinds[i].what;
				*remedy = kinds[i].remedy;
			}
			return false;
		}
	if (islower((unsigned char)*word))
		return strlen(s) == len && !strncmp(word, s, len);
	return true; /* whoever carries it out judges it */
}

static int arg_check(const struct verb *v, unsigned i, const char *s, char *errmsg, size_t errlen)
{
	char word[128];
	const char *what = NULL, *remedy = NULL;
	verb_arg_word(v, i, word, sizeof(word));
	for (const char *p = word; *p;) {
		size_t len = strcspn(p, "|");
		if (*s && alternative(p, len, s, &what, &remedy))
			return 0;
		p += len + (p[len] == '|');
	}
	if (!*word || !*s)
		return bad(errmsg, errlen, "%s: argument %u is empty; usage: tessera %s %s", v->name, i + 1, v->name, v->args);
	return bad(errmsg, errlen, "%s: %s '%.200s': %s; %s", v->name, word, s, what ? what : "none of these", remedy ? remedy : "use one of them");
}

/* ---- options ---------------------------------------------------------------------------------------------------------------- */

static int opt_check(const struct verb *v, const char *name, json_t *value, char *errmsg, size_t errlen)
{
	const struct verb_opt *o = NULL;
	uint64_t n = 0;
	for (size_t i = 0; i < VERB_MAX_OPTS && v->opts[i].name; i++)
		if (!strcmp(v->opts[i].name, name))
			o = &v->opts[i];
	if (!o)
		return bad(errmsg, errlen, "%s: unknown option --%.80s; see `tessera help %s`", v->name, name, v->name);
	if (!o->argname)
		return json_is_true(value) ? 0 : bad(errmsg, errlen, "%s: option --%s takes no value", v->name, name);
	const char *s = json_string_value(value);
	if (!s)
		return bad(errmsg, errlen, "%s: option --%s needs %s", v->name, name, o->argname);
	if (!o->max)
		return 0;
	bool size = !strcmp(o->argname, "SIZE");
	bool ok = size ? verb_size_parse(s, &n) == 0 && n >= o->min && n <= o->max : number_ok(s, o->min, o->max);
	if (ok && o->pow2)
		ok = !(n & (n - 1));
	if (ok)
		return 0;
	return bad(errmsg, errlen, "%s: --%s %.80s: must be %s from %llu to %llu%s", v->name, name, s, o->pow2 ? "a power of two" : "a number",
		   (unsigned long long)o->min, (unsigned long long)o->max, size ? ", in bytes or with K, M, G behind it" : "");
}

int verb_check(const struct verb *v, json_t *pos, json_t *opt, char *errmsg, size_t errlen)
{
	size_t n = json_array_size(pos);
	const char *key;
	json_t *value;
	int rc = 0;
	if (n < v->min_args || n > v->max_args)
		return bad(errmsg, errlen, "%s: %s; usage: tessera %s%s%s", v->name, n < v->min_args ? "arguments missing" : "too many arguments",
			   v->name, *v->args ? " " : "", v->args);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		const char *s = json_string_value(json_array_get(pos, i));
		rc = s ? arg_check(v, (unsigned)i, s, errmsg, errlen) : bad(errmsg, errlen, "%s: argument %zu is no text", v->name, i + 1);
	}
	json_object_foreach(opt, key, value) {
		if (rc == 0)
			rc = opt_check(v, key, value, errmsg, errlen);
	}
	return rc;
}

/* ---- exit statuses ---------------------------------------------------------------------------------------------------------- */

const struct verb_exit_row verb_exits[] = {
	{VERB_DONE, "done"},
	{VERB_REFUSED, "refused or failed; what was changed, if anything, is said"},
	{VERB_USAGE, "wrong usage: an argument or option is missing, too much, malformed or out of range; nothing was changed"},
	{VERB_NO_DAEMON, "no tesserad answers at the socket"},
	{VERB_NOT_NOW, "not now: no quorum, no lease, or the daemon is stopping; nothing was changed"},
	{VERB_NOT_PERMITTED, "not permitted: the socket is for root, the act was not confirmed, or the configuration forbids it; nothing was changed"},
	{VERB_WARNING, "`health`, `preflight`: the worst that is true is a warning"},
	{VERB_ERROR, "`health`: an error; `preflight`: something failed"},
	{VERB_CRITICAL, "`health`: critical"},
};
const size_t verb_exit_count = TS_ARRAY_LEN(verb_exits);

int verb_exit_of(int err)
{
	static const struct {
		int err, status;
	} rows[] = {
		{0, VERB_DONE},		 {EINVAL, VERB_USAGE},	      {EAGAIN, VERB_NOT_NOW},
		{ESHUTDOWN, VERB_NOT_NOW}, {EPERM, VERB_NOT_PERMITTED}, {EACCES, VERB_NOT_PERMITTED},
	};
	for (size_t i = 0; i < TS_ARRAY_LEN(rows); i++)
		if (rows[i].err == err)
			return rows[i].status;
	return VERB_REFUSED;
}

/* ---- pages of the manual ----------------------------------------------------------------------------------------------------- */

unsigned verb_pages(struct verb_page v[VERB_PAGES_MAX], char names[VERB_PAGES_MAX][32])
{
	unsigned n = 0;
	v[n++] = (struct verb_page){"tessera", 8};
	for (size_t i = 0; i < verb_count && n < VERB_PAGES_MAX - 3; i++) {
		size_t len = strcspn(verb_table[i].name, " ");
		if (!verb_table[i].name[len] || (i && !strncmp(verb_table[i].name, verb_table[i - 1].name, len + 1)))
			continue;
		snprintf(names[n], 32, "tessera-%.*s", (int)len, verb_table[i].name);
		v[n] = (struct verb_page){names[n], 8};
		n++;
	}
	v[n++] = (struct verb_page){"tesserad", 8};
	v[n++] = (struct verb_page){"mount.tessera", 8};
	v[n++] = (struct verb_page){"tesserad.conf", 5};
	return n;
}

/* ---- answers ------------------------------------------------------------------------------------------------------------------ */

static json_t *type(const char **p);

static json_t *object(const char **p)
{
	json_t *props = json_object(), *need = json_array();
	++*p;
	for (;;) {
		*p += strspn(*p, " ");
		if (**p == '}')
			break;
		size_t len = strcspn(*p, "?: }");
		char key[64];
		bool may = (*p)[len] == '?';
		if (!len || len >= sizeof(key) || (*p)[len + may] != ':')
			goto bad;
		snprintf(key, sizeof(key), "%.*s", (int)len, *p);
		*p += len + may + 1;
		json_t *t = type(p);
		if (!t)
			goto bad;
		json_object_set_new(props, key, t);
		if (!may)
			json_array_append_new(need, json_string(key));
	}
	++*p;
	return json_pack("{s:s,s:o,s:o}", "type", "object", "properties", props, "required", need);
bad:
	json_decref(props);
	json_decref(need);
	return NULL;
}

static json_t *type(const char **p)
{
	static const char *const names[] = {['s'] = "string", ['i'] = "integer", ['n'] = "number", ['b'] = "boolean"};
	unsigned char c = (unsigned char)**p;
	if (c == '{')
		return object(p);
	if (c == '[') {
		++*p;
		json_t *t = type(p);
		if (!t || **p != ']') {
			json_decref(t);
			return NULL;
		}
		++*p;
		return json_pack("{s:s,s:o}", "type", "array", "items", t);
	}
	if (c != '*' && (c >= TS_ARRAY_LEN(names) || !names[c]))
		return NULL;
	++*p;
	return c == '*' ? json_object() : json_pack("{s:s}", "type", names[c]);
}

json_t *verb_schema_of(const char *letters)
{
	json_t *t = type(&letters);
	if (t && *letters) {
		json_decref(t);
		t = NULL;
	}
	return t;
}

json_t *verb_schema(const struct verb *v)
{
	json_t *t = verb_schema_of(v->json ? v->json : "{}");
	if (t) {
		json_object_set_new(t, "$schema", json_string("https://json-schema.org/draft/2020-12/schema"));
		json_object_set_new(t, "title", json_sprintf("tessera --json %s", v->name));
	}
	return t;
}
