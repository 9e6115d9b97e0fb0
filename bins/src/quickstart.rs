//! `train` without arguments: from text that the program carries to a trained model that generates text.
//!
//! The text is tiny Shakespeare and the last tenth is held out, as in nanoGPT's `shakespeare_char`, so the validation
//! loss can be put beside nanoGPT's. Nothing is read that lies on the machine, so every machine trains on the same
//! tokens.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use fathom_core::config::ParameterCount;
use fathom_core::device::Kernels;
use fathom_dataprep::durable;
use flate2::read::GzDecoder;

use crate::checkpoint;
use crate::cli;
use crate::error::{Error, Result};
use crate::infer::{Sampling, Stop, single};
use crate::prepare;
use crate::report::{PAGE, Report, curve::When};
use crate::run::{Outcome, Run, resolved};
use crate::session::Session;
use crate::settings::{Settings, Source};

/// The output folder where none is given.
pub const OUTPUT: &str = "runs/quickstart";
/// Environment variable: the number of steps, in place of the one in `configs/quickstart.toml`. Tests use it, and users
/// who want to see quickly that everything works.
pub const STEPS: &str = "FATHOM_QUICKSTART_STEPS";

/// The settings: `configs/quickstart.toml` as it was when the program was built.
const CONFIG: &str = include_str!("../../configs/quickstart.toml");
/// The text, compressed; `bins/assets/README.md` says where it comes from.
const TEXT: &[u8] = include_bytes!("../assets/tinyshakespeare.txt.gz");
/// Its name in the output folder.
const TEXT_NAME: &str = "tinyshakespeare.txt";
/// Prompt of the text that the trained model generates at the end, and the number of generated tokens.
const PROMPT: &str = "ROMEO:";
const SAMPLE: usize = 500;
/// nanoGPT's validation losses on this text, from its README: the machine, and the loss.
const NANOGPT: [(&str, f64); 2] = [("a CPU", 1.88), ("an A100 GPU", 1.4697)];

/// Prepares the text, trains, evaluates and generates in `output`. A run that was stopped is resumed; a finished one is
/// evaluated again.
///
/// Without `output` the folder is [`OUTPUT`]. Another run in that folder (with other settings, or of an older version)
/// is moved aside.
///
/// # Errors
/// Those of its parts; an `output` that holds another run, before anything is written there.
pub fn run<D: Kernels>(device: &D, output: Option<&Path>, curve: When, stop: &AtomicBool) -> Result<()> {
    let start = Instant::now();
    let folder = output.unwrap_or(Path::new(OUTPUT));
    let (settings, text) = (settings(folder, steps().as_deref())?, text()?);
    match (another_run(&settings, &text, folder)?, output) {
        (None, _) => {}
        (Some(why), None) => move_aside(folder, &why)?,
        (Some(why), Some(_)) => {
            let (train, quoted) = (cli::program("train"), cli::quoted(folder));
            return Err(Error::Run(format!(
                "{}: holds another run: {why}; resume that one with `{train} --resume --output {quoted}`, or \
                 choose another --output",
                folder.display()
            )));
        }
    }
    match prepare_text(&settings, &text, folder) {
        Err(Error::Data(error @ fathom_dataprep::Error::OutputExists { .. })) if output.is_none() => {
            move_aside(folder, &error.to_string())?;
            prepare_text(&settings, &text, folder)?;
        }
        prepared => prepared?,
    }
    let mut run = open(device, settings, folder)?;
    let mut report = Report::of(&run);
    let outcome = run.train(stop, &mut report)?;
    let curve = curve.draw(report.history(), std::io::stderr().is_terminal());
    drop(run);
    if outcome.interrupted {
        let shorter = steps().map_or(String::new(), |steps| format!("{STEPS}={steps} "));
        let there = output.map_or(String::new(), |folder| format!(" --output {}", cli::quoted(folder)));
        let train = cli::program("train");
        eprintln!("stopped after step {} and saved; go on with:\n  {shorter}{train}{there}", outcome.step);
        return Ok(());
    }
    show(device, &outcome, &curve, folder, start)
}

/// The value of [`STEPS`].
fn steps() -> Option<String> {
    std::env::var_os(STEPS).map(|steps| steps.to_string_lossy().into_owned())
}

