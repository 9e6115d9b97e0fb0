//! The CPU driver: [`Cpu`] runs every kernel of the core on all cores, with the vector instructions the machine has.
//!
//! ```
//! use fathom_core::device::{Form, Gemm, Primitives};
//! use fathom_core::dtype::DType;
//! use fathom_core::tensor::Tensor;
//! use fathom_cpu::{Cpu, CpuError};
//!
//! /// x·wᵀ for 2 rows of 3 numbers and a weight `[4, 3]`.
//! fn product(cpu: &Cpu) -> Result<Vec<f32>, CpuError> {
//!     let x = Tensor::<Cpu>::from_slice(cpu, &[2, 3], DType::F32, &[1.0f32, 2.0, 3.0, 0.5, 0.0, -1.0])?;
//!     let w = Tensor::<Cpu>::from_slice(cpu, &[4, 3], DType::F32, &[1.0f32; 12])?;
//!     let mut y = Tensor::<Cpu>::zeros(cpu, &[2, 4], DType::F32)?;
//!     cpu.gemm(Gemm::new(Form::Nt, x.view(), w.view(), y.view_mut())?)?;
//!     y.download(cpu)
//! }
//!
//! # fn main() -> Result<(), CpuError> {
//! assert_eq!(product(&Cpu::open(1)?)?, [6.0, 6.0, 6.0, 6.0, -0.5, -0.5, -0.5, -0.5]);
//! assert_eq!(product(&Cpu::open(2)?)?, product(&Cpu::open(1)?)?); // the same bits for any number of threads
//! # Ok(())
//! # }
//! ```
//!
//! | file | what |
//! |---|---|
//! | `memory` | buffers and their pool |
//! | `mat` | views of core as slices |
//! | `par`, `team` | work split into parts that do not overlap, and the threads that share it |
//! | `simd` | loops compiled for each instruction set; `exp` with the bits of the core |
//! | `amx` | tile registers: whether this process may use them, and their shape |
//! | `real` | F32 and BF16 in memory, f32 in registers |
//! | `gemm` | matrix products of F32, BF16 and E4M3 codes: packing, the innermost tiles, plain and grouped |
//! | `gemv` | products of few rows with F32, BF16 and E4M3 weights, which are read once; absorbed projections |
//! | `factor` | F32 and BF16 as factors of attention's products |
//! | `quantize` | codes with scales: encoding and decoding |
//! | `attention`, `attention_grad`, `scores` | tiles of scores, never the whole matrix |
//! | `elementwise`, `reduce`, `index`, `norm`, `rope`, `swiglu`, `router`, `loss`, `optimizer`, `sort` | the rest |
//!
//! Three promises hold by construction, and are tested:
//!
//! - **The same bits for any number of threads.** Tasks are cut by shape alone (`par`), or where no result depends on
//!   the cut (`gemm`), and no two tasks add to the same number: partial sums go to separate places and are added in
//!   order.
//! - **A row does not feel its neighbours.** An element of a product is one chain of multiply-adds along the inner
//!   dimension, cut at multiples of a constant; neither the number of rows nor the place in a tile changes it.
//! - **Nothing outside its buffers is touched,** whatever index tensors hold.
//!
//! It computes in f32, over activations that are F32 or BF16 in memory (`real`). Statistics, weights of norms and the
//! optimiser's weights are F32.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod attention_grad;
mod decode;
mod elementwise;
mod error;
mod factor;
mod gemm;
mod gemv;
mod index;
mod kernels;
mod loss;
mod mat;
mod memory;
mod norm;
mod optimizer;
mod par;
mod quantize;
mod real;
mod reduce;
mod rope;
mod router;
mod sample;
mod scores;
mod simd;
mod sort;
mod swiglu;
mod team;

use std::sync::Arc;

use fathom_core::device::{Capabilities, Device, MemoryUse};
use fathom_core::error::{ErrorKind, InvalidOp};
use rayon::ThreadPoolBuilder;

pub use error::CpuError;
pub use memory::Buffer;
use memory::Memory;
pub use simd::{Isa, MAX_ISA};
use team::Team;

/// The CPU device: all cores of this machine. Clones share threads and memory.
#[derive(Clone)]
pub struct Cpu(Arc<Inner>);

struct Inner {
    team: Team,
    memory: Arc<Memory>,
    isa: Isa,
}

