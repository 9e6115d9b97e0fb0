//! A flipped bit or a cut in any file is an error that names the file, or is found when contents are verified: never
//! a panic, never memory beyond the file's size.
//!
//! `FATHOM_FLIPS=all` flips every bit of the headers, and not one of each byte, and more of the contents.

use std::alloc::System;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use cap::Cap;
use fathom::checkpoint::{Manifest as CheckpointManifest, State, survey};
use fathom::hf::safetensors::TensorFile;
use fathom::run::{Run, metrics};
use fathom::settings::Settings;
use fathom_cpu::Cpu;
use fathom_dataprep::pipeline::{self, Silent};
use fathom_dataprep::{Manifest, PrepConfig, ShardSet, Split};

/// Counts what the readers ask for. Beyond the limit an allocation fails, and the process with it.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// What a reader may take beside the size of the file.
const ROOM: usize = 1 << 20;
/// Flips in the contents of a large file, evenly spread.
fn samples() -> usize {
    if std::env::var_os("FATHOM_FLIPS").is_some() { 2000 } else { 400 }
}

/// The bits of a byte that are flipped: one of them, or all.
fn bits(at: usize) -> std::ops::Range<usize> {
    match std::env::var_os("FATHOM_FLIPS") {
        Some(_) => 0..8,
        None => at % 8..at % 8 + 1,
    }
}

/// How a format is read: what is found at once, and what by comparing contents with their checksums.
struct Format<'a> {
    name: &'a str,
    path: PathBuf,
    /// Bytes at the start of which every bit is flipped, and which are cut at every length.
    header: usize,
    /// Opens the file. An error names the file.
    open: &'a dyn Fn() -> Result<(), String>,
    /// Compares contents, where there are checksums.
    verify: Option<&'a dyn Fn() -> Result<(), String>>,
}

#[derive(Default)]
struct Count {
    refused: usize,
    verified: usize,
    passed: usize,
}

impl Format<'_> {
    fn check(&self, count: &mut Count, what: &str) {
        let size = fs::metadata(&self.path).map_or(0, |found| found.len() as usize);
        MEMORY.set_limit(MEMORY.allocated() + size + ROOM).unwrap();
        let opened = (self.open)();
        MEMORY.set_limit(usize::MAX).unwrap();
        match (opened, self.verify.map(|verify| verify())) {
            (Err(message), _) => {
                let file = self.path.file_stem().unwrap().to_str().unwrap();
                assert!(message.contains(file), "{}, {what}: `{message}` does not name {file}", self.name);
                count.refused += 1;
            }
            (Ok(()), Some(Err(_))) => count.verified += 1,
            (Ok(()), None) => count.passed += 1,
            (Ok(()), Some(Ok(()))) => panic!("{}, {what}: not found", self.name),
        }
    }

    /// Puts a new file in the place of the old one: ext4 brings one that was emptied and written again to the disk at
    /// once.
    fn write(&self, bytes: &[u8]) {
        fs::remove_file(&self.path).unwrap();
        fs::write(&self.path, bytes).unwrap();
    }

    fn run(&self) {
        let good = fs::read(&self.path).unwrap();
        (self.open)().unwrap();
        self.verify.iter().for_each(|verify| verify().unwrap());
        let (mut flips, mut cuts, mut payload) = (Count::default(), Count::default(), Count::default());
        let flip = |count: &mut Count, at: usize, bit: usize| {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            self.write(&bad);
            self.check(count, &format!("bit {bit} of byte {at}"));
        };
        let header = self.header.min(good.len());
        for at in 0..header {
            bits(at).for_each(|bit| flip(&mut flips, at, bit));
        }
        let rest = good.len() - header;
        let samples = samples().min(rest);
        for sample in 0..samples {
            flip(&mut payload, header + sample * rest / samples, sample % 8);
        }
        // Without the end of its last line a file says the same.
        let cut = |length: &usize| !good[*length..].iter().all(u8::is_ascii_whitespace);
        for length in (0..header).chain([good.len() - 1]).filter(cut) {
            self.write(&good[..length]);
            self.check(&mut cuts, &format!("cut to {length} bytes"));
        }
        self.write(&good);
        let row = |count: Count| format!("{} + {} of {}", count.refused, count.verified, count.sum());
        println!("| {} | {} | {} | {} |", self.name, row(flips), row(payload), row(cuts));
    }
}

