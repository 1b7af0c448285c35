#!/bin/bash
# Tele-FLM 52B on 112 nodes of 8 GPUs, one process per node: sbatch launch/slurm.sh [RUN.gin] [WORKDIR]
#SBATCH --job-name=teleflm
#SBATCH --nodes=112
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=7-00:00:00
#SBATCH --requeue
# ten minutes before the end, so that the run can save and is requeued
#SBATCH --signal=B:USR1@600
#SBATCH --open-mode=append

run=${1:-configs/runs/pretrain_52b.gin}
workdir=${2:-runs/52b}

# When a process dies, the others end by themselves, those of a hung step with 70. srun need not kill them; it would hide their exit code.
# Every node needs the same container or environment, made by launch/Containerfile.
# The first process to exit with 75 must not get the others killed either. Since Slurm 22.05, cores must be requested again for srun.
# launch --preflight -- train.py ... first measures every node, and ends with 1 and the names of slow ones.
export TELEFLM_FINAL_FILE=$PWD/.final-$SLURM_JOB_ID
rm -f "$TELEFLM_FINAL_FILE"
TELEFLM_START_SECRET=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export TELEFLM_START_SECRET # the processes prove to each other that they know it when they connect
srun --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    python -m teleflm_jax launch -- train.py --gin_file "$run" --workdir "$workdir" &
step=$!
asked=
trap 'asked=1; kill -USR1 $step' USR1 # srun passes it on; on SIGTERM it would kill its processes before they have saved
wait $step
code=$?
while kill -0 $step 2>/dev/null; do # the trap ended the first wait; the run is saving
    wait $step
    code=$?
done

again=
case "$code" in
75) again=$asked ;; # stopped after saving: the same command resumes it, unless it was stopped by hand
70 | 13[4-9]) again=1 ;; # hung, or a process died of a signal: resume from the newest checkpoint
esac
if [ -e "$TELEFLM_FINAL_FILE" ]; then again=; fi # srun reports the highest code; this file means that a process exited with 2 or 3
if [ -n "$again" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
