//! The command-line programs: the arguments and the body of each.

pub mod convert;
pub mod eval;
pub mod generate;
pub mod prep;
pub mod train;
