//! `generate`: continues a prompt with a trained model.

use std::io::{Read, Write};
use std::path::PathBuf;

use super::weights;
use crate::cli::{Command, Program};
use crate::device::AnyDevice;
use crate::error::{Error, Result};
use crate::generate::{Sampling, Stop};
use crate::on_device;
use crate::session::{LoadOptions, Session};
use argh::{ArgsInfo, FromArgs};
use fathom_core::device::Kernels;

/// The command.
pub const COMMAND: Command = Command::new::<Arguments>("generate", "continue a prompt with a model");

/// Continue a prompt with a model. The generated text, without the prompt, goes to stdout as it comes.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} --checkpoint runs/quickstart --prompt ROMEO: --temperature 0.8 --top-p 0.95",
    error_code(0, "done"),
    error_code(1, "the checkpoint or the device failed"),
    error_code(2, "wrong arguments")
)]
struct Arguments {
    /// model folder in Hugging Face layout, or the output folder of a run (its newest checkpoint)
    #[argh(option, arg_name = "folder")]
    checkpoint: PathBuf,
    /// text to continue, UTF-8; `-` reads it from stdin (default: empty, which starts a new document)
    #[argh(option, default = "String::new()", arg_name = "text")]
    prompt: String,
    /// maximum number of generated tokens (default: 128)
    #[argh(option, default = "128", arg_name = "n")]
    max_new_tokens: usize,
    /// softmax temperature; 0 = greedy (default: 1)
    #[argh(option, default = "1.0", arg_name = "t")]
    temperature: f64,
    /// sample from the k most probable tokens; 0 = all (default: 0)
    #[argh(option, default = "0", arg_name = "k")]
    top_k: usize,
    /// nucleus sampling: sample from the most probable tokens whose probabilities add up to p; 1 = all (default: 1)
    #[argh(option, default = "1.0", arg_name = "p")]
    top_p: f64,
    /// seed of the sampler; the same seed gives the same text (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    seed: u64,
    /// what matrices are stored in: stored (as the checkpoint has them), bf16, fp8 (E4M3 with a scale for every 128x128
    /// block) or f32 (default: stored)
    #[argh(option, default = "String::from(\"stored\")", arg_name = "stored|bf16|fp8|f32")]
    weights: String,
    /// use the exponential moving average (EMA) of the weights (train.ema_decay)
    #[argh(switch)]
    ema: bool,
    /// auto (the first GPU, else the CPU), cpu, cuda, cuda:N, or cuda:emulated (the GPU kernels on the CPU, slow and
    /// checked, for tests) (default: auto)
    #[argh(option, default = "String::from(\"auto\")", arg_name = "device")]
    device: String,
    /// threads of the CPU device; 0 for all cores (default: 0)
    #[argh(option, default = "0", arg_name = "n")]
    threads: usize,
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        run(&self)
    }
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
    let weights = weights(&arguments.weights)?;
    let options = LoadOptions { average: arguments.ema, weights, ..LoadOptions::default() };
    let session = Session::load_with(device, &arguments.checkpoint, &options)?;
    eprintln!("checkpoint: {}", session.checkpoint().display());
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
