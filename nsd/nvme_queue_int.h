/* SPDX-License-Identifier: Apache-2.0 */
/* Between the two halves of a queue pair. */
#ifndef TESSERA_NSD_NVME_QUEUE_INT_H
#define TESSERA_NSD_NVME_QUEUE_INT_H

#include "nsd/nvme_queue.h"

struct nvme_slot *nvme_queue_find(struct nvme_queue *q, uint16_t cid);
void nvme_queue_answered(struct nvme_queue *q, struct nvme_slot *s, uint16_t status, uint32_t result);
void nvme_queue_asked(struct nvme_queue *q, struct nvme_slot *s, uint16_t ttag, uint32_t len);
int nvme_slot_segments(const struct nvme_slot *s, uint32_t off, uint32_t len, struct iovec *iov, int max);

#endif
