//! How a GPU is used, and what came of it.

/// How the GPU is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Replays work of a shape that was seen before as a CUDA graph. Off: every launch begins at once.
    pub graphs: bool,
    /// Leaves dense products to cuBLASLt, where it is installed.
    pub blas: bool,
    /// Waits after every launch, so that an error names the kernel it is of. Slow.
    pub check: bool,
}

impl Default for Options {
    /// Graphs and cuBLASLt on, checks off, unless the environment says otherwise: `FATHOM_CUDA_GRAPHS=0`,
    /// `FATHOM_CUDA_BLAS=0`, `FATHOM_CUDA_CHECK=1`.
    fn default() -> Self {
        let set = |name: &str, default: bool| match std::env::var(name).as_deref() {
            Ok("0" | "false" | "off") => false,
            Ok("1" | "true" | "on") => true,
            _ => default,
        };
        Self {
            graphs: set("FATHOM_CUDA_GRAPHS", true),
            blas: set("FATHOM_CUDA_BLAS", true),
            check: set("FATHOM_CUDA_CHECK", false),
        }
    }
}

impl Options {
    /// The same, with graphs or without.
    #[must_use]
    pub fn with_graphs(self, graphs: bool) -> Self {
        Self { graphs, ..self }
    }

    /// The same, with cuBLASLt or without.
    #[must_use]
    pub fn with_blas(self, blas: bool) -> Self {
        Self { blas, ..self }
    }

    /// The same, with a wait after every launch or without.
    #[must_use]
    pub fn with_check(self, check: bool) -> Self {
        Self { check, ..self }
    }
}

/// What became of the work so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GraphUse {
    /// Commands (launches, products, small uploads) that were issued one by one.
    pub issued: u64,
    /// Commands that ran as part of a graph.
    pub replayed: u64,
    /// Graphs made.
    pub captured: u64,
    /// Launches of graphs.
    pub launches: u64,
    /// Kernels in graphs whose arguments had to be changed.
    pub updated: u64,
    /// Why a list of commands could not be made a graph, the last time that happened.
    pub refused: Option<String>,
}
