//! `train` without arguments: the whole way on text that the program carries, from characters to a model that writes.
//!
//! The text is tiny Shakespeare and the last tenth is held out, as in nanoGPT's `shakespeare_char`, so the validation loss
//! can be put beside nanoGPT's. Nothing is read that lies on the machine, so every machine trains on the same tokens.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use fathom_core::config::ParameterCount;
use fathom_core::device::Kernels;
use flate2::read::GzDecoder;

use crate::checkpoint::{self, CheckpointError};
use crate::cli;
use crate::error::{Error, Result};
use crate::generate::Sampling;
use crate::prepare;
use crate::session::Session;
use crate::settings::{Settings, Source};
use crate::trainer::{Outcome, Run};

/// The output folder where none is given.
pub const OUTPUT: &str = "runs/quickstart";
/// Environment variable: train for so many steps in place of those in `configs/quickstart.toml`. For whoever wants to see
/// that everything works before spending minutes on it.
pub const STEPS: &str = "FATHOM_QUICKSTART_STEPS";

/// The settings: `configs/quickstart.toml` as it was when the program was built.
const CONFIG: &str = include_str!("../../configs/quickstart.toml");
/// The text, compressed; `bins/assets/README.md` says where it comes from.
const TEXT: &[u8] = include_bytes!("../assets/tinyshakespeare.txt.gz");
/// Its name in the output folder.
const TEXT_NAME: &str = "tinyshakespeare.txt";
/// What the model continues when it is done. nanoGPT's validation losses on this text are in its README.
const PROMPT: &str = "ROMEO:";
const NANOGPT: [(&str, f64); 2] = [("a CPU", 1.88), ("an A100 GPU", 1.4697)];

/// Prepares, trains, measures and samples in `output`, with a word on each. A run that was stopped goes on; one that is
/// finished is measured again.
///
/// Without `output` everything lies in [`OUTPUT`], and another run that lies there (of an older version, say) is moved
/// aside.
///
/// # Errors
/// Those of its parts; an `output` that holds another run.
pub fn run<D: Kernels>(device: &D, output: Option<&Path>, stop: &AtomicBool) -> Result<()> {
    let start = Instant::now();
    let folder = output.unwrap_or(Path::new(OUTPUT));
    let settings = settings(folder, std::env::var(STEPS).ok().as_deref())?;
    let mut run = match open(device, &settings, folder) {
        Err(error) if output.is_none() && is_of_another_run(&error) => {
            move_aside(folder, &error)?;
            open(device, &settings, folder)?
        }
        opened => opened?,
    };
    let outcome = run.train(stop)?;
    drop(run);
    if outcome.interrupted {
        let train = cli::program("train");
        let again = output.map_or(train.clone(), |folder| format!("{train} --output {}", cli::quoted(folder)));
        eprintln!("stopped after step {} and saved; go on with:\n  {again}", outcome.step);
        return Ok(());
    }
    show(device, &outcome, folder, start)
}

/// Prepares the text in `folder` and opens the run there, or takes it up where it was stopped.
fn open<D: Kernels>(device: &D, settings: &Settings, folder: &Path) -> Result<Run<D>> {
    prepare_text(settings, folder)?;
    eprintln!("\n2. Train");
    let begun = !checkpoint::list(folder)?.is_empty();
    let run = Run::open(device, settings.clone(), folder, begun)?;
    let (count, config) = (ParameterCount::of(run.config()), run.config());
    eprintln!(
        "{:.2} M parameters, {:.2} M active per token: multi-head latent attention, {} routed experts of which {} per token",
        count.parameters() as f64 / 1e6,
        count.active_parameters() as f64 / 1e6,
        config.n_routed_experts,
        config.num_experts_per_tok
    );
    if begun {
        eprintln!("{} holds {} of {} steps already", folder.display(), run.step(), run.steps());
    }
    Ok(run)
}

/// Whether `error` says that a folder holds a run with other text or settings.
fn is_of_another_run(error: &Error) -> bool {
    use fathom_dataprep::Error as DataError;
    matches!(
        error,
        Error::Checkpoint(CheckpointError::ConfigDiffers { .. })
            | Error::Data(DataError::CursorMismatch { .. } | DataError::OutputExists { .. })
    )
}

/// Renames `folder`, which holds another run as `error` says, to the first free name.
fn move_aside(folder: &Path, error: &Error) -> Result<()> {
    let name = |n: u32| PathBuf::from(format!("{}-{n}", folder.display()));
    let aside = (1..1000).map(name).find(|path| !path.exists());
    let aside = aside.ok_or_else(|| Error::Run(format!("{error}; remove {}", folder.display())))?;
    std::fs::rename(folder, &aside).map_err(Error::io("move aside", folder))?;
    eprintln!("{error}\n{} is of another version: it is {} now; starting over\n", folder.display(), aside.display());
    Ok(())
}

