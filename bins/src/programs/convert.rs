//! Stores a model folder in another format.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::checkpoint;
use crate::cli;
use crate::convert::{Options, Summary, convert};
use crate::error::{Error, Result};
use crate::hf::Format;
use argh::FromArgs;

/// Store a model in f32, BF16, or DeepSeek's block-scaled FP8. Works on any Hugging Face folder of a DeepSeek-V2 or V3 model,
/// with memory for a few rows of it. Codes and scales of FP8 are passed on unchanged, and survive the way through f32.
#[derive(FromArgs)]
#[argh(
    example = "convert --checkpoint runs/a --output exported --to fp8",
    example = "convert --checkpoint DeepSeek-V3 --output DeepSeek-V3-bf16 --to bf16",
    error_code(0, "done"),
    error_code(1, "the checkpoint cannot be read, or the output not written"),
    error_code(2, "wrong arguments")
)]
struct Arguments {
    /// model folder, or the output folder of a run (its newest checkpoint)
    #[argh(option)]
    checkpoint: PathBuf,
    /// folder to make
    #[argh(option)]
    output: PathBuf,
    /// f32, bf16 or fp8
    #[argh(option)]
    to: String,
    /// scales of fp8: f32, or ue8m0 for powers of two (default: as they are in the input, else f32)
    #[argh(option)]
    scale: Option<String>,
    /// most bytes in one file (default: tensors stay in the files they are in)
    #[argh(option)]
    shard_bytes: Option<u64>,
    /// take the moving average of the weights that training kept (train.ema_decay)
    #[argh(switch)]
    ema: bool,
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    cli::run(|arguments: Arguments| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<()> {
    let Some(format) = Format::from_name(&arguments.to) else {
        return Err(Error::Usage(format!("--to {}: must be f32, bf16 or fp8", arguments.to)));
    };
    let power_of_two_scales = match (arguments.scale.as_deref(), format) {
        (None, _) => None,
        (Some("f32"), Format::Fp8(_)) => Some(false),
        (Some("ue8m0"), Format::Fp8(_)) => Some(true),
        (Some("f32" | "ue8m0"), _) => {
            return Err(Error::Usage(format!("--scale goes with --to fp8; {} has no scales", arguments.to)));
        }
        (Some(other), _) => return Err(Error::Usage(format!("--scale {other}: must be f32 or ue8m0"))),
    };
    let folder = checkpoint::model_folder(&arguments.checkpoint)?;
    let options = Options { format, power_of_two_scales, shard_bytes: arguments.shard_bytes, average: arguments.ema };
    let bar = cli::progress_bar(0, "bytes");
    let summary = convert(&folder, &arguments.output, &options, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    report(&summary, arguments);
    Ok(())
}

fn report(summary: &Summary, arguments: &Arguments) {
    let Summary { tensors, quantized, unchanged, bytes_before, bytes_after, .. } = summary;
    eprintln!(
        "{tensors} tensors, {quantized} of them now in FP8, {unchanged} passed on as they were\n{bytes_before} bytes -> \
         {bytes_after} bytes, written to {}",
        arguments.output.display()
    );
    match &summary.worst {
        Some((name, error)) => eprintln!("largest relative error of a tensor (L2): {error:.3e}, {name}"),
        None => eprintln!("no value changed"),
    }
}
