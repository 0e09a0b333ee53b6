#!/usr/bin/env bash
# Submits a training to Slurm: one or more nodes with GPUs, one process per GPU, requeued until it has finished.
#
# usage: bash launch/slurm.sh --config FILE[:ARGUMENTS] --workdir FOLDER [flags] [-- ARGUMENTS OF segjax.main]
#
#   bash launch/slurm.sh --config configs/supervised.py --workdir /scratch/runs/cityscapes \
#     --nodes 2 --gpus-per-node 4 --time 12:00:00 --partition gpu -- --config.seed=3
#   bash launch/slurm.sh --mode table --table configs/tables/noise_cyclegan_table2.py --workdir /scratch/runs/table2 \
#     -- --scale quick
#
#   --config FILE        experiment, seen from the current folder or from the repository
#   --mode table --table FILE   instead of --config: the rows of a table
#   --workdir FOLDER     run folder, on a file system that all nodes share
#   --nodes N            default: 1
#   --gpus-per-node N    default: 1
#   --cpus-per-gpu N     default: 8
#   --processes KIND     gpu: one process per GPU (default); node: one process per node, which drives all its GPUs
#   --time LIMIT         default: 24:00:00. 120 s before it the training saves and the job queues again
#   --partition NAME     default: the cluster's
#   --account NAME       default: yours
#   --job-name NAME      default: the file's name
#   --sbatch OPTION      any other option of sbatch, e.g. --sbatch=--constraint=a100; may be repeated
#   --dry-run            print the commands and change nothing
#   --help               this page
#
# The environment is made by the job itself, on its first node, in .venv-slurm of the repository: a login node has no
# GPU, so its own .venv is another one. Where compute nodes reach no package index, make it on the login node by
#   SEGJAX_VENV=.venv-slurm SEGJAX_ACCELERATOR=cuda12 bash launch/env.sh
# and submit with SEGJAX_ACCELERATOR=cuda12 set. Slurm passes the variables of launch/env.sh on to the job.

set -euo pipefail
inherited_venv=${SEGJAX_VENV:-}
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
[ -n "$inherited_venv" ] || SEGJAX_VENV=$root/.venv-slurm

nodes=1 gpus=1 cpus=8 processes=gpu limit=24:00:00 job_name=''
options=()
own_flag() {
  case $1 in
    --nodes) need "$@" && nodes=$2 ;;
    --gpus-per-node) need "$@" && gpus=$2 ;;
    --cpus-per-gpu) need "$@" && cpus=$2 ;;
    --processes) need "$@" && processes=$2 ;;
    --time) need "$@" && limit=$2 ;;
    --partition | --account) need "$@" && options+=("$1=$2") ;;
    --job-name) need "$@" && job_name=$2 ;;
    --sbatch) [ $# -ge 2 ] || need "$@" && options+=("$2") ;; # its value does begin with --
    *) return 1 ;;
  esac
}
read_flags "$@"
find_experiment
mounted --workdir "$workdir"
workdir=$(absolute "$workdir")
whole --nodes "$nodes"
whole --gpus-per-node "$gpus"
whole --cpus-per-gpu "$cpus"
case $processes in
  gpu) tasks=$gpus ;;
  node) tasks=1 ;;
  *) die --processes "$processes" 'gpu or node' ;;
esac
if [ -z "$job_name" ]; then
  job_name=${experiment##*/}
  job_name=segjax-${job_name%%.py*}
fi

pass_on "$experiment"
run mkdir -p "$workdir"
run env "SEGJAX_VENV=$SEGJAX_VENV" sbatch --job-name="$job_name" --export=ALL \
  --chdir="$root" --output="$workdir/slurm-%j.log" \
  --nodes="$nodes" --ntasks-per-node="$tasks" --gpus-per-node="$gpus" \
  --cpus-per-task="$((gpus * cpus / tasks))" --time="$limit" ${options[@]+"${options[@]}"} \
  "$root/launch/slurm_job.sh" "${passed_on[@]}"
