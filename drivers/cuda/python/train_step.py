"""The same training step in PyTorch, and PyTorch's products at the shapes of `gpu_check bench`.

    python train_step.py train [--config train_1b.json] [--state mixed|bf16] [--batch 4] [--micro-batch 2] [--length 4096]
                               [--steps 20] [--experts grouped_mm|eager|batched_mm|auto] [--attention sdpa] [--compile]
    python train_step.py kernels [--shrink N]

`train` builds transformers' DeepseekV3ForCausalLM from the configuration that `gpu_check train` uses, with random
weights, and trains it on random tokens: gradients over micro-batches, clipping to norm 1, fused AdamW. `--state mixed` keeps
weights, gradients and moments in f32 under BF16 autocast (as Fathom does, but for its BF16 moments); `--state bf16` keeps
everything in BF16, which is less exact and faster. `--compile` passes the model through `torch.compile`. Needs torch and
transformers, no network.
"""
import argparse
import contextlib
import json
import os
import pathlib
import statistics
import sys
import time
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
warnings.filterwarnings("ignore")

import torch

HERE = pathlib.Path(__file__).resolve().parent


def default_config():
    """Beside this file where it was carried, else in the repository."""
    near = HERE / "train_1b.json"
    return near if near.is_file() else HERE.parents[2] / "configs" / "train_1b.json"


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def build(arguments, device):
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    fields = json.loads(pathlib.Path(arguments.config).read_text())
    config = DeepseekV3Config(**{k: v for k, v in fields.items() if k not in ("architectures", "model_type")})
    config._attn_implementation = arguments.attention
    config.use_cache = False
    torch.manual_seed(1)
    dtype = torch.bfloat16 if arguments.state == "bf16" else torch.float32
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = DeepseekV3ForCausalLM(config)
    finally:
        torch.set_default_dtype(previous)
    model = model.to(device=device, dtype=dtype)
    if arguments.experts != "auto":
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation(arguments.experts)
        elif arguments.experts != "eager":
            sys.exit(f"this version of transformers has no --experts {arguments.experts}")
    return model.train(), config


def one_step(model, optimizer, tokens, arguments, device):
    """Loss of a step over all micro-batches, as a tensor: nothing waits for the device here."""
    total = torch.zeros((), device=device)
    parts = tokens.split(arguments.micro_batch)
    mixed = torch.autocast(device.type, torch.bfloat16) if arguments.state == "mixed" else contextlib.nullcontext()
    for part in parts:
        with mixed:
            logits = model(input_ids=part[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten()) / len(parts)
        loss.backward()
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def train(arguments, device):
    """With the experts asked for, or where this version cannot train them in these types, with eager ones."""
    try:
        timed_steps(arguments, device)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        if arguments.experts == "eager" or isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        print(f"experts {arguments.experts}: {str(error).splitlines()[0]}; eager ones instead", flush=True)
        arguments.experts = "eager"
        timed_steps(arguments, device)


def timed_steps(arguments, device):
    model, config = build(arguments, device)
    parameters = sum(p.numel() for p in model.parameters())
    decayed = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    if arguments.compile:
        # In place: parameters and the methods of the model stay where they are.
        model.compile()
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    generator = torch.Generator().manual_seed(1)
    seconds, loss = [], float("nan")
    shape = (arguments.batch, arguments.length + 1)
    for step in range(arguments.steps + 3):
        tokens = torch.randint(0, config.vocab_size, shape, generator=generator).to(device)
        synchronize(device)
        start = time.perf_counter()
        loss = one_step(model, optimizer, tokens, arguments, device).item()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
        if step < 3:
            print(f"step {step + 1}: {seconds[-1]:.3f} s, loss {loss:.4f}", flush=True)
    timed = sorted(seconds[3:])
    median = statistics.median(timed)
    if device.type == "cuda":
        print(f"memory: {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB at the peak, "
              f"{torch.cuda.max_memory_reserved(device) / 2**30:.2f} GiB taken from the system")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"PyTorch {torch.__version__} on {name}, {parameters / 1e6:.1f} M parameters, {arguments.state}, experts {arguments.experts}, "
          f"{'compiled' if arguments.compile else 'eager'}, "
          f"{arguments.batch} x {arguments.length}: {arguments.batch * arguments.length / median:.0f} tokens/s, {1e3 * median:.1f} ms a "
          f"step (median of {len(timed)}, fastest {1e3 * timed[0]:.1f}, slowest {1e3 * timed[-1]:.1f}), loss {loss:.4f}")


def seconds_of(run, device, evict=None, budget=0.05):
    """Mean seconds of `run` with cold caches where `evict` is given, which is then timed apart and taken off."""
    def loop(count, body):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(count):
            if evict is not None:
                evict.zero_()
            body()
        synchronize(device)
        return time.perf_counter() - start

    run()
    count = max(1, min(200, int(budget / max(loop(1, run), 1e-6))))
    both = min(loop(count, run), loop(count, run))
    return max(both - (loop(count, lambda: None) if evict is not None else 0.0), 1e-9) / count


def line(name, seconds, flops):
    print(f"{name:<62} {1e6 * seconds:>10.1f} us {flops / seconds / 1e12:>9.2f} TFLOP/s", flush=True)


def attempt(name, run, flops, device, evict):
    try:
        line(name, seconds_of(run, device, evict), flops)
    except Exception as error:  # a pair of types or a layout that this version of PyTorch does not have
        print(f"{name:<62} {type(error).__name__}: {str(error).splitlines()[0][:90]}", flush=True)


