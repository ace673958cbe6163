#!/usr/bin/env bash
# Builds the fuzz targets with clang and runs each over its corpus, two at a time.
#
#   tools/fuzz.sh [seconds] [target ...]     30 seconds each where none are given; all targets
#
# Prints executions, covered edges and corpus size per target. Exit code 1 where an input broke
# something; the command that replays it is printed. Keep such an input as
# tests/data/fuzz/<target>/crash_<what>: fuzz_corpus_test replays it from then on.
# New seeds: add them to the target's QUIRE_FUZZ_SEEDS, then
#   QUIRE_UPDATE_CORPUS=1 build/dev/tests/fuzz_corpus_test --gtest_filter='*Seeds*'
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

case ${1:-} in -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
seconds=30
if [[ ${1:-} =~ ^[0-9]+$ ]]; then seconds=$1; shift; fi
parallel=2
input_bytes_max=65536
out=${QUIRE_FUZZ_BUILD:-build/fuzz}

for tool in clang clang++; do command -v $tool >/dev/null || die "$tool is missing; install the package clang"; done
quietly "configuring fuzz" "$out/configure.log" cmake --preset fuzz -B "$out"
quietly "building the fuzz targets" "$out/build.log" cmake --build "$out" -j"$quire_jobs" --target fuzz_targets
targets=("$@")
if [ $# = 0 ]; then
  for program in "$out"/fuzz/fuzz_*; do [ -x "$program" ] && [ -f "$program" ] && targets+=("${program##*/fuzz_}"); done
fi

run_one() {
  local name=$1 log=$out/logs/$1.log
  mkdir -p "$out/logs" "$out/corpus/$name" "$out/crashes"
  # The first corpus folder collects what is new; the one of the repository is only read.
  ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
    "$out/fuzz/fuzz_$name" "$out/corpus/$name" "tests/data/fuzz/$name" \
    -max_total_time="$seconds" -max_len=$input_bytes_max -timeout=10 -rss_limit_mb=1024 \
    -artifact_prefix="$out/crashes/$name-" -print_final_stats=1 >"$log" 2>&1
}

report_one() {
  local name=$1 status=$2 log=$out/logs/$1.log executions covered corpus input
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  covered=$(grep -o 'cov: [0-9]*' "$log" | tail -n 1 | cut -d' ' -f2)
  corpus=$(grep -o 'corp: [0-9]*' "$log" | tail -n 1 | cut -d' ' -f2)
  printf '  %-16s %10s executions %6s edges %6s inputs kept  %s\n' "$name" "${executions:-?}" \
    "${covered:-?}" "${corpus:-?}" "$([ "$status" = 0 ] && echo ok || echo BROKEN)"
  [ "$status" = 0 ] && return 0
  tail -n 40 "$log" >&2
  input=$(sed -n 's/.*Test unit written to *//p' "$log" | tail -n 1)
  echo "replay: $out/fuzz/fuzz_$name ${input:-(no input was written; see $log)}" >&2
  return 1
}

say "fuzzing ${#targets[@]} targets for $seconds s each, $parallel at a time"
failed=0
for ((first = 0; first < ${#targets[@]}; first += parallel)); do
  names=() pids=()
  for name in "${targets[@]:first:parallel}"; do
    [ -x "$out/fuzz/fuzz_$name" ] || die "there is no fuzz target $name"
    run_one "$name" &
    names+=("$name") pids+=($!)
  done
  for i in "${!pids[@]}"; do
    status=0
    wait "${pids[i]}" || status=$?
    report_one "${names[i]}" "$status" || failed=1
  done
done
[ $failed = 0 ] || die "an input broke a target"
say "all fuzz targets held"
