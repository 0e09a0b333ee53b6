#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod slice: one process per worker, started on all of them at once.
#
# usage: bash launch/tpu_pod.sh COMMAND --name NAME --zone ZONE [flags] [-- ARGUMENTS OF segjax.main]
#
#   create   make the TPU; does nothing if it is there already
#   sync     copy the files that git tracks, as they are in the working tree, to every worker; make the environments
#   run      start (or resume) a training on every worker; it goes on when the connection ends
#   status   state of the TPU, and of the training on every worker
#   logs     the last lines of a worker's log
#   stop     SIGTERM to the training, and wait until it has saved
#   delete   delete the TPU; does nothing if there is none
#
#   export TPU_NAME=segjax TPU_ZONE=us-central2-b TPU_TYPE=v4-32 TPU_VERSION=tpu-ubuntu2204-base
#   bash launch/tpu_pod.sh create && bash launch/tpu_pod.sh sync
#   bash launch/tpu_pod.sh run --config configs/supervised.py --workdir /mnt/runs/cityscapes
#
#   --name, --zone, --type, --version, --project   or TPU_NAME, TPU_ZONE, TPU_TYPE, TPU_VERSION, TPU_PROJECT
#                       type and version: create only; project: default is gcloud's
#   --spot              create: cheaper, may be taken away at any time
#   --queued            create, delete: as a queued resource, which waits until there is capacity
#   --config FILE       run: experiment; a file that git tracks
#   --mode table --table FILE   run: instead of --config, the rows of a table; likewise
#   --workdir FOLDER    run: absolute, on a file system that all workers share (Filestore, gcsfuse)
#   --worker N          logs: which worker (default: 0)
#   --follow            logs: go on printing
#   --dry-run           print the commands and change nothing
#   --help              this page

set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

name=${TPU_NAME:-} zone=${TPU_ZONE:-} type=${TPU_TYPE:-} version=${TPU_VERSION:-} project=${TPU_PROJECT:-}
worker=0 queued=no lines='-n 100'
spot=()
case ${1:-} in
  create | sync | run | status | logs | stop | delete) command=$1 && shift ;;
  --help | -h) usage && exit 0 ;;
  *) die tpu_pod.sh "${1:-no command}" 'create, sync, run, status, logs, stop or delete' 'tpu_pod.sh --help' ;;
esac
own_flag() {
  case $1 in
    --spot) taken=1 && spot=(--spot) ;;
    --queued) taken=1 && queued=yes ;;
    --follow) taken=1 && lines='-n 100 -f' ;;
    --name) need "$@" && name=$2 ;;
    --zone) need "$@" && zone=$2 ;;
    --type) need "$@" && type=$2 ;;
    --version) need "$@" && version=$2 ;;
    --project) need "$@" && project=$2 ;;
    --worker) need "$@" && worker=$2 ;;
    *) return 1 ;;
  esac
}
read_flags "$@"
given '--name or TPU_NAME' "$name"
given '--zone or TPU_ZONE' "$zone"
[ "$dry_run" = yes ] || command -v gcloud >/dev/null ||
  die gcloud 'not found' 'the Google Cloud command line on PATH' 'install the Google Cloud CLI, then: gcloud auth login'

where=(--zone="$zone")
[ -z "$project" ] || where+=(--project="$project")
tpus=(gcloud compute tpus)

# on WORKERS COMMAND: COMMAND is one string, read by a shell on the worker
on() {
  run "${tpus[@]}" tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

# state KIND NAME: state of the TPU or queued resource; empty if there is none. Any other trouble (credentials,
# network, a wrong zone) must not be taken for 'there is none'.
state() {
  local answer
  if answer=$("${tpus[@]}" "$1" describe "$2" "${where[@]}" --format='value(state)' 2>&1); then
    printf '%s\n' "${answer##*$'\n'}"
  else
    case $answer in
      *NOT_FOUND* | *'not found'*) ;;
      *) die "gcloud compute tpus $1 describe $2" "$answer" 'its state' 'check zone, project and gcloud auth login' ;;
    esac
  fi
}

