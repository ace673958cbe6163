#!/usr/bin/env bash
# Builds Quire and runs every test, from a bare clone on Debian 12; installs what is missing first, once.
#
#   tools/test.sh                everything: style, release build with all tests, Python, ASan + UBSan, TSan, fuzzers
#   tools/test.sh --fast         style and the unit tests of the release build
#   tools/test.sh --nightly      also 1,000 SIGKILL cycles, 100,000 simulated seeds, 10 minutes a fuzzer, a model of 1.5 B (a night)
#
# Logs: build/logs. Exit code 0 where everything passed.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

fast=0 nightly=0
for argument in "$@"; do
  case $argument in
    --fast) fast=1 ;;
    --nightly) nightly=1 ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown option $argument (see --help)" ;;
  esac
done

tools/setup.sh --test --eval --cuda
export PATH=$python_environment/bin:$PATH
export QUIRE_CACHE=$quire_cache

say "style: clang-format, ruff, mypy, tidy"
git ls-files '*.cc' '*.h' '*.c' | xargs clang-format --dry-run -Werror
ruff check -q . && ruff format -q --check .
(cd client/python && for version in 3.11 3.12; do mypy --python-version $version quire; done)
python3 tools/tidy.py

# Tests of whole servers that also run under the sanitizers: those that do not measure memory or time.
server_tests=(server_{store,fill,ingest,tier,quota,hint,admin,lease,protocol,loss,upgrade,gpu_placement,gpu,scope}_test)
# Where threads meet: servers, the tiers' loops, what policies and the index are used with.
thread_tests=("${server_tests[@]}" {device,event_loop,registered_file,nvme_tier,scrub,match_index,match_index_scope,details_cache,use_hint,device_pool,cuda_driver,client_gpu_pool}_test)
one_of() { local IFS='|'; echo "^($*)\$"; }

run_ctest() {
  local preset=$1
  shift
  say "testing $preset"
  ctest --test-dir "build/$preset" --output-on-failure --no-tests=error "$@"
}

build_preset release
python3 tools/tidy.py --headers --generated build/release/generated
# CMake leaves out tests whose interpreter lacks a package; here none may be missing.
for name in python_test python_{transformers,eval}{,_model}_test; do
  [[ $(ctest --test-dir build/release -N -R "^$name\$") == *"$name"* ]] || die "$name is missing: see build/logs/configure-release.log"
done
if [ $fast = 1 ]; then
  run_ctest release -L unit -j"$quire_jobs"
  exit 0
fi
# The crash tests first and alone: their servers live by the clock.
run_ctest release -L 'crash|sim'
run_ctest release -LE 'model|crash|sim' -j"$quire_jobs"
run_ctest release -L model
say "CUDA: every unit for sm_80 and sm_90 against the baseline; the kernels and their GPU check alone"
tools/cuda_check.sh
bench/gpu_check.sh --build-only
build_preset asan
run_ctest asan -L unit -j"$quire_jobs"
run_ctest asan -R "$(one_of "${server_tests[@]}")" -j"$quire_jobs"
build_preset tsan "${thread_tests[@]}"
run_ctest tsan -R "$(one_of "${thread_tests[@]}")" -j"$quire_jobs"
say "fuzzing every parser"
tools/fuzz.sh 30
say "Python: the engine's rows against numpy, quire-answers end to end"
QUIRE_BIN_DIR=$PWD/build/release/bin python3 -m pytest -q tests/tools/quire-ask tests/tools/quire-answers
if [ $nightly = 1 ]; then
  say "nightly: SIGKILL cycles, simulated seeds, long fuzzing"
  QUIRE_CRASH_CYCLES=1000 build/release/tests/server_crash_test
  build/release/tests/quire_sim --nightly
  tools/fuzz.sh 600
  say "nightly: gates and a quality point on a model of 1.5 billion parameters"
  tools/setup.sh --test --eval --nightly
  QUIRE_BIN_DIR=$PWD/build/release/bin OMP_NUM_THREADS=2 python3 -m pytest -q -m "model and nightly" tests/client/python/eval
fi
say "all tests passed"
