//! Continues a prompt with a trained model.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli;
use crate::device::AnyDevice;
use crate::error::{Error, Result};
use crate::generate::{Sampling, Stop};
use crate::on_device;
use crate::session::Session;
use argh::FromArgs;
use fathom_core::device::Kernels;

/// Continue a prompt with a trained model. The text goes to stdout as it comes, prompt excluded.
#[derive(FromArgs)]
#[argh(
    example = "generate --checkpoint runs/quickstart --prompt ROMEO: --temperature 0.8 --top-p 0.95",
    error_code(0, "done"),
    error_code(1, "the checkpoint or the device failed"),
    error_code(2, "wrong arguments")
)]
struct Arguments {
    /// model folder, or the output folder of a run (its newest checkpoint)
    #[argh(option)]
    checkpoint: PathBuf,
    /// text to continue; `-` reads it from stdin (default: empty: from nothing)
    #[argh(option, default = "String::new()")]
    prompt: String,
    /// tokens to generate at most (default: 128)
    #[argh(option, default = "128")]
    max_new_tokens: usize,
    /// how far to stray from the most probable token; 0 never does (default: 1)
    #[argh(option, default = "1.0")]
    temperature: f64,
    /// consider only so many of the most probable tokens; 0 for all (default: 0)
    #[argh(option, default = "0")]
    top_k: usize,
    /// consider only the most probable tokens that reach this probability together (default: 1)
    #[argh(option, default = "1.0")]
    top_p: f64,
    /// the same seed gives the same text (default: 0)
    #[argh(option, default = "0")]
    seed: u64,
    /// use the moving average of the weights that training kept (train.ema_decay)
    #[argh(switch)]
    ema: bool,
    /// auto (a GPU if there is one), cpu, cuda, cuda:N, or cuda:emulated (the GPU's kernels on the CPU, checked and slow, for
    /// tests; default: auto)
    #[argh(option, default = "String::from(\"auto\")")]
    device: String,
    /// threads of the CPU device; 0 for every core (default: 0)
    #[argh(option, default = "0")]
    threads: usize,
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    cli::run(|arguments: Arguments| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<()> {
    let sampling = Sampling {
        max_new_tokens: arguments.max_new_tokens,
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        seed: arguments.seed,
    };
    sampling.validate()?;
    let mut prompt = arguments.prompt.clone();
    if prompt == "-" {
        prompt.clear();
        let read = std::io::stdin().read_to_string(&mut prompt);
        read.map_err(|e| Error::Run(format!("cannot read the prompt from stdin: {e}")))?;
    }
    let device = AnyDevice::open(&arguments.device, arguments.threads)?;
    on_device!(&device, device => write(device, arguments, &prompt, &sampling))
}

fn write<D: Kernels>(device: &D, arguments: &Arguments, prompt: &str, sampling: &Sampling) -> Result<()> {
    let load = if arguments.ema { Session::load_average } else { Session::load };
    let mut session = load(device, &arguments.checkpoint)?;
    let mut out = std::io::stdout().lock();
    // A closed pipe (`| head`) ends the generation quietly.
    let mut open = true;
    let generated = session.generate(prompt, sampling, |piece| {
        open = out.write_all(piece.as_bytes()).and_then(|()| out.flush()).is_ok();
        open
    })?;
    if open {
        let _ = out.write_all(b"\n");
    }
    if generated.stop == Stop::Context {
        eprintln!("stopped: the model's context of {} tokens is full", session.context());
    }
    Ok(())
}
