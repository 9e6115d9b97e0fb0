//! The CUDA driver: [`Cuda`] runs the core's kernels on an NVIDIA GPU, or emulates them on the CPU.
//!
//! | module | contents |
//! |---|---|
//! | `device` | [`Cuda`] and its implementation of [`Device`](fathom_core::device::Device) |
//! | `kernels` | one file per subject: checked calls of the core become launches |
//! | `blas` | which dense products go to cuBLASLt, and in which layout |
//! | `engine` | machines that run launches: `gpu`, `emulator` |
//! | `launch`, `tensor_map` | a kernel's name, grid and argument; matrices as bulk copies see them |
//! | `memory` | device memory and its pool |
//! | `report` | error reports of kernels |
//! | `source`, `cache` | kernel source texts, and compiled kernels on disk |
//! | `compile`, `cublaslt`, `library` | bindings of NVRTC and cuBLASLt, and the search for NVIDIA's libraries |
//! | `nccl` | collectives between GPUs: [`Nccl`] |
//! | [`check`] | registers, stack and spills of compiled kernels, without a GPU |
//! | `../kernels/*.cu` | the kernels in CUDA C++, one file per subject; `fathom.cuh` documents the language they use |
//!
//! Neither building this crate nor starting a program that uses it needs CUDA: [`Cuda::count`] is 0 without an NVIDIA
//! driver. A machine with a GPU needs NVIDIA's driver (580 or later) and, unless all kernels are in the cache, NVRTC
//! 13; cuBLASLt 13 is used if it is found, and several GPUs need NCCL 2.19 or later.
//!
//! | variable | meaning |
//! |---|---|
//! | `FATHOM_CUDA_LIBRARIES` | folders with NVRTC, cuBLASLt and NCCL, searched first |
//! | `FATHOM_CUDA_NCCL` | the file of NCCL; no other is tried |
//! | `FATHOM_CUDA_CACHE` | folder of compiled kernels |
//! | `FATHOM_CUDA_GRAPHS` | 0: issue every launch at once, without CUDA graphs |
//! | `FATHOM_CUDA_BLAS` | 0: no cuBLASLt; the driver's own kernels compute every product |
//! | `FATHOM_CUDA_HOPPER` | 1: kernels of warpgroups where there are, on compute capability 9.0 |
//! | `FATHOM_CUDA_CHECK` | 1: wait after every launch, so that an error names its kernel |

mod blas;
mod cache;
pub mod check;
mod compile;
mod cublaslt;
mod device;
mod engine;
mod error;
mod kernels;
mod launch;
mod library;
mod memory;
mod nccl;
mod report;
mod source;
mod tensor_map;

pub use device::Cuda;
pub use engine::GraphUse;
pub use engine::emulator::Emulation;
pub use engine::gpu::Options;
pub use error::CudaError;
pub use memory::Buffer;
pub use nccl::{Nccl, NcclAbort};
