#!/usr/bin/env python3
"""Writes seeds/: small inputs that take every target past its first checks. The standard library alone, but for those of
Parquet and Arrow, which need pyarrow and otherwise stay as they are."""
import gzip, hashlib, json, pathlib, random, struct

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

# Choice: the format, and from 16 on the compression (see the target).
TEXT, LINES, HTML, JSONL, CSV, TSV, WARC, PARQUET, ARROW = range(9)
PLAIN, GZ, ZST, IN_GZ = 0, 16, 32, 48

def gz(data):
    # Stored rather than compressed, so that mutations reach the content.
    return gzip.compress(data, compresslevel=0, mtime=0)

def zst(data):
    # One frame of one raw block: magic, "single segment" with a size of two bytes, block header, content.
    return (b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", len(data) - 256) + struct.pack("<I", len(data) << 3 | 1)[:3] + data)

def warc_record(kind, content, *more):
    fields = ["WARC/1.0", f"WARC-Type: {kind}", "WARC-Record-ID: <urn:uuid:1>", "WARC-Target-URI: http://example.com/a",
              *more, f"Content-Length: {len(content)}"]
    return "\r\n".join(fields).encode() + b"\r\n\r\n" + content + b"\r\n\r\n"

paragraph = "<p>One sentence that is long enough to be the main text of a page, and then another one, and so on to its end.</p>"
page = f"<!doctype html><html><head><meta charset=utf-8><title>A page</title></head><body><nav><a href=/>home</a></nav><article><h1>Title</h1>{paragraph * 3}<ul><li>an item</li></ul><table><tr><td>a cell</table></article></body></html>".encode()
http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(page), page)
records = [
    warc_record("warcinfo", b"software: none\r\n"),
    warc_record("response", http + b"\r\n" + page, "Content-Type: application/http; msgtype=response"),
    warc_record("response", http + b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n" + chunked,
                "Content-Type: application/http; msgtype=response"),
    warc_record("response", b"HTTP/1.1 404 Not Found\r\n\r\n", "Content-Type: application/http; msgtype=response"),
]
wet = warc_record("conversion", b"Plain text of a page.\nIts second line.\n", "Content-Type: text/plain")
jsonl = (b'{"text": "one", "id": 1, "url": "http://a/"}\r\n\n{oops\n{"text": ""}\n{"text": "tw\\no \\ud83d\\ude42"}\n[3]\n\xff\n'
         b'{"text": "last", "id": "x"}' + b"\n" * 256)
csv = b'id,"text",url\r\n1,"a, ""quoted""\nline",http://a/\r\n\r\n2,plain\n3\n4,"",x\n5,\xff,\n6,"open " end",u,more\n7,last'
inputs = {"text": (TEXT, b"\xef\xbb\xbfa text\nof two lines"), "text-latin": (TEXT, b"caf\xe9"),
          "lines": (LINES, b"one\n\n two \r\n\xff\xfe\nthree"), "html": (HTML, page),
          "html-charset": (HTML, page.replace(b"utf-8", b"shift_jis")), "html-open": (HTML, b"<div><b><p>" * 40 + b"text"),
          "jsonl": (JSONL, jsonl), "csv": (CSV, csv), "tsv": (TSV, b'text\tid\na,b\t1\n"c\td"\t2\n'),
          "warc": (WARC, b"".join(records)), "wet": (WARC, wet)}
for name, (kind, data) in inputs.items():
    write("readers", name, bytes([kind]) + data)
    write("readers", name + ".gz", bytes([kind | GZ]) + gz(data))
    if len(data) >= 256:
        write("readers", name + ".zst", bytes([kind | ZST]) + zst(data))
write("readers", "warc-members.gz", bytes([WARC | GZ]) + b"".join(map(gz, records)))
write("readers", "wet-inside.gz", bytes([WARC | IN_GZ]) + wet * 3)
write("readers", "jsonl-inside.gz", bytes([JSONL | IN_GZ]) + jsonl)

