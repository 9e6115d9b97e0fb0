//! Whether a configured run fits this machine: data, memory, disk, and the checkpoint to go on from.

use std::path::Path;

use fathom_core::comm::Solo;
use fathom_core::device::{Capabilities, Dry};
use fathom_core::model::Model;
use fathom_core::train::{Hyperparameters, Trainer};

use super::{Finding, Verdict, folder, machine};
use crate::checkpoint::{self, State};
use crate::device::{self, host_memory_available};
use crate::error::{Error, Result};
use crate::plan;
use crate::run::{self, resolved, space};
use crate::settings::Settings;
use crate::units::size;

const MEMORY: &str = "run's memory";
/// The name of the device whose memory is the machine's.
const CPU: &str = "cpu";

/// The run that is looked at.
pub struct Request<'a> {
    /// Its settings.
    pub settings: &'a Settings,
    /// The device by name.
    pub device: &'a str,
    /// Number of ranks, and whether all of them are on this machine.
    pub ranks: (usize, bool),
    /// The folder it would write into.
    pub output: &'a Path,
    /// Whether it goes on from a checkpoint there.
    pub resume: bool,
}

/// What is found of the machine and of the run. Nothing is computed, and nothing changed.
pub fn training(request: &Request<'_>) -> Vec<Finding> {
    let mut settings = request.settings.clone();
    let data = of_data(&mut settings, request.ranks.0);
    let checkpoint = checkpoint_of(&settings);
    let largest = checkpoint.as_ref().ok().map(|(_, largest)| *largest);
    let (ranks, _) = request.ranks;
    let mut findings = machine(request.device, settings.train.threads, ranks, largest);
    findings.push(data);
    findings.push(of_memory(request, &settings));
    findings.extend(folder::folder(request.output));
    match checkpoint {
        Ok((bytes, _)) => findings.push(of_disk(request.output, &settings, bytes)),
        Err(error) => findings.push(Finding::error("disk", error)),
    }
    findings.push(of_resume(request, &settings));
    findings
}

/// What is to be said before a run begins of which `here` of `ranks` are on this machine, and that needs more memory
/// than the device has or, on a CPU, has free now. The plan is rather too high than too low, so that is no error: the
/// device says where memory ends.
pub fn short_of_memory(settings: &Settings, (ranks, here): (usize, usize), mut device: Capabilities) -> Option<String> {
    let on_cpu = device.name.as_str() == CPU;
    device.memory = if on_cpu { device::host_memory() } else { device.memory };
    let total = device.memory?;
    let mut settings = settings.clone();
    run::fit_to_data(&mut settings).ok()?;
    // What cannot be planned is named by the run itself.
    let needed = needed(&settings, ranks, device).ok()?;
    let together = if on_cpu { here as u64 } else { 1 };
    let available = if on_cpu { host_memory_available() } else { None };
    let finding = memory(needed.saturating_mul(together), device.name.as_str(), total, available);
    let remedy = finding.remedy.filter(|_| finding.verdict != Verdict::Fine)?;
    Some(format!("memory: {}: {remedy}", finding.text))
}

/// Gives the model the vocabulary of the data.
fn of_data(settings: &mut Settings, ranks: usize) -> Finding {
    let subject = "data";
    match run::fit_to_data(settings) {
        Ok(None) if settings.data.path.is_none() && settings.data.sources.is_empty() => {
            Finding::misfit(subject, "none is named", "name a folder that `prep` wrote")
        }
        Ok(_) => match run::open_data(settings, ranks) {
            Ok(text) => Finding::fine(subject, text),
            Err(error) => Finding::error(subject, error),
        },
        Err(error) => Finding::error(subject, error),
    }
}

/// Bytes of a checkpoint, and of its largest file.
fn checkpoint_of(settings: &Settings) -> Result<(u64, u64)> {
    let failed = || Error::device("planning a checkpoint");
    let model = Model::new(&Dry::new(), &settings.model, settings.train.precision).map_err(failed())?;
    let trainer = Trainer::new(model, Solo, Hyperparameters::default()).map_err(failed())?;
    let average = settings.train.ema_decay > 0.0;
    let bytes = checkpoint::bytes(&trainer, settings.checkpoint.format, average, run::tokenizer_bytes(settings));
    let parameters = trainer.model.architecture().layout().parameters();
    let elements: u64 = parameters.iter().map(|parameter| parameter.elements() as u64).sum();
    let master = settings.train.precision.master().size().max(settings.train.precision.moments().size());
    Ok((bytes, elements.saturating_mul(master as u64).max(settings.checkpoint.shard_bytes.min(bytes))))
}

fn of_memory(request: &Request<'_>, settings: &Settings) -> Finding {
    let subject = MEMORY;
    let planned = device::capabilities(request.device)
        .and_then(|device| Ok((device, needed(settings, request.ranks.0, device)?)));
    let (device, needed) = match planned {
        Ok(planned) => planned,
        Err(error) => return Finding::error(subject, error),
    };
    let (name, Some(total)) = (device.name, device.memory) else {
        return Finding::fine(subject, format!("training needs {}", size(needed)));
    };
    let on_cpu = name.as_str() == CPU;
    // Ranks on one machine have its memory together; each has its own GPU.
    let (ranks, here) = request.ranks;
    let together = if on_cpu && here { ranks as u64 } else { 1 };
    let available = if on_cpu { host_memory_available() } else { None };
    memory(needed.saturating_mul(together), name.as_str(), total, available)
}

