//! Error reports that kernels write into one record in memory, and their translation into [`CudaError`].
//!
//! A kernel cannot return an error. Where it meets an index out of range or a value that has no FP8 code, it writes a
//! [`KernelReport`] (the first one is kept) and goes on inside its buffers. The host reads the record after it has
//! waited.

use fathom_core::error::ErrorKind;

use crate::error::CudaError;

/// One kernel's report: the struct `Report` of `fathom.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelReport {
    /// 1: index out of range; 2: NaN or infinity.
    pub(crate) code: u32,
    /// The kernel, as an index into [`NAMES`].
    pub(crate) site: u32,
    /// The offending value.
    pub(crate) value: u32,
    /// The bound that the value must be below.
    pub(crate) limit: u32,
}

macro_rules! names {
    (primitive { $($p:ident: $P:ident,)* } fused { $($f:ident: $F:ident,)* }) => {
        /// Names of all kernels; a kernel on the device reports its index in this list.
        const NAMES: &[&str] = &[$(stringify!($p),)* $(stringify!($f),)*];
    };
}
fathom_core::for_each_kernel!(names);

/// The index by which kernel `op` reports itself.
pub(crate) fn site(op: &'static str) -> u32 {
    NAMES.iter().position(|&name| name == op).unwrap_or(NAMES.len()) as u32
}

impl From<KernelReport> for CudaError {
    fn from(KernelReport { code, site, value, limit }: KernelReport) -> Self {
        let kernel = NAMES.get(site as usize).copied().unwrap_or("a kernel");
        match code {
            1 => {
                Self::new(ErrorKind::Shape, format!("{kernel}: index {value} is out of range (must be below {limit})"))
            }
            _ => Self::new(ErrorKind::NonFinite, format!("{kernel}: NaN or infinity cannot be quantised")),
        }
    }
}

#[cfg(test)]
mod tests {
    use fathom_core::error::DeviceError as _;

    use super::*;

    #[test]
    fn a_report_names_its_kernel() {
        let report = |code, op| CudaError::from(KernelReport { code, site: site(op), value: 7, limit: 5 });
        let index = report(1, "gather_rows");
        assert_eq!(index.message(), "gather_rows: index 7 is out of range (must be below 5)");
        assert_eq!((index.kind(), report(2, "quantize").kind()), (ErrorKind::Shape, ErrorKind::NonFinite));
        assert!(report(1, "none").message().starts_with("a kernel: "));
    }
}