/// The settings of a run in `folder`, for `steps` steps if that is given.
fn settings(folder: &Path, steps: Option<&str>) -> Result<Settings> {
    let mut source = Source::default();
    source.add_file(Path::new("configs/quickstart.toml"), CONFIG)?;
    source.set("data.path", text_of(&folder.join("data"))?)?;
    if let Some(steps) = steps {
        let count = steps.parse::<i64>().ok().filter(|n| (1..=1_000_000).contains(n));
        let count = count.ok_or_else(|| Error::Usage(format!("{STEPS}={steps}: must be from 1 to 1000000")))?;
        source.set("train.steps", count)?;
        // A tenth of the tokens, up to what the file says.
        source.set("schedule.warmup_tokens", (count * 100).min(100_000))?;
    }
    let mut settings = Settings::new(source)?;
    settings.prep.output.dir = folder.join("data");
    settings.prep.input.paths = vec![folder.join(TEXT_NAME)];
    Ok(settings)
}

fn text_of(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::Usage(format!("--output {}: is not valid UTF-8; choose another name", path.display())))
}

fn prepare_text(settings: &Settings, folder: &Path) -> Result<()> {
    eprintln!("1. Turn text into tokens: tiny Shakespeare, which this program carries; a token is a byte");
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let path = folder.join(TEXT_NAME);
    let mut text = Vec::new();
    GzDecoder::new(TEXT).read_to_end(&mut text).map_err(|e| Error::Run(format!("the built-in text: {e}")))?;
    if std::fs::read(&path).ok().as_ref() != Some(&text) {
        std::fs::write(&path, &text).map_err(Error::io("write", &path))?;
    }
    let summary = prepare::run(&settings.prep)?;
    eprint!("{}", prepare::describe(&summary));
    Ok(())
}

/// Measures, samples, and says what to do next.
fn show<D: Kernels>(device: &D, outcome: &Outcome, folder: &Path, start: Instant) -> Result<()> {
    eprintln!("\n3. Measure it on the last tenth of the text, which it has not seen");
    if let Some(v) = &outcome.validation {
        let bits = v.bits_per_byte.map_or(String::new(), |b| format!(", {b:.3} bits per byte"));
        println!("validation loss {:.4}, perplexity {:.2}{bits} ({} tokens)", v.loss, v.perplexity, v.tokens);
        let known = NANOGPT.map(|(machine, loss)| format!("{loss} after about 3 minutes on {machine}"));
        eprintln!("nanoGPT's README on the same split, nats per character: {}", known.join("; "));
    }
    eprintln!("\n4. Let it write");
    let mut session = Session::load(device, &outcome.checkpoint)?;
    let sampling = Sampling { max_new_tokens: 500, temperature: 0.7, seed: 1, ..Sampling::default() };
    let generated = session.generate(PROMPT, &sampling, |_| true)?;
    println!("{PROMPT}{}", generated.text);

    let (run, data) = (cli::quoted(folder), cli::quoted(&folder.join("data")));
    let program = cli::program;
    eprintln!("\nDone in {:.0} s; everything is in {}. Next:", start.elapsed().as_secs_f64(), folder.display());
    eprintln!("  {} --checkpoint {run} --prompt 'JULIET:' --temperature 0.8", program("generate"));
    eprintln!("  {} --checkpoint {run} --data {data}", program("eval"));
    eprintln!("  {} --plan --set model.preset=v3-671b", program("train"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_text_is_the_one_that_nanogpt_trains_on() {
        let mut text = Vec::new();
        GzDecoder::new(TEXT).read_to_end(&mut text).unwrap();
        assert_eq!(text.len(), 1_115_394);
        let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed");
    }

    #[test]
    fn the_model_generates_and_is_measured_over_no_more_than_it_trained_on() {
        let settings = settings(Path::new("x"), None).unwrap();
        assert_eq!(settings.model.max_position_embeddings, settings.train.sequence_length);
        assert_eq!(settings.train.eval_tokens, 0, "the losses on the way are of what the last one is of");
    }

    #[test]
    fn a_number_of_steps_that_is_none_is_refused_by_name() {
        let steps = |text| settings(Path::new("x"), Some(text)).map(|s| s.budget().unwrap().1);
        assert_eq!(steps("7").unwrap(), 7);
        for text in ["", "0", "-1", "many", "1e3", "99999999999999999999"] {
            let error = steps(text).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(STEPS), "{error}");
        }
    }
}
