#!/usr/bin/env bash
# Usage: tests/helpers/slurm/down.sh DIR
# Ends the jobs and the daemons that up.sh DIR started, whatever of them is left.
set -uo pipefail
dir=${1:?see the usage at the top of this script}
export SLURM_CONF="$dir/slurm.conf"

if [ -s "$dir/slurmctld.pid" ] && [ -s "$dir/slurmd.pid" ]; then
    timeout 5 scancel --signal=KILL --full --user=root
    timeout 5 scancel --user=root
    for _ in $(seq 40); do
        [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break
        sleep 0.25
    done
fi
for daemon in slurmd slurmctld munge/munged; do
    pid=$(cat "$dir/$daemon.pid" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 40); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.25
    done
done
