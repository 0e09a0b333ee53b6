# Shared by the scripts of this folder, which source it: folders, error messages, flags, dry runs.
# Runs under bash 3.2 (macOS) as well, hence ${array[@]+"${array[@]}"}: an empty array is 'unset' there.
# shellcheck shell=bash

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
dry_run=no

# absolute PATH: PATH seen from the current folder, which need not exist
absolute() {
  case $1 in
    /*) printf '%s\n' "$1" ;;
    *) printf '%s\n' "$PWD/${1#./}" ;;
  esac
}

# Absolute before any script changes folder, and exported: children must mean the same environment.
SEGJAX_VENV=$(absolute "${SEGJAX_VENV:-$root/.venv}")
export SEGJAX_VENV
# shellcheck disable=SC2034 # for the scripts that source this file
python=${SEGJAX_PYTHON:-$SEGJAX_VENV/bin/python}

# die WHERE GOT EXPECTED [FIX]
die() {
  printf '%s\n  got:      %s\n  expected: %s\n' "$1" "$2" "$3" >&2
  [ -z "${4:-}" ] || printf '  fix:      %s\n' "$4" >&2
  exit 1
}

# usage: the comment at the top of the calling script is its help page
usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

# quote WORD...: one line that a shell reads back as exactly these words
quote() {
  local line
  line=$(printf '%q ' "$@")
  printf '%s\n' "${line% }"
}

# run COMMAND...: runs it; in a dry run only prints it
run() {
  if [ "$dry_run" = yes ]; then quote "$@"; else "$@"; fi
}

# need FLAG [VALUE]: checks that FLAG is followed by a value
need() {
  [ $# -ge 2 ] && [ -n "$2" ] || die "$1" 'no value' "a value after $1" "$(basename "$0") --help"
  case $2 in --*) die "$1" "the next flag, $2" "a value after $1" "$(basename "$0") --help" ;; esac
}

# unknown_flag FLAG
unknown_flag() {
  die "$(basename "$0")" "unknown argument $1" "a flag of $(basename "$0") --help" \
    'arguments for segjax.main come last, after a bare --'
}

# read_flags ARGUMENT...: the flags of a script that submits trainings: --mode, --config, --table and --workdir, which go
# into variables of these names, and its own. `rest` is what comes after a bare --.
# The script's function `own_flag FLAG [VALUE]` takes a flag of its own, and fails for any other. It sets `taken` to 1
# where the flag has no value.
read_flags() {
  local taken
  mode='' config='' table='' workdir=''
  while [ $# -gt 0 ]; do
    case $1 in
      --help | -h) usage && exit 0 ;;
      --dry-run) dry_run=yes && shift && continue ;;
      --) shift && break ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    taken=2
    own_flag "$@" || case $1 in
      --mode) need "$@" && mode=$2 ;;
      --config) need "$@" && config=$2 ;;
      --table) need "$@" && table=$2 ;;
      --workdir) need "$@" && workdir=$2 ;;
      *) unknown_flag "$1" ;;
    esac
    shift "$taken"
  done
  rest=("$@")
}

# find_experiment: checks these flags; `experiment` is the file with an absolute path, `experiment_flag` what names it
find_experiment() {
  if [ "$mode" = table ]; then
    experiment_flag=--table
    [ -z "$config" ] || die --config "$config" 'none: the rows of a table name their configs' 'leave --config out'
  else
    experiment_flag=--config
    [ -z "$table" ] || die --table "$table${mode:+ with --mode $mode}" '--mode table'
  fi
  given "$experiment_flag" "$config$table"
  given --workdir "$workdir"
  # shellcheck disable=SC2034 # for the scripts that source this file
  experiment=$(find_config "$experiment_flag" "$config$table")
}

# pass_on FILE: `passed_on` are the arguments of segjax.main; FILE is the experiment's path where that runs
pass_on() {
  # shellcheck disable=SC2034 # likewise
  passed_on=(${mode:+"--mode=$mode"} "$experiment_flag=$1" "--workdir=$workdir" ${rest[@]+"${rest[@]}"})
}

# whole FLAG VALUE: checks that VALUE is a whole number > 0
whole() {
  case $2 in '' | *[!0-9]* | 0*) die "$1" "$2" 'a whole number > 0' ;; esac
}

# given FLAG VALUE: checks that a flag without default was given
given() {
  [ -n "$2" ] || die "$1" 'nothing' "$1 VALUE" "$(basename "$0") --help"
}

# mounted FLAG VALUE: checks that VALUE is a path, not an address such as gs://bucket/folder
mounted() {
  local bucket=${2#*://} mount='mount the storage'
  bucket=${bucket%%/*}
  case $2 in
    gs://*) mount="gcsfuse $bucket /mnt/$bucket" ;;
    *://*) ;;
    *) return ;;
  esac
  die "$1" "$2" 'a path of a mounted file system, not an address' \
    "$mount on every host, then $1=/mnt/$(quote "${2#*://}")"
}

# find_config FLAG FILE[:ARGUMENTS]: the same with an absolute path; FILE may be given from the current folder or
# from the repository
find_config() {
  local file=${2%%:*} arguments=''
  [ "$file" = "$2" ] || arguments=:${2#*:}
  if [ -f "$file" ]; then
    file=$(absolute "$file")
  elif [ -f "$root/$file" ]; then
    file=$root/$file
  else
    die "$1" "$file, which does not exist" "a file in $PWD or $root" "ls $(printf '%q' "$root/configs")"
  fi
  printf '%s\n' "$file$arguments"
}
