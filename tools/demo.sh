#!/usr/bin/env bash
# The main job, end to end, on a real model: warm up documents, store their KV, answer prompts that use them in an
# order never seen before, survive SIGKILL, answer again from the warm store.
#
#   tools/demo.sh                  installs and builds what is missing, then runs (first time about 10 minutes on two cores)
#   tools/demo.sh --model FILE     with any GGUF model that llama.cpp loads
#   tools/demo.sh --json FILE      also writes one JSON line per policy: policy, ttft_ms, speedup, kl, top1, correct,
#                                  asked, kl_wins
#   tools/demo.sh --keep           leaves the store and the server's log in build/demo
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

model= json= keep=0
while [ $# -gt 0 ]; do
  case $1 in
    --model) model=${2:?--model needs a file}; shift ;;
    --json) json=${2:?--json needs a file}; shift ;;
    --keep) keep=1 ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown option $1 (see --help)" ;;
  esac
  shift
done

if [ -z "$model" ]; then
  tools/setup.sh --demo
  model=$(model_path qwen)
else
  [ -r "$model" ] || die "cannot read the model $model"
  tools/setup.sh
  install_packages debian-handbook
fi
quietly "configuring release" build/logs/configure-release.log cmake --preset release
quietly "building quired, quirectl, quire-warm, quire-ask" build/logs/build-demo.log \
  cmake --build build/release -j"$quire_jobs" --target quired quirectl quire-warm quire-ask
bin=$PWD/build/release/bin

work=$PWD/build/demo
rm -rf "$work" && mkdir -p "$work"
control_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$work/quired.toml" <<TOML
data_directory = "$work/data"
socket_path = "$work/quired.sock"
[control]
listen = "127.0.0.1:$control_port"
[http]
listen = ""
TOML
export QUIRE_SOCKET=$work/quired.sock QUIRE_CONTROL=127.0.0.1:$control_port

server_pid=
start_server() {
  "$bin/quired" --config "$work/quired.toml" >>"$work/quired.log" 2>&1 &
  server_pid=$!
  for _ in $(seq 200); do
    [ -S "$QUIRE_SOCKET" ] && "$bin/quirectl" status >/dev/null 2>&1 && break
    kill -0 "$server_pid" 2>/dev/null || { cat "$work/quired.log" >&2; die "quired did not start"; }
    sleep 0.05
  done
  say "$(tail -n 1 "$work/quired.log")"
}
finish() {
  [ -n "$server_pid" ] && kill "$server_pid" 2>/dev/null && wait "$server_pid" 2>/dev/null || true
  [ $keep = 1 ] || rm -rf "$work/data" "$work/quired.sock"
}
trap finish EXIT
trap 'exit 130' INT TERM

handbook=/usr/share/doc/debian-handbook/html/en-US
page() { echo "$handbook/sect.$1.html"; }
a=$(page asynchronous-task-scheduling-anacron) b=$(page quotas) c=$(page inetd) d=$(page dhcp)
e=$(page ftp-file-server) f=$(page shell-environment) g=$(page quality-of-service)

say "starting quired on an empty store"
start_server
say "warming up 7 pages of the Debian Administrator's Handbook (each page computed once, whatever prompt it comes in)"
"$bin/quire-warm" --model "$model" --manifest "$work/manifest.jsonl" --chunk-tokens 1024 "$a" "$b" "$c" "$d" "$e" "$f" "$g"

policies=full,reuse,epic:16,query-value:0.05,query-value:0.15
ask() { # ask NUMBER EXPECTED QUESTION PAGES...
  local number=$1 expected=$2 question=$3 pages=()
  shift 3
  for page in "$@"; do pages+=(--doc "$page"); done
  echo
  say "question $number: $question"
  "$bin/quire-ask" --model "$model" --manifest "$work/manifest.jsonl" "${pages[@]}" --max-context 4400 --max-tokens 24 \
    --question "$question" --compare "$policies" -o json >"$work/question$number.json"
  printf '%s' "$expected" >"$work/question$number.expected"
  python3 tools/demo_report.py question "$work/question$number.json"
}

ask 1 'anacron' "Which program runs scheduled tasks on computers that are not always on? Answer in one sentence." "$g" "$d" "$a" "$f" "$b"
ask 2 'inetd|super-server' "Which daemon is called the super-server because it starts other servers on demand? Answer in one sentence." "$b" "$c" "$e" "$a" "$d"
ask 3 'edquota|setquota' "Which command changes the disk quota of a user? Answer in one sentence." "$e" "$f" "$b" "$c" "$a"
echo
say "together"
python3 tools/demo_report.py summary ${json:+--json "$json"} "$work"/question[0-9].json

echo
say "killing the server with SIGKILL and starting it again"
kill -KILL "$server_pid"
wait "$server_pid" 2>/dev/null || true
start_server
question="Which file configures the DHCP server? Answer in one sentence."
say "asking from the warm store: $question"
"$bin/quire-ask" --model "$model" --manifest "$work/manifest.jsonl" --doc "$f" --doc "$d" --doc "$c" --doc "$g" \
  --max-context 4400 --max-tokens 24 --question "$question"
echo
"$bin/quirectl" status
say "done; the same commands by hand: README.md"
