/* SPDX-License-Identifier: Apache-2.0 */
/* px_run: what the runner and the checks share over process borders. */
#ifndef TESSERA_TESTS_POSIX_PX_RUN_H
#define TESSERA_TESTS_POSIX_PX_RUN_H

#define PX_SKIPPED 77

struct px_shared {
	unsigned checks, failed;
	char test[80];
	char why[200];
};
extern struct px_shared *px_shared;

#endif
