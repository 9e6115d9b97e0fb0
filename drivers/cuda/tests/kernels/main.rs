//! Every kernel against the reference device, on the emulator or on the GPU that `FATHOM_CUDA_DEVICE` names.

mod attention;
mod attention_grad;
mod common;
mod decode;
#[path = "../common/device.rs"]
mod device;
mod elementwise;
mod gemm;
mod gemm_fp8;
mod gemv;
mod heads;
mod index;
mod loss;
mod norm;
mod optimizer;
mod quantize;
mod reduce;
mod rope;
mod router;
mod sample;
mod sort;
mod swiglu;
