#!/usr/bin/env python3
"""Writes seeds/: small inputs that take every target past its first checks. The standard library alone."""
import json, pathlib, struct

here = pathlib.Path(__file__).parent / "seeds"

def write(target, name, data):
    folder = here / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)

def floats(*x):
    return struct.pack(f"<{len(x)}f", *x)

# Ordinary numbers, ties, the ends of each format and of f32, and what is not a number.
write("codes", "numbers", floats(0.0, -0.0, 1.0625, -1.1875, 448.0, 464.0, 57344.0, 65024.0, 2.0**-9, 2.0**-10, 2.0**-17,
                                 1e-40, 3.4e38, float("inf"), float("nan"), 2.0**-127))

# Choice (1 and 2: tiling, 4: power of two, from 16: format), part, columns, rows, groups, offset: see the target.
def quantize(choice, part, cols, rows, groups, *x):
    return struct.pack("<BHHBBB", choice, part, cols, rows, groups, 0) + floats(*x)

some = [(-1.0) ** i * 2.0 ** (i % 40 - 20) for i in range(300)]
write("quantize", "row", quantize(0, 150, 300, 1, 0, *some))
write("quantize", "pairs", quantize(4 + 32, 150, 300, 1, 0, *some))
write("quantize", "column", quantize(1, 0, 2, 150, 0, *some))
write("quantize", "groups", quantize(2 + 4, 0, 1, 255, 3, *some))
write("quantize", "block", quantize(3 + 16, 65, 2, 130, 0, *some))
write("quantize", "huge", quantize(0, 4, 4, 1, 0, 3.4e38, -1e30, 1e-45, 0.0))
write("quantize", "nan", quantize(3, 1, 4, 1, 0, 1.0, float("nan"), 2.0, float("inf")))

def linear(prefix, *names):
    return {f"{prefix}.{name}.weight": shape for name, shape in names}

def layer(i, ffn):
    p = f"model.layers.{i}"
    norms = {f"{p}.{n}.weight": [4] for n in ("input_layernorm", "post_attention_layernorm", "self_attn.kv_a_layernorm")}
    attention = linear(f"{p}.self_attn", ("q_proj", [4, 4]), ("kv_a_proj_with_mqa", [6, 4]), ("kv_b_proj", [4, 4]),
                       ("o_proj", [4, 2]))
    return norms | attention | ffn(f"{p}.mlp")

def swiglu(prefix, width):
    return linear(prefix, ("gate_proj", [width, 4]), ("up_proj", [width, 4]), ("down_proj", [4, width]))

def experts(p):
    all = {f"{p}.gate.weight": [2, 4], f"{p}.gate.e_score_correction_bias": [2]}
    for name in ("experts.0", "experts.1", "shared_experts"):
        all |= swiglu(f"{p}.{name}", 2)
    return all

# The model whose configuration the target has.
tensors = {"model.embed_tokens.weight": [8, 4], "lm_head.weight": [8, 4], "model.norm.weight": [4]}
tensors |= layer(0, lambda p: swiglu(p, 4)) | layer(1, experts)

def safetensors(choice, fp8):
    header, data = {}, b""
    def add(name, dtype, shape, values):
        nonlocal data
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    for name, shape in tensors.items():
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        if fp8 and "_proj" in name:
            add(name, "F8_E4M3", shape, bytes(48 + i % 16 for i in range(n)))
            add(name + "_scale_inv", "F32", [1, 1], floats(0.25))
        elif choice == 2:
            add(name, "BF16", shape, b"\x80\x3f" * n)
        else:
            add(name, "F32", shape, floats(*(0.5 for _ in range(n))))
    text = json.dumps(header, separators=(",", ":")).encode()
    return bytes([choice]) + struct.pack("<Q", len(text)) + text + data

write("safetensors", "plain", safetensors(0, False))
write("safetensors", "bf16", safetensors(2, False))
write("safetensors", "fp8", safetensors(1, True))
write("safetensors", "empty", b"\0" + struct.pack("<Q", 2) + b"{}")

v3 = {"model_type": "deepseek_v3", "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32,
      "num_hidden_layers": 3, "first_k_dense_replace": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
      "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 4, "topk_group": 2,
      "routed_scaling_factor": 2.5, "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
      "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
      "max_position_embeddings": 512, "rope_theta": 1e4, "rms_norm_eps": 1e-6, "num_nextn_predict_layers": 1,
      "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32,
                       "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
      "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}}
v2 = {"model_type": "deepseek_v2", "vocab_size": 100, "hidden_size": 32, "n_routed_experts": None, "q_lora_rank": None,
      "num_attention_heads": 2, "hidden_act": "silu", "eos_token_id": [1, 2], "tie_word_embeddings": True,
      "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}
for name, config in (("v3", v3), ("v2", v2), ("smallest", {"model_type": "deepseek_v3"})):
    write("config_json", name, json.dumps(config).encode())
