//! Turns text into token shards, and looks into what became of it.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli;
use crate::error::Result;
use crate::prepare;
use crate::settings::{Settings, keys};
use argh::FromArgs;

/// Turn raw text into token shards: read files and folders, load or train a tokenizer, and write shards that train,
/// Megatron and others read. `prep inspect DIR` reports on what was prepared, `prep trace DIR --token N` says where a
/// token came from.
#[derive(FromArgs)]
#[argh(
    example = "prep --input corpus/ --input notes.jsonl.zst --vocab-size 16384 --output data/corpus",
    example = "prep --config configs/shakespeare.toml --input tinyshakespeare.txt --output data/shakespeare",
    example = "prep --input crawl/ --tokenizer tokenizer.json --output /shared/out --rank 3 --world 8",
    note = "`prep --keys` lists every key of the configuration file and of --set. Several processes prepare one corpus \
            together when they are given the same arguments and a folder that all can reach; each takes its rank from \
            --rank and --world, or from Slurm, a Kubernetes Indexed Job (with --world) or MPI.",
    error_code(0, "done"),
    error_code(1, "the input could not be read or the output not written"),
    error_code(2, "wrong arguments or settings")
)]
struct Arguments {
    /// TOML file of settings
    #[argh(option)]
    config: Option<PathBuf>,
    /// file, folder or glob to read (may be repeated): .warc, .wet, .html, .txt, .md, source code, .jsonl, .csv, each
    /// plain, .gz or .zst; .parquet and .arrow where the program was built with them
    #[argh(option)]
    input: Vec<PathBuf>,
    /// folder to write
    #[argh(option)]
    output: PathBuf,
    /// name of a tokenizer: bytes, a Hugging Face tokenizer.json, or a folder that holds one
    #[argh(option)]
    tokenizer: Option<PathBuf>,
    /// train a byte-level BPE tokenizer of this many tokens on the input instead
    #[argh(option)]
    vocab_size: Option<u32>,
    /// number of this process, from 0, of --world
    #[argh(option)]
    rank: Option<usize>,
    /// number of processes that prepare this corpus together
    #[argh(option)]
    world: Option<usize>,
    /// set a key over the file: --set output.validation_fraction=0.05 (may be repeated)
    #[argh(option)]
    set: Vec<String>,
}

/// Report on a folder that prep wrote: documents, tokens, what each rule dropped, lengths, languages, scores, examples.
#[derive(FromArgs)]
#[argh(
    example = "prep inspect data/corpus",
    note = "A page with plots is written besides, to FOLDER/report.html unless --html says otherwise.",
    error_code(0, "done"),
    error_code(1, "the folder could not be read"),
    error_code(2, "wrong arguments")
)]
struct Inspect {
    /// the folder
    #[argh(positional)]
    folder: PathBuf,
    /// where to write the page
    #[argh(option)]
    html: Option<PathBuf>,
    /// print everything as JSON
    #[argh(switch)]
    json: bool,
}

/// Say where a training token came from: its document's file and bytes, address, scores, and the text around it.
#[derive(FromArgs)]
#[argh(
    example = "prep trace data/corpus --token 123456",
    error_code(0, "done"),
    error_code(1, "the folder could not be read, or there is no such token"),
    error_code(2, "wrong arguments")
)]
struct Trace {
    /// the folder
    #[argh(positional)]
    folder: PathBuf,
    /// number of the token, from 0, over all shards of the split
    #[argh(option)]
    token: u64,
    /// train or validation
    #[argh(option, default = "String::from(\"train\")")]
    split: String,
    /// tokens of text to show before and after it
    #[argh(option, default = "30")]
    around: u64,
    /// print it as JSON
    #[argh(switch)]
    json: bool,
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let (name, rest) = cli::arguments();
    match rest.first().map(String::as_str) {
        Some("inspect") => {
            return cli::run_with(&[&name, "inspect"], &rest[1..], |a: Inspect| {
                prepare::inspect(&a.folder, a.html.as_deref(), a.json)
            });
        }
        Some("trace") => {
            return cli::run_with(&[&name, "trace"], &rest[1..], |a: Trace| {
                prepare::trace(&a.folder, &a.split, a.token, a.around, a.json)
            });
        }
        _ => {}
    }
    if rest.iter().any(|a| a == "--keys") {
        print!("{}", keys::table(prepare::SECTIONS));
        return ExitCode::SUCCESS;
    }
    cli::run_with(&[&name], &rest, run)
}

fn run(arguments: Arguments) -> Result<()> {
    let mut config = Settings::load(arguments.config.as_deref(), &arguments.set)?.prep;
    config.input.paths.extend(arguments.input);
    config.output.dir = arguments.output;
    if let Some(path) = arguments.tokenizer {
        config.tokenizer.path = Some(path);
        config.tokenizer.vocab_size = None;
    }
    if let Some(size) = arguments.vocab_size {
        config.tokenizer.vocab_size = Some(size);
        config.tokenizer.path = None;
    }
    config.rank = prepare::rank(arguments.rank, arguments.world)?;
    let summary = prepare::run(&config)?;
    eprint!("{}", prepare::describe(&summary));
    Ok(())
}
