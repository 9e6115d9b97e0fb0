//! Errors of the core: what can be wrong with a kernel call, and the kinds a device's own error falls into.

use core::fmt;

/// What generic code needs to know of a device's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The device has no memory left for the request.
    OutOfMemory,
    /// Operands do not fit together, or an index points outside its table.
    Shape,
    /// The device does not implement this operation in this type.
    Unsupported,
    /// The device went away, or failed in a way that only a restart mends.
    DeviceLost,
    /// A loss, gradient or weight is NaN or infinite.
    NonFinite,
    /// Anything else.
    Other,
}

/// The error type of a device: its own, with a kind for generic code.
pub trait DeviceError: core::error::Error + From<InvalidOp> + 'static {
    /// The kind of this error.
    fn kind(&self) -> ErrorKind;

    /// The error a training step reports when a value that must be finite is not.
    fn non_finite(what: &'static str) -> Self {
        InvalidOp::new(what, "is not finite", 0, 0).with_kind(ErrorKind::NonFinite).into()
    }

    /// The error for an operation the device lacks.
    fn unsupported(what: &'static str) -> Self {
        InvalidOp::new(what, "is not supported by this device", 0, 0).with_kind(ErrorKind::Unsupported).into()
    }
}

/// A kernel call that cannot be made: which operation, what is wrong, and the two numbers that disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidOp {
    /// The operation, as its method is called.
    pub op: &'static str,
    /// What is wrong.
    pub problem: &'static str,
    /// The value that was needed.
    pub expected: usize,
    /// The value that was found.
    pub found: usize,
    kind: ErrorKind,
}

impl InvalidOp {
    /// An error of kind [`ErrorKind::Shape`].
    pub const fn new(op: &'static str, problem: &'static str, expected: usize, found: usize) -> Self {
        Self { op, problem, expected, found, kind: ErrorKind::Shape }
    }

    /// The same error with another kind.
    pub const fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// The kind of the error.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for InvalidOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.op, self.problem)?;
        if self.expected != self.found {
            write!(f, " (expected {}, found {})", self.expected, self.found)?;
        }
        Ok(())
    }
}

impl core::error::Error for InvalidOp {}

/// Returns an error unless `expected == found`.
#[cfg(feature = "alloc")]
pub(crate) fn same(op: &'static str, problem: &'static str, expected: usize, found: usize) -> Result<(), InvalidOp> {
    if expected == found { Ok(()) } else { Err(InvalidOp::new(op, problem, expected, found)) }
}

/// Returns an error unless `ok`.
pub(crate) fn ensure(op: &'static str, problem: &'static str, ok: bool) -> Result<(), InvalidOp> {
    if ok { Ok(()) } else { Err(InvalidOp::new(op, problem, 0, 0)) }
}
