#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Power failure of a node that is writing: what it fsynced is there, the others work on, it comes back.
# timeout: 180
# quick
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/failure.sh"

survive "power failure" sb kill 2