impl Cpu {
    /// Opens a device with as many threads as the machine has.
    ///
    /// # Panics
    /// Where [`open`](Self::open) fails.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self::with_threads(0)
    }

    /// Opens a device with `threads` threads; 0 for as many as the machine has. Results do not depend on the number.
    ///
    /// # Panics
    /// Where [`open`](Self::open) fails.
    pub fn with_threads(threads: usize) -> Self {
        Self::open(threads).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Opens a device with `threads` threads that uses the instructions of `isa`.
    ///
    /// # Panics
    /// If the system gives no threads.
    pub fn with(threads: usize, isa: Isa) -> Self {
        Self::build(threads, isa).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Opens a device with `threads` threads (0: as many as the machine has) and the best instructions, up to
    /// [`MAX_ISA`].
    ///
    /// # Errors
    /// Where [`MAX_ISA`] names no instruction set, or the system gives no threads.
    pub fn open(threads: usize) -> Result<Self, CpuError> {
        Self::build(threads, Isa::detect()?)
    }

    fn build(threads: usize, isa: Isa) -> Result<Self, CpuError> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("fathom-cpu-{i}")).build();
        let failed = |e| CpuError::new(ErrorKind::Other, format!("cannot start the threads of the CPU device: {e}"));
        let pool = pool.map_err(failed)?;
        Ok(Self(Arc::new(Inner { team: Team::new(pool), memory: Arc::default(), isa })))
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.0.team.threads()
    }

    /// Vector instruction set in use.
    pub fn isa(&self) -> Isa {
        self.0.isa
    }

    fn team(&self) -> &Team {
        &self.0.team
    }

    /// Scratch of `n` numbers of undefined value.
    fn alloc_f32(&self, n: usize) -> Result<Buffer, CpuError> {
        self.0.memory.alloc(n * size_of::<f32>())
    }
}

impl Device for Cpu {
    type Error = CpuError;
    type Buffer = Buffer;

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("cpu")
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer, CpuError> {
        self.0.memory.alloc(bytes)
    }

    fn upload(&self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) -> Result<(), CpuError> {
        let found = buffer.len();
        let place = offset
            .checked_add(bytes.len())
            .and_then(|end| buffer.elements_mut::<u8>().get_mut(offset..end))
            .ok_or_else(|| outside("upload", offset.saturating_add(bytes.len()), found))?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<(), CpuError> {
        let place = offset
            .checked_add(bytes.len())
            .and_then(|end| buffer.elements::<u8>().get(offset..end))
            .ok_or_else(|| outside("download", offset.saturating_add(bytes.len()), buffer.len()))?;
        bytes.copy_from_slice(place);
        Ok(())
    }

    fn host_bytes<'a>(&self, buffer: &'a Buffer) -> Option<&'a [u8]> {
        Some(buffer.elements::<u8>())
    }

    fn host_bytes_mut<'a>(&self, buffer: &'a mut Buffer) -> Option<&'a mut [u8]> {
        Some(buffer.elements_mut::<u8>())
    }

    fn flush(&self) -> Result<(), CpuError> {
        Ok(())
    }

    fn memory(&self) -> MemoryUse {
        self.0.memory.usage()
    }
}

fn outside(op: &'static str, end: usize, bytes: usize) -> CpuError {
    InvalidOp::above(op, "the end of the transfer", end, "the size of the buffer", bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_core::error::DeviceError;

    #[test]
    fn copies_stay_inside_the_buffer() {
        let cpu = Cpu::with_threads(1);
        let mut buffer = cpu.alloc(10).unwrap();
        cpu.upload(&mut buffer, 4, &[7; 6]).unwrap();
        let mut back = [0; 6];
        cpu.download(&buffer, 4, &mut back).unwrap();
        assert_eq!(back, [7; 6]);
        for offset in [5, 11, usize::MAX] {
            assert_eq!(cpu.upload(&mut buffer, offset, &[0; 6]).unwrap_err().kind(), ErrorKind::Shape);
            assert_eq!(cpu.download(&buffer, offset, &mut back).unwrap_err().kind(), ErrorKind::Shape);
        }
    }

    #[test]
    fn a_type_it_does_not_compute_in_is_refused_by_name() {
        use fathom_core::DType;
        use fathom_core::device::{Unary, UnaryOp};
        let cpu = Cpu::with_threads(1);
        let mut y = fathom_core::tensor::Tensor::<Cpu>::zeros(&cpu, &[2, 2], DType::F16).unwrap();
        let error = cpu.unary(Unary::new(UnaryOp::Exp, y.view_mut()).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("F16"), "{error}");
    }
}
