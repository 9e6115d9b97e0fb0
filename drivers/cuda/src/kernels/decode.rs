//! Decoding, in primitives: storing and reading the latent cache, and attention over it.

in_primitives! {
    store_latent: StoreLatent, load_latent: LoadLatent, absorb_query: AbsorbQuery, absorb_output: AbsorbOutput,
    latent_attention: LatentAttention, chunk_attention: ChunkAttention,
}
