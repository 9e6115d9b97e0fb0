#!/usr/bin/env bash
# Checks and measures the CUDA driver on a machine with a GPU, from carried files, within ten minutes.
#
#   drivers/cuda/check.sh prepare BIN_DIR    where Rust is: builds gpu_check, records the CPU's curves, gathers what is carried
#   BIN_DIR/check.sh BIN_DIR OUT_DIR         on the machine with the GPU; needs its driver and NVRTC 13 (see README.md)
#
# Each part has a time limit and its output in OUT_DIR/PART.txt; a part that fails does not stop the next. The table of what
# happened is printed at the end and in OUT_DIR/summary.txt; exit code 1 where a part failed. Parts whose program is not on the
# machine (compute-sanitizer, PyTorch) are skipped, and said to be.
#
#   DEVICE=cuda:0    the device          PYTHON=python3    with torch and transformers, for the comparison
#   PARTS="suite golden ..."             only these
#   TOTAL=600        seconds in all        CASES=32, STEPS=200, SANITIZER_CASES=2
#   SCALE=1          a divisor of the sizes, to try the script where there is no GPU
set -uo pipefail

die() { echo "$*" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

prepare() {
  local bin=$1 repository=$root/../..
  mkdir -p "$bin" || exit 1
  (cd "$repository" && cargo build --release --bin gpu_check) || exit 1
  cp "${CARGO_TARGET_DIR:-$repository/target}/release/gpu_check" "$bin/" || exit 1
  cp "$root/check.sh" "$root/python/train_step.py" "$repository/configs/train_1b.json" "$bin/" || exit 1
  for precision in bf16 fp8; do
    "$bin/gpu_check" curve --device cpu --precision $precision --steps "${STEPS:-200}" --save "$bin/curve_$precision.json" || exit 1
  done
  ls -l "$bin"
}

if [ "${1:-}" = prepare ]; then
  [ $# = 2 ] || die "usage: check.sh prepare BIN_DIR"
  prepare "$2"
  exit 0
fi
[ $# = 2 ] || die "usage: check.sh BIN_DIR OUT_DIR, or check.sh prepare BIN_DIR"
bin=$(cd "$1" && pwd) || exit 2
mkdir -p "$2" && out=$(cd "$2" && pwd) || exit 2
[ -x "$bin/gpu_check" ] || die "$bin/gpu_check is missing: make it with check.sh prepare $1, where Rust is"
device=${DEVICE:-cuda:0} python=${PYTHON:-python3} scale=${SCALE:-1} steps=${STEPS:-200}
all="compile suite golden curve_bf16 curve_fp8 bench bench_decode train train_fp8 hopper_suite hopper_bench hopper_train_fp8 torch_train"
all="$all torch_compiled torch_kernels sanitizer train_no_graphs"
parts=${PARTS:-$all}
# What is compiled once is there for all parts.
export FATHOM_CUDA_CACHE=${FATHOM_CUDA_CACHE:-$out/cache}
failed=0
: > "$out/summary.txt"

row() { printf '%-16s %-8s %6s s  %s\n' "$@" | tee -a "$out/summary.txt"; }

# part NAME LIMIT PATTERN COMMAND...: runs it, and shows the last line of its output that has PATTERN in it.
part() {
  local name=$1 limit=$2 pattern=$3 start=$SECONDS code result
  shift 3
  case " $parts " in *" $name "*) ;; *) return ;; esac
  local left=$((${TOTAL:-600} - SECONDS))
  [ "$left" -ge 10 ] || { row "$name" skipped 0 "no time left of ${TOTAL:-600} s"; return; }
  [ "$limit" -le "$left" ] || limit=$left
  timeout --kill-after=5 "$limit" "$@" > "$out/$name.txt" 2>&1
  code=$?
  case $code in
    0) result=pass ;;
    124 | 137) result=TIMEOUT; failed=1 ;;
    *) result=FAIL; failed=1 ;;
  esac
  [ $code = 0 ] || pattern="error\|panicked\|Error\|$pattern"
  row "$name" "$result" $((SECONDS - start)) "$(grep -a -- "$pattern" "$out/$name.txt" | tail -1 | cut -c1-200)"
}