def kernels(arguments, device):
    by = lambda n: max(n // arguments.shrink, 128)
    bf16 = dict(device=device, dtype=torch.bfloat16)
    evict = torch.empty(64 << 20, device=device) if arguments.shrink == 1 else None
    tokens, hidden, latent, dense, inner, vocabulary = map(by, (8192, 2048, 512, 5632, 1408, 32768))
    heads = max(16 // arguments.shrink, 2)
    linears = [("q_proj", hidden, heads * 192), ("kv_a_proj", hidden, latent + 64), ("kv_b_proj", latent, heads * 256),
               ("o_proj", heads * 128, hidden), ("gate_up", hidden, 2 * dense), ("down", dense, hidden),
               ("lm_head", hidden, vocabulary)]
    for name, k, n in linears:
        x, w, dy = torch.randn(tokens, k, **bf16), torch.randn(n, k, **bf16), torch.randn(tokens, n, **bf16)
        shape, flops = f"{tokens} x {n} x {k}", 2 * tokens * n * k
        attempt(f"gemm bf16 {name} fwd   {shape}", lambda: x @ w.T, flops, device, evict)
        attempt(f"gemm bf16 {name} dgrad {shape}", lambda: dy @ w, flops, device, evict)
        attempt(f"gemm bf16 {name} wgrad {shape}", lambda: dy.T @ x, flops, device, evict)
        if name != "lm_head" and hasattr(torch, "float8_e4m3fn"):
            scaled_product(f"gemm_fp8 fp8 {name} fwd   {shape}", x, w, flops, device, evict)
    rows, experts = tokens * 8, max(64 // arguments.shrink, 8)
    ends = torch.tensor([rows * g * (g + 3 * experts) // (4 * experts**2) for g in range(1, experts + 1)],
                        device=device, dtype=torch.int32)
    grouped = getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    for name, k, n in [("gate_up", hidden, 2 * inner), ("down", inner, hidden)]:
        if grouped is None:
            print("this version of PyTorch has no grouped product")
            break
        x, w, dy = torch.randn(rows, k, **bf16), torch.randn(experts, n, k, **bf16), torch.randn(rows, n, **bf16)
        shape, flops = f"{experts} groups, {rows} x {n} x {k}", 2 * rows * n * k
        attempt(f"grouped_gemm bf16 {name} fwd   {shape}", lambda: grouped(x, w.mT, offs=ends), flops, device, evict)
        attempt(f"grouped_gemm bf16 {name} dgrad {shape}", lambda: grouped(dy, w, offs=ends), flops, device, evict)
        attempt(f"grouped_gemm bf16 {name} wgrad {shape}", lambda: grouped(dy.T, x, offs=ends), flops, device, evict)
    attention(heads, by(4096), tokens, device, evict)


def scaled_product(name, x, w, flops, device, evict):
    """1x128 by 128x128 scales, DeepSeek's, where cuBLASLt has them (Hopper)."""
    if not hasattr(torch, "_scaled_mm"):
        return
    fp8 = torch.float8_e4m3fn
    a, b = x.to(fp8), w.to(fp8)
    (m, k), n = x.shape, w.shape[0]
    # Outer-dimension-major scales of the activations, as the library wants them.
    of_a = torch.ones(-(-k // 128), m, device=device).T
    of_b = torch.ones(-(-n // 128), -(-k // 128), device=device)
    attempt(f"{name}, 1x128 128x128", lambda: torch._scaled_mm(a, b.T, of_a, of_b.T, out_dtype=torch.bfloat16), flops,
            device, evict)
    one = torch.ones((), device=device)
    attempt(f"{name}, one scale", lambda: torch._scaled_mm(a, b.T, one, one, out_dtype=torch.bfloat16), flops, device, evict)


def attention(heads, length, tokens, device, evict):
    bf16 = dict(device=device, dtype=torch.bfloat16)
    n = tokens // length
    q, k = (torch.randn(n, heads, length, 192, **bf16).requires_grad_() for _ in range(2))
    v = torch.randn(n, heads, length, 128, **bf16).requires_grad_()
    attend = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    flops = 2 * n * heads * (length * (length + 1) // 2) * (192 + 128)
    shape = f"bf16 {heads} of 128+64/128, {n} x {length}, one document"

    def forward():
        with torch.no_grad():
            attend()

    attempt(f"attention {shape}", forward, flops, device, evict)
    try:
        o = attend()
        d = torch.randn_like(o)
        backward = lambda: torch.autograd.grad(o, (q, k, v), d, retain_graph=True)
        # dq and dk are two products of the key's width, the scores again one; dv and dp two of the value's.
        attempt(f"attention_grad {shape}", backward, 2 * n * heads * (length * (length + 1) // 2) * (3 * 192 + 2 * 128),
                device, evict)
    except Exception as error:
        print(f"attention_grad {shape}: {error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "kernels"])
    parser.add_argument("--config", default=str(default_config()))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--state", choices=["mixed", "bf16"], default="mixed")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--experts", default="grouped_mm", choices=["auto", "eager", "grouped_mm", "batched_mm"])
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--shrink", type=int, default=1)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda":
        torch.cuda.set_device(device if device.index is not None else 0)
        print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name(device)}")
    {"train": train, "kernels": kernels}[arguments.what](arguments, device)


if __name__ == "__main__":
    main()
