"""Training speed of PyTorch FSDP2 over gloo: tokens per second of several processes on this machine's CPU.

    fsdp_speed.py [--ranks 2] [--threads 1] [--config configs/train_small.json] [--batch 8] [--length 256]
                  [--steps 8] [--warmup 2] [--precision f32 bf16] [--reshard | --no-reshard] [--autocast] [--compile]

Needs: pip install torch transformers==5.24.0. Nothing is downloaded. A step is forward, backward, gradient clipping and
fused AdamW on random tokens; its time is the longest of all ranks, and the median over the steps counts. bf16 is
FSDP2's mixed precision: f32 master weights and moments, BF16 weights on their way and BF16 products; with `--autocast`,
f32 weights on their way and BF16 products by autocast. Experts are computed by transformers' `grouped_mm`. `--reshard`
frees gathered weights after each layer's forward pass (ZeRO-3); without it they stay until the backward pass (ZeRO-2),
which is faster where memory allows. Both are printed by default. A row "one process" is the same step without FSDP2,
with ranks x threads threads and autocast for bf16.

Compare ratios of one sitting on a quiet machine only. docs/distributed.md has the command for `train` beside it.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

# configs/train_small.json: 20.1 M parameters.
SMALL = dict(
    vocab_size=4096, hidden_size=256, intermediate_size=704, moe_intermediate_size=128, num_hidden_layers=6,
    first_k_dense_replace=1, num_attention_heads=8, num_key_value_heads=8, n_shared_experts=1, n_routed_experts=32,
    num_experts_per_tok=4, n_group=4, topk_group=2, q_lora_rank=128, kv_lora_rank=64, qk_nope_head_dim=32,
    qk_rope_head_dim=16, v_head_dim=32, max_position_embeddings=1024, num_mtp_layers=0,
)


def measure(options, precision, mesh=None, reshard=True):
    """Median seconds of a step on all ranks, and peak resident memory of the largest rank in MiB."""
    import resource

    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    torch.manual_seed(0)
    config = json.loads(options.config.read_text()) if options.config else SMALL
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**config)).float()
    model.set_experts_implementation(options.experts)
    parameters = sum(p.numel() for p in model.parameters())
    rank, world = (mesh.get_local_rank(), mesh.size()) if mesh else (0, 1)
    if options.batch % world:
        sys.exit(f"{world} ranks do not divide {options.batch} sequences")
    bf16 = precision == "bf16"
    if mesh:
        policy = MixedPrecisionPolicy()
        if bf16 and not options.autocast:
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
        fully_shard(model, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    step_of = torch.compile(model) if options.compile else model
    generator = torch.Generator().manual_seed(rank)
    shape = (options.batch // world, options.length + 1)
    seconds = []
    for step in range(options.warmup + options.steps):
        rows = torch.randint(0, model.config.vocab_size, shape, generator=generator)
        if mesh:
            dist.barrier()
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and (options.autocast or not mesh)):
            logits = step_of(input_ids=rows[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        took = torch.tensor([time.perf_counter() - begin])
        if mesh:
            dist.all_reduce(took, dist.ReduceOp.MAX)
        seconds.append(took.item())
    peak = torch.tensor([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024])
    if mesh:
        dist.all_reduce(peak, dist.ReduceOp.MAX)
    if not torch.isfinite(loss):
        sys.exit(f"the loss is {loss.item()}")
    return dict(seconds=statistics.median(seconds[options.warmup :]), memory=peak.item(), parameters=parameters)


def run_rank(options):
    """One process of one row of the table; rank 0 writes its numbers."""
    import torch
    import torch.distributed as dist

    if options.row == "one":
        torch.set_num_threads(options.ranks * options.threads)
        options.rank_output.write_text(json.dumps(measure(options, options.precision[0])))
        return
    torch.set_num_threads(options.threads)
    dist.init_process_group("gloo")
    mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    result = measure(options, options.precision[0], mesh, options.row == "zero3")
    if dist.get_rank() == 0:
        options.rank_output.write_text(json.dumps(result))
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="threads of a rank [1]")
    parser.add_argument("--config", type=pathlib.Path, help="config.json of the model [that of configs/train_small.json]")
    parser.add_argument("--batch", type=int, default=8, help="sequences of a step, over all ranks [8]")
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence [256]")
    parser.add_argument("--steps", type=int, default=8, help="steps that count [8]")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them [2]")
    parser.add_argument("--precision", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    parser.add_argument("--experts", default="grouped_mm", choices=["grouped_mm", "batched_mm", "eager"])
    parser.add_argument("--autocast", action="store_true", help="bf16 by autocast, in place of FSDP2's mixed precision")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--reshard", action=argparse.BooleanOptionalAction, help="ZeRO-3 only, or ZeRO-2 only [both]")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--rank-output", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if options.rank_output:
        return run_rank(options)

    import torch
    import transformers

    rows = [("one", "one process"), ("zero2", f"FSDP2 x{options.ranks}, ZeRO-2"), ("zero3", f"FSDP2 x{options.ranks}, ZeRO-3")]
    if options.reshard is not None:
        rows = [row for row in rows if row[0] != ("zero2" if options.reshard else "zero3")]
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, experts {options.experts}, "
          f"batch {options.batch} x {options.length}, {options.ranks} ranks x {options.threads} threads, "
          f"{options.warmup} + {options.steps} steps{', autocast' * options.autocast}{', torch.compile' * options.compile}")
    print(f"{'':24}{'precision':>10}{'tokens/s':>10}{'step, ms':>10}{'MiB a rank':>12}{'parameters':>12}")
    threads = str(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "numbers.json"
        for precision in options.precision:
            for row, name in rows:
                own = [__file__, *sys.argv[1:], "--precision", precision, "--row", row, "--rank-output", str(output)]
                launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={options.ranks}"]
                command = [sys.executable] + ([] if row == "one" else launcher) + own
                env = dict(os.environ, **({} if row == "one" else {"OMP_NUM_THREADS": threads}))
                subprocess.run(command, check=True, env=env)
                n = json.loads(output.read_text())
                rate = options.batch * options.length / n["seconds"]
                print(f"{name:24}{precision:>10}{rate:10.0f}{n['seconds'] * 1e3:10.0f}{n['memory']:12.0f}"
                      f"{n['parameters'] / 1e6:10.1f} M", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