skip() { case " $parts " in *" $1 "*) row "$1" skipped 0 "$2" ;; esac; }

{ date -u; nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no nvidia-smi"; } \
  | tee "$out/machine.txt"
small=()
[ "$scale" = 1 ] || small=(--shrink "$scale")
# The smallest call there is: what it takes is compiling all kernels.
part compile 90 "kernels ready\|pass" "$bin/gpu_check" suite --device "$device" --cases 1 --only fill
part suite 120 "suite:" "$bin/gpu_check" suite --device "$device" --cases "${CASES:-32}"
part golden 60 "training\|gradients\|continuations" "$bin/gpu_check" golden --device "$device"
for precision in bf16 fp8; do
  part curve_$precision 60 "against" "$bin/gpu_check" curve --device "$device" --precision $precision --steps "$steps" \
    --against "$bin/curve_$precision.json"
done
part bench 90 "copy " "$bin/gpu_check" bench --device "$device" "${small[@]}"
part bench_decode 60 "decode_step bf16 cache\|copy " "$bin/gpu_check" bench --decode --device "$device" "${small[@]}"
shape=(--batch 4 --micro-batch 2 --length 4096 --steps 12)
[ "$scale" = 1 ] || shape=(--batch 2 --micro-batch 1 --length 64 --steps 1 --preset tiny)
part train 60 "tokens/s" "$bin/gpu_check" train --device "$device" --precision bf16 "${shape[@]}"
part train_fp8 60 "tokens/s" "$bin/gpu_check" train --device "$device" --precision fp8 "${shape[@]}"
# Products by warpgroups, which are not the default: the same checks, their lines of the benchmark, and the same steps.
hopper=(env FATHOM_CUDA_HOPPER=1 "$bin/gpu_check")
part hopper_suite 40 "suite:" "${hopper[@]}" suite --device "$device" --cases "${CASES:-32}" --only gemm
part hopper_bench 30 "grouped_gemm_fp8.*fwd" "${hopper[@]}" bench --device "$device" --only grouped_gemm "${small[@]}"
part hopper_train_fp8 40 "tokens/s" "${hopper[@]}" train --device "$device" --precision fp8 "${shape[@]}"
if "$python" -c 'import torch, transformers; assert torch.cuda.is_available()' 2> /dev/null; then
  peer=("$python" "$bin/train_step.py" train --config "$bin/train_1b.json" --batch 4 --micro-batch 2 --length 4096 --steps 8)
  # Both kinds of state; either may run out of memory, and the other still counts.
  part torch_train 100 "tokens/s" bash -c '"$@" --state mixed; first=$?; "$@" --state bf16 && exit $first' peer "${peer[@]}"
  # Compiling takes long and does not work with every version; what is printed says which it was.
  part torch_compiled 100 "tokens/s" "${peer[@]}" --compile
  part torch_kernels 60 "TFLOP/s" "$python" "$bin/train_step.py" kernels
else
  skip torch_train "no PyTorch with CUDA and transformers (PYTHON=...)"
  skip torch_compiled "no PyTorch with CUDA and transformers (PYTHON=...)"
  skip torch_kernels "no PyTorch with CUDA and transformers (PYTHON=...)"
fi
if command -v compute-sanitizer > /dev/null; then
  part sanitizer 120 "ERROR SUMMARY" env FATHOM_CUDA_GRAPHS=0 compute-sanitizer --tool memcheck --error-exitcode 9 \
    "$bin/gpu_check" suite --device "$device" --cases "${SANITIZER_CASES:-2}"
else
  skip sanitizer "compute-sanitizer is not on this machine"
fi
part train_no_graphs 60 "tokens/s" env FATHOM_CUDA_GRAPHS=0 "$bin/gpu_check" train --device "$device" --precision bf16 "${shape[@]}"
echo
cat "$out/machine.txt" "$out/summary.txt"
echo "$SECONDS s in all; outputs in $out"
exit $failed
