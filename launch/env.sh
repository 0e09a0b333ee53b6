#!/usr/bin/env bash
# Makes the Python environment of segjax, or finds that it is up to date.
#
# usage: bash launch/env.sh [--quiet] [--dry-run] [--help]
#        source launch/env.sh          the same, then activates it in this bash
#
#   --quiet     say nothing when there is nothing to do
#   --dry-run   print the commands and change nothing
#
# The environment is .venv in the repository. It gets the versions of constraints.txt. It is made again when
# requirements.txt, constraints.txt, SEGJAX_LATEST, the Python underneath or the accelerator has changed. It gets jax's build for the accelerator that is found: NVIDIA GPU, TPU, else CPU. Several
# calls at once are safe; a killed call is made good by the next one. uv is used if there is one, else pip.
#
# variables:
#   PYTHON              the Python >= 3.11 to build it on (default: the first that works of python3.13, python3.12,
#                       python3.11 and python3)
#   SEGJAX_VENV         another place for it
#   SEGJAX_ACCELERATOR  cpu, cuda12, cuda13, cuda12-local, cuda13-local, rocm7-local or tpu instead of what is found
#   SEGJAX_LATEST       1 installs the newest versions that requirements.txt allows, whatever constraints.txt says
#   SEGJAX_PYTHON       a Python that has everything (conda, container): used as it is, nothing is made or installed

if [ "${BASH_SOURCE[0]}" != "$0" ]; then # sourced: the work in a child, so that this shell keeps its options
  bash "${BASH_SOURCE[0]}" "$@" || return 1
  # shellcheck disable=SC1091
  source "${SEGJAX_VENV:-$(dirname -- "${BASH_SOURCE[0]}")/../.venv}/bin/activate"
  return
fi

set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
quiet=no
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --quiet) quiet=yes ;;
    --dry-run) dry_run=yes ;;
    *) unknown_flag "$1" ;;
  esac
  shift
done

say() { printf '%s\n' "$*" >&2; }

# identify PYTHON: 'version base-folder' of an interpreter; the same for it and for environments built on it. Fails if
# it does not run (a pyenv shim without its version, a link to a removed Python).
identify() {
  "$1" -ISc 'import sys; print("%d.%d %s" % (sys.version_info[0], sys.version_info[1], sys.base_prefix))' 2>/dev/null
}

# usable PYTHON: whether an environment can be built on it; if not, why
usable() {
  local modules='venv, ensurepip'
  ! command -v uv >/dev/null || modules=sys
  identify "$1" >/dev/null || { echo 'does not run' && return 1; }
  "$1" -ISc 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "is $(identify "$1")" && return 1; }
  "$1" -Ic "import $modules" 2>/dev/null ||
    { echo "has no venv (Debian, Ubuntu: apt install $(basename "$1")-venv)" && return 1; }
}

# pick_python: the interpreter to build on, as the real file: not a shim, not one inside another environment
pick_python() {
  local name path why tried=''
  for name in ${PYTHON:+"$PYTHON"} ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    while IFS= read -r path; do
      if why=$(usable "$path"); then
        "$path" -Ic 'import sys; print(sys._base_executable)'
        return
      fi
      tried="$tried $path $why;"
    done < <(type -aP -- "$name")
  done
  die 'no Python to build the environment on' "${tried:-none of that name}" \
    "${PYTHON:-python3.13, python3.12, python3.11 or python3} on PATH, version 3.11 or newer, with its venv module" \
    'install one (Debian, Ubuntu: apt install python3 python3-venv), or set PYTHON=/path/to/python3.x'
}

# cuda_build 'DRIVER, CAPABILITY' lines: jax's CUDA build. CUDA 13 needs driver 580 and compute capability 7.5 (Turing),
# CUDA 12 needs driver 525.
cuda_build() {
  local build=cuda13 driver capability
  while IFS=', ' read -r driver capability; do
    [ "${driver%%.*}" -ge 525 ] || die 'NVIDIA driver' "version $driver" '525 or newer, which jax needs' \
      'update the driver, or set SEGJAX_ACCELERATOR=cpu'
    case $capability in [1-6].* | 7.[0-4]) build=cuda12 ;; esac
    [ "${driver%%.*}" -ge 580 ] || build=cuda12
  done <<<"$1"
  echo "$build"
}

pick_accelerator() {
  local gpus known='cpu cuda12 cuda13 cuda12-local cuda13-local rocm7-local tpu'
  if [ -n "${SEGJAX_ACCELERATOR:-}" ]; then
    case " $known " in
      *" $SEGJAX_ACCELERATOR "*) echo "$SEGJAX_ACCELERATOR" ;;
      *) die SEGJAX_ACCELERATOR "$SEGJAX_ACCELERATOR" "one of $known" ;;
    esac
  elif gpus=$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null) ||
    gpus=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null); then # drivers before 510
    cuda_build "$gpus"
  elif [ -n "${TPU_WORKER_ID:-}${TPU_ACCELERATOR_TYPE:-}" ] || tpu_chips; then
    echo tpu
  else
    echo cpu
  fi
}

