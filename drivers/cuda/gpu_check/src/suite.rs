//! `gpu_check suite`: the conformance suite, a line per kernel, and large products.

use std::time::Instant;

use argh::{ArgsInfo, FromArgs};
use fathom::cli::{Command, Program};
use fathom::device::AnyDevice;
use fathom::error::{Error, Result};
use fathom::on_device;
use fathom_conformance::{NAMES, Options, check_one};
use fathom_core::dtype::DType;

use crate::products;
use crate::timer::Watch;

/// The command.
pub(crate) const COMMAND: Command =
    Command::new::<Arguments>("suite", "compare every kernel with the reference device");

/// run every kernel's cases and every property against the reference device, and large products against sums in f64
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    error_code(0, "all is well"),
    error_code(1, "a check failed"),
    error_code(2, "wrong arguments")
)]
struct Arguments {
    /// auto, cpu, cuda, cuda:N, or cuda:emulated, as in `train` (default: auto)
    #[argh(option, default = "String::from(\"auto\")")]
    device: String,
    /// cases per kernel (default: 32)
    #[argh(option, default = "32")]
    cases: u32,
    /// only the kernels whose names contain this text
    #[argh(option, default = "String::new()")]
    only: String,
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        run(&self)
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let device = AnyDevice::open(&arguments.device, 0)?;
    on_device!(&device, device => suite(device, arguments))
}

fn suite<D: Watch>(device: &D, arguments: &Arguments) -> Result<()> {
    // A file of kernels that does not compile fails its own cases, not those of others.
    if let Err(error) = device.warm_up() {
        say!("not all kernels are ready: {error}");
    }
    let options = Options { cases: arguments.cases, dtypes: vec![DType::F32, DType::BF16], ..Options::default() };
    say!("suite on {}, {} cases a kernel", device.capabilities().name, arguments.cases);
    let (mut failed, mut run) = (Vec::new(), 0);
    let start = Instant::now();
    for &name in NAMES.iter().filter(|name| name.contains(&arguments.only)) {
        let start = Instant::now();
        let result = check_one(device, name, &options).expect("a name of the list");
        let seconds = start.elapsed().as_secs_f64();
        run += 1;
        match result {
            Ok(outcome) => {
                let unsupported = match outcome.unsupported {
                    0 => String::new(),
                    n => format!(", {n} not supported"),
                };
                say!("{name:<22} {:>5} cases {seconds:>8.2} s  pass{unsupported}", outcome.cases);
            }
            Err(failure) => {
                say!("{name:<22} {seconds:>20.2} s  FAIL\n{failure}\n");
                failed.push(name);
            }
        }
    }
    for name in products::NAMES.into_iter().filter(|name| name.contains(&arguments.only)) {
        let start = Instant::now();
        let result = products::check(device, name);
        let seconds = start.elapsed().as_secs_f64();
        run += 1;
        match result {
            Ok((cases, worst)) => {
                say!("{name:<22} {cases:>5} cases {seconds:>8.2} s  pass, {worst:.3} of what is allowed")
            }
            Err(problem) => {
                say!("{name:<22} {seconds:>20.2} s  FAIL\n{problem}\n");
                failed.push(name);
            }
        }
    }
    say!("suite: {} of {run} pass, {:.0} s", run - failed.len(), start.elapsed().as_secs_f64());
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::Run(format!("these fail: {}", failed.join(", ")))),
    }
}
