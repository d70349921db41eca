/* SPDX-License-Identifier: Apache-2.0 */
/* Job: the pieces that the URLs of disks at a target have in common, whatever the transport. Must never happen: a byte behind a piece
 * read or kept. */
#include "nsd/nsd_int.h"

bool nsd_url_copy(char *to, size_t room, const char *from, size_t n)
{
	if (!n || n >= room)
		return false;
	memcpy(to, from, n);
	to[n] = 0;
	return true;
}

const char *nsd_url_host(const char *p, size_t n, char *host, size_t room, const char **port)
{
	const char *end = p + n, *colon;

	if (n && *p == '[') { /* [v6]:port */
		const char *close = memchr(p, ']', n);

		if (!close || !nsd_url_copy(host, room, p + 1, (size_t)(close - p) - 1))
			return "host address in brackets is wrong";
		colon = close + 1;
		if (colon != end && *colon != ':')
			return "something between ] and the port";
	} else {
		colon = memchr(p, ':', n);
		if (!colon)
			colon = end;
		if (!nsd_url_copy(host, room, p, (size_t)(colon - p)))
			return "host is empty or too long";
	}
	*port = colon == end ? NULL : colon + 1;
	return NULL;
}
