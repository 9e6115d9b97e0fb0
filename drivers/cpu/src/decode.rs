//! Decoding, in primitives: storing and reading the latent cache, and attention over it.

use fathom_core::device::{
    AbsorbOutput, AbsorbQuery, ChunkAttention, LatentAttention, LoadLatent, StoreLatent, default,
};

use crate::Cpu;
use crate::error::CpuError;
use crate::memory::Buffer;

/// For each `name: Call`: the method of that name, which runs the core's default body.
macro_rules! in_primitives {
    ($($name:ident: $Call:ident,)*) => {
        impl Cpu {
            $(
                pub(crate) fn $name(&self, call: $Call<'_, Buffer>) -> Result<(), CpuError> {
                    default::$name(self, call)
                }
            )*
        }
    };
}
in_primitives! {
    store_latent: StoreLatent, load_latent: LoadLatent, absorb_query: AbsorbQuery, absorb_output: AbsorbOutput,
    latent_attention: LatentAttention, chunk_attention: ChunkAttention,
}
