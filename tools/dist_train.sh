#!/usr/bin/env bash
# Usage: tools/dist_train.sh CONFIG GPUS [train.py options]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR, PORT as MMDetection's.
# On hosts without a GPU, GPUS is the number of processes.
. "$(dirname "$0")/launch.sh"
want 2 "$@"
dist "$2" train.py "$1" "${@:3}"
