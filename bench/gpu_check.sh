#!/usr/bin/env bash
# Everything that needs a GPU, on a machine that has only nvcc, cmake and Python (with torch for the peers):
# builds kernels/ alone, checks every kernel against the CPU's and float64 references, runs compute-sanitizer on
# tiny shapes, measures the machine's ceilings, times every kernel beside them, and the peers.
#
#   bench/gpu_check.sh [--build-only] [--check-only] [--no-peers] [--out DIR]
#
# Results: DIR/gpu.md, DIR/gpu.csv, DIR/peers.csv (default build/gpu-check/results). Exit status 1: a result is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/gpu-check out="" build_only=0 check_only=0 peers=1
while [ $# -gt 0 ]; do
  case $1 in
    --build-only) build_only=1 ;;
    --check-only) check_only=1 ;;
    --no-peers) peers=0 ;;
    --out) out=$2; shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
out=${out:-$build/results}
mkdir -p "$out"

generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi
cmake "${generator[@]}" -S bench/gpu -B "$build" -DCMAKE_BUILD_TYPE=Release >"$out/configure.log" 2>&1 ||
  { tail -n 20 "$out/configure.log" >&2; exit 1; }
cmake --build "$build" --target gpu_check -j"$(nproc)" >"$out/build.log" 2>&1 ||
  { tail -n 40 "$out/build.log" >&2; exit 1; }
echo "built $build/gpu_check"
python3 bench/gpu/peers.py --help >/dev/null
if [ $build_only = 1 ]; then exit 0; fi

"$build/gpu_check" --check
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
if [ -n "$sanitizer" ]; then
  for tool in memcheck racecheck synccheck; do
    echo "compute-sanitizer $tool"
    "$sanitizer" --tool "$tool" --error-exitcode 1 "$build/gpu_check" --tiny >"$out/sanitizer-$tool.log" 2>&1 ||
      { tail -n 40 "$out/sanitizer-$tool.log" >&2; exit 1; }
  done
else
  echo "no compute-sanitizer here: skipped"
fi
if [ $check_only = 1 ]; then exit 0; fi

"$build/gpu_check" --csv "$out/gpu.csv" | tee "$out/gpu.md"
if [ $peers = 1 ]; then
  if python3 -c 'import torch' 2>/dev/null; then
    python3 bench/gpu/peers.py --csv "$out/peers.csv" | tee -a "$out/gpu.md"
  else
    echo "no torch here: peers skipped"
  fi
fi
