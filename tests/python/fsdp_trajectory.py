"""Reference of a data-parallel training run: 20 steps of PyTorch FSDP2 on two gloo ranks, on a CPU in float32.

    fsdp_trajectory.py DIR [--ranks 2] [--seed 400]     makes DIR: checkpoint, tokens, losses and norms
    fsdp_trajectory.py DIR --again [--ranks 4]          trains DIR's checkpoint again and compares with DIR/trajectory.json
    fsdp_trajectory.py DIR --metrics RUN/metrics.jsonl  compares a run of `train` with DIR/trajectory.json

Needs: pip install torch transformers==5.24.0 numpy (--metrics needs nothing). Nothing is downloaded. DIR holds

    config.json, model.safetensors   a random DeepSeek-V3 model of 3 layers and 8 experts, written by transformers
    tokens.bin, tokens.idx           one document of 20 x 8 x 64 + 1 tokens, in Megatron's format: `data.path=DIR/tokens`
    trajectory.json                  loss before each step and gradient norm before clipping, by FSDP2 and without it

The recipe: sequence k is tokens 64k ... 64k + 64, in the file's order; a step takes 8 of them. AdamW with learning rate
2e-3, beta 0.9 and 0.95, eps 1e-8, weight decay 0.1 on matrices and 0 on vectors; gradients are clipped to norm 0.05,
below every norm of the run, so that a wrong norm changes the weights. The expert bias stays, there is no balance loss and
no multi-token prediction. The same with `train`:

    train --output RUN --set train.init=DIR --set data.path=DIR/tokens --set data.shuffle=false --set train.steps=20 \\
      --set train.batch_size=8 --set train.micro_batch_size=2 --set train.sequence_length=64 --set train.clip_norm=0.05 \\
      --set schedule.lr=2e-3 --set schedule.bias_speed=0 --set schedule.balance_alpha=0 --set train.eval_every=0

Routing is a choice: where two experts are nearly tied for a token, another rounding may choose the other one, and all
later losses differ in the third digit. With most seeds such a tie comes up within the 20 steps. So seeds are tried, from
--seed on, until noise of 1e-6 on all weights, a few times that of rounding, moves no loss by more than 5e-5.

Three runs are printed beside each other: FSDP2, the same model in one process, and that in float64. The last says how far
rounding alone moves the numbers. Exit status: 0 done, 1 two runs differ by more than LOSS or NORM below, 2 usage.
"""
import argparse
import json
import os
import pathlib
import struct
import subprocess
import sys

STEPS, BATCH, LENGTH = 20, 8, 64
LOSS, NORM = 5e-5, 1e-4  # largest difference of a loss, in nats; largest relative difference of a norm
RECIPE = dict(lr=2e-3, betas=(0.9, 0.95), eps=1e-8)
DECAY, CLIP = 0.1, 0.05
NOISE = 1e-6  # relative, on all weights
CONFIG = dict(
    vocab_size=256, hidden_size=64, intermediate_size=160, moe_intermediate_size=24, num_hidden_layers=3,
    first_k_dense_replace=1, num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, n_routed_experts=8,
    num_experts_per_tok=2, n_group=4, topk_group=2, routed_scaling_factor=2.5, norm_topk_prob=True, q_lora_rank=32,
    kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, max_position_embeddings=64,
    rope_theta=10000.0, initializer_range=0.08, num_mtp_layers=0, bos_token_id=0, eos_token_id=1,
)


def make_checkpoint(folder, seed):
    """A random model with gains of norms off 1 and an expert bias off 0."""
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    torch.manual_seed(seed)
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**CONFIG)).float()
    with torch.no_grad():
        for _, p in model.named_parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
        for name, b in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                b.copy_(0.05 * torch.randn_like(b))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def make_tokens(folder, seed):
    """A Markov chain in which each token has four successors, so that there is something to learn in 20 steps."""
    import numpy

    draw = numpy.random.Generator(numpy.random.PCG64(seed))
    vocabulary, count = CONFIG["vocab_size"], STEPS * BATCH * LENGTH + 1
    successors = draw.integers(0, vocabulary, size=(vocabulary, 4))
    token, tokens = 0, []
    for choice in draw.integers(0, 4, size=count):
        token = int(successors[token, choice])
        tokens.append(token)
    (folder / "tokens.bin").write_bytes(struct.pack(f"<{count}H", *tokens))
    # Magic, version 1, type 8 (u16), one sequence, two document entries; its length, its place, where documents begin.
    index = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, 1, 2) + struct.pack("<iqqq", count, 0, 0, 1)
    (folder / "tokens.idx").write_bytes(index)


