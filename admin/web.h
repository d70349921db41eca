/* SPDX-License-Identifier: Apache-2.0 */
/* The page: what metrics.c needs to serve it. */
#ifndef TESSERA_ADMIN_WEB_H
#define TESSERA_ADMIN_WEB_H

#include "lib/lib.h"
#include <stddef.h>

struct web {
	uint64_t wanted_ns; /* of the newest request */
	char *text;	    /* the newest answer, malloc'd; NULL: none yet */
	size_t len;
	bool running;
};
struct web_file {
	const char *url, *type;
	const char *data, *end;
};
const struct web_file *web_file(const char *url); /* NULL: none of that name */

#endif