fn memory(needed: u64, name: &str, total: u64, available: Option<u64>) -> Finding {
    let (subject, text) = (MEMORY, format!("training needs {}, {name} has {}", size(needed), size(total)));
    let remedy = "lower train.micro_batch_size or train.sequence_length, take a smaller model, or divide its state \
                  among ranks (parallel.zero)";
    match available {
        _ if needed > total => Finding::misfit(subject, text, remedy),
        Some(available) if needed > available => {
            Finding::warning(subject, format!("{text}, of which {} are free now", size(available)), "end what uses it")
        }
        _ => Finding::fine(subject, text),
    }
}

/// Bytes that a rank takes on its device.
fn needed(settings: &Settings, ranks: usize, device: Capabilities) -> Result<u64> {
    let schedule = settings.schedule()?;
    let (tokens, steps) = settings.budget()?;
    plan::needed(&plan::Request {
        model: &settings.model,
        schedule: &schedule,
        tokens,
        steps,
        micro_batch: settings.train.micro_batch_size,
        length: settings.train.sequence_length,
        ranks,
        parallel: settings.parallel.how,
        precision: settings.train.precision,
        average: settings.train.ema(),
        snapshot: settings.checkpoint.asynchronous,
        device,
        data: None,
        tasks: None,
    })
}

fn of_disk(output: &Path, settings: &Settings, needed: u64) -> Finding {
    let subject = "disk";
    let Some(free) = space::free(output) else {
        let text = format!("a checkpoint needs {}; the system does not say what is free", size(needed));
        return Finding::fine(subject, text);
    };
    let steps = settings.budget().map_or(0, |(_, steps)| steps);
    let text = format!("a checkpoint needs {}, {} are free", size(needed), size(free));
    if let Err(error) = space::check(output, needed) {
        return Finding::error(subject, error);
    }
    match space::warning(output, settings, steps, needed) {
        Some(warning) => Finding { text: warning, ..Finding::warning(subject, "", "see checkpoint.keep") },
        None => {
            let count = space::at_once(settings);
            Finding::fine(subject, format!("{text}; the run has {count} at a time"))
        }
    }
}

fn of_resume(request: &Request<'_>, settings: &Settings) -> Finding {
    let (subject, output) = ("checkpoint", request.output);
    if run::is_locked(output) {
        let text = format!("{}: another run is writing there", output.display());
        return Finding::misfit(subject, text, "wait for it, or choose another --output");
    }
    let found = || -> Result<String> {
        let Some(folder) = run::newest(output, request.resume, false)? else {
            return Ok("none to go on from: the run begins at step 0".into());
        };
        let state = State::read(&folder)?;
        state.check(&folder, &resolved::that_matter(settings))?;
        let (_, steps) = settings.budget()?;
        Ok(format!("{}: step {} of {steps}", folder.display(), state.step))
    };
    found().map_or_else(|error| Finding::error(subject, error), |text| Finding::fine(subject, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(sets: &[&str]) -> Settings {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        Settings::load(None, &sets).unwrap()
    }

    #[test]
    fn memory_that_is_too_small_and_memory_that_is_taken_are_told_apart() {
        let verdict = |needed, available| memory(needed, "cpu", 100, available).verdict;
        assert_eq!(verdict(101, None), Verdict::Misfit);
        assert_eq!(verdict(60, Some(50)), Verdict::Warning);
        assert_eq!(verdict(60, Some(60)), Verdict::Fine);
        assert_eq!(verdict(100, None), Verdict::Fine);
    }

    #[test]
    fn a_checkpoint_of_v3_is_planned_in_full() {
        let tiny = ["model.preset=v3-671b"];
        let (f32s, largest) = checkpoint_of(&settings(&tiny)).unwrap();
        // Weights and two moments in f32 of 682.6 billion parameters, and the MTP module's copies of embedding and
        // head, which have no moments: 684.5 billion numbers are published.
        let expected = 4.0 * 684.5e9 + 8.0 * 682.6e9;
        assert!((f32s as f64 / expected - 1.0).abs() < 1e-3, "{f32s}");
        assert!((2_700e9..2_800e9).contains(&(largest as f64)), "{largest}");
        let (fp8, _) = checkpoint_of(&settings(&[tiny[0], "checkpoint.format=fp8"])).unwrap();
        assert!(fp8 > f32s && fp8 < f32s + f32s / 8, "the exact weights lie beside: {fp8}");
    }

    #[test]
    fn a_run_without_data_and_memory_does_not_fit() {
        let root = tempfile::tempdir().unwrap();
        let settings = settings(&["model.preset=v3-671b"]);
        let output = &root.path().join("run");
        let request = Request { settings: &settings, device: "cpu", ranks: (1, true), output, resume: false };
        let findings = training(&request);
        let misfits = super::super::misfits(&findings);
        assert!(misfits.contains(&"data"), "{findings:?}");
        if cfg!(target_os = "linux") {
            assert!(misfits.contains(&MEMORY), "{findings:?}");
        }
        assert!(!misfits.contains(&"checkpoint") && !output.exists(), "{findings:?}");
    }

    #[test]
    fn a_run_that_needs_more_memory_than_there_is_says_so_before_it_begins() {
        let said = |sets: &[&str], memory| {
            let mut device = Capabilities::new("card");
            device.memory = Some(memory);
            short_of_memory(&settings(sets), (1, 1), device)
        };
        let text = said(&["model.preset=v3-671b"], 80 << 30).expect("80 GiB are too few");
        assert!(text.contains("training needs") && text.contains("card has 80.00 GiB"), "{text}");
        assert!(text.contains("train.micro_batch_size"), "{text}");
        assert_eq!(said(&[], 80 << 30), None);
    }
}
