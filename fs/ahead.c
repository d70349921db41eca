/* SPDX-License-Identifier: Apache-2.0 */
/* Job: who walks over files that another node has made does not wait for each of them: tokens of those that are likely to be next are
 * asked for ahead, many in one message, and blocks of inodes that came are read in few requests.
 *
 * A *stream* is one kind of token wanted in order: of inode numbers, or of a listing that was made here not long ago.
 *
 *   miss --the next of a listing, or a second one close behind--> streaming: a window of guesses; half of it used: the next, twice as large
 *        --fewer used than refused or lost--> half, and at last none: resting, for REST misses
 *
 * Must never happen: a wait (guesses are made in the middle of others' pins); a guess that hurts the node it is asked of: files it
 * has open and inodes it gives out itself are refused (fs_ahead_ok); windows, queue or listings without bound; a block read when its
 * token is not here. */
#include "fs/alloc_int.h"

#include <dirent.h>

#define STREAMS	    16
#define LISTS	    4
#define LIST_MAX    16384u
#define LIST_FIRST  256u
#define LIST_DIR    (1ULL << 63)
#define WINDOW_LOW  16u
#define WINDOW_LIST 32u /* a listing is half a promise */
#define WINDOW_MAX  256u
#define NEAR	    64u /* so far behind the last one it is still in order */
#define BEHIND	    (2u * WINDOW_MAX) /* guesses so far behind are forgotten */
#define REST	    64u /* misses */
#define QUEUE	    1024u
#define LATELY	    1024u /* guesses */
#define BAD_MAX	    64u
#define SELDOM	    16u

struct list {
	uint64_t dir, next_cookie, stamp; /* stamp 0: unused */
	unsigned n, room;
	uint64_t *ino; /* LIST_DIR: a directory */
};
struct stream {
	enum tok_kind kind;
	enum tok_mode mode;
	uint64_t stamp, list_stamp; /* list_stamp 0: by inode numbers */
	unsigned list;
	uint64_t last;	     /* inode */
	uint64_t at, next;   /* in the listing, or inode numbers: the last one wanted; the first not yet asked for */
	uint64_t from;	     /* guesses are [from, next) */
	unsigned window, rest;
	unsigned used, bad; /* of the guesses since the window was last changed */
};
struct fs_ahead {
	struct stream s[STREAMS];
	struct list l[LISTS];
	uint64_t stamp;
	unsigned used, bad, starts; /* lately, of all guesses */
	uint64_t came[QUEUE]; /* inodes whose tokens came: blocks to be read */
	unsigned head, n;
	bool reading; /* the fiber is there */
	struct fs_prefetch prefetch;
};

/* ---- listings ------------------------------------------------------------------------------------------------------- */

static struct list *list_of(struct fs_ahead *a, uint64_t dir, uint64_t cookie)
{
	struct list *oldest = &a->l[0];

	for (unsigned i = 0; i < LISTS; i++) {
		if (a->l[i].stamp && a->l[i].dir == dir && (a->l[i].next_cookie == cookie || cookie <= 2)) {
			if (cookie <= 2 && a->l[i].next_cookie != cookie)
				a->l[i].n = 0; /* begun anew */
			return &a->l[i];
		}
		if (a->l[i].stamp < oldest->stamp)
			oldest = &a->l[i];
	}
	oldest->n = 0;
	return oldest;
}

static bool list_grow(struct list *l)
{
	unsigned room = l->room ? l->room * 2 : LIST_FIRST;
	uint64_t *v = room <= LIST_MAX ? ts_alloc(room * sizeof(*v)) : NULL;

	if (!v)
		return false;
	if (l->n)
		memcpy(v, l->ino, l->n * sizeof(*v));
	ts_free(l->ino);
	l->ino = v;
	l->room = room;
	return true;
}

static uint64_t list_ino(const struct list *l, uint64_t at)
{
	return l->ino[at] & ~LIST_DIR;
}

void fs_ahead_listed(struct fs *fs, uint64_t dir, uint64_t cookie, const struct fs_dirent *e)
{
	struct fs_ahead *a = fs->ahead;
	struct list *l;

	if (!a)
		return;
	l = list_of(a, dir, cookie);
	if (l->n == l->room && !list_grow(l))
		l->n = 0; /* what was listed so long ago has been walked over */
	if (!l->room)
		return;
	if (!l->n)
		l->stamp = ++a->stamp;
	l->dir = dir;
	l->next_cookie = e->cookie;
	l->ino[l->n++] = e->ino | (e->type == DT_DIR ? LIST_DIR : 0);
}

static const struct list *list_live(const struct fs_ahead *a, const struct stream *s)
{
	const struct list *l = s->list_stamp ? &a->l[s->list] : NULL;

	return l && l->stamp == s->list_stamp ? l : NULL;
}

static bool list_find(const struct fs_ahead *a, uint64_t ino, unsigned *list, uint64_t *at)
{
	for (unsigned i = 0; i < LISTS; i++)
		for (unsigned k = 0; a->l[i].stamp && k < a->l[i].n; k++)
			if (list_ino(&a->l[i], k) == ino) {
				*list = i;
				*at = k;
				return true;
			}
	return false;
}

