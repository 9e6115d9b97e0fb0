"""The precision policies BF16 and FP8 of the training step, written a second time in PyTorch.

    python fp8_reference.py tests/golden CASE...     # needs: pip install torch transformers safetensors

reads the checkpoint in tests/golden/CASE and writes policies.safetensors beside it:
    tokens             [batch, seq + 1] i64  inputs are tokens[:, :-1], targets tokens[:, 1:]
    stride             [1] i64               see grad
    POLICY.loss        [1] f32               mean cross entropy; POLICY is exact, bf16 or fp8
    POLICY.experts     [layers, t, K] i64    the experts of every token, best first, in each layer that has experts
    POLICY.grad.NAME   f32                   d loss / d parameter, names as in model.safetensors; of a matrix only the
                                             rows 0, stride, 2 * stride, ..., to keep the file small; not of exact

`exact` rounds nothing. It is compared with golden.safetensors, and so this model with Hugging Face's: the script stops
where loss or gradients differ by more than f32 does.

What a policy is: a model in exact arithmetic (float64 here) in which some tensors are rounded. Four nodes do it all:

    stored(x)    a tensor that lies in memory: it is rounded to BF16, and so is its gradient
    statistic(x) one that is f32 in every policy: logits, routing weights; and so is its gradient
    product(..)  x @ w.T, whose three products (output, input gradient, weight gradient) read BF16 or FP8 factors
    fork(x)      a tensor that two parts of a layer read, whose gradient is rounded after each part adds to it

Nothing else is rounded, so what is left of a difference to another implementation is the order of its sums. In FP8 that
can be much: where a number lies between two codes, the last bit of a sum decides, and the scale of a tile is one element's.
The FP8 recipe is section 3.3 of the DeepSeek-V3 report (arXiv:2412.19437).
"""
import argparse, dataclasses, json, pathlib
import torch, torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding, yarn_apply_mscale

torch.set_default_dtype(torch.float64)
policy = "exact"  # the one in force; exact, bf16 or fp8

# ---------------------------------------------------------------------------------------------------- rounding

def to_mantissa(x, bits, lowest):
    """`x` with `bits` of mantissa, to nearest even, in steps no finer than those of the binade from `2^lowest`."""
    exponent = torch.frexp(x).exponent.clamp(min=lowest + 1)  # |x| < 2^exponent
    unit = torch.ldexp(torch.ones_like(x), exponent - 1 - bits)
    return torch.round(x / unit) * unit

def bf16(x):
    """Rounded once: `x.float().bfloat16()` would round twice."""
    return x if policy == "exact" else to_mantissa(x, 7, -126)

def f32(x):
    return x if policy == "exact" else x.float().double()

def e4m3(x):
    return x.clamp(-448.0, 448.0).to(torch.float8_e4m3fn).float()

def e5m6(x):
    """Five bits of exponent and six of mantissa, to nearest even. PyTorch has no such type."""
    return to_mantissa(x.clamp(-65024.0, 65024.0), 6, -14)

def quantized(x, tile, pow2=False, code=e4m3, largest=448.0):
    """`x [r, c]` as a product reads it from codes: every tile of `tile = (rows, columns)` is divided by its scale, which
    maps its largest magnitude to the largest code, encoded, and multiplied by the scale again. Scales are f32, and with
    `pow2` rounded up to a power of two."""
    (r, c), (rows, cols) = x.shape, tile
    rows, cols = min(rows, r), min(cols, c)  # a tile ends at the matrix's edge
    down, across = -(-r // rows), -(-c // cols)
    padded = F.pad(x.float(), (0, across * cols - c, 0, down * rows - r)).view(down, rows, across, cols)
    scale = padded.abs().amax(dim=(1, 3), keepdim=True) / torch.tensor(largest, dtype=torch.float32)
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    if pow2:
        mantissa, exponent = torch.frexp(scale)  # mantissa in [0.5, 1)
        scale = torch.exp2((exponent - (mantissa == 0.5).int()).float())
    y = code(padded / scale).double() * scale.double()
    return y.view(down * rows, across * cols)[:r, :c]

ROW, COLUMN, BLOCK = (1, 128), (128, 1), (128, 128)

class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, value, gradient):
        ctx.gradient = gradient
        return value(x)

    @staticmethod
    def backward(ctx, dy):
        return ctx.gradient(dy), None, None

def stored(x):
    return Rounded.apply(x, bf16, bf16)

def statistic(x):
    return Rounded.apply(x, f32, f32)

class Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone(), x.clone()

    @staticmethod
    def backward(ctx, first, then):
        return bf16(bf16(first) + then)

def fork(x):
    """`x` for the part of a layer that writes its gradient first, and for the one that then adds to it."""
    return Fork.apply(x)

# ---------------------------------------------------------------------------------------------------- products

