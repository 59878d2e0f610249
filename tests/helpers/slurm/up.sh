#!/usr/bin/env bash
# Usage: tests/helpers/slurm/up.sh DIR
# Starts a Slurm of one node that listens on the loopback alone, all its files in DIR.
# Its callers need SLURM_CONF=DIR/slurm.conf. Root only: slurmd starts tasks as users.
# SLURM_BASE_PORT: the first of the two ports it takes.
set -euo pipefail
dir=${1:?see the usage at the top of this script}
port=${SLURM_BASE_PORT:-16817}
mkdir -p "$dir"/{state,spool,munge}
dir=$(cd "$dir" && pwd)
chmod 755 "$dir"
chmod 700 "$dir/munge"
eval "$(slurmd -C | head -1 | tr ' ' '\n' | grep -E '^(NodeName|RealMemory)=')"

# 4 processors whatever the host has: the tests ask for two tasks.
cat > "$dir/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$NodeName(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/munge.sock
CredType=cred/munge
CommunicationParameters=NoAddrCache,NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
KillWait=10
InactiveLimit=0
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName=$NodeName NodeAddr=127.0.0.1 CPUs=4 RealMemory=$RealMemory State=UNKNOWN
PartitionName=debug Nodes=$NodeName Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=512
CONF

dd if=/dev/urandom of="$dir/munge/munge.key" bs=128 count=1 2>/dev/null
chmod 600 "$dir/munge/munge.key"
# --force: the folder may lie below one that others can write, as /tmp is.
munged --force --num-threads=2 --key-file="$dir/munge/munge.key" \
    --socket="$dir/munge/munge.sock" --pid-file="$dir/munge/munged.pid" \
    --log-file="$dir/munge/munged.log" --seed-file="$dir/munge/munged.seed"
export SLURM_CONF="$dir/slurm.conf"
slurmctld
slurmd -N "$NodeName"
for _ in $(seq 120); do
    if sinfo -h -o %T 2>/dev/null | grep -qx idle; then exit 0; fi
    sleep 0.25
done
echo "the node did not become idle within 30 s; the logs:" >&2
tail -n 20 "$dir"/*.log "$dir/munge/munged.log" >&2
exit 1