/* ---- streams -------------------------------------------------------------------------------------------------------- */

static bool guessable(enum tok_kind kind, enum tok_mode mode)
{
	return (kind == TOK_INODE || kind == TOK_OPEN || kind == TOK_DATA || kind == TOK_DIR) && mode != TOK_SW && mode != TOK_NL;
}

/* Does id follow the last one of s closely? Then s is there. */
static bool follows(const struct fs_ahead *a, struct stream *s, uint64_t id)
{
	const struct list *l = list_live(a, s);

	for (uint64_t k = s->at + 1; l && k < l->n && k <= s->at + NEAR; k++)
		if (list_ino(l, k) == id) {
			s->at = k;
			return true;
		}
	if (s->kind == TOK_DIR || id <= s->last || id - s->last > NEAR)
		return false;
	if (s->list_stamp) { /* the order is another one than that of the listing */
		s->list_stamp = 0;
		s->next = s->from = id;
	}
	s->at = id;
	return true;
}

static void ask(struct fs *fs, struct stream *s)
{
	const struct list *l = list_live(fs->ahead, s);
	uint64_t id[WINDOW_MAX], end = s->at + s->window;
	unsigned n = 0;

	if (s->list_stamp && !l)
		return;
	end = l ? TS_MIN(end, (uint64_t)l->n - 1) : TS_MIN(end, s->at | (FS_SEG_INODES - 1)); /* the next segment may be anybody's */
	if (s->next <= s->at)
		s->next = s->from = s->at + 1;
	for (; s->next <= end && n < WINDOW_MAX; s->next++) {
		uint64_t ino = l ? list_ino(l, s->next) : s->next;

		if (l && s->kind != TOK_INODE && !(l->ino[s->next] & LIST_DIR) == (s->kind == TOK_DIR))
			continue;
		if (!fs_seg_find(fs, ino >> FS_SEG_SHIFT)) /* mastered by others: else it costs no message */
			id[n++] = ino;
	}
	if (n)
		(void)tok_ahead(fs->tok, s->kind, s->mode, id, n);
}

/* Guesses that were mostly wrong lately: few streams begin, to see whether that has changed. */
static bool may_begin(struct fs_ahead *a)
{
	if (a->used + a->bad > LATELY) {
		a->used /= 2;
		a->bad /= 2;
	}
	return a->bad <= BAD_MAX + 2 * a->used || ++a->starts % SELDOM == 0;
}

/* Was it worth it? */
static void judge(struct fs_ahead *a, struct stream *s)
{
	if (s->bad > s->used) {
		s->window /= 2;
		if (s->window < WINDOW_LOW) {
			s->window = 0;
			s->rest = REST;
		}
	} else if (!s->window) {
		s->window = may_begin(a) ? WINDOW_LOW : 0;
	} else if (s->used >= s->window / 4) {
		s->window = TS_MIN(s->window * 2, WINDOW_MAX);
	} else if (s->next > s->at + 1 && s->window > WINDOW_LOW) {
		s->window /= 2; /* wanted are others than those that were guessed */
	}
	s->used = s->bad = 0;
}

static struct stream *stream_new(struct fs_ahead *a, enum tok_kind kind, enum tok_mode mode, uint64_t id)
{
	struct stream *s = &a->s[0];

	for (unsigned i = 1; i < STREAMS; i++)
		if (a->s[i].stamp < s->stamp)
			s = &a->s[i];
	*s = (struct stream){.kind = kind, .mode = mode, .last = id, .at = id};
	if (list_find(a, id, &s->list, &s->at)) {
		s->list_stamp = a->l[s->list].stamp;
		s->window = may_begin(a) ? WINDOW_LIST : 0;
	}
	return s;
}

/* Half of what was guessed is used: the next guesses. */
static void used(struct fs *fs, struct stream *s, uint64_t id, uint64_t at)
{
	struct fs_ahead *a = fs->ahead;

	s->used++;
	s->last = id;
	s->at = TS_MAX(s->at, at);
	s->from = TS_MAX(s->from, s->at > BEHIND ? s->at - BEHIND : 0);
	s->stamp = ++a->stamp;
	if (s->next > s->at + s->window / 2 || s->rest)
		return;
	judge(a, s);
	if (s->window)
		ask(fs, s);
}

void fs_ahead_missed(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode mode)
{
	struct fs *fs = arg;
	struct fs_ahead *a = fs->ahead;
	struct stream *s = NULL;

	if (!a || !guessable(kind, mode) || fs->run == FS_RUN_STOPPED || fs_seg_find(fs, id >> FS_SEG_SHIFT))
		return;
	for (unsigned i = 0; i < STREAMS && !s; i++)
		if (a->s[i].stamp && a->s[i].kind == kind && a->s[i].mode == mode && follows(a, &a->s[i], id))
			s = &a->s[i];
	if (s && s->next > s->at) { /* guessed, and not here yet */
		used(fs, s, id, s->at);
		return;
	}
	if (s)
		judge(a, s);
	else
		s = stream_new(a, kind, mode, id);
	s->last = id;
	s->stamp = ++a->stamp;
	if (s->rest) {
		s->rest--;
		s->window = 0;
	} else if (s->window) {
		ask(fs, s);
	}
}

