/* SPDX-License-Identifier: Apache-2.0 */
/* Job: make, switch and end fibers. Must never happen: a fiber resumed on another thread than its executor's, or its
 * stack reused before the switch off it is complete (the driver's side frees it). */
#include "lib/fiber_int.h"

#ifdef TS_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef TS_TSAN
#include <sanitizer/tsan_interface.h>
#endif

/* Saves the callee-saved registers on the current stack, stores its pointer in *save and continues at load. */
void ts_ctx_switch(void **save, void *load);
/* Where a new fiber begins: calls the function and argument planted in callee-saved registers. */
void ts_ctx_start(void);

#if defined(__x86_64__)
__asm__(".text\n"
	".p2align 4\n"
	".globl ts_ctx_switch\n"
	".type ts_ctx_switch,@function\n"
	"ts_ctx_switch:\n"
	"	push %rbp\n"
	"	push %rbx\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	mov %rsp, (%rdi)\n"
	"	mov %rsi, %rsp\n"
	"	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbx\n"
	"	pop %rbp\n"
	"	ret\n"
	".size ts_ctx_switch,.-ts_ctx_switch\n"
	".p2align 4\n"
	".globl ts_ctx_start\n"
	".type ts_ctx_start,@function\n"
	"ts_ctx_start:\n"
	"	.cfi_startproc\n"
	"	.cfi_undefined rip\n"
	"	xor %ebp, %ebp\n"
	"	mov %r12, %rdi\n"
	"	call *%r13\n"
	"	ud2\n"
	"	.cfi_endproc\n"
	".size ts_ctx_start,.-ts_ctx_start\n");

static void *ctx_make(char *top, ts_fn entry, void *arg)
{
	uint64_t *sp = (uint64_t *)TS_ALIGN_DOWN((uintptr_t)top, 16);

	*--sp = 0; /* keeps the stack 16-aligned at the call in ts_ctx_start */
	*--sp = 0;
	*--sp = (uint64_t)(uintptr_t)ts_ctx_start;
	*--sp = 0;			    /* rbp */
	*--sp = 0;			    /* rbx */
	*--sp = (uint64_t)(uintptr_t)arg;   /* r12 */
	*--sp = (uint64_t)(uintptr_t)entry; /* r13 */
	*--sp = 0;			    /* r14 */
	*--sp = 0;			    /* r15 */
	return sp;
}
#elif defined(__aarch64__)
__asm__(".text\n"
	".p2align 4\n"
	".globl ts_ctx_switch\n"
	".type ts_ctx_switch,%function\n"
	"ts_ctx_switch:\n"
	"	sub sp, sp, #160\n"
	"	stp x19, x20, [sp, #0]\n"
	"	stp x21, x22, [sp, #16]\n"
	"	stp x23, x24, [sp, #32]\n"
	"	stp x25, x26, [sp, #48]\n"
	"	stp x27, x28, [sp, #64]\n"
	"	stp x29, x30, [sp, #80]\n"
	"	stp d8, d9, [sp, #96]\n"
	"	stp d10, d11, [sp, #112]\n"
	"	stp d12, d13, [sp, #128]\n"
	"	stp d14, d15, [sp, #144]\n"
	"	mov x9, sp\n"
	"	str x9, [x0]\n"
	"	mov sp, x1\n"
	"	ldp x19, x20, [sp, #0]\n"
	"	ldp x21, x22, [sp, #16]\n"
	"	ldp x23, x24, [sp, #32]\n"
	"	ldp x25, x26, [sp, #48]\n"
	"	ldp x27, x28, [sp, #64]\n"
	"	ldp x29, x30, [sp, #80]\n"
	"	ldp d8, d9, [sp, #96]\n"
	"	ldp d10, d11, [sp, #112]\n"
	"	ldp d12, d13, [sp, #128]\n"
	"	ldp d14, d15, [sp, #144]\n"
	"	add sp, sp, #160\n"
	"	ret\n"
	".size ts_ctx_switch,.-ts_ctx_switch\n"
	".p2align 4\n"
	".globl ts_ctx_start\n"
	".type ts_ctx_start,%function\n"
	"ts_ctx_start:\n"
	"	.cfi_startproc\n"
	"	.cfi_undefined x30\n"
	"	mov x29, #0\n"
	"	mov x0, x19\n"
	"	blr x20\n"
	"	brk #1\n"
	"	.cfi_endproc\n"
	".size ts_ctx_start,.-ts_ctx_start\n");

