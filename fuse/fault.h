/* SPDX-License-Identifier: Apache-2.0 */
/* Fault points: places of a mount where a test can make a request or an invalidation wait, so that a window of a race is
 * open for as long as the other node needs, or leave out a step that the code must not leave out, so that a checker is
 * seen to notice. For tests only: `tessera diag fault`, which the daemon refuses without `fault_points = yes`.
 *
 * Points of requests, by the names of tf_ops: OP.before_pin (arrived, nothing done), OP.before_reply (the answer is made up,
 * the kernel does not have it: to the kernel the same as an answer that its caller has not applied yet; not so for READ, whose
 * pages the invalidation leaves out until it is answered), OP.after_reply. The others are listed in fault.c.
 * Must never happen: a point that waits on the executor outside of a fiber; a hold without end; a cost when none is armed
 * beyond one branch. */
#ifndef TESSERA_FUSE_FAULT_H
#define TESSERA_FUSE_FAULT_H

#include "lib/lib.h"

#define TF_FAULT_OPS	64 /* opcodes, as tf_ops */
#define TF_FAULTS	16 /* armed at once */
#define TF_FAULT_MAX_MS 5000

enum tf_fault_stage { TF_BEFORE_PIN, TF_BEFORE_REPLY, TF_AFTER_REPLY, TF_FAULT_STAGES };
enum tf_fault_point {
	TF_AT_OPS = 0, /* opcode * TF_FAULT_STAGES + stage */
	TF_AT_INVAL_ATTR = TF_FAULT_OPS * TF_FAULT_STAGES,
	TF_AT_INVAL_DATA,  /* the token still serves everybody */
	TF_AT_INVAL_LAST,  /* behind the barrier */
	TF_AT_INVAL_ROUND, /* a round of dropping pages is over, before the look at what came meanwhile */
	TF_AT_INVAL_NAMES,
	TF_AT_INVAL_NAMES_LAST,
	TF_OMIT_AGAIN,	   /* ENOENT of the kernel is taken for an answer */
	TF_OMIT_END,	   /* O_APPEND: the kernel's offset is believed */
	TF_OMIT_ZERO_ATTR, /* new objects, and SETATTR replies on any kernel, carry an attribute timeout */
	TF_OMIT_APPLIED,   /* a name is dropped whether or not a look-up of it may be applied later */
	TF_OMIT_BEFORE_WAIT, /* a request that waits has names kept in the directory that it has locked */
	TF_OMIT_SIZE,	   /* the kernel is not made to ask for a size */
	TF_OMIT_SETTLE,	   /* attributes go out whatever size the kernel has */
	TF_OMIT_TORN,	   /* pages filled beside a thread that asks for the size stay */
	TF_OMIT_CLEAR,	   /* a hole that is not answered does not keep the token */
	TF_OMIT_LATER,	   /* pages of an append at the wrong place stay */
	TF_OMIT_MET,	   /* pages read while a write of them was on its way stay */
	TF_FAULT_END
};

enum tf_fault_action { TF_FAULT_DELAY, TF_FAULT_HOLD, TF_FAULT_SKIP };
struct tfuse_fault {
	unsigned point;
	enum tf_fault_action action;
	uint64_t ino;	/* 0: any */
	unsigned nth;	/* passages before it let through; 0 and 1: none */
	unsigned times; /* then so many are caught; 0: all */
	unsigned ms;	/* how long at most */
	/* what came of it */
	uint64_t passed, caught, timed_out;
	unsigned waiting;
};

struct tf_faults;
struct tfuse;
/* Is anything to be left out here? Waits if it is told to, on a fiber. */
bool tf_fault_hit(struct tfuse *tf, unsigned point, uint64_t ino);
void tf_faults_clear(struct tfuse *tf); /* all, and lets go whoever waits */
void tf_faults_free(struct tfuse *tf);

#endif
