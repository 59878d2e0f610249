#!/usr/bin/env bash
# Usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [test.py options]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR, PORT as MMDetection's.
# On hosts without a GPU, GPUS is the number of processes.
. "$(dirname "$0")/launch.sh"
want 3 "$@"
dist "$3" test.py "$1" "$2" "${@:4}"