try:
    import io, pyarrow, pyarrow.parquet
    table = pyarrow.table({"id": range(9), "text": ["one", None, "", "four", "five", "six", "six", "six", "nine"],
                           "meta": [{"url": f"http://{i}/"} for i in range(9)]})
    for name, options in {"plain": dict(compression="none", use_dictionary=False), "snappy": dict(compression="snappy"),
                          "zstd": dict(compression="zstd", data_page_version="2.0")}.items():
        out = io.BytesIO()
        pyarrow.parquet.write_table(table, out, row_group_size=4, store_schema=False, **options)
        write("readers", f"parquet-{name}", bytes([PARQUET]) + out.getvalue())
    for name, new, compression in (("file", pyarrow.ipc.new_file, None), ("stream", pyarrow.ipc.new_stream, None),
                                   ("lz4", pyarrow.ipc.new_file, "lz4"), ("zstd", pyarrow.ipc.new_stream, "zstd")):
        out = io.BytesIO()
        coded = table.set_column(1, "text", table["text"].dictionary_encode()) if name == "stream" else table
        with new(out, coded.schema, options=pyarrow.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_table(coded, max_chunksize=4)
        write("readers", f"arrow-{name}", bytes([ARROW]) + out.getvalue())
except ImportError:
    print("pyarrow is not installed: Parquet and Arrow seeds stay as they are")

# A pair of files: the length of the first in two bytes, then both.
def pair(width, *documents):
    code, kind = {2: (8, "H"), 4: (4, "i")}[width]
    tokens = [token for document in documents for token in document]
    data = struct.pack(f"<{len(tokens)}{kind}", *tokens)
    lengths, at = [len(document) for document in documents], [0]
    for length in lengths:
        at.append(at[-1] + length * width)
    n = len(documents)
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, n, n + 1) + struct.pack(f"<{n}i", *lengths)
    index += struct.pack(f"<{n}q", *at[:-1]) + struct.pack(f"<{n + 1}q", *range(n + 1))
    return b"\0" + struct.pack("<H", len(data)) + data + index

write("shards", "u16", pair(2, [1, 2, 256], [], [3, 256], [4, 5, 6, 7, 256]))
write("shards", "i32", pair(4, [70000, 2, 1], [-1, 5]))
write("shards", "none", pair(2))

# The manifest of the folder that the target prepares: two documents of the byte tokenizer, of 4 and 8 tokens.
file = {"bytes": 0, "sha256": "0" * 64}
manifest = {
    "format": "fathom-shards", "version": 1, "fingerprint": "0" * 64,
    "tokenizer": {"kind": "bytes", "fingerprint": "0" * 64, "vocab_size": 257, "eos_id": 256, "bos_id": None},
    "inputs": {"files": 1, "bytes": 38, "parts": 1, "sha256": "0" * 64}, "pipeline": {},
    "stages": [{"name": "read", "kept": 2, "dropped": {"bad record": 1}, "changed": {"stripped": 1}}],
    "languages": {"eng": 2}, "dedup": {"urls": 0, "exact": 0, "near": 0, "clusters": 0, "largest_cluster": 0},
    "train": {"documents": 2, "tokens": 12, "text_bytes": 10, "lengths": [0, 0, 1, 1],
              "shards": [{"name": "train-00000", "documents": 2, "tokens": 12, "bin": file | {"bytes": 24},
                          "idx": file | {"bytes": 34 + 12 * 2 + 8 * 3}, "docs": file}]}}
