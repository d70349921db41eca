/* SPDX-License-Identifier: Apache-2.0 */
/* Job: how many requests have reached the daemons, from a command that knows.
 * What must never happen: a number where there was no answer. */
#include "model.h"

long long model_requests(const char *command)
{
	long long n = -1;
	FILE *p = command ? popen(command, "r") : NULL;

	if (!p)
		return -1;
	if (fscanf(p, "%lld", &n) != 1)
		n = -1;
	pclose(p);
	return n;
}
