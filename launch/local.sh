#!/usr/bin/env bash
# Runs segjax on this machine: makes the environment if need be, then python -m segjax.main.
#
# usage: bash launch/local.sh [--dry-run] ARGUMENTS OF segjax.main
#
#   bash launch/local.sh --config configs/supervised.py:quick --workdir runs/first
#   bash launch/local.sh --helpfull        all flags of segjax.main
#
#   --dry-run   print the commands and change nothing
#   --help      this page
#
# Paths are seen from the current folder, as with any command, and --workdir is made there. A --config or --table file
# that is not found there is taken from the repository, so that the line above works from everywhere. Exit code and
# signals are those of segjax.main: 0 done, 1 bad input or error, 75 told to stop by SIGTERM and saved (start it again
# to go on).
#
# variables: those of launch/env.sh, and
#   SEGJAX_STOP_SECONDS         how long after SIGTERM a process may do without ending a step (default: 45)
#   JAX_COMPILATION_CACHE_DIR   compiled programs are kept here (default: ~/.cache/segjax/jax)

set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --dry-run) dry_run=yes ;;
    --) arguments+=("$@") && break ;;
    --config | --table)
      need "$@"
      file=$(find_config "$1" "$2")
      arguments+=("$1=$file")
      shift
      ;;
    --config=* | --table=*)
      flag=${1%%=*}
      need "$flag" "${1#*=}"
      file=$(find_config "$flag" "${1#*=}")
      arguments+=("$flag=$file")
      ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

environment=(--quiet)
[ "$dry_run" = no ] || environment+=(--dry-run)
bash "$root/launch/env.sh" "${environment[@]}"

# PYTHONSAFEPATH: the segjax of this repository, not one that happens to lie in the current folder.
cache=${JAX_COMPILATION_CACHE_DIR:-${HOME:+$HOME/.cache/segjax/jax}} # a container may have no HOME
command=(env ${cache:+"JAX_COMPILATION_CACHE_DIR=$cache"} "PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
  "$python" -m segjax.main ${arguments[@]+"${arguments[@]}"})
[ "$dry_run" = no ] || { quote "${command[@]}" && exit 0; }
exec "${command[@]}"
