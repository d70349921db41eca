/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive doubly linked list with a sentinel head. An unlinked node points to itself. */
#ifndef TESSERA_LIB_LIST_H
#define TESSERA_LIB_LIST_H

#include "lib/base.h"

struct ts_list {
	struct ts_list *next, *prev;
};

#define TS_LIST_INIT(name) {&(name), &(name)}
static inline void ts_list_init(struct ts_list *l) { l->next = l->prev = l; }
static inline bool ts_list_empty(const struct ts_list *l) { return l->next == l; }
static inline void ts_list_insert_(struct ts_list *n, struct ts_list *prev, struct ts_list *next)
{
	n->next = next;
	n->prev = prev;
	prev->next = n;
	next->prev = n;
}
static inline void ts_list_push_back(struct ts_list *head, struct ts_list *n) { ts_list_insert_(n, head->prev, head); }
static inline void ts_list_push_front(struct ts_list *head, struct ts_list *n) { ts_list_insert_(n, head, head->next); }
static inline void ts_list_del(struct ts_list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	n->next = n->prev = n;
}
static inline struct ts_list *ts_list_pop_front(struct ts_list *head)
{
	struct ts_list *n = head->next;
	if (n == head)
		return NULL;
	ts_list_del(n);
	return n;
}
#define ts_list_for(pos, head) for (struct ts_list *pos = (head)->next; pos != (head); pos = pos->next)
#define ts_list_for_safe(pos, tmp, head)                                                                   \
	for (struct ts_list *pos = (head)->next, *tmp = pos->next; pos != (head); pos = tmp, tmp = tmp->next)
#define ts_list_entry(pos, type, member) TS_CONTAINER(pos, type, member)

#endif