/* The stream that guessed id. */
static struct stream *guesser(struct fs_ahead *a, enum tok_kind kind, uint64_t id, enum tok_mode mode, uint64_t *at)
{
	for (unsigned i = 0; i < STREAMS; i++) {
		struct stream *s = &a->s[i];
		const struct list *l = list_live(a, s);

		if (!s->stamp || s->kind != kind || s->mode != mode || (s->list_stamp && !l))
			continue;
		if (!l && (id < s->from || id >= s->next))
			continue;
		for (*at = l ? s->from : id; l && *at < s->next && list_ino(l, *at) != id; ++*at)
			;
		if (*at < s->next)
			return s;
	}
	return NULL;
}

/* ---- blocks of inodes whose tokens came ------------------------------------------------------------------------------ */

static int by_addr(const void *x, const void *y)
{
	const struct fs_buf_want *a = x, *b = y;

	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

static void read_some(struct fs *fs, struct fs_ahead *a)
{
	struct fs_buf_want w[FS_PREFETCH_MAX];
	unsigned n = 0, held = 0;

	for (; a->n && n < FS_PREFETCH_MAX; a->head = (a->head + 1) % QUEUE, a->n--)
		w[n++].ino = a->came[a->head];
	for (unsigned i = 0; i < n; i++)
		if (fs_ino_addr(fs, w[i].ino, &w[i].addr))
			w[i].ino = 0;
	for (unsigned i = 0; i < n; i++) /* now, for the above may have waited */
		if (w[i].ino && tok_holds(fs->tok, TOK_INODE, w[i].ino, TOK_SH, 0, TOK_END))
			w[held++] = w[i];
	qsort(w, held, sizeof(w[0]), by_addr);
	fs_buf_prefetch_inodes(fs, &a->prefetch, w, held);
}

static void reader(void *arg)
{
	struct fs *fs = arg;
	struct fs_ahead *a = fs->ahead;

	while (a->n && !fs->stopping_threads && fs->run != FS_RUN_STOPPED)
		read_some(fs, a);
	a->n = 0;
	a->reading = false;
	ts_group_done(&fs->background, 0);
}

static void came(struct fs *fs, uint64_t ino)
{
	struct fs_ahead *a = fs->ahead;

	if (a->n == QUEUE || fs->stopping_threads)
		return; /* it is read when it is wanted */
	a->came[(a->head + a->n++) % QUEUE] = ino;
	if (a->reading)
		return;
	ts_group_add(&fs->background);
	a->reading = ts_fiber_spawn(fs->exec, "inodes ahead", reader, fs) == 0;
	if (!a->reading) {
		a->n = 0;
		ts_group_done(&fs->background, 0);
	}
}

void fs_ahead_news(void *arg, enum tok_kind kind, uint64_t id, enum tok_mode mode, enum tok_ahead_news news)
{
	struct fs *fs = arg;
	struct stream *s;
	uint64_t at;

	if (!fs->ahead)
		return;
	if (news == TOK_AHEAD_CAME && kind == TOK_INODE)
		came(fs, id);
	fs->ahead->used += news == TOK_AHEAD_USED;
	fs->ahead->bad += news == TOK_AHEAD_REFUSED || news == TOK_AHEAD_LOST;
	s = news == TOK_AHEAD_CAME ? NULL : guesser(fs->ahead, kind, id, mode, &at);
	if (s && news == TOK_AHEAD_USED)
		used(fs, s, id, at);
	else if (s)
		s->bad++;
}

/* ---- what others guess ----------------------------------------------------------------------------------------------- */

bool fs_ahead_ok(void *arg, enum tok_kind kind, uint64_t id)
{
	struct fs *fs = arg;
	const struct fs_seg *s = fs->ialloc && guessable(kind, TOK_SH) ? fs_seg_find(fs, id >> FS_SEG_SHIFT) : NULL;

	if (fs->run != FS_RUN_LIVE || (s && s->slot[id & (FS_SEG_INODES - 1)].state != FS_SLOT_NONE))
		return false;
	return kind == TOK_OPEN || !fs_inode_open_here(fs, id); /* OPEN of what is open is pinned: tokens/ looks */
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

int fs_ahead_init(struct fs *fs)
{
	struct fs_ahead *a = ts_alloc(sizeof(*a));

	if (!a)
		return -ENOMEM;
	ts_cond_init(&a->prefetch.cond);
	a->prefetch.hole = ts_alloc_aligned(FS_SUB, FS_SUB);
	if (!a->prefetch.hole) {
		ts_free(a);
		return -ENOMEM;
	}
	fs->ahead = a;
	return 0;
}

void fs_ahead_fini(struct fs *fs)
{
	if (!fs->ahead)
		return;
	for (unsigned i = 0; i < LISTS; i++)
		ts_free(fs->ahead->l[i].ino);
	ts_free(fs->ahead->prefetch.hole);
	ts_free(fs->ahead);
	fs->ahead = NULL;
}
