//! Errors of the core: invalid kernel calls, and the kinds that a device's own errors fall into.

use core::fmt;

/// Kinds of device errors, as far as generic code needs to tell them apart.
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
    /// Another rank of the run died, left, or does not answer.
    PeerLost,
    /// A loss, gradient or weight is NaN or infinite.
    NonFinite,
    /// Anything else.
    Other,
}

/// The error type of a device: its own, with a kind for generic code.
pub trait DeviceError: core::error::Error + From<InvalidOp> + 'static {
    /// The kind of this error.
    fn kind(&self) -> ErrorKind;

    /// The error of a training step whose loss or gradient is not finite; `problem` says which.
    fn non_finite(problem: &'static str) -> Self {
        InvalidOp::plain("update", problem).with_kind(ErrorKind::NonFinite).into()
    }

    /// The error of a collective, `operation`, in which a rank is missing.
    fn peer_lost(operation: &'static str) -> Self {
        InvalidOp::plain(operation, "another rank died, left, or does not answer").with_kind(ErrorKind::PeerLost).into()
    }

    /// The error for an operation the device lacks.
    fn unsupported(what: &'static str) -> Self {
        InvalidOp::plain(what, "is not supported by this device").with_kind(ErrorKind::Unsupported).into()
    }
}

/// An invalid call: which operation, what is wrong, and the numbers that disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidOp {
    /// The operation, as its method is called.
    pub op: &'static str,
    /// The problem, or the number that is out of bounds.
    pub problem: &'static str,
    /// The value that was needed, or the bound.
    pub expected: usize,
    /// The value that was found.
    pub found: usize,
    kind: ErrorKind,
    rule: Rule,
}

/// How two numbers ought to be related.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// No numbers.
    None,
    Equal,
    /// Below a bound of this name.
    Below(&'static str),
    /// A bound of this name at most.
    AtMost(&'static str),
    /// A multiple of a number of this name.
    MultipleOf(&'static str),
}

impl InvalidOp {
    const fn with(op: &'static str, problem: &'static str, expected: usize, found: usize, rule: Rule) -> Self {
        Self { op, problem, expected, found, kind: ErrorKind::Shape, rule }
    }

    /// `found` should equal `expected`: "gemm: rows of c (expected 3, found 4)".
    pub const fn new(op: &'static str, problem: &'static str, expected: usize, found: usize) -> Self {
        Self::with(op, problem, expected, found, Rule::Equal)
    }

    /// A problem without numbers: "reshape: needs a view without gaps".
    pub const fn plain(op: &'static str, problem: &'static str) -> Self {
        Self::with(op, problem, 0, 0, Rule::None)
    }

    /// `found` should be below `limit`: "batch: token id 99999 is not below the vocabulary size 257".
    pub const fn not_below(
        op: &'static str,
        what: &'static str,
        found: usize,
        bound: &'static str,
        limit: usize,
    ) -> Self {
        Self::with(op, what, limit, found, Rule::Below(bound))
    }

    /// `found` should be `limit` at most: "top_k: k = 9 is above the number of columns 8".
    pub const fn above(op: &'static str, what: &'static str, found: usize, bound: &'static str, limit: usize) -> Self {
        Self::with(op, what, limit, found, Rule::AtMost(bound))
    }

    /// `found` should be a multiple of `divisor`: "rope: the number of columns 10 is not a multiple of the
    /// width of a head 4".
    pub const fn not_multiple(
        op: &'static str,
        what: &'static str,
        found: usize,
        of: &'static str,
        divisor: usize,
    ) -> Self {
        Self::with(op, what, divisor, found, Rule::MultipleOf(of))
    }

    /// The same error with another kind than [`ErrorKind::Shape`].
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
        let Self { op, problem, expected, found, rule, .. } = self;
        match rule {
            Rule::None => write!(f, "{op}: {problem}"),
            Rule::Equal => write!(f, "{op}: {problem} (expected {expected}, found {found})"),
            Rule::Below(bound) => write!(f, "{op}: {problem} {found} is not below {bound} {expected}"),
            Rule::AtMost(bound) => write!(f, "{op}: {problem} {found} is above {bound} {expected}"),
            Rule::MultipleOf(of) => write!(f, "{op}: {problem} {found} is not a multiple of {of} {expected}"),
        }
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
    if ok { Ok(()) } else { Err(InvalidOp::plain(op, problem)) }
}

/// Returns an error unless `found ≤ limit`.
pub(crate) fn at_most(
    op: &'static str,
    what: &'static str,
    found: usize,
    bound: &'static str,
    limit: usize,
) -> Result<(), InvalidOp> {
    if found <= limit { Ok(()) } else { Err(InvalidOp::above(op, what, found, bound, limit)) }
}

/// Returns an error unless `found` is a multiple of `divisor`, which is not zero.
pub(crate) fn multiple(
    op: &'static str,
    what: &'static str,
    found: usize,
    of: &'static str,
    divisor: usize,
) -> Result<(), InvalidOp> {
    if divisor > 0 && found.is_multiple_of(divisor) {
        Ok(())
    } else {
        Err(InvalidOp::not_multiple(op, what, found, of, divisor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn messages_say_bounds_as_bounds() {
        for (error, text) in [
            (InvalidOp::new("gemm", "rows of c", 3, 4), "gemm: rows of c (expected 3, found 4)"),
            (InvalidOp::plain("reshape", "needs a view without gaps"), "reshape: needs a view without gaps"),
            (
                InvalidOp::not_below("batch", "token id", 99999, "the vocabulary size", 257),
                "batch: token id 99999 is not below the vocabulary size 257",
            ),
            (
                InvalidOp::above("top_k", "k =", 9, "the number of columns", 8),
                "top_k: k = 9 is above the number of columns 8",
            ),
            (
                InvalidOp::not_multiple("rope", "the number of columns", 10, "the width of a head", 4),
                "rope: the number of columns 10 is not a multiple of the width of a head 4",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
        assert!(multiple("step", "n", 6, "m", 0).is_err() && multiple("step", "n", 6, "m", 3).is_ok());
        assert!(at_most("step", "n", 6, "m", 6).is_ok() && at_most("step", "n", 7, "m", 6).is_err());
    }
}