/// The settings of a run in `folder`, for `steps` steps if that is given.
fn settings(folder: &Path, steps: Option<&str>) -> Result<Settings> {
    let mut source = Source::default();
    source.add_file(Path::new("configs/quickstart.toml"), CONFIG)?;
    let data = folder.join("data");
    let data = data.to_str().ok_or_else(|| Error::Usage(format!("--output {}: is not UTF-8", folder.display())))?;
    source.set("data.path", data)?;
    if let Some(steps) = steps {
        let count = steps.parse::<i64>().ok().filter(|n| (1..=1_000_000).contains(n));
        let count = count.ok_or_else(|| Error::Usage(format!("{STEPS}={steps}: must be from 1 to 1000000")))?;
        // Warm-up is for a tenth of the run at most.
        let longest = source.get("schedule.warmup_tokens").and_then(|entry| entry.value.as_integer()).unwrap_or(0);
        source.set("schedule.warmup_tokens", 0)?;
        source.set("train.steps", count)?;
        let (tokens, _) = Settings::new(source.clone())?.budget()?;
        source.set("schedule.warmup_tokens", longest.min(i64::try_from(tokens / 10).unwrap_or(longest)))?;
    }
    let mut settings = Settings::new(source)?;
    settings.prep.output.dir = folder.join("data");
    settings.prep.input.paths = vec![folder.join(TEXT_NAME)];
    Ok(settings)
}

/// The text that the program carries.
fn text() -> Result<Vec<u8>> {
    let mut text = Vec::new();
    GzDecoder::new(TEXT).read_to_end(&mut text).map_err(|e| Error::Run(format!("the built-in text: {e}")))?;
    Ok(text)
}