static void *ctx_make(char *top, ts_fn entry, void *arg)
{
	uint64_t *sp = (uint64_t *)TS_ALIGN_DOWN((uintptr_t)top, 16) - 20;

	memset(sp, 0, 160);
	sp[0] = (uint64_t)(uintptr_t)arg;	    /* x19 */
	sp[1] = (uint64_t)(uintptr_t)entry;	    /* x20 */
	sp[11] = (uint64_t)(uintptr_t)ts_ctx_start; /* x30 */
	return sp;
}
#else
#error "no fiber switch for this processor"
#endif

static void switch_in(struct ts_exec *x, struct ts_fiber *f)
{
#ifdef TS_ASAN
	__sanitizer_start_switch_fiber(&x->asan_fake, f->stack, f->stack_bytes);
#endif
#ifdef TS_TSAN
	x->tsan = __tsan_get_current_fiber();
	__tsan_switch_to_fiber(f->tsan, 0);
#endif
	ts_ctx_switch(&x->sched_sp, f->sp);
#ifdef TS_ASAN
	__sanitizer_finish_switch_fiber(x->asan_fake, NULL, NULL);
#endif
}

static void switch_out(struct ts_fiber *f)
{
	struct ts_exec *x = f->exec;

#ifdef TS_ASAN
	__sanitizer_start_switch_fiber(f->state == FIBER_ENDED ? NULL : &f->asan_fake, x->asan_bottom,
				       x->asan_size);
#endif
#ifdef TS_TSAN
	__tsan_switch_to_fiber(x->tsan, 0);
#endif
	ts_ctx_switch(&f->sp, x->sched_sp);
#ifdef TS_ASAN
	__sanitizer_finish_switch_fiber(f->asan_fake, &x->asan_bottom, &x->asan_size);
#endif
}

static void fiber_main(void *arg)
{
	struct ts_fiber *f = arg;

#ifdef TS_ASAN
	__sanitizer_finish_switch_fiber(NULL, &f->exec->asan_bottom, &f->exec->asan_size);
#endif
	f->fn(f->arg);
	f->state = FIBER_ENDED;
	switch_out(f);
	TS_PANIC("fiber %s was resumed after its end", f->name);
}

static struct ts_fiber *fiber_new(struct ts_exec *x, const char *name, ts_fn fn, void *arg)
{
	char *stack = ts_stack_get();
	struct ts_fiber *f;

	if (!stack)
		return NULL;
	f = (struct ts_fiber *)TS_ALIGN_DOWN((uintptr_t)(stack + TS_STACK_BYTES - sizeof(*f)), 64);
	*f = (struct ts_fiber){.exec = x, .stack = stack, .name = name, .fn = fn, .arg = arg};
	f->stack_bytes = (size_t)((char *)f - stack);
	f->sp = ctx_make((char *)f, fiber_main, f);
#ifdef TS_TSAN
	f->tsan = __tsan_create_fiber(0);
	__tsan_set_fiber_name(f->tsan, name);
#endif
	ts_list_init(&f->link);
	ts_list_push_back(&x->fibers, &f->all);
	x->nfibers++;
	return f;
}

int ts_fiber_spawn(struct ts_exec *x, const char *name, ts_fn fn, void *arg)
{
	struct ts_fiber *f = fiber_new(x, name, fn, arg);

	if (!f)
		return -ENOMEM;
	ts_fiber_make_ready(f);
	return 0;
}

int ts_fiber_start(struct ts_exec *x, const char *name, ts_fn fn, void *arg)
{
	struct ts_fiber *f = fiber_new(x, name, fn, arg);

	if (!f)
		return -ENOMEM;
	TS_ASSERT(ts_exec_self() == x && !x->current);
	f->state = FIBER_READY;
	ts_fiber_resume(f);
	return 0;
}

