#!/usr/bin/env bash
# clang-tidy over our sources (or over the files given), with the compile commands of build/release. Slow: minutes.
#
#   tools/lint.sh                       everything
#   tools/lint.sh server/store/*.cc     some files
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh
install_packages clang-tidy
[ -e build/release/compile_commands.json ] || cmake --preset release >/dev/null
if [ $# -gt 0 ]; then files=("$@"); else mapfile -t files < <(git ls-files '*.cc' | grep -v '^tests/'); fi
printf '%s\n' "${files[@]}" | xargs -n 4 -P "$quire_jobs" clang-tidy -p build/release --quiet
say "clang-tidy: ${#files[@]} files clean"