def train(folder, dtype, mesh=None, noise=None):
    """Losses and gradient norms of the run, in this process or, with a mesh, on all of its ranks. `noise` is the seed of
    noise on the weights."""
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from transformers import DeepseekV3ForCausalLM

    model = DeepseekV3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.set_experts_implementation("eager")
    model = model.to(dtype).train()
    if noise is not None:
        generator = torch.Generator().manual_seed(noise)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 + NOISE * torch.randn(p.shape, generator=generator))
    rank, world = (mesh.get_local_rank(), mesh.size()) if mesh else (0, 1)
    if BATCH % world:
        sys.exit(f"{world} ranks do not divide {BATCH} sequences")
    if mesh:
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [dict(params=matrices, weight_decay=DECAY), dict(params=vectors, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, **RECIPE)
    stream = (folder / "tokens.bin").read_bytes()
    stream = torch.tensor(struct.unpack(f"<{len(stream) // 2}H", stream), dtype=torch.int64)
    losses, norms = [], []
    for step in range(STEPS):
        starts = [(step * BATCH + row) * LENGTH for row in range(rank, BATCH, world)]
        rows = torch.stack([stream[start : start + LENGTH + 1] for start in starts])
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = loss.detach().double()
        if mesh:
            dist.all_reduce(loss)  # every rank has the same number of targets
        losses.append(loss.item() / world)
        norms.append(norm.item())
    return dict(loss=losses, grad_norm=norms)


def make(folder, seed):
    """Checkpoint and tokens whose run does not hang on rounding. Returns the seed and the run in one process."""
    import torch

    while True:
        make_checkpoint(folder, seed)
        make_tokens(folder, seed)
        plain = train(folder, torch.float32)
        noisy = (train(folder, torch.float32, noise=draw) for draw in (1, 2, 3))
        if all(max(abs(a - b) for a, b in zip(run["loss"], plain["loss"])) <= LOSS for run in noisy):
            return seed, plain
        print(f"seed {seed}: experts are nearly tied for some token", file=sys.stderr, flush=True)
        seed += 1


def train_rank(folder, output):
    """One rank of the FSDP2 run; rank 0 writes the numbers."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    result = train(folder, torch.float32, mesh)
    if dist.get_rank() == 0:
        output.write_text(json.dumps(result))
    dist.destroy_process_group()


def train_ranks(folder, ranks):
    """The FSDP2 run on `ranks` processes of this machine."""
    output = folder / "ranks.tmp"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = launcher + [__file__, str(folder), "--rank-output", str(output)]
    subprocess.run(command, check=True, env=dict(os.environ, OMP_NUM_THREADS="1"))
    result = json.loads(output.read_text())
    output.unlink()
    return result


def read_metrics(path):
    """Losses and norms of a run's metrics.jsonl, a step a line."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    rows = sorted((row for row in rows if "loss" in row), key=lambda row: row["step"])
    return dict(loss=[row["loss"] for row in rows], grad_norm=[row["grad_norm"] for row in rows])


def compare(runs):
    """Prints runs beside each other. Returns whether all of them are within LOSS and NORM of the first."""
    (first, reference), *others = runs
    lengths = {name: len(run["loss"]) for name, run in runs}
    if set(lengths.values()) != {STEPS}:
        print(f"every run must have {STEPS} steps: {lengths}")
        return False
    print("step  " + "".join(f"{'loss, ' + name:>20}{'norm':>15}" for name, _ in runs))
    for step in range(STEPS):
        print(f"{step + 1:4}  " + "".join(f"{r['loss'][step]:20.9f}{r['grad_norm'][step]:15.9f}" for _, r in runs))
    within = True
    for name, run in others:
        loss = max(abs(a - b) for a, b in zip(run["loss"], reference["loss"]))
        norm = max(abs(a / b - 1) for a, b in zip(run["grad_norm"], reference["grad_norm"]))
        print(f"{name} against {first}: largest difference in loss {loss:.1e}, in norm {norm:.1e} relative")
        within &= loss <= LOSS and norm <= NORM
    if min(reference["grad_norm"]) <= CLIP:
        print(f"a norm of {min(reference['grad_norm'])} is not clipped to {CLIP}")
        return False
    return within


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--ranks", type=int, default=2, help="gloo ranks of the FSDP2 run [2]")
    parser.add_argument("--seed", type=int, default=400, help="first seed of weights and tokens to try [400]")
    parser.add_argument("--again", action="store_true", help="train DIR's checkpoint again and compare")
    parser.add_argument("--metrics", type=pathlib.Path, help="compare this metrics.jsonl with DIR/trajectory.json")
    parser.add_argument("--rank-output", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if options.rank_output:
        return train_rank(folder, options.rank_output)

    stored = folder / "trajectory.json"
    if options.metrics:
        reference = json.loads(stored.read_text())
        return 0 if compare([("FSDP2", reference["fsdp2"]), ("train", read_metrics(options.metrics))]) else 1

    import torch
    import transformers

    torch.set_num_threads(1)
    if options.again:
        reference = json.loads(stored.read_text())
        runs, plain = [("stored", reference["fsdp2"])], train(folder, torch.float32)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        options.seed, plain = make(folder, options.seed)
        runs = []
    fsdp2 = train_ranks(folder, options.ranks)
    double = train(folder, torch.float64)
    within = compare(runs + [(f"FSDP2 x{options.ranks}", fsdp2), ("one process", plain), ("float64", double)])
    if within and not options.again:
        about = dict(torch=torch.__version__, transformers=transformers.__version__, ranks=options.ranks, seed=options.seed)
        text = json.dumps(dict(made_with=about, fsdp2=fsdp2, one_process=plain, one_process_f64=double), indent=1)
        stored.write_text(text + "\n")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
