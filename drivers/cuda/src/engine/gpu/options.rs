//! Switches of the GPU engine: graphs, cuBLASLt, and a check after every launch.

/// Switches of the GPU engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Replays a repeated list of commands as a CUDA graph. Off: every command is issued at once.
    pub graphs: bool,
    /// Computes dense products by cuBLASLt where it is installed.
    pub blas: bool,
    /// Uses kernels of warpgroups where there are, on GPUs of compute capability 9.0.
    pub hopper: bool,
    /// Waits after every launch, so that an error names its kernel. Slow.
    pub check: bool,
}

impl Default for Options {
    /// Graphs and cuBLASLt on, kernels of warpgroups and checks off, unless the environment says otherwise:
    /// `FATHOM_CUDA_GRAPHS=0`, `FATHOM_CUDA_BLAS=0`, `FATHOM_CUDA_HOPPER=1`, `FATHOM_CUDA_CHECK=1`.
    fn default() -> Self {
        let set = |name: &str, default: bool| match std::env::var(name).as_deref() {
            Ok("0" | "false" | "off") => false,
            Ok("1" | "true" | "on") => true,
            _ => default,
        };
        Self {
            graphs: set("FATHOM_CUDA_GRAPHS", true),
            blas: set("FATHOM_CUDA_BLAS", true),
            hopper: set("FATHOM_CUDA_HOPPER", false),
            check: set("FATHOM_CUDA_CHECK", false),
        }
    }
}

impl Options {
    /// These options with CUDA graphs on or off.
    #[must_use]
    pub fn with_graphs(self, graphs: bool) -> Self {
        Self { graphs, ..self }
    }

    /// These options with cuBLASLt on or off.
    #[must_use]
    pub fn with_blas(self, blas: bool) -> Self {
        Self { blas, ..self }
    }

    /// These options with kernels of warpgroups on or off.
    #[must_use]
    pub fn with_hopper(self, hopper: bool) -> Self {
        Self { hopper, ..self }
    }

    /// These options with the wait after every launch on or off.
    #[must_use]
    pub fn with_check(self, check: bool) -> Self {
        Self { check, ..self }
    }
}
