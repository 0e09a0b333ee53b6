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
# All checks run even if one fails; the exit code is 1 then, or that of pytest.
#
# variables: those of launch/env.sh, and
#   SEGJAX_TEST_JOBS   processes that run tests (default: 2 if pytest-xdist is installed, else 1)
#   SEGJAX_REAL_DATA   folder with real images; tests that need them are skipped without

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
code=0
run "$python" -m pytest ${workers[@]+"${workers[@]}"} ${arguments[@]+"${arguments[@]}"} || code=$?
if [ -n "$failed" ]; then
  printf 'launch/test.sh: failed before the tests:%s\n' "$failed" >&2
  code=1
fi
exit "$code"
