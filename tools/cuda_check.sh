#!/usr/bin/env bash
# Compiles every CUDA unit for sm_80 and sm_90 and compares registers, spills and shared memory of each kernel
# with kernels/cuda/registers.baseline. Fails on a spill that is not in the baseline and on more than 8 registers
# more. Units that did not change are not compiled again.
#
#   tools/cuda_check.sh [--update] [--build DIR]     --update rewrites the baseline
set -euo pipefail
cd "$(dirname "$0")/.."
update="" build=build/cuda-check
while [ $# -gt 0 ]; do
  case $1 in
    --update) update=--update ;;
    --build) build=$2; shift ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
. tools/lib.sh
nvcc=$(find_nvcc || true)
if [ -z "$nvcc" ]; then
  echo "cuda_check: no nvcc (tools/setup.sh --cuda)" >&2
  exit 3
fi
mapfile -t units < <(find kernels/cuda -name '*.cu' | sort)
exec python3 tools/cuda_check.py --nvcc "$nvcc" --build "$build" --baseline kernels/cuda/registers.baseline $update \
  "${units[@]}"
