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

# whole FLAG VALUE: checks that VALUE is a whole number > 0
whole() {
  case $2 in '' | *[!0-9]* | 0*) die "$1" "$2" 'a whole number > 0' ;; esac
}

# given FLAG VALUE: checks that a flag without default was given
given() {
  [ -n "$2" ] || die "$1" 'nothing' "$1 VALUE" "$(basename "$0") --help"
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
