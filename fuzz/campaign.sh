#!/usr/bin/env bash
# Runs fuzz targets one after the other and prints a table of what they did: fuzz/campaign.sh SECONDS [TARGET...]
# Logs go to fuzz/campaign/, what is found to fuzz/corpus/ and fuzz/artifacts/. Every target without names; needs cargo-fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?"give the seconds for each target"}
shift
if [ $# = 0 ]; then mapfile -t targets < <(cargo fuzz list); else targets=("$@"); fi
logs=fuzz/campaign
mkdir -p "$logs"
# Targets that write files do so in memory.
folders=$(mktemp -d -p "$(test -d /dev/shm && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
trap 'rm -rf "$folders"' EXIT
cargo fuzz build --sanitizer none >"$logs/build.log" 2>&1 || { tail -n 20 "$logs/build.log" >&2; exit 1; }

# A figure of libFuzzer's closing lines.
stat() { sed -n "s/^stat::$1: *//p" "$2" | tail -n 1; }

failed=0
printf '| %-14s | %13s | %9s | %7s | %9s | %8s |\n' target executions 'a second' crashes slowest 'peak RSS'
printf '|---|---|---|---|---|---|\n'
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target" "$folders/$target"
  log=$logs/$target.log crashes=0
  # Time is that of the clock, of which a busy machine may take most: an input that takes a minute ends the target, or 512 MiB
  # does. The table says what took the longest.
  TMPDIR="$folders/$target" cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -max_len=8192 -timeout=60 -rss_limit_mb=512 -print_final_stats=1 >"$log" 2>&1 || crashes=1
  failed=$((failed + crashes))
  printf '| %-14s | %13s | %9s | %7s | %7s s | %4s MiB |\n' "$target" "$(stat number_of_executed_units "$log")" \
    "$(stat average_exec_per_sec "$log")" "$crashes" "$(stat slowest_unit_time_sec "$log")" "$(stat peak_rss_mb "$log")"
done
exit "$((failed > 0))"
