//! Counts of a model, by arithmetic alone: parameters, FLOPs per token, KV cache per token.
//!
//! All counts saturate instead of wrapping, so that validation can bound them.

use super::ModelConfig;

fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product, &factor| product.saturating_mul(factor as u64))
}

fn sum(terms: &[u64]) -> u64 {
    terms.iter().fold(0, |sum, &term| sum.saturating_add(term))
}

/// Values in a checkpoint, by part.
///
/// The main model is counted by part; `mtp` is everything the multi-token-prediction modules add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParameterCount {
    /// Token embedding, `vocab_size · hidden_size`.
    pub embedding: u64,
    /// Projections of latent attention, all layers, with their biases but without its norms.
    pub attention: u64,
    /// Feed-forward layers of the dense blocks.
    pub dense_ffn: u64,
    /// Routed experts, all of them.
    pub routed_experts: u64,
    /// Shared experts.
    pub shared_experts: u64,
    /// Router weights.
    pub router: u64,
    /// `e_score_correction_bias`: state that is not trained by gradients but is part of a checkpoint.
    pub expert_bias: u64,
    /// Parameters of all norms: two per block, the latent ones, the final one.
    pub norms: u64,
    /// Output projection; 0 where it is tied to the embedding.
    pub head: u64,
    /// Parameters that the MTP modules add to the shared ones: a block, three norms and `eh_proj` each.
    pub mtp: u64,
    /// The modules' copies of embedding and head, which published checkpoints store and training shares.
    pub mtp_copies: u64,
    /// Parameters of the main model that take part in computing one token.
    active: u64,
    /// Parameters among the active ones that stand in a matrix product.
    active_matmul: u64,
    /// The same for the multi-token-prediction modules, their pass through the shared head included.
    mtp_active_matmul: u64,
}

/// Values in one transformer block, by part.
#[derive(Clone, Copy, Default)]
struct Block {
    attention: u64,
    attention_bias: u64,
    dense_ffn: u64,
    routed_experts: u64,
    chosen_experts: u64,
    shared_experts: u64,
    router: u64,
    expert_bias: u64,
    norms: u64,
}

impl Block {
    fn of(config: &ModelConfig, index: usize) -> Self {
        let hidden = config.hidden_size;
        let mut block = Block::attention(config);
        if config.is_moe_layer(index) {
            let expert = product(&[3, hidden, config.moe_intermediate_size]);
            block.routed_experts = expert.saturating_mul(config.n_routed_experts as u64);
            block.chosen_experts = expert.saturating_mul(config.num_experts_per_tok as u64);
            block.shared_experts = expert.saturating_mul(config.n_shared_experts as u64);
            block.router = product(&[hidden, config.n_routed_experts]);
            block.expert_bias = if config.has_expert_bias() { config.n_routed_experts as u64 } else { 0 };
        } else {
            block.dense_ffn = product(&[3, hidden, config.intermediate_size]);
        }
        block
    }

    /// Attention and norms, which every block has.
    fn attention(config: &ModelConfig) -> Self {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let query = product(&[heads, config.qk_head_dim()]);
        let (query_projection, query_rank) = match config.q_lora_rank {
            Some(rank) => (sum(&[product(&[hidden, rank]), query.saturating_mul(rank as u64)]), rank),
            None => (query.saturating_mul(hidden as u64), 0),
        };
        let kv_b = product(&[config.kv_lora_rank, heads]);
        let attention = sum(&[
            query_projection,
            product(&[hidden, config.latent_dim()]),
            kv_b.saturating_mul((config.qk_nope_head_dim + config.v_head_dim) as u64),
            product(&[heads, config.v_head_dim, hidden]),
        ]);
        let biases = query_rank + config.latent_dim() + hidden;
        Block {
            attention,
            attention_bias: if config.attention_bias { biases as u64 } else { 0 },
            norms: (2 * hidden + query_rank + config.kv_lora_rank) as u64,
            ..Block::default()
        }
    }

    fn stored(&self) -> u64 {
        let Block { attention, attention_bias, dense_ffn, routed_experts, shared_experts, router, norms, .. } = *self;
        sum(&[attention, attention_bias, dense_ffn, routed_experts, shared_experts, router, self.expert_bias, norms])
    }