@dataclasses.dataclass(frozen=True)
class Factor:
    """How an FP8 product's activations, or their gradient, become codes."""
    pow2: bool = False
    # It came as codes in 1x128 tiles from another rank: the 128x1 tiles of the weight's gradient are made from those.
    dispatched: bool = False

    def rows(self, x):
        return quantized(x, ROW, self.pow2)

    def columns(self, x):
        return quantized(self.rows(x) if self.dispatched else x, COLUMN, self.pow2)

PLAIN = Factor()
ATTENTION_OUTPUT = Factor(pow2=True)
DISPATCHED = Factor(pow2=True, dispatched=True)

class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kept, w, fp8, x_as, dy_as):
        ctx.fp8, ctx.x_as, ctx.dy_as = fp8, x_as, dy_as
        w = quantized(w, BLOCK) if fp8 else bf16(w)
        ctx.save_for_backward(x if kept is None else kept, w)
        return (x_as.rows(x) if fp8 else x) @ w.T

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        if not ctx.fp8:
            return dy @ w, None, dy.T @ x, None, None, None
        dx = ctx.dy_as.rows(dy) @ w
        dw = ctx.dy_as.columns(dy).T @ ctx.x_as.columns(x)
        return dx, None, dw, None, None, None

def product(x, w, kept=None, x_as=PLAIN, dy_as=PLAIN, lowest="fp8"):
    """`x @ w.T`. The gradient of `w` is computed from `kept`, where the backward pass has that in place of `x`."""
    return Product.apply(x, kept, w, policy == lowest == "fp8", x_as, dy_as)

# ---------------------------------------------------------------------------------------------------- layers

class RmsNorm(torch.autograd.Function):
    """`x * rstd * w`, where the backward pass has `rstd = 1 / rms(x)` in f32."""
    @staticmethod
    def forward(ctx, x, w, eps):
        rstd = torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, w, f32(rstd))
        return x * rstd * w

    @staticmethod
    def backward(ctx, dy):
        x, w, rstd = ctx.saved_tensors
        normed, g = x * rstd, dy * w
        return rstd * (g - normed * (g * normed).mean(-1, keepdim=True)), (dy * normed).sum(0), None

def rmsnorm(x, w, eps):
    return stored(RmsNorm.apply(x, w, eps))

class Swiglu(torch.autograd.Function):
    """`silu(gate) * up * weight`, and the same from `gate` and `up` as they are kept: as E4M3 in FP8. Only those are
    there in the backward pass, for their own gradients and for the down projection's."""
    @staticmethod
    def compute(gate, up, weight):
        return F.silu(gate) * up * weight

    @staticmethod
    def forward(ctx, gate, up, weight):
        kept = [bf16(quantized(x, ROW)) if policy == "fp8" else x for x in (gate, up)]
        ctx.save_for_backward(*kept, weight)
        again = bf16(Swiglu.compute(*kept, weight))
        ctx.mark_non_differentiable(again)
        return Swiglu.compute(gate, up, weight), again

    @staticmethod
    def backward(ctx, dy, _):
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            return torch.autograd.grad(Swiglu.compute(*inputs), inputs, dy)

def feed_forward(x, w, name, weight=None, x_as=PLAIN, dy_as=PLAIN):
    """`W_down(silu(W_gate x) * W_up x * weight)`, not yet rounded. `weight [t, 1]` is a routed expert's."""
    weight = torch.ones(x.shape[0], 1) if weight is None else weight
    gate, up = (stored(product(x, w[f"{name}.{part}_proj.weight"], x_as=x_as)) for part in ("gate", "up"))
    activated, kept = Swiglu.apply(gate, up, weight)
    return product(stored(activated), w[f"{name}.down_proj.weight"], kept=kept, dy_as=dy_as)

class Sigmoid(torch.autograd.Function):
    """In f32, the gradient from the rounded result."""
    @staticmethod
    def forward(ctx, x):
        y = f32(torch.sigmoid(x))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        y, = ctx.saved_tensors
        return dy * y * (1 - y)

