/* SPDX-License-Identifier: Apache-2.0 */
/* Job: iscsi://[user[%password]@]host[:port]/iqn/lun taken apart and the host resolved. Must never happen: the
 * password in an error text. */
#include "nsd/iscsi_int.h"

#include <netdb.h>
#include <stdio.h>

static int bad(char *errmsg, size_t errlen, const char *part)
{
	snprintf(errmsg, errlen, "iSCSI URL: %s (iscsi://[user%%password@]host[:port]/iqn/lun)", part);
	return -EINVAL;
}

static int parse_login(struct iscsi_target *t, const char *p, size_t n, char *errmsg, size_t errlen)
{
	const char *percent = memchr(p, '%', n);
	size_t user = percent ? (size_t)(percent - p) : n;

	if (!nsd_url_copy(t->user, sizeof(t->user), p, user))
		return bad(errmsg, errlen, "user name is empty or too long");
	if (percent && !nsd_url_copy(t->password, sizeof(t->password), percent + 1, n - user - 1))
		return bad(errmsg, errlen, "password is empty or too long");
	return 0;
}

static int parse_host(struct iscsi_target *t, const char *p, size_t n, char *errmsg, size_t errlen)
{
	const char *text, *wrong = nsd_url_host(p, n, t->host, sizeof(t->host), &text);
	char *rest;
	unsigned long port;

	if (wrong)
		return bad(errmsg, errlen, wrong);
	if (!text) {
		memcpy(t->port, "3260", 5);
		return 0;
	}
	if (!nsd_url_copy(t->port, sizeof(t->port), text, (size_t)(p + n - text)))
		return bad(errmsg, errlen, "port is not a number");
	port = strtoul(t->port, &rest, 10);
	if (*rest || !port || port > 65535)
		return bad(errmsg, errlen, "port is not a number");
	return 0;
}

int nsd_iscsi_url_parse(const char *url, struct iscsi_target *t, char *errmsg, size_t errlen)
{
	const char *p = url + strlen("iscsi://"), *slash = strchr(p, '/'), *at, *lun;
	char *rest;
	unsigned long n;
	int rc;

	memset(t, 0, sizeof(*t));
	if (!slash)
		return bad(errmsg, errlen, "target name is missing");
	at = memrchr(p, '@', (size_t)(slash - p));
	if (at) {
		rc = parse_login(t, p, (size_t)(at - p), errmsg, errlen);
		if (rc)
			return rc;
		p = at + 1;
	}
	rc = parse_host(t, p, (size_t)(slash - p), errmsg, errlen);
	if (rc)
		return rc;
	lun = strrchr(slash, '/');
	if (lun == slash)
		return bad(errmsg, errlen, "LUN is missing");
	if (!nsd_url_copy(t->iqn, sizeof(t->iqn), slash + 1, (size_t)(lun - slash) - 1))
		return bad(errmsg, errlen, "target name is empty or too long");
	n = strtoul(lun + 1, &rest, 10);
	if (lun[1] < '0' || lun[1] > '9' || *rest || n > 16383)
		return bad(errmsg, errlen, "LUN is not a number");
	t->lun = (int)n;
	return 0;
}

int nsd_iscsi_resolve(struct iscsi_target *t, char *errmsg, size_t errlen)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *ai = NULL;
	char host[64];
	int rc = getaddrinfo(t->host, t->port, &hints, &ai);

	if (rc || getnameinfo(ai->ai_addr, ai->ai_addrlen, host, sizeof(host), NULL, 0, NI_NUMERICHOST)) {
		snprintf(errmsg, errlen, "iSCSI portal %s: %s", t->host, rc ? gai_strerror(rc) : "no address");
		if (ai)
			freeaddrinfo(ai);
		return -ENOENT;
	}
	snprintf(t->numeric, sizeof(t->numeric), ai->ai_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, t->port);
	freeaddrinfo(ai);
	return 0;
}