def checked(manifest):
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json.dumps(manifest | {"checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()
write("shards", "manifest", b"\1" + checked(manifest))
write("shards", "manifest-long", b"\1" + json.dumps(manifest | {"validation": {
    "documents": 2**64 - 1, "tokens": 5, "text_bytes": 2**64 - 1, "lengths": [2**63] * 70, "shards": []}}).encode())

line = {"file": 0, "bytes": [0, 16], "id": "a", "url": "http://a/", "language": "eng", "scores": {"language.confidence": 0.5}}
lines = "".join(json.dumps(line) + "\n" for _ in range(2)).encode()
write("shards", "documents", b"\3" + lines)
write("shards", "documents-raw", b"\2" + zst(lines + b"\n" * 256))
write("shards", "sources", b"\4" + json.dumps({"path": "input.jsonl", "bytes": 38}).encode() + b"\n")
stored = b"".join(struct.pack("<II", len(h), len(t)) + h + t for h, t in [(lines[:-1].split(b"\n")[0], b"a text")] * 3)
write("shards", "stored", b"\6" + stored)
write("shards", "stored-raw", b"\5" + zst(stored + stored))

# Requests, one a line: ids, text, conversations with tools, every parameter; a line that is refused.
call = {"type": "function", "function": {"name": "f", "arguments": {"x": [1.5, None, True]}}}
chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "caf\u00e9"},
        {"role": "assistant", "content": "<think>hm</think> yes"}, {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": [{"type": "text", "text": "9"}]}]
write("requests", "tokens", b'{"tokens": [1, 2, 255], "max_new_tokens": 4, "temperature": 0, "stop": ["a", "\\n"], "logprobs": 2}\n')
write("requests", "prompts", "\n".join([
    json.dumps({"prompt": "a\u00e9\U0001f600", "temperature": 0.7, "top_k": 3, "top_p": 0.9, "min_p": 0.05, "seed": 7}), "",
    json.dumps({"prompt": "b", "repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": -0.5,
                "logit_bias": {"3": -1.5}, "stop_tokens": [4], "stop": "x", "ignore_eos": True})]).encode())
write("requests", "chat", json.dumps({"messages": chat, "tools": [call], "max_new_tokens": 2}).encode())
write("requests", "wrong", b'{"prompt": "a", "top_p": 3}\n{"prompt": "a", "tokens": [1]}\n{"promt": 1}\n\xff')

# Bodies of requests to `serve`: every field, a stream, a conversation with tools, what is refused.
write("bodies", "completion", json.dumps({
    "model": "m", "prompt": ["a", "caf\u00e9"], "n": 2, "max_tokens": 5, "echo": True, "logprobs": 3, "stop": ["a", "\n"], "seed": -1,
    "temperature": 0.7, "top_p": 0.9, "top_k": -1, "min_p": 0.05, "frequency_penalty": 0.5, "logit_bias": {"3": -1.5},
    "stop_token_ids": [4], "ignore_eos": True, "user": "u"}).encode())
write("bodies", "tokens", b'{"prompt": [[1, 2], [255]], "stream": true, "stream_options": {"include_usage": true}}')
write("bodies", "fill", b'{"prompt": "a", "suffix": "b"}')
write("bodies", "chat", json.dumps({
    "messages": chat + [{"role": "assistant", "content": "a", "prefix": True, "reasoning_content": "r"}], "tools": [call],
    "tool_choice": "auto", "thinking": {"type": "enabled"}, "chat_template_kwargs": {"x": [1]}, "logprobs": True, "top_logprobs": 2,
    "max_completion_tokens": 5, "response_format": {"type": "text"}}).encode())
write("bodies", "wrong", b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}')
write("bodies", "thinking", b'<think>\nfirst < then\n</think>\n\nanswer')

# Targets that make their inputs from bytes: bytes of no meaning, few and many; the first one chooses that way.
def bytes_of(target, choices, lengths=(24, 96, 400), count=2):
    rng = random.Random(target)
    for choice in choices:
        for length in lengths:
            for i in range(count):
                write(target, f"bytes-{choice}-{length}-{i}", bytes([choice]) + rng.randbytes(length))

bytes_of("checkpoints", (0, 1), lengths=(8, 24, 96))
bytes_of("tokenizer_json", (1,), count=4)
bytes_of("chat_template", (1, 3))
bytes_of("task_files", (1,), count=4)
bytes_of("settings", (1,), lengths=(8, 24, 96), count=4)
bytes_of("plan", (0, 1), lengths=(4, 12, 48), count=4)
# One change each, so that what is behind the first error is reached too.
write("checkpoints", "whole", b"\0")
write("checkpoints", "delete", bytes([0, 3, 0]))
write("checkpoints", "cut", bytes([0, 5, 1, 7]))
write("checkpoints", "flip-repaired", bytes([1, 6, 3, 40, 1, 0, 0]))

def alphabet():
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(b if b in plain else next(rest)) for b in range(256)]

def tokenizer(merges, pre, added=()):
    vocab = alphabet() + [left + right for left, right in merges]
    tokens = [{"id": len(vocab) + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
               "normalized": normalized, "special": special}
              for i, (text, normalized, special) in enumerate([("<|endoftext|>", False, True), *added])]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": None,
            "pre_tokenizer": pre, "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {token: i for i, token in enumerate(vocab)}, "merges": [list(m) for m in merges]}}

byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
digits = {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}"}, "behavior": "Isolated", "invert": False}
words = [("a", "b"), ("ab", "c"), ("\u0120", "a"), ("t", "h"), ("th", "e"), ("\u0120", "the")]
for name, file in {
    "gpt2": tokenizer(words, byte_level),
    "sequence": tokenizer(words, {"type": "Sequence", "pretokenizers": [digits, byte_level | {"use_regex": False}]},
                          [("<|user|>", False, True), ("  ", True, False), ("ab", True, False)]),
}.items():
    write("tokenizer_json", name, b"\0" + json.dumps(file).encode() + b"\0the ab  abc 12345 <|user|><|endoftext|>caf\xc3\xa9")

# Chat templates in the style of published ones, and a conversation made of the bytes behind them.
templates = {
    "plain": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}"
             "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'User: ' + m['content'] + '\\n\\n' }}"
             "{% elif m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
             "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    "thinking": "{% set ns = namespace(system='', last=false) %}{%- for m in messages %}{%- if m.role == 'system' %}"
                "{% set ns.system = ns.system + m.content %}{%- endif %}{%- if m.role == 'assistant' and m.content is not none %}"
                "{{ m.content.split('</think>')[-1] | trim }}{%- endif %}{%- endfor -%}{{ ns.system }}",
    "tools": "{% generation %}{% for m in messages %}{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments | tojson(indent=2) }}"
             "{% else %}{{ m | tojson }}{% endif %}{% endfor %}{% endgeneration %}{{ tools | tojson(sort_keys=true) }}"
             "{{ strftime_now('%d %b %Y') }}{% if messages | length > 3 %}{{ raise_exception('too many') }}{% endif %}",
}
templates["empty-tag"] = "{{ a }}{%}{% generation %}{%%}"
for name, template in templates.items():
    write("chat_template", name, b"\2" + template.encode() + b"\0\x03" + random.Random(name).randbytes(120))

for path in sorted((here.parents[1] / "bins/tasks").glob("*.toml"))[::4]:
    items = [{"question": "q", "answer": "#### 4", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}]
    write("task_files", path.stem, b"\0" + path.read_bytes() + b"\0" + b"\0".join(json.dumps(i).encode() for i in items))

write("settings", "file", b"\0[model]\npreset = 'small'\nrope_scaling = { factor = 4.0 }\n[train]\nsteps = 20\nprecision = 'bf16'\n"
      b"[schedule]\ndecay = 'cosine'\nwarmup_tokens = 100\n[data]\npath = 'data'\n[input]\npaths = ['a', 'b']\n"
      b"\0train.batch_size=4\0schedule.batch_start=2\0schedule.batch_ramp_tokens=1000\0train.micro_batch_size=1")
write("settings", "sources", b"\0[data.sources.a]\npath = 'x'\nweight = 0.5\n[data.sources.b]\npath = 'y'\nweight = 2\n[filter.c4]\nenabled = true\n")