    /// Values a token is multiplied with.
    fn active_matmul(&self) -> u64 {
        sum(&[self.attention, self.dense_ffn, self.chosen_experts, self.shared_experts, self.router])
    }

    fn active(&self) -> u64 {
        sum(&[self.active_matmul(), self.attention_bias, self.expert_bias, self.norms])
    }
}

impl ParameterCount {
    /// Counts the parameters of `config`.
    pub fn of(config: &ModelConfig) -> Self {
        let hidden = config.hidden_size as u64;
        let embedding = product(&[config.vocab_size, config.hidden_size]);
        let head = if config.tie_word_embeddings { 0 } else { embedding };
        let mut count = ParameterCount { embedding, head, norms: hidden, active: hidden, ..ParameterCount::default() };
        for layer in 0..config.num_hidden_layers {
            count.add(&Block::of(config, layer));
        }
        // The head multiplies every token, tied or not; of the embedding only one row is read.
        count.active = sum(&[count.active, embedding]);
        count.active_matmul = sum(&[count.active_matmul, embedding]);

        let modules = config.num_nextn_predict_layers;
        let eh_proj = product(&[2, config.hidden_size, config.hidden_size]);
        for layer in config.num_hidden_layers..config.num_hidden_layers + modules {
            let block = Block::of(config, layer);
            // enorm, hnorm, shared_head.norm.
            count.mtp = sum(&[count.mtp, block.stored(), eh_proj, 3 * hidden]);
            count.mtp_active_matmul = sum(&[count.mtp_active_matmul, block.active_matmul(), eh_proj, embedding]);
            count.mtp_copies = sum(&[count.mtp_copies, embedding, head]);
        }
        count
    }

    fn add(&mut self, block: &Block) {
        let parts = [
            (&mut self.attention, sum(&[block.attention, block.attention_bias])),
            (&mut self.dense_ffn, block.dense_ffn),
            (&mut self.routed_experts, block.routed_experts),
            (&mut self.shared_experts, block.shared_experts),
            (&mut self.router, block.router),
            (&mut self.expert_bias, block.expert_bias),
            (&mut self.norms, block.norms),
            (&mut self.active, block.active()),
            (&mut self.active_matmul, block.active_matmul()),
        ];
        for (total, part) in parts {
            *total = total.saturating_add(part);
        }
    }

    /// Values of the main model, expert biases included: what "671B" counts.
    pub fn parameters(&self) -> u64 {
        let experts = [self.routed_experts, self.shared_experts, self.router, self.expert_bias];
        sum(&[self.embedding, self.attention, self.dense_ffn, sum(&experts), self.norms, self.head])
    }

    /// Values of a published checkpoint: the main model, the multi-token-prediction modules, and the modules' copies of
    /// embedding and head.
    pub fn parameters_with_mtp(&self) -> u64 {
        sum(&[self.parameters(), self.mtp, self.mtp_copies])
    }

    /// Values training holds: as [`parameters_with_mtp`](Self::parameters_with_mtp), embedding and head shared.
    pub fn parameters_in_training(&self) -> u64 {
        sum(&[self.parameters(), self.mtp])
    }

    /// Values of the main model that take part in computing one token: everything but the experts not chosen and the
    /// embedding table, of which a token reads a single row. The head counts, tied or not.
    ///
    /// By this convention V3 has 36.6 B (published: 37 B) and V2 20.9 B (published: 21 B).
    pub fn active_parameters(&self) -> u64 {
        self.active
    }

    /// The [active](Self::active_parameters) values that stand in a matrix product: without norms and biases.
    pub fn active_matmul_parameters(&self) -> u64 {
        self.active_matmul
    }

    /// The same for one pass through all multi-token-prediction modules, each with its pass through the shared head.
    pub fn mtp_active_matmul_parameters(&self) -> u64 {
        self.mtp_active_matmul
    }
}

impl ModelConfig {
    /// Floating-point operations of training the main model on one token of sequences of `sequence` tokens; a
    /// multiplication and an addition count as two.
    ///
    /// `6 · active_matmul_parameters + 6 · layers · heads · (qk_head_dim + v_head_dim) · (sequence + 1) / 2`: two
    /// operations a weight in the forward pass and four in the backward pass; and the same for the two products of
    /// attention, over the `(sequence + 1) / 2` keys a token sees on average under the causal mask. Recomputation,
    /// norms, softmax and the optimiser are not counted. The forward pass alone is a third of it.
    pub fn flops_per_token(&self, sequence: usize) -> u64 {
        let weights = ParameterCount::of(self).active_matmul_parameters();
        sum(&[weights.saturating_mul(6), self.attention_flops(self.num_hidden_layers, sequence)])
    }

