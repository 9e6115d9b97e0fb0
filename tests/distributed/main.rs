//! Runs of several processes under `mpirun` equal runs of one bit for bit, go on with any number of ranks, refuse what
//! does not fit, and name the rank that failed.
//!
//! Where `mpirun` is not installed a test prints what is missing, and passes.

#![cfg(target_os = "linux")]

mod bits;
mod disk;
mod elastic;
mod failures;
mod refusals;
mod signals;
mod support;