/// The reason why `folder` holds another run than this one, if it does.
fn another_run(settings: &Settings, text: &[u8], folder: &Path) -> Result<Option<String>> {
    let path = folder.join(TEXT_NAME);
    let there = match std::fs::read(&path) {
        Ok(there) => Some(there),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    if there.as_ref().is_some_and(|there| there != text) {
        return Ok(Some(format!("{} is another text", path.display())));
    }
    let config = resolved::path(folder);
    if config.is_file() {
        let saved = match Settings::load(Some(&config), &[]) {
            Ok(saved) => resolved::that_matter(&saved),
            Err(error) => return Ok(Some(error.to_string())),
        };
        let now = resolved::that_matter(settings);
        if let Some(key) = saved.keys().chain(now.keys()).find(|key| saved.get(*key) != now.get(*key)) {
            let text = |value: Option<&serde_json::Value>| value.map_or("not set".into(), ToString::to_string);
            return Ok(Some(format!("its `{key}` is {}, here it is {}", text(saved.get(key)), text(now.get(key)))));
        }
    }
    let begun = config.is_file() || !checkpoint::survey(folder)?.is_empty();
    Ok((begun && there.is_none()).then(|| format!("it was not trained on {TEXT_NAME}")))
}

/// Renames `folder`, which holds another run, to the first free name.
fn move_aside(folder: &Path, why: &str) -> Result<()> {
    drop(crate::run::lock(folder)?);
    let name = |n: u32| PathBuf::from(format!("{}-{n}", folder.display()));
    let aside = (1..1000).map(name).find(|path| !path.exists());
    let aside = aside.ok_or_else(|| Error::Run(format!("{}: remove some of its copies", folder.display())))?;
    std::fs::rename(folder, &aside).map_err(Error::io("move aside", folder))?;
    eprintln!("{} holds another run: {why}; it is {} now\n", folder.display(), aside.display());
    Ok(())
}

fn prepare_text(settings: &Settings, text: &[u8], folder: &Path) -> Result<()> {
    eprintln!("1. Turn text into tokens: tiny Shakespeare, which this program carries; a token is a byte");
    let _lock = crate::run::lock(folder)?;
    let path = folder.join(TEXT_NAME);
    if !path.is_file() {
        durable::replace(&durable::DISK, &path, text).map_err(Error::io("write", &path))?;
    }
    let summary = prepare::run(&settings.prep)?;
    eprint!("{}", prepare::describe(&summary));
    Ok(())
}

/// Opens the run in `folder`; resumes it if it has begun.
fn open<D: Kernels>(device: &D, settings: Settings, folder: &Path) -> Result<Run<D>> {
    eprintln!("\n2. Train");
    let begun = !checkpoint::survey(folder)?.is_empty();
    let run = Run::open(device, settings, folder, begun)?;
    let (count, config) = (ParameterCount::of(run.config()), run.config());
    eprintln!(
        "{:.2} M parameters, {:.2} M active per token: multi-head latent attention, {} routed experts, {} per token",
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

/// Evaluates, generates text, and names the next commands.
fn show<D: Kernels>(device: &D, outcome: &Outcome, curve: &str, folder: &Path, start: Instant) -> Result<()> {
    eprintln!("\n3. Measure it on the last tenth of the text, which it has not seen");
    if let Some(v) = &outcome.validation {
        let bits = v.bits_per_byte.map_or(String::new(), |b| format!(", {b:.3} bits per byte"));
        let (loss, perplexity, tokens) = (v.loss, v.perplexity, v.tokens);
        cli::print(&format!("validation loss {loss:.4}, perplexity {perplexity:.2}{bits} ({tokens} tokens)"))?;
        let known = NANOGPT.map(|(machine, loss)| format!("{loss} after about 3 minutes on {machine}"));
        eprintln!("nanoGPT's README, same text and split, nats per character: {}", known.join("; "));
    }
    eprint!("{}", outcome.best_lines(folder));
    eprint!("{curve}");
    eprintln!("\n4. Let it write");
    let session = Session::load(device, &outcome.checkpoint)?;
    cli::print(&cli::visible(&write(&session)?))?;

    let (run, data) = (cli::quoted(folder), cli::quoted(&folder.join("data")));
    let program = cli::program;
    eprintln!("\nCurves, samples and settings: {}", folder.join(PAGE).display());
    eprintln!("Done in {:.0} s; everything is in {}. Next:", start.elapsed().as_secs_f64(), folder.display());
    eprintln!("  {} --checkpoint {run} --prompt JULIET: --temperature 0.8", program("generate"));
    eprintln!("  {} --checkpoint {run} --data {data}", program("eval"));
    eprintln!("  {} --plan --set model.preset=v3-671b", program("train"));
    Ok(())
}

/// Generates a text longer than the context of the model: the last half of a context is the next prompt.
fn write<D: Kernels>(session: &Session<D>) -> Result<String> {
    let half = (session.context() / 2).max(1);
    let mut tokens = session.encode(PROMPT)?;
    let (model, tokenizer, ends) = session.parts()?;
    let mut text = String::from(PROMPT);
    for seed in 0..(SAMPLE / half).max(1) as u64 {
        let prompt = tokens[tokens.len().saturating_sub(half)..].to_vec();
        let sampling = Sampling { max_new_tokens: half, temperature: 0.7, seed, ..Sampling::default() };
        let generated = single::continue_tokens(model, tokenizer, ends, prompt, &sampling, &mut |_| true)?;
        tokens.extend(&generated.tokens);
        text.push_str(&generated.text);
        if generated.stop == Stop::EndOfText {
            break;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_text_is_the_one_that_nanogpt_trains_on() {
        let text = text().unwrap();
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
    fn the_settings_say_what_the_text_asks_for() {
        // So that a run's settings are known before its text is prepared.
        let settings = settings(Path::new("x"), None).unwrap();
        let model = settings.model;
        assert_eq!((model.vocab_size, model.bos_token_id, model.eos_token_id), (257, None, Some(256)));
    }

    #[test]
    fn a_short_run_warms_up_for_a_tenth_of_it() {
        let warmup = |steps| {
            let settings = settings(Path::new("x"), steps).unwrap();
            settings.resolved("schedule.warmup_tokens").and_then(toml::Value::as_integer).unwrap()
        };
        let tokens = settings(Path::new("x"), Some("10")).unwrap().budget().unwrap().0;
        assert_eq!(warmup(Some("10")), tokens as i64 / 10);
        assert_eq!(warmup(Some("1000000")), warmup(None));
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
