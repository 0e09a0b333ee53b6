#!/usr/bin/env bash
# What launch/tpu_pod.sh runs on each worker of a TPU, where the repository is ~/segjax and a training's log, process
# number and exit code are in ~/segjax-run.
#
# usage: bash launch/tpu_worker.sh setup | start ARGUMENTS OF segjax.main | status | idle | stop | --help
#
#   setup    make the environment; installs Python 3.11 from the distribution if there is none new enough
#   start    start a training that outlives this connection; does nothing if one runs
#   idle     exit code 0 if no training runs, else 1
#   stop     SIGTERM to the training; waits until it has saved

set -euo pipefail
# Not inside the repository: sync replaces that as a whole.
export SEGJAX_VENV=${SEGJAX_VENV:-$HOME/segjax-venv}
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
folder=$HOME/segjax-run
boot=$(cat /proc/sys/kernel/random/boot_id)
seconds_to_save=180

# The process number is worth nothing after a reboot; that of the group, because the training starts processes too.
group() {
  local number started_in
  read -r number started_in <"$folder/group" || return 1
  [ "$started_in" = "$boot" ] && kill -0 -- "-$number" && echo "$number"
} 2>/dev/null

setup() {
  if ! bash "$root/launch/env.sh" --dry-run >/dev/null 2>&1; then # no Python that an environment can be built on
    sudo apt-get -o DPkg::Lock::Timeout=600 update -qq
    sudo apt-get -o DPkg::Lock::Timeout=600 install -y -qq python3.11-venv >/dev/null
  fi
  bash "$root/launch/env.sh"
}

start() {
  if group >/dev/null; then
    echo "$(hostname): a training runs already; it is left alone"
    return
  fi
  mkdir -p "$folder"
  rm -f "$folder/exit_code"
  cd "$root"
  # ':' as trap: the waiting shell survives SIGTERM to write the exit code, the training gets the default handler.
  # shellcheck disable=SC2016
  setsid nohup bash -c 'trap : TERM
    bash launch/local.sh --distributed "$@"
    echo $? >"$HOME/segjax-run/exit_code"' segjax "$@" >>"$folder/log" 2>&1 </dev/null &
  echo "$! $boot" >"$folder/group"
  echo "$(hostname): started"
}

status() {
  if group >/dev/null; then
    echo "$(hostname): running"
  elif [ -f "$folder/exit_code" ]; then
    echo "$(hostname): ended with exit code $(cat "$folder/exit_code") (0 done, 75 saved and stopped)"
  else
    echo "$(hostname): no training was started, or the machine was restarted"
  fi
}

idle() {
  ! group >/dev/null || die "$(hostname)" 'a training that runs' 'none' 'tpu_pod.sh stop'
}

stop() {
  local number waited=0
  if number=$(group); then
    kill -TERM -- "-$number"
    while group >/dev/null; do
      [ "$waited" -lt "$seconds_to_save" ] ||
        die "$(hostname)" "still running after $waited s" 'a training that saves and ends' 'tpu_pod.sh logs'
      sleep 1
      waited=$((waited + 1))
    done
  fi
  status
}

case ${1:-} in
  setup | status | idle | stop) "$1" ;;
  start) shift && start "$@" ;;
  --help | -h) usage ;;
  *) die tpu_worker.sh "${1:-no command}" 'setup, start, status, idle or stop' ;;
esac