def route(x, w, name, c):
    """The experts `[t, K]` of every token and their weights `[t, K]`: `noaux_tc`, in f32 in every policy."""
    t, groups = x.shape[0], c.n_group
    scores = Sigmoid.apply(statistic(x @ w[f"{name}.gate.weight"].T))
    biased = (scores + w[f"{name}.gate.e_score_correction_bias"]).detach()
    best_two = biased.view(t, groups, -1).topk(2, dim=-1).values.sum(-1)
    open_groups = torch.zeros(t, groups).scatter(1, best_two.topk(c.topk_group).indices, 1.0).bool()
    is_open = open_groups.repeat_interleave(c.n_routed_experts // groups, 1)
    experts = biased.masked_fill(~is_open, -torch.inf).topk(c.num_experts_per_tok).indices
    weights = scores.gather(1, experts)
    if c.norm_topk_prob:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return experts, statistic(weights * c.routed_scaling_factor)

def mixture(x, y, w, name, c, chosen):
    """`y + moe(x)`. Rows go to the experts and their gradients come back as they are dispatched."""
    rest, for_shared = fork(x)
    for_experts, for_router = fork(rest)
    experts, weights = route(for_router, w, name, c)
    chosen.append(experts)
    routed = torch.zeros_like(x)
    for e in range(c.n_routed_experts):
        token, choice = torch.where(experts == e)
        if len(token) == 0:
            continue
        rows = stored(for_experts[token])
        weight = weights[token, choice].unsqueeze(1)
        out = stored(feed_forward(rows, w, f"{name}.experts.{e}", weight, DISPATCHED, DISPATCHED))
        routed = routed.index_add(0, token, out)
    return stored(stored(y + routed) + feed_forward(for_shared, w, f"{name}.shared_experts"))

class Attention(torch.autograd.Function):
    """Causal softmax attention, `q, k [n, h, s, .]`, `v [n, h, s, value]`, to `[n, s, h * value]`; and its output as it
    is kept: as E5M6 in FP8. The gradient of softmax needs the output, `dS = P * (dP - o . do)`, and reads that one."""
    @staticmethod
    def forward(ctx, q, k, v, scale):
        n, h, s, _ = q.shape
        seen = torch.ones(s, s, dtype=torch.bool).tril()
        scores = (q @ k.mT * scale).masked_fill(~seen, -torch.inf)
        o = bf16(scores.softmax(-1) @ v).transpose(1, 2).reshape(n * s, -1)
        kept = bf16(quantized(o, ROW, pow2=True, code=e5m6, largest=65024.0)) if policy == "fp8" else o.clone()
        ctx.scale = scale
        ctx.save_for_backward(q, k, v, torch.exp(scores - f32(scores.logsumexp(-1, keepdim=True))), kept)
        ctx.mark_non_differentiable(kept)
        return o, kept

    @staticmethod
    def backward(ctx, do, _):
        q, k, v, p, kept = ctx.saved_tensors
        n, h, s, value = v.shape
        do, o = (x.view(n, s, h, value).transpose(1, 2) for x in (bf16(do), kept))
        ds = ctx.scale * p * (do @ v.mT - (o * do).sum(-1, keepdim=True))
        return ds @ k, ds.mT @ q, p.mT @ do, None

def rotated(x, cos, sin):
    """Rotates the pairs of neighbours of `x [n, s, h, rope]` by the angles of their positions."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

def attention(x, y, w, name, c, n, rope):
    """`y + attention(x)`, multi-head latent attention of `n` sequences."""
    def projected(x, part):
        return stored(product(x, w[f"{name}.{part}.weight"]))
    s, h, nope = x.shape[0] // n, c.num_attention_heads, c.qk_nope_head_dim
    for_keys, for_queries = fork(x)
    if c.q_lora_rank is None:
        q = projected(for_queries, "q_proj")
    else:
        q = rmsnorm(projected(for_queries, "q_a_proj"), w[f"{name}.q_a_layernorm.weight"], 1e-6)
        q = projected(q, "q_b_proj")
    q_nope, q_pe = q.view(n, s, h, -1).split([nope, c.qk_rope_head_dim], -1)
    latent, k_pe = projected(for_keys, "kv_a_proj_with_mqa").split([c.kv_lora_rank, c.qk_rope_head_dim], -1)
    kv = projected(rmsnorm(latent, w[f"{name}.kv_a_layernorm.weight"], 1e-6), "kv_b_proj")
    k_nope, v = kv.view(n, s, h, -1).split([nope, c.v_head_dim], -1)
    q_pe, k_pe = stored(rotated(q_pe, *rope)), stored(rotated(k_pe.view(n, s, 1, -1), *rope))
    q, k = torch.cat((q_nope, q_pe), -1), torch.cat((k_nope, k_pe.expand(-1, -1, h, -1)), -1)
    scale = yarn_apply_mscale(c.rope_parameters, (nope + c.qk_rope_head_dim) ** -0.5)
    o, kept = Attention.apply(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale)
    return stored(y + product(o, w[f"{name}.o_proj.weight"], kept=kept, x_as=ATTENTION_OUTPUT))

def loss_of(w, c, tokens):
    """The mean loss of `tokens [n, s + 1]`, and the experts of every token by layer."""
    n, s = tokens.shape[0], tokens.shape[1] - 1
    embedding = DeepseekV3RotaryEmbedding(c)
    angle = torch.arange(s, dtype=torch.float32)[:, None] * embedding.inv_freq.float()
    rope = [(f(angle.double()) * embedding.attention_scaling).float().double().view(1, s, 1, -1) for f in (torch.cos, torch.sin)]
    chosen = []
    x = stored(w["model.embed_tokens.weight"][tokens[:, :-1].flatten()])
    for layer in range(c.num_hidden_layers):
        name = f"model.layers.{layer}"
        normed = rmsnorm(x, w[f"{name}.input_layernorm.weight"], c.rms_norm_eps)
        x = attention(normed, x, w, f"{name}.self_attn", c, n, rope)
        normed = rmsnorm(x, w[f"{name}.post_attention_layernorm.weight"], c.rms_norm_eps)
        if layer < c.first_k_dense_replace:
            x = stored(x + feed_forward(normed, w, f"{name}.mlp"))
        else:
            x = mixture(normed, x, w, f"{name}.mlp", c, chosen)
    x = rmsnorm(x, w["model.norm.weight"], c.rms_norm_eps)
    logits = Rounded.apply(product(x, w["lm_head.weight"], lowest="bf16"), f32, bf16)
    return F.cross_entropy(logits, tokens[:, 1:].flatten()), chosen

# ---------------------------------------------------------------------------------------------------- files

def weights_of(folder):
    """The checkpoint's tensors; codes in 128x128 blocks are multiplied by their scales in f32."""
    stored = load_file(folder / "model.safetensors")
    weights = {}
    for name, x in stored.items():
        if name.endswith("_scale_inv"):
            continue
        x = x.float()
        if name + "_scale_inv" in stored:
            scale = stored[name + "_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
            x = x * scale[: x.shape[0], : x.shape[1]]
        weights[name] = x.double().requires_grad_("e_score_correction_bias" not in name)
    return weights

def run(folder, config, tokens, of):
    """The loss, the experts chosen, and all gradients under policy `of`."""
    global policy
    policy, w = of, weights_of(folder)
    loss, chosen = loss_of(w, config, tokens)
    loss.backward()
    grads = {n: torch.zeros_like(x) if x.grad is None else x.grad for n, x in w.items() if x.requires_grad}
    return loss.detach(), torch.stack(chosen), grads

def distance(grads, others):
    """The relative L2 distance of all gradients together."""
    error = sum((grads[n] - x).square().sum() for n, x in others.items())
    return float((error / sum(x.double().square().sum() for x in others.values())).sqrt())

def check_exact(folder, config):
    """Compares this model, nothing rounded, with what transformers computed."""
    golden = load_file(folder / "golden.safetensors")
    loss, _, grads = run(folder, config, golden["tokens"], "exact")
    theirs = {n.removeprefix("grad."): x for n, x in golden.items() if n.startswith("grad.")}
    off = abs(float(loss - golden["loss"])), distance(grads, theirs) if theirs else 0.0
    print(f"{folder.name}: exact against transformers, loss off by {off[0]:.1e}, {len(theirs)} gradients by {off[1]:.1e}")
    assert max(off) < 1e-5, "this model is not theirs"
    return golden["tokens"]

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("golden", type=pathlib.Path)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--stride", type=int, default=3, help="rows of a matrix from one that is written to the next")
    parser.add_argument("--tokens", type=int, nargs=2, metavar=("BATCH", "SEQ"),
                        help="shape of random tokens that replace those of golden.safetensors")
    options = parser.parse_args()
    for folder in (options.golden / case for case in options.cases):
        config = DeepseekV3Config(**json.loads((folder / "config.json").read_text()))
        assert not config.attention_bias and not config.tie_word_embeddings, "neither is written here"
        tokens = check_exact(folder, config)
        if options.tokens:
            batch, seq = options.tokens
            tokens = torch.randint(0, config.vocab_size, (batch, seq + 1), generator=torch.Generator().manual_seed(1))
        out, exact = {"tokens": tokens, "stride": torch.tensor([options.stride])}, None
        for of in ("exact", "bf16", "fp8"):
            loss, chosen, grads = run(folder, config, tokens, of)
            exact = exact or (chosen, grads)
            moved = int((chosen.sort().values != exact[0].sort().values).any(-1).sum())
            print(f"{folder.name} {of}: loss {float(loss):.6f}, gradients off exact by {distance(grads, exact[1]):.4f}, "
                  f"{moved} of {chosen[..., 0].numel()} tokens go to other experts; "
                  f"rows of experts {chosen.flatten(1)[0].bincount().tolist()} in the first layer")
            out[f"{of}.loss"], out[f"{of}.experts"] = loss.float().reshape(1), chosen
            for name, grad in grads.items():
                rows = grad[:: options.stride] if grad.ndim > 1 else grad
                if of != "exact":
                    out[f"{of}.grad.{name}"] = rows.float().contiguous()
        save_file(out, folder / "policies.safetensors")

if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
