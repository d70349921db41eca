#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Random failures of random nodes under a load that is checked (thrash): 3 minutes, with --long 60; then a fault for each checker.
# timeout: 600
. "$(dirname "$0")/lib.sh"

minutes=3
[ "$MODE" = long ] && minutes=60
"$HERE/thrash" --minutes $minutes --plant