impl Count {
    fn sum(&self) -> usize {
        self.refused + self.verified + self.passed
    }
}

fn prepared(folder: &Path) -> PathBuf {
    let text = folder.join("text");
    fs::create_dir(&text).unwrap();
    for i in 0..12 {
        fs::write(text.join(format!("{i}.txt")), format!("document {i}: ") + &"to be or not to be ".repeat(9)).unwrap();
    }
    let mut config = PrepConfig::default();
    config.input.paths = vec![text];
    config.output.dir = folder.join("data");
    (config.output.validation_fraction, config.threads) = (0.0, 1);
    pipeline::run(&config, &mut Silent).unwrap();
    config.output.dir
}

fn trained(data: &Path, folder: &Path) -> PathBuf {
    let sets = format!(
        "data.path={} train.steps=2 model.hidden_size=16 model.num_hidden_layers=2 model.n_routed_experts=8 \
         train.batch_size=2 train.sequence_length=16 train.eval_every=0 train.tensorboard=false",
        data.display()
    );
    let sets: Vec<String> = sets.split_whitespace().map(str::to_owned).collect();
    let output = folder.join("run");
    let settings = Settings::load(None, &sets).unwrap();
    let mut run = Run::open(&Cpu::with_threads(1), settings, &output, false).unwrap();
    run.train(&AtomicBool::new(false), &mut ()).unwrap().checkpoint
}

#[test]
fn damage_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = prepared(folder.path());
    let checkpoint = trained(&data, folder.path());
    let run = checkpoint.parent().unwrap();
    let text = |error: &dyn std::fmt::Display| error.to_string();
    // As a run, a conversion or a server checks what it reads.
    let contents = || {
        let found = survey(run).unwrap().remove(0);
        found.damage.map_or(Ok(()), Err).map_err(|e| text(&e))?;
        CheckpointManifest::read(&checkpoint).unwrap().check_contents(&checkpoint).map_err(|e| text(&e))
    };
    let shards = || ShardSet::open(&data, Split::Train).map_err(|e| text(&e));
    let verify_shards = || shards().and_then(|set| set.verify().map_err(|e| text(&e)));
    let weights = checkpoint.join("model.safetensors");
    let length = u64::from_le_bytes(*fs::read(&weights).unwrap().first_chunk().unwrap()) as usize;
    println!("| format | header bits, found at once + by checksums | contents | cuts |");
    let formats = [
        Format {
            name: "safetensors",
            path: weights.clone(),
            header: 8 + length,
            open: &|| TensorFile::open(&weights).map(drop).map_err(|e| text(&e)),
            verify: Some(&contents),
        },
        Format {
            name: "trainer/state.json",
            path: checkpoint.join("trainer/state.json"),
            header: usize::MAX,
            open: &|| State::read(&checkpoint).map(drop).map_err(|e| text(&e)),
            verify: Some(&contents),
        },
        Format {
            name: "trainer/m.safetensors",
            path: checkpoint.join("trainer/m.safetensors"),
            header: 0,
            open: &|| Ok(()),
            verify: Some(&contents),
        },
        Format {
            name: "a checkpoint's manifest.json",
            path: checkpoint.join("manifest.json"),
            header: usize::MAX,
            open: &|| CheckpointManifest::read(&checkpoint).map(drop).map_err(|e| text(&e)),
            verify: Some(&contents),
        },
        Format {
            name: "prep's manifest.json",
            path: data.join("manifest.json"),
            header: usize::MAX,
            open: &|| Manifest::read(&data).map(drop).map_err(|e| text(&e)),
            // It has a checksum of itself: nothing passes.
            verify: Some(&|| Manifest::read(&data).map(drop).map_err(|e| text(&e))),
        },
        Format {
            name: "a shard's .idx",
            path: data.join("train-00000.idx"),
            header: usize::MAX,
            open: &|| shards().map(drop),
            verify: Some(&verify_shards),
        },
        Format {
            name: "a shard's .bin",
            path: data.join("train-00000.bin"),
            header: 0,
            open: &|| shards().map(drop),
            verify: Some(&verify_shards),
        },
        Format {
            name: "metrics.jsonl",
            path: run.join(metrics::FILE),
            header: usize::MAX,
            open: &|| metrics::read(run).map(drop).map_err(|e| text(&e)),
            verify: None,
        },
    ];
    formats.iter().for_each(Format::run);
}
