#!/usr/bin/env bash
# Usage: tools/dist_train.sh CONFIG GPUS [train.py options]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR, PORT as MMDetection's.
set -euo pipefail

PYTHONPATH="$(dirname "$0")/..:${PYTHONPATH:-}" \
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="${2:?see the usage at the top of this script}" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
