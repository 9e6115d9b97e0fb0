"""Exchange checkpoints with Hugging Face transformers, in both directions.

    hf_parity.py load CHECKPOINT_DIR TOKENS.json OUT.json   transformers opens a checkpoint written here
    hf_parity.py dequantize CHECKPOINT_DIR OUT_DIR          an FP8 checkpoint as float32, computed by torch
    hf_parity.py make OUT_DIR --case NAME                   transformers writes one for us to open
    hf_parity.py tokenizer DIR TEXT_FILE                    transformers tokenises with a tokenizer written here

Needs: pip install torch transformers safetensors. Nothing is downloaded. Everything runs on one CPU thread, in
float32 with eager attention, so that a run can be repeated to the bit.

Results go to stdout as one JSON object, messages to stderr. Exit status: 0 done, 1 the checkpoint or tokenizer does
not open as it should, 2 usage, 3 transformers is not installed (a caller may skip).
"""
import argparse
import json
import os
import pathlib
import re
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

try:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, DeepseekV2Config, DeepseekV3Config
except ImportError as error:
    print(f"hf_parity: {error}; pip install torch transformers safetensors", file=sys.stderr)
    sys.exit(3)

TINY = dict(
    vocab_size=96, hidden_size=40, intermediate_size=88, moe_intermediate_size=24, num_hidden_layers=3,
    first_k_dense_replace=1, num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, n_routed_experts=8,
    num_experts_per_tok=3, n_group=4, topk_group=2, routed_scaling_factor=2.5, norm_topk_prob=True, q_lora_rank=20,
    kv_lora_rank=16, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, max_position_embeddings=256,
    initializer_range=0.08, bos_token_id=0, eos_token_id=1,
)


def yarn(mscale):
    return dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64, beta_fast=32,
        beta_slow=1, mscale=mscale, mscale_all_dim=mscale,
    )


# What each case changes in TINY, after a published model of its kind.
CASES = {
    "v3": (DeepseekV3Config, dict(rope_parameters=yarn(1.0))),
    "v2": (
        DeepseekV2Config,
        dict(topk_method="group_limited_greedy", norm_topk_prob=False, routed_scaling_factor=16.0,
             n_shared_experts=2, rope_parameters=yarn(0.707)),
    ),
    "v2-lite": (
        DeepseekV2Config,
        dict(q_lora_rank=None, topk_method="greedy", n_group=1, topk_group=1, norm_topk_prob=False,
             routed_scaling_factor=1.0, n_shared_experts=2, rope_parameters=yarn(0.707)),
    ),
    "moonlight": (
        DeepseekV3Config,
        dict(q_lora_rank=None, n_group=1, topk_group=1, n_shared_experts=2, routed_scaling_factor=2.446,
             rms_norm_eps=1e-5, rope_parameters=dict(rope_type="default", rope_theta=50000.0)),
    ),
    "tied-bias": (
        DeepseekV3Config,
        dict(tie_word_embeddings=True, attention_bias=True, norm_topk_prob=False, first_k_dense_replace=0),
    ),
}


def forward(model, tokens):
    """Logits [batch, seq, vocab] for tokens[:, :-1] and the mean cross entropy of tokens[:, 1:], in nats."""
    with torch.no_grad():
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    return logits, loss


def open_checkpoint(folder):
    """The model in float32, with the keys transformers missed, did not expect, or found in another shape."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True, output_loading_info=True
    )
    return model.eval(), info


def is_mtp_key(key, config):
    """Multi-token-prediction modules follow the decoder layers; transformers' causal model leaves them out."""
    layer = re.match(r"model\.layers\.(\d+)\.", key)
    first = config.num_hidden_layers
    depth = getattr(config, "num_mtp_layers", 0)
    return layer is not None and first <= int(layer[1]) < first + depth


def load(args):
    tokens = torch.tensor(json.loads(args.tokens.read_text())["tokens"])
    model, info = open_checkpoint(args.checkpoint)
    dropped = sorted(k for k in info["unexpected_keys"] if is_mtp_key(k, model.config))
    faults = {
        "missing_keys": sorted(info["missing_keys"]),
        "unexpected_keys": sorted(k for k in info["unexpected_keys"] if not is_mtp_key(k, model.config)),
        "mismatched_keys": sorted(str(k) for k in info["mismatched_keys"]),
        "error_msgs": [str(m) for m in info.get("error_msgs") or []],
    }
    report = dict(faults, dropped_mtp_keys=len(dropped), model_type=model.config.model_type,
                  transformers=transformers.__version__)
    if not any(faults.values()):
        logits, loss = forward(model, tokens)
        values = args.out.with_suffix(".safetensors")
        save_file({"tokens": tokens, "logits": logits.contiguous(), "loss": loss.reshape(1)}, values)
        report |= dict(logits=values.name, shape=list(logits.shape), loss=float(loss))
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))
    if any(faults.values()):
        print(f"hf_parity: {args.checkpoint} does not fit the model transformers builds from it", file=sys.stderr)
        return 1
    return 0


