/* SPDX-License-Identifier: Apache-2.0 */
/* What the two halves of the model's operations share. */
#ifndef TESSERA_TESTS_POSIX_MODEL_INT_H
#define TESSERA_TESTS_POSIX_MODEL_INT_H

#include "model.h"

void model_close_handle(struct model *m, unsigned mount, unsigned slot);
bool model_op_list(struct model *m, const struct model_op *op, struct model_answer *want);
bool model_op_hlist(struct model *m, const struct model_op *op, struct model_answer *want);
bool model_op_rename(struct model *m, const struct model_op *op, struct model_answer *want);
bool model_op_link(struct model *m, const struct model_op *op, struct model_answer *want);
bool model_op_unlink(struct model *m, const struct model_op *op, struct model_answer *want);
bool model_op_mkdir(struct model *m, const struct model_op *op, struct model_answer *want);
bool model_op_rmdir(struct model *m, const struct model_op *op, struct model_answer *want);
bool model_op_symlink(struct model *m, const struct model_op *op, struct model_answer *want);
bool model_op_readlink(struct model *m, const struct model_op *op, struct model_answer *want);

#endif
