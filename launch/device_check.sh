#!/usr/bin/env bash
# Checks a machine with an accelerator: that segjax runs there, how fast, and whether it learns. Takes minutes.
#
# usage: bash launch/device_check.sh [--out FOLDER] [--minutes N] [--data FOLDER] [--small] [--dry-run] [--help]
#
#   --out FOLDER    where to put device_check.json, device_check.txt, logs and runs (default: runs/device_check)
#   --minutes N     whole minutes for everything (default: 8)
#   --data FOLDER   folder that holds camvid/ (default: $SEGJAX_REAL_DATA); the training is skipped without
#   --small         tiny sizes on any device, a CPU included: about a minute
#   --dry-run       print the commands and change nothing
#
# The parts, in this order:
#   devices   versions of Python, jax and flax, the devices and their memory
#   bench-*   images per second, peak memory and compile time of ERFNet, BiSeNet, PSPNet and LargeFOV at full size
#   torch     the same step of ERFNet and BiSeNet in torch, one call of each in turn; skipped without SEGJAX_TORCH
#   smoke     every pipeline with pmap and shard_map, in float32 and bfloat16
#   tests     the tests of tests/core/test_parallel.py and tests/ops on the device
#   camvid    ERFNet on CamVid at 360x480 from scratch in the minutes that are left, with its mIoU curve
#
# A part that fails or exceeds its own time does not end the check. What is skipped is said, and why. The exit code is 1
# if a part failed. Nothing is installed: the environment is that of launch/env.sh or SEGJAX_PYTHON.
#
# variables:
#   SEGJAX_PYTHON              a Python that has everything, jax for the device included
#   SEGJAX_REAL_DATA           see --data
#   SEGJAX_TORCH               a Python with torch, torchvision and timm
#   JAX_COMPILATION_CACHE_DIR  compiled programs are kept here (default: ~/.cache/segjax/jax)

set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

out=$root/runs/device_check minutes=8 data=${SEGJAX_REAL_DATA:-} flags=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" && continue ;;
    --small | --dry-run) flags+=("$1") && shift && continue ;;
    --out) need "$@" && out=$(absolute "$2") ;;
    --minutes) need "$@" && minutes=$2 && whole "$1" "$2" ;;
    --data) need "$@" && data=$2 ;;
    *) unknown_flag "$1" ;;
  esac
  shift 2
done
[ -z "$data" ] || data=$(absolute "$data")

"$python" -c 'import jax' 2>/dev/null ||
  die "$python" 'no Python that imports jax' 'an environment with jax for the device' \
    'bash launch/env.sh, or set SEGJAX_PYTHON to a Python that has everything'
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/segjax/jax}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
exec "$python" "$root/launch/device_check.py" --out "$out" --minutes "$minutes" --data "$data" \
  ${flags[@]+"${flags[@]}"}