def dequantize(args):
    """By the published rule alone: code * weight_scale_inv, block by block, in float32."""
    config = json.loads((args.checkpoint / "config.json").read_text())
    quantization = config.pop("quantization_config")
    assert (quantization["quant_method"], quantization["fmt"]) == ("fp8", "e4m3"), quantization
    rows, columns = quantization["weight_block_size"]
    tensors = {}
    for file in sorted(args.checkpoint.glob("*.safetensors")):
        tensors |= load_file(file)
    plain, codes = {}, 0
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float8_e4m3fn:
            scales = tensors[name + "_scale_inv"]
            assert scales.dtype == torch.float32, (name, scales.dtype)
            spread = scales.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
            plain[name] = (tensor.float() * spread[: tensor.shape[0], : tensor.shape[1]]).contiguous()
            codes += 1
        elif not name.endswith("_scale_inv"):
            plain[name] = tensor.float()
    args.out_dir.mkdir()
    save_file(plain, args.out_dir / "model.safetensors", metadata={"format": "pt"})
    (args.out_dir / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}))
    print(json.dumps(dict(tensors=len(plain), codes=codes)))
    return 0


def make(args):
    config_class, changes = CASES[args.case]
    # MTP weights are not part of transformers' causal model, so a V3 configuration must not announce any.
    fields = TINY | changes | (dict(num_mtp_layers=0) if config_class is DeepseekV3Config else {})
    torch.manual_seed(args.seed)
    model = AutoModelForCausalLM.from_config(config_class(**fields), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms and biases start at 1 and 0: move them, or a swapped one would not show
                parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.05 * torch.randn_like(buffer))
    biases = {n: b.clone() for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")}
    model.to(getattr(torch, args.dtype))
    for name, bias in biases.items():  # published checkpoints keep the expert bias in float32 whatever the rest is in
        parent, _, field = name.rpartition(".")
        setattr(model.get_submodule(parent), field, bias)

    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    model.save_pretrained(args.out_dir, max_shard_size=max(size // args.shards, 1) if args.shards > 1 else "1TB")
    files = sorted(args.out_dir.glob("*.safetensors"))
    if args.shards > 1 and len(files) < 2:
        sys.exit(f"hf_parity: {len(files)} file for --shards {args.shards}: the largest tensor is too large to split at")

    # What the stored numbers mean: the checkpoint read back and computed with in float32.
    model, _ = open_checkpoint(args.out_dir)
    tokens = torch.randint(0, model.config.vocab_size, (2, 49), generator=torch.Generator().manual_seed(args.seed + 1))
    logits, loss = forward(model, tokens)
    expected = args.out_dir / "expected"
    expected.mkdir(exist_ok=True)
    save_file({"tokens": tokens, "logits": logits.contiguous(), "loss": loss.reshape(1)}, expected / "expected.safetensors")
    stored = sorted({str(t.dtype).removeprefix("torch.") for f in files for t in load_file(f).values()})
    print(json.dumps(dict(case=args.case, files=[f.name for f in files], dtypes=stored, loss=float(loss),
                          expected="expected/expected.safetensors", transformers=transformers.__version__)))
    return 0


def tokenizer(args):
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(args.dir, local_files_only=True)
    text = args.text.read_bytes().decode("utf-8")
    ids = tok(text, add_special_tokens=False)["input_ids"]
    report = dict(ids=ids, vocabulary=len(tok), round_trip=tok.decode(ids, clean_up_tokenization_spaces=False) == text,
                  bos=tok.bos_token, eos=tok.eos_token, eos_id=tok.eos_token_id)
    print(json.dumps(report))
    return 0


def at_least_one(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def arguments():
    parser = argparse.ArgumentParser(
        prog="hf_parity.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sub = commands.add_parser("load", help="open a checkpoint folder and write its logits and loss")
    sub.add_argument("checkpoint", type=pathlib.Path, help="folder with config.json and model*.safetensors")
    sub.add_argument("tokens", type=pathlib.Path, help='{"tokens": [[...], ...]}: rows of one length; the last token of '
                     "a row is only a target")
    sub.add_argument("out", type=pathlib.Path, help="JSON report; logits go to the same name with .safetensors")
    sub.set_defaults(run=load)

    sub = commands.add_parser("dequantize", help="write an FP8 checkpoint again in float32")
    sub.add_argument("checkpoint", type=pathlib.Path, help="folder with config.json and model*.safetensors")
    sub.add_argument("out_dir", type=pathlib.Path, help="folder to make")
    sub.set_defaults(run=dequantize)

    sub = commands.add_parser("make", help="write a tiny random checkpoint and the logits expected of it")
    sub.add_argument("out_dir", type=pathlib.Path, help="folder to make; expected/expected.safetensors is put into it")
    sub.add_argument("--case", choices=sorted(CASES), required=True, help="which model family")
    sub.add_argument("--seed", type=int, default=0, help="of weights and tokens (default 0)")
    sub.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="float32", help="of stored weights")
    sub.add_argument("--shards", type=at_least_one, default=1, help="about this many files with an index (default 1)")
    sub.set_defaults(run=make)

    sub = commands.add_parser("tokenizer", help="print the token ids of a text as transformers sees them")
    sub.add_argument("dir", type=pathlib.Path, help="folder with tokenizer.json")
    sub.add_argument("text", type=pathlib.Path, help="UTF-8 text file")
    sub.set_defaults(run=tokenizer)
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    folder = getattr(args, "checkpoint", None) or getattr(args, "dir", None)
    if folder is not None and not folder.is_dir():  # else transformers takes the path for a name on the hub
        print(f"hf_parity {args.command}: {folder} is not a folder", file=sys.stderr)
        return 1
    try:
        return args.run(args)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        print(f"hf_parity {args.command}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