# A Google PCI device alone may be a cloud machine's network card, a VFIO group alone a virtual machine's.
tpu_chips() {
  grep -qs 0x1ae0 /sys/bus/pci/devices/*/vendor &&
    { compgen -G '/dev/accel[0-9]*' || compgen -G '/dev/vfio/[0-9]*'; } >/dev/null
}

# description IDENTITY: what the stamp of an up-to-date environment holds. The whole text of requirements.txt and
# constraints.txt rather than a hash of it: that needs no tool, and says what was installed.
description() {
  printf 'python %s\njax[%s]\n' "$1" "$accelerator"
  cat "$root/requirements.txt"
  versions
  [ "$latest" = 1 ] || cat "$constraints"
}

versions() {
  if [ "$latest" = 1 ]; then echo 'newest versions'; else echo 'versions of constraints.txt'; fi
}

up_to_date() {
  local identity
  [ -f "$stamp" ] && identity=$(identify "$SEGJAX_VENV/bin/python") || return 1
  [ -z "${PYTHON:-}" ] || [ "$identity" = "$(identify "$PYTHON")" ] || return 1
  [ "$(description "$identity")" = "$(<"$stamp")" ]
}

# Steps are chained by && because 'set -e' is off inside a function whose result is tested.
install() {
  local wanted=(-r "$root/requirements.txt")
  [ "$latest" = 1 ] || wanted+=(-c "$constraints")
  wanted+=("jax[$accelerator]")
  if command -v uv >/dev/null; then
    run uv venv --quiet --allow-existing --python "$base" "$SEGJAX_VENV" &&
      run uv pip install --python "$SEGJAX_VENV/bin/python" "${wanted[@]}"
  else
    run "$base" -m venv "$SEGJAX_VENV" &&
      run "$SEGJAX_VENV/bin/python" -m pip install --disable-pip-version-check --no-input "${wanted[@]}"
  fi
}

# rebuild: with the lock held. The stamp goes first and comes last, so a half-made environment never has one.
rebuild() {
  local log=$SEGJAX_VENV/segjax.log started=$SECONDS
  rm -f "$stamp"
  find "$SEGJAX_VENV" -mindepth 1 -maxdepth 1 ! -name segjax.lock -exec rm -rf {} +
  [ ! -t 2 ] || printf 'installing, a minute or so (log: %s) ...\r' "$log" >&2
  if ! install >"$log" 2>&1; then
    # pip names every place that it did not find a package in, which would bury the error
    grep -v '^WARNING: Location' "$log" | tail -n 25 >&2
    die "installing into $SEGJAX_VENV" 'the error above' 'an installation without errors' \
      "look at $log, mend it (network? disk?), run launch/env.sh again; \
if no version fits: SEGJAX_LATEST=1 bash launch/env.sh"
  fi
  echo '*' >"$SEGJAX_VENV/.gitignore"
  description "$(identify "$SEGJAX_VENV/bin/python")" >"$stamp.new"
  mv "$stamp.new" "$stamp"
  say "made $SEGJAX_VENV in $((SECONDS - started)) s: Python $(identify "$base" | cut -d' ' -f1), jax[$accelerator], $(versions)"
}

if [ -n "${SEGJAX_PYTHON:-}" ]; then
  identify "$SEGJAX_PYTHON" >/dev/null ||
    die SEGJAX_PYTHON "$SEGJAX_PYTHON, which does not run" 'a Python that has everything'
  [ "$quiet" = yes ] || say "using SEGJAX_PYTHON=$SEGJAX_PYTHON as it is"
  exit 0
fi

latest=${SEGJAX_LATEST:-0}
case $latest in 0 | 1) ;; *) die SEGJAX_LATEST "$latest" '0 or 1' 'SEGJAX_LATEST=1 bash launch/env.sh' ;; esac
constraints=$root/constraints.txt
stamp=$SEGJAX_VENV/segjax.stamp
accelerator=$(pick_accelerator)
if up_to_date; then
  [ "$quiet" = yes ] || say "up to date: $SEGJAX_VENV, jax[$accelerator], $(versions)"
  exit 0
fi
if [ -e "$SEGJAX_VENV" ] && [ ! -e "$SEGJAX_VENV/segjax.lock" ] && [ -n "$(ls -A -- "$SEGJAX_VENV")" ]; then
  die "$SEGJAX_VENV" 'a folder that launch/env.sh did not make' 'no such folder, or an empty one' \
    "remove it, set SEGJAX_VENV to another place, or use it as it is: SEGJAX_PYTHON=$(quote "$SEGJAX_VENV/bin/python")"
fi
# venv makes no environment at a link. The environment that the link leads to stays as it is.
if [ -L "$SEGJAX_VENV" ]; then
  target=$(CDPATH='' cd -P -- "$SEGJAX_VENV" 2>/dev/null && pwd) || target=''
  die "$SEGJAX_VENV" "a link to ${target:-a folder that does not exist}, which is not up to date" \
    'a folder of its own, or an environment that is up to date' \
    "remove the link${target:+, or make the environment there: SEGJAX_VENV=$(quote "$target") bash launch/env.sh}"
fi
base=$(pick_python)
if [ "$dry_run" = yes ]; then
  install
  exit 0
fi

# flock(2) through Python: macOS has no flock command. The lock belongs to the open file 9, so it lasts as long as
# anything that works on the environment, and ends with it however that ends.
mkdir -p -- "$SEGJAX_VENV"
exec 9>>"$SEGJAX_VENV/segjax.lock"
"$base" -ISc '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("waiting for another launch/env.sh ...", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
'
up_to_date || rebuild
