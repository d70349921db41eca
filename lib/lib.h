/* SPDX-License-Identifier: Apache-2.0 */
/* lib: what every layer uses. One include for all of it. */
#ifndef TESSERA_LIB_LIB_H
#define TESSERA_LIB_LIB_H

#include "lib/base.h"
#include "lib/bytes.h"
#include "lib/list.h"
#include "lib/hist.h"
#include "lib/map.h"
#include "lib/csum.h"
#include "lib/log.h"
#include "lib/env.h"
#include "lib/exec.h"
#include "lib/fiber.h"

#endif
