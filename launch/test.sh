#!/usr/bin/env bash
# Checks the whole project: ruff check, ruff format, compilation of every file, tests.
#
# usage: bash launch/test.sh [--dry-run] [ARGUMENTS OF pytest]
#
#   bash launch/test.sh                         what must pass before a commit
#   bash launch/test.sh tests/ops -k noise      some tests (paths are seen from the repository)
#   bash launch/test.sh -m slow                 the slow ones
#
#   --dry-run   print the commands and change nothing
#   --help      this page
#
# All checks run even if one fails; the exit code is 1 then, or that of pytest. What compiled code and child processes
# write to stderr goes into a file. Its end is printed if pytest or a worker of it dies. -s shows it at once.
#
# variables: those of launch/env.sh, and
#   SEGJAX_TEST_JOBS   processes that run tests (default: 2 if pytest-xdist is installed, else 1)
#   SEGJAX_REAL_DATA   folder with real images; tests that need them are skipped without
#   SEGJAX_WEIGHTS     folder with published weights; tests that need them are skipped without
#   SEGJAX_TORCH       a Python with torch; tests that compare with torch are skipped without

set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

arguments=()
environment=(--quiet)
for argument in "$@"; do
  case $argument in
    --help | -h) usage && exit 0 ;;
    --dry-run) dry_run=yes && environment+=(--dry-run) ;;
    *) arguments+=("$argument") ;;
  esac
done
[ -z "${SEGJAX_TEST_JOBS:-}" ] || whole SEGJAX_TEST_JOBS "$SEGJAX_TEST_JOBS"

cd "$root"
bash launch/env.sh "${environment[@]}"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

failed=''
check() {
  run "$python" -m "$@" || failed="$failed '$*'"
}
check ruff check .
check ruff format --check .
check compileall -q segjax configs launch tests

workers=()
if "$python" -c 'import xdist' 2>/dev/null; then
  # loadfile: tests of one file share compiled programs and fixtures, which live in a process. Their order is that of
  # tests/conftest.py, not xdist's, which leaves long files with few tests for the end
  [ "${SEGJAX_TEST_JOBS:-2}" = 1 ] || workers=(-n "${SEGJAX_TEST_JOBS:-2}" --dist loadfile --no-loadscope-reorder)
fi
# Compiled code ends a process with a message on file 2. pytest would capture that file and lose it with the process.
# tests/conftest.py writes into `ended` how the session ends.
tests() {
  local folder code=0 live=no argument
  folder=$(mktemp -d)
  for argument in ${arguments[@]+"${arguments[@]}"}; do
    case $argument in -s | --capture* | --pdb | --trace) live=yes ;; esac
  done
  export SEGJAX_TEST_ENDED=$folder/ended PYTEST_ADDOPTS="--capture=sys ${PYTEST_ADDOPTS:-}"
  if [ "$live" = yes ]; then exec 8>&2; else exec 8>"$folder/stderr"; fi
  "$python" -m pytest ${workers[@]+"${workers[@]}"} ${arguments[@]+"${arguments[@]}"} 2>&8 8>&- || code=$?
  exec 8>&-
  [ "$code" = 0 ] || post_mortem "$folder" "$code"
  rm -rf -- "$folder"
  return "$code"
}

# post_mortem FOLDER CODE: says how pytest died, if it did, and prints the end of its stderr
post_mortem() {
  local ended=''
  [ ! -s "$1/ended" ] || ended=$(<"$1/ended")
  case $2:$ended in
    1:finished) return ;; # tests that failed, all of which pytest has described
    *crashed*) say "a process that ran tests died" ;;
    *finished*) ;;
    *) say "pytest died with exit code $2 before its summary" ;;
  esac
  [ -s "$1/stderr" ] || return 0
  say 'the last lines of stderr:'
  tail -n 25 "$1/stderr" >&2
}

say() { printf 'launch/test.sh: %s\n' "$*" >&2; }

code=0
if [ "$dry_run" = yes ]; then
  run "$python" -m pytest ${workers[@]+"${workers[@]}"} ${arguments[@]+"${arguments[@]}"}
else
  tests || code=$?
fi
if [ -n "$failed" ]; then
  printf 'launch/test.sh: failed before the tests:%s\n' "$failed" >&2
  code=1
fi
exit "$code"
