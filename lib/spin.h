/* SPDX-License-Identifier: Apache-2.0 */
/* Private to lib/: is it worth while to look for events for a moment before sleeping? Waking a thread on another processor costs far more than
 * most requests, so while events come soon after each other the loop stays awake; as soon as they do not, it learns that. Sans clock: times
 * come in. */
#ifndef TESSERA_LIB_SPIN_H
#define TESSERA_LIB_SPIN_H

#include "lib/base.h"

#define TS_SPIN_NS	 50000u /* so long at a time */
#define TS_SPIN_SHORT_NS 100000u /* a sleep that was over so soon would better not have been begun */
#define TS_SPIN_NEED_MIN 4u	/* so many of them in a row begin it */
#define TS_SPIN_NEED_MAX 1024u

struct ts_spin { /* all zero = new */
	uint32_t shorts, need;
	bool never; /* one processor: whoever could bring an event would be kept from it */
};

bool ts_spin_worth(const struct ts_spin *s);
void ts_spin_hit(struct ts_spin *s);		     /* an event came while looking */
void ts_spin_miss(struct ts_spin *s);		     /* none came */
void ts_spin_slept(struct ts_spin *s, uint64_t ns); /* the loop slept so long */

#endif
