//! `convert`: writes a model folder in another number format.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use crate::checkpoint;
use crate::cli::{Command, Program, signals};
use crate::convert::{Options, Summary, convert};
use crate::counter::Counter;
use crate::error::{Error, Result};
use crate::hf::Format;
use argh::{ArgsInfo, FromArgs};

/// The command.
pub const COMMAND: Command = Command::new::<Arguments>("convert", "convert a model to f32, BF16 or FP8");

/// Convert a model to f32, BF16, or DeepSeek's block-scaled FP8. The input is any Hugging Face folder of a DeepSeek-V2
/// or V3 model; memory holds a few rows of it at a time. FP8 weights that stay FP8 keep their codes and scales; FP8 to
/// f32 and back gives the same codes and scales.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} --checkpoint runs/a --output exported --to fp8",
    example = "{command_name} --checkpoint DeepSeek-V3 --output V3-bf16 --to bf16",
    error_code(0, "done"),
    error_code(1, "the checkpoint cannot be read, or the output not written"),
    error_code(2, "wrong arguments"),
    error_code(130, "stopped by a signal; nothing was written")
)]
struct Arguments {
    /// model folder in Hugging Face layout, or the output folder of a run (its newest checkpoint)
    #[argh(option, arg_name = "folder")]
    checkpoint: PathBuf,
    /// folder to create
    #[argh(option, arg_name = "folder")]
    output: PathBuf,
    /// number format of the weights
    #[argh(option, arg_name = "f32|bf16|fp8")]
    to: String,
    /// with --to fp8: scales in f32, or powers of two (default: as in the input, else f32)
    #[argh(option, arg_name = "f32|ue8m0")]
    scale: Option<String>,
    /// maximum size of a file (default: tensors stay in the files they are in)
    #[argh(option, arg_name = "bytes")]
    shard_bytes: Option<u64>,
    /// convert the exponential moving average (EMA) of the weights (train.ema_decay)
    #[argh(switch)]
    ema: bool,
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        run(&self)
    }
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
    let located = checkpoint::locate(&arguments.checkpoint)?;
    for note in located.notes() {
        eprintln!("{note}");
    }
    located.verify(arguments.ema)?;
    let folder = located.folder;
    eprintln!("checkpoint: {}", folder.display());
    let options = Options { format, power_of_two_scales, shard_bytes: arguments.shard_bytes, average: arguments.ema };
    let (stop, mut counter) = (signals::breaks()?, Counter::new("convert", "bytes"));
    let summary = convert(&folder, &arguments.output, &options, |done, total| {
        counter.show(done, total);
        !stop.load(Ordering::Relaxed)
    });
    counter.finish();
    let summary = summary?;
    report(&summary, arguments);
    Ok(())
}

fn report(summary: &Summary, arguments: &Arguments) {
    summary.warnings.iter().for_each(|warning| eprintln!("{warning}"));
    let Summary { tensors, quantized, unchanged, bytes_before, bytes_after, .. } = summary;
    eprintln!(
        "{tensors} tensors: {quantized} quantized to FP8, {unchanged} unchanged\n\
         {bytes_before} bytes -> {bytes_after} bytes, written to {}",
        arguments.output.display()
    );
    match &summary.worst {
        Some((name, error)) => eprintln!("largest relative error of a tensor (L2): {error:.3e}, {name}"),
        None => eprintln!("no value changed"),
    }
}
