#!/usr/bin/env bash
# Usage: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [test.py options]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS as MMDetection's; GRES=none on
# clusters without GPUs, where GPUS and GPUS_PER_NODE are numbers of processes.
. "$(dirname "$0")/launch.sh"
want 4 "$@"
slurm "$1" "$2" test.py "$3" "$4" "${@:5}"
