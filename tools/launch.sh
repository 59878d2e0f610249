# shellcheck shell=bash
# What dist_*.sh and slurm_*.sh share; they source it.
set -euo pipefail
tools=$(dirname "${BASH_SOURCE[0]}")
export PYTHONPATH="$tools/..:${PYTHONPATH:-}"

want() { # NUMBER ARGUMENTS...: with fewer or empty ones, or --help, show the script's top
    local status=1 number=$1 given=0 word
    for word in "${@:2:number}"; do [ -z "$word" ] || given=$((given + 1)); done
    case ${2-} in -h | --help) status=0 ;; *) [ "$given" -lt "$number" ] || return 0 ;; esac
    sed -n '2,/^[^#]/s/^# //p' "$0" >&$((1 + status))
    exit "$status"
}

dist() { # PROCESSES TOOL ARGUMENTS...
    exec python -m torch.distributed.run \
        --nnodes="${NNODES:-1}" \
        --node_rank="${NODE_RANK:-0}" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --master_port="${PORT:-29500}" \
        --nproc_per_node="$1" \
        "$tools/$2" "${@:3}" --launcher pytorch
}

slurm() { # PARTITION JOB_NAME TOOL ARGUMENTS...
    local per_node=${GPUS_PER_NODE:-8}
    set -x
    # SRUN_ARGS holds several words.
    # shellcheck disable=SC2086
    exec srun -p "$1" \
        --job-name="$2" \
        --gres="${GRES:-gpu:$per_node}" \
        --ntasks="${GPUS:-8}" \
        --ntasks-per-node="$per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" \
        --kill-on-bad-exit=1 \
        ${SRUN_ARGS:-} \
        python -u "$tools/$3" "${@:4}" --launcher=slurm
}