    /// FLOPs per token that the MTP modules add to [`flops_per_token`](Self::flops_per_token).
    pub fn mtp_flops_per_token(&self, sequence: usize) -> u64 {
        let weights = ParameterCount::of(self).mtp_active_matmul_parameters();
        sum(&[weights.saturating_mul(6), self.attention_flops(self.num_nextn_predict_layers, sequence)])
    }

    fn attention_flops(&self, layers: usize, sequence: usize) -> u64 {
        let widths = self.qk_head_dim() + self.v_head_dim;
        product(&[3, layers, self.num_attention_heads, widths]).saturating_mul(sequence as u64 + 1)
    }
}

/// Bytes of cache a token takes in the main model, in two-byte (BF16) values, and what they are compared with.
///
/// The published comparison at 128K tokens, "213 GB → 7.6 GB, 28×", is `hidden_wide` against `latent_only`:
/// `2 · 7168 · 61 · 2` bytes a token, an attention whose keys and values are each as wide as the hidden state, against
/// `512 · 61 · 2`, both times 131,072 tokens: 213.5 and 7.625 when a GB is 2³⁰ bytes, a ratio of exactly 28. It leaves
/// out the rotary key, which is cached too ([`latent`](Self::latent), 8.58), and V3's heads are together wider than the
/// hidden state ([`multi_head`](Self::multi_head), 610).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCache {
    /// What is cached: latent and rotary key, `(kv_lora_rank + qk_rope_head_dim) · layers · 2`. 70,272 for V3.
    pub latent: u64,
    /// The same for one layer. 1,152 for V3.
    pub latent_per_layer: u64,
    /// Bytes that the MTP modules add if they draft tokens.
    pub mtp: u64,
    /// The latent alone, `kv_lora_rank · layers · 2`.
    pub latent_only: u64,
    /// Keys and values as wide as the hidden state, `2 · hidden_size · layers · 2`.
    pub hidden_wide: u64,
    /// This model's own heads uncompressed, `heads · (qk_head_dim + v_head_dim) · layers · 2`.
    pub multi_head: u64,
}

impl KvCache {
    /// Bytes of a BF16 value.
    const VALUE: usize = 2;
    /// The context of the published comparison, in tokens.
    pub const PUBLISHED_CONTEXT: u64 = 128 * 1024;

    /// Cache sizes of `config`.
    pub fn of(config: &ModelConfig) -> Self {
        let layers = config.num_hidden_layers;
        let latent_per_layer = product(&[config.latent_dim(), Self::VALUE]);
        let head = config.qk_head_dim() + config.v_head_dim;
        KvCache {
            latent: latent_per_layer.saturating_mul(layers as u64),
            latent_per_layer,
            mtp: latent_per_layer.saturating_mul(config.num_nextn_predict_layers as u64),
            latent_only: product(&[config.kv_lora_rank, layers, Self::VALUE]),
            hidden_wide: product(&[2, config.hidden_size, layers, Self::VALUE]),
            multi_head: product(&[config.num_attention_heads, head, layers, Self::VALUE]),
        }
    }

    /// The published comparison: `(from, to, ratio)` in bytes at [`PUBLISHED_CONTEXT`](Self::PUBLISHED_CONTEXT) tokens.
    /// Divide by 2³⁰ for the published gigabytes.
    pub fn published_comparison(&self) -> (u64, u64, f64) {
        Self::compare(self.hidden_wide, self.latent_only)
    }

    /// The same with the rotary key in the cache.
    pub fn comparison_with_rope_key(&self) -> (u64, u64, f64) {
        Self::compare(self.hidden_wide, self.latent)
    }

    /// What is cached against this model's own heads, uncompressed.
    pub fn comparison_with_multi_head(&self) -> (u64, u64, f64) {
        Self::compare(self.multi_head, self.latent)
    }

    fn compare(from: u64, to: u64) -> (u64, u64, f64) {
        let at = |bytes: u64| bytes.saturating_mul(Self::PUBLISHED_CONTEXT);
        (at(from), at(to), from as f64 / to as f64)
    }
}
