#!/usr/bin/env bash
# Builds Quire and runs every test, from a bare clone on Debian 12; installs what is missing first, once.
#
#   tools/test.sh                everything: style, release build with all tests, Python, ASan + UBSan unit tests
#   tools/test.sh --fast         style and the unit tests of the release build
#   tools/test.sh --tsan         also the unit tests under ThreadSanitizer
#
# Logs: build/logs. Exit code 0 where everything passed.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

fast=0 tsan=0
for argument in "$@"; do
  case $argument in
    --fast) fast=1 ;;
    --tsan) tsan=1 ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown option $argument (see --help)" ;;
  esac
done

tools/setup.sh --test
export PATH=$python_environment/bin:$PATH
export QUIRE_CACHE=$quire_cache

say "style: clang-format, ruff, tidy"
git ls-files '*.cc' '*.h' '*.c' | xargs clang-format --dry-run -Werror
ruff check -q . && ruff format -q --check .
python3 tools/tidy.py

run_ctest() {
  local preset=$1
  shift
  say "testing $preset"
  ctest --test-dir "build/$preset" --output-on-failure --no-tests=error "$@"
}

build_preset release
python3 tools/tidy.py --headers --generated build/release/generated
if [ $fast = 1 ]; then
  run_ctest release -L unit -j"$quire_jobs"
  exit 0
fi
run_ctest release -LE model -j"$quire_jobs"
run_ctest release -L model
build_preset asan
run_ctest asan -L unit -j"$quire_jobs"
if [ $tsan = 1 ]; then
  build_preset tsan
  run_ctest tsan -L unit -j"$quire_jobs"
fi
say "Python: the package, and the engine's rows against numpy"
QUIRE_BIN_DIR=$PWD/build/release/bin python3 -m pytest -q tests/client/python tests/tools/quire-ask
say "all tests passed"