create() {
  given '--type or TPU_TYPE' "$type"
  given '--version or TPU_VERSION' "$version"
  local now='' kind=tpu-vm
  [ "$queued" = no ] || kind='queued-resources'
  [ "$dry_run" = yes ] || now=$(state "$kind" "$name")
  if [ -n "$now" ]; then
    echo "$name is there already: $now"
  elif [ "$queued" = yes ]; then
    run "${tpus[@]}" queued-resources create "$name" --node-id="$name" "${where[@]}" --accelerator-type="$type" \
      --runtime-version="$version" ${spot[@]+"${spot[@]}"}
  else
    run "${tpus[@]}" tpu-vm create "$name" "${where[@]}" --accelerator-type="$type" --version="$version" \
      ${spot[@]+"${spot[@]}"}
  fi
}

delete() {
  local now=unknown kind=tpu-vm
  [ "$queued" = no ] || kind='queued-resources'
  [ "$dry_run" = yes ] || now=$(state "$kind" "$name")
  if [ -z "$now" ]; then
    echo "there is no $name in $zone: nothing to delete"
  elif [ "$queued" = yes ]; then
    run "${tpus[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet
  else
    run "${tpus[@]}" tpu-vm delete "$name" "${where[@]}" --quiet
  fi
}

# pack FILE: what git tracks, as it is in the working tree (a file that was deleted there is left out)
pack() {
  git -C "$root" ls-files -z | (
    cd "$root"
    while IFS= read -r -d '' file; do
      [ ! -e "$file" ] || printf '%s\0' "$file"
    done
  ) | tar -C "$root" --null -czf "$1" -T -
}

# The new files take the place of the old in one move, and never under a training that runs.
sync() {
  local folder=${TMPDIR:-/tmp} archive
  if [ "$dry_run" = yes ]; then
    archive=$folder/segjax.tgz
    echo "# the $(git -C "$root" ls-files | wc -l | tr -d ' ') files that git tracks go into $archive"
  else
    folder=$(mktemp -d)
    # shellcheck disable=SC2064 # expanded now: 'folder' is gone when the script ends
    trap "rm -rf -- $(printf '%q' "$folder")" EXIT
    archive=$folder/segjax.tgz
    pack "$archive"
  fi
  run "${tpus[@]}" tpu-vm scp "$archive" "$name:segjax.tgz" "${where[@]}" --worker=all
  on all "set -e; $(printf '%s; ' \
    'if [ -e segjax ]; then bash segjax/launch/tpu_worker.sh idle; fi' \
    'rm -rf segjax.new' 'mkdir segjax.new' 'tar -xzf segjax.tgz -C segjax.new' \
    'rm -rf segjax' 'mv segjax.new segjax') bash segjax/launch/tpu_worker.sh setup"
}

start() {
  find_experiment
  mounted --workdir "$workdir"
  local file=${experiment%%:*}
  git -C "$root" ls-files --error-unmatch -- "$file" >/dev/null 2>&1 ||
    die "$experiment_flag" "$file, which git does not track" 'a file that sync copies' \
      "git add $(quote "$file"), then sync"
  case $workdir in
    /*) ;;
    *) die --workdir "$workdir" 'an absolute path on the workers' ;;
  esac
  pass_on "${experiment#"$root/"}"
  on all "bash segjax/launch/tpu_worker.sh start $(quote "${passed_on[@]}")"
}

status() {
  run "${tpus[@]}" tpu-vm describe "$name" "${where[@]}" --format='value(state,acceleratorType)'
  on all 'bash segjax/launch/tpu_worker.sh status'
}

case $command in
  create | sync | status | delete) "$command" ;;
  run) start ;;
  logs) on "$worker" "tail $lines segjax-run/log" ;;
  stop) on all 'bash segjax/launch/tpu_worker.sh stop' ;;
esac
