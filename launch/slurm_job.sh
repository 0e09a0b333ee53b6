#!/usr/bin/env bash
# The batch script of launch/slurm.sh: runs on the first node of the allocation, in the repository, with the
# arguments of segjax.main. It can be submitted by hand too, from the repository:
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=8 launch/slurm_job.sh ARGUMENTS
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#
# 120 s before the time limit Slurm sends SIGTERM to this script (B:), which passes it on to the training. That saves
# and exits with 75, and the job goes back into the queue; a training that is done exits with 0, and so does the job.

set -euo pipefail
saved_and_stopped=75
grace=${SEGJAX_GRACE:-100} # seconds to save in, less than the 120 of --signal

told_to_stop=''
signalled=''
# shellcheck disable=SC2329 # the trap calls it
stop() {
  told_to_stop=yes signalled=yes
  # Without --full or --batch this reaches the steps, not this script.
  scancel --signal=TERM "$SLURM_JOB_ID" || true
  # Too slow to save (compiling, evaluating): queue again all the same, and go on from the checkpoint before.
  (sleep "$grace" && requeue) >/dev/null 2>&1 &
}

# A job that its user cancelled, or that Slurm is requeueing itself, is not RUNNING any more and must be left alone.
requeue() {
  if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "segjax: job $SLURM_JOB_ID is not done; it goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi
}
trap stop TERM

# Slurm runs a copy of this file from its own folder, so the repository is the current folder.
bash launch/env.sh --quiet
export SEGJAX_PYTHON=${SEGJAX_PYTHON:-${SEGJAX_VENV:-.venv}/bin/python} # the tasks need not look again

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
coordinator=${hosts%%$'\n'*}:$((12000 + SLURM_JOB_ID % 20000)) # below the ports that the system hands out

# jax would give every process under Slurm the one GPU with its local number, also when it is alone on its node.
if [ "${SLURM_NTASKS_PER_NODE:-1}" = 1 ]; then
  gpus=${SLURM_GPUS_PER_NODE:?submit with --gpus-per-node}
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((${gpus##*:} - 1))) # a value may be h100:4
  export JAX_LOCAL_DEVICE_IDS
fi

code=$saved_and_stopped
if [ -z "$told_to_stop" ]; then # else the signal came while the environment was made
  # --kill-on-bad-exit=0: 75 of the first process must not kill the others while they save; --wait ends those that hang.
  # shellcheck disable=SC2016 # the variables of the -c script are those of each task
  srun --kill-on-bad-exit=0 --wait=120 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" bash -c '
    export JAX_LOCAL_DEVICE_IDS=${JAX_LOCAL_DEVICE_IDS:-$SLURM_LOCALID}
    exec bash launch/local.sh --process_id="$SLURM_PROCID" "$@"' \
    segjax --coordinator="$coordinator" --num_processes="$SLURM_NTASKS" "$@" &
  step=$!
  while :; do
    signalled=''
    code=0
    wait "$step" || code=$?
    [ -n "$signalled" ] || break # a trapped signal interrupts wait
  done
fi

if [ "$code" = "$saved_and_stopped" ] || { [ -n "$told_to_stop" ] && [ "$code" != 0 ]; }; then
  requeue
fi
exit "$code"
