#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# kill -9 of the daemon of a node that is writing, its corosync lives on: the same promises.
# timeout: 180
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/failure.sh"

survive "crash of tesserad" sb crash 2
