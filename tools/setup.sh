#!/usr/bin/env bash
# Installs what Quire needs and is missing, and nothing twice. Debian 12 (or a system with apt and the same packages).
#
#   tools/setup.sh                 packages to build and test, llama.cpp for the connector
#   tools/setup.sh --demo          also the demo's documents and its model (about 0.5 GB)
#   tools/setup.sh --test          also the test models (about 0.75 GB) and the Python test tools
#   tools/setup.sh --eval          also torch and transformers for quire.transformers and quire-eval (3 GB, 4.4 GB on disk)
#   tools/setup.sh --embed         also the embedding model of quire-warm --neighbours (20 MB); --eval brings it, too
#   tools/setup.sh --nightly       also the larger model of the nightly tests (1.1 GB)
#   tools/setup.sh --cuda          also nvcc 13.0 from PyPI (about 0.3 GB), where no nvcc >= 12.8 is found
#   tools/setup.sh --no-llama      without llama.cpp: server, client library and quirectl only
#
# Kept in ${QUIRE_CACHE:-~/.cache/quire}: llama.cpp, models, a Python environment. Packages need root or sudo.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

want_llama=1 want_demo=0 want_test=0 want_eval=0 want_embed=0 want_cuda=0 want_nightly=0
for argument in "$@"; do
  case $argument in
    --demo) want_demo=1 ;;
    --test) want_test=1 ;;
    --eval) want_eval=1 want_embed=1 ;;
    --embed) want_embed=1 ;;
    --cuda) want_cuda=1 ;;
    --nightly) want_nightly=1 ;;
    --no-llama) want_llama=0 ;;
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown option $argument (see --help)" ;;
  esac
done

packages=(build-essential g++ cmake ninja-build ccache pkg-config ca-certificates python3 python3-pip python3-venv
  librocksdb-dev liburing-dev libgrpc++-dev libgrpc-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  libabsl-dev libspdlog-dev libcli11-dev libtomlplusplus-dev libxxhash-dev libssl-dev prometheus-cpp-dev
  liblz4-dev libzstd-dev libcpp-httplib-dev nlohmann-json3-dev libgumbo-dev libgtest-dev libgmock-dev libbenchmark-dev
  librapidcheck-dev)
[ $want_demo = 1 ] && packages+=(debian-handbook)
[ $want_test = 1 ] && packages+=(debian-handbook clang-format clang libclang-rt-14-dev lld git)
install_packages "${packages[@]}"

mkdir -p "$quire_cache"
[ $want_llama = 1 ] && install_llama
[ $want_demo = 1 ] && fetch_model qwen
if [ $want_test = 1 ]; then
  fetch_model qwen
  fetch_model gemma
  make_python_environment
fi
if [ $want_nightly = 1 ]; then fetch_model qwen-1.5b; fi
if [ $want_eval = 1 ]; then make_eval_environment; fi
if [ $want_embed = 1 ]; then make_embed_environment; fi
if [ $want_cuda = 1 ]; then install_nvcc; fi
if find_nvcc >/dev/null; then say "CUDA units are built with $(find_nvcc)"; else say "no nvcc >= 12.8: building for the CPU only"; fi
say "setup complete"
