//! Collectives over MPI: [`Mpi`] is a [`Comm`](fathom_core::comm::Comm) for every device.
//!
//! Building needs no MPI. When a run starts, [`launched`] reads from the environment whether a launcher started it as
//! one of several processes, and [`Mpi::start`] loads the MPI library of that launcher: MPICH or one of its kin, Open
//! MPI, or any library with the standard ABI of MPI 5. `FATHOM_MPI_LIBRARY` names another.
//!
//! A device whose memory the host can read in place ([`host_bytes`](fathom_core::device::Device::host_bytes)) sends and
//! receives there; others copy through the host.
//!
//! ```no_run
//! use fathom_mpi::{Mpi, launched};
//!
//! if let Some(launched) = launched(|name| std::env::var(name).ok())? {
//!     let mpi = Mpi::start(&launched)?;
//!     println!("rank {} of {}, {}", launched.rank, launched.world, mpi.library());
//! }
//! # Ok::<(), fathom_mpi::MpiError>(())
//! ```

mod abi;
mod comm;
mod error;
mod launch;
mod library;

pub use comm::Mpi;
pub use error::MpiError;
pub use launch::{Launched, Launcher, launched};
pub use library::available;