void ts_fiber_forget(struct ts_fiber *f)
{
	struct ts_exec *x = f->exec;

	ts_timer_cancel(&f->timer);
	ts_list_del(&f->link);
	ts_list_del(&f->all);
	x->nfibers--;
#ifdef TS_TSAN
	__tsan_destroy_fiber(f->tsan);
#endif
	ts_stack_put(f->stack);
}

void ts_fiber_resume(struct ts_fiber *f)
{
	struct ts_exec *x = f->exec;

	TS_ASSERT(!x->current && f->state == FIBER_READY);
	f->state = FIBER_RUNNING;
	x->current = f;
	switch_in(x, f);
	x->current = NULL;
	if (f->state == FIBER_ENDED)
		ts_fiber_forget(f);
}

void ts_fiber_make_ready(struct ts_fiber *f)
{
	ts_timer_cancel(&f->timer);
	ts_list_del(&f->link);
	f->state = FIBER_READY;
	f->what = NULL;
	ts_list_push_back(&f->exec->ready, &f->link);
}

static void park_timeout(void *arg)
{
	struct ts_fiber *f = arg;

	f->timed_out = true;
	ts_fiber_make_ready(f);
}

int ts_fiber_park(struct ts_list *where, uint64_t deadline_ns, const char *what, uint64_t a, uint64_t b)
{
	struct ts_fiber *f = ts_fiber_self();

	if (!f)
		TS_PANIC("waiting for %s (%llu, %llu) outside a fiber", what, (unsigned long long)a,
			 (unsigned long long)b);
	f->what = what;
	f->a = a;
	f->b = b;
	f->since_ns = ts_exec_now(f->exec);
	f->timed_out = false;
	f->state = FIBER_WAITING;
	if (where)
		ts_list_push_back(where, &f->link);
	if (deadline_ns != UINT64_MAX)
		ts_timer_arm(f->exec, &f->timer, deadline_ns, park_timeout, f);
	switch_out(f);
	return f->timed_out ? -ETIMEDOUT : 0;
}

struct ts_fiber *ts_fiber_self(void)
{
	struct ts_exec *x = ts_exec_self();

	return x ? x->current : NULL;
}

const char *ts_fiber_name(void)
{
	struct ts_fiber *f = ts_fiber_self();

	return f ? f->name : NULL;
}

void ts_fiber_yield(void)
{
	struct ts_fiber *f = ts_fiber_self();

	TS_ASSERT(f);
	ts_fiber_make_ready(f);
	switch_out(f);
}

void ts_sleep_until(uint64_t when_ns)
{
	/* UINT64_MAX would mean no timer at all: sleep as long as can be said. */
	ts_fiber_park(NULL, TS_MIN(when_ns, UINT64_MAX - 1), "sleep", when_ns, 0);
}

void ts_fiber_data_set(void *p)
{
	TS_ASSERT(ts_fiber_self());
	ts_fiber_self()->data = p;
}

void *ts_fiber_data(void)
{
	struct ts_fiber *f = ts_fiber_self();

	return f ? f->data : NULL;
}

void ts_fiber_each_waiting(struct ts_exec *x, ts_fiber_visit fn, void *arg)
{
	ts_list_for(pos, &x->fibers) {
		struct ts_fiber *f = ts_list_entry(pos, struct ts_fiber, all);

		if (f->state == FIBER_WAITING)
			fn(arg, f->name, f->what, f->a, f->b, f->since_ns);
	}
}

const char *ts_fiber_waits_for(const struct ts_fiber *f, uint64_t *a, uint64_t *b, uint64_t *since_ns)
{
	if (f->state != FIBER_WAITING)
		return NULL;
	*a = f->a;
	*b = f->b;
	*since_ns = f->since_ns;
	return f->what;
}

size_t ts_fiber_count(const struct ts_exec *x)
{
	return x->nfibers;
}
