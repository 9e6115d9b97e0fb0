//! `prep`: turns text into token shards, and looks into the result.

use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};

use crate::cli::{Command, Program};
use crate::error::{Error, Result};
use crate::prepare;
use crate::settings::{Settings, keys};

/// The command.
pub const COMMAND: Command = Command::new::<Arguments>("prep", "turn text into token shards")
    .with_keys(|| keys::table(prepare::SECTIONS))
    .with_commands(&[
        Command::new::<Inspect>("inspect", "report on a prepared folder: documents, tokens, rules, lengths"),
        Command::new::<Trace>("trace", "find the document that a training token came from"),
    ]);

/// Turn text into token shards: read files and folders, load or train a tokenizer, and write shards in Megatron's
/// indexed format.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} notes/",
    example = "{command_name} corpus/ notes.jsonl.zst --vocab-size 16384 --output data/corpus",
    example = "{command_name} --config configs/web.toml --input crawl/ --output data/web",
    example = "{command_name} crawl/ --tokenizer tokenizer.json --output /shared/out --rank 3 --world 8",
    note = "Several processes prepare one corpus together if they get the same arguments and an output folder \
            that all can reach. Each takes its rank from --rank and --world, or from Slurm, a Kubernetes Indexed Job \
            (with --world) or MPI.",
    error_code(0, "done"),
    error_code(1, "the input could not be read or the output not written"),
    error_code(2, "wrong arguments or settings"),
    error_code(130, "stopped by a signal; the same command goes on")
)]
struct Arguments {
    /// files, folders or globs to read; the same as --input
    #[argh(positional, arg_name = "input")]
    inputs: Vec<PathBuf>,
    /// TOML file of settings
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,
    /// file, folder or glob to read (may be repeated): .warc, .wet, .html, .txt, .md, source code, .jsonl, .csv, each
    /// plain, .gz or .zst; .parquet and .arrow where the program was built with them
    #[argh(option, arg_name = "path")]
    input: Vec<PathBuf>,
    /// folder to write (default: data/NAME for a single input NAME)
    #[argh(option, arg_name = "folder")]
    output: Option<PathBuf>,
    /// tokenizer: bytes, a Hugging Face tokenizer.json, or a folder that holds one (default: bytes, which makes each
    /// byte a token)
    #[argh(option, arg_name = "path")]
    tokenizer: Option<PathBuf>,
    /// train a byte-level BPE tokenizer with this many tokens on the input; excludes --tokenizer
    #[argh(option, arg_name = "n")]
    vocab_size: Option<u32>,
    /// rank of this process, from 0, of --world
    #[argh(option, arg_name = "n")]
    rank: Option<usize>,
    /// number of processes that prepare this corpus together
    #[argh(option, arg_name = "n")]
    world: Option<usize>,
    /// threads; 0 for all cores (default: 0)
    #[argh(option, arg_name = "n")]
    threads: Option<usize>,
    /// set a configuration key over the file: --set output.validation_fraction=0.05 (may be repeated)
    #[argh(option, arg_name = "key=value")]
    set: Vec<String>,
}

/// Report on a folder that prep wrote: documents, tokens, what each rule dropped, lengths, languages, scores, examples.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} data/corpus",
    note = "Writes a page with plots too, to FOLDER/report.html or the file that --html names.",
    error_code(0, "done"),
    error_code(1, "the folder could not be read"),
    error_code(2, "wrong arguments")
)]
struct Inspect {
    /// folder that prep wrote
    #[argh(positional)]
    folder: PathBuf,
    /// file for the page with plots (default: FOLDER/report.html)
    #[argh(option, arg_name = "file")]
    html: Option<PathBuf>,
    /// print everything as JSON
    #[argh(switch)]
    json: bool,
}

/// Find the document that a training token came from: its file and bytes, address, scores, and the text around the
/// token.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    help_triggers("--help"),
    example = "{command_name} data/corpus --token 123456",
    error_code(0, "done"),
    error_code(1, "the folder could not be read, or there is no such token"),
    error_code(2, "wrong arguments")
)]
struct Trace {
    /// folder that prep wrote
    #[argh(positional)]
    folder: PathBuf,
    /// position of the token, from 0, over all shards of the split
    #[argh(option, arg_name = "n")]
    token: u64,
    /// split of the data (default: train)
    #[argh(option, default = "String::from(\"train\")", arg_name = "train|validation")]
    split: String,
    /// tokens of text to show before and after it (default: 30)
    #[argh(option, default = "30", arg_name = "n")]
    around: u64,
    /// print it as JSON
    #[argh(switch)]
    json: bool,
}

impl Program for Inspect {
    fn run(self) -> Result<()> {
        prepare::inspect(&self.folder, self.html.as_deref(), self.json)
    }
}

impl Program for Trace {
    fn run(self) -> Result<()> {
        prepare::trace(&self.folder, &self.split, self.token, self.around, self.json)
    }
}

impl Program for Arguments {
    fn run(self) -> Result<()> {
        if let (Some(tokenizer), Some(size)) = (&self.tokenizer, self.vocab_size) {
            return Err(Error::Usage(format!(
                "--tokenizer {} and --vocab-size {size}: a tokenizer is either loaded or trained; leave one out",
                tokenizer.display()
            )));
        }
        let mut config = Settings::load(self.config.as_deref(), &self.set)?.prep;
        config.input.paths.extend(self.inputs);
        config.input.paths.extend(self.input);
        config.output.dir = match self.output {
            Some(folder) => folder,
            None => default_output(&config.input.paths)?,
        };
        if let Some(path) = self.tokenizer {
            config.tokenizer.path = Some(path);
            config.tokenizer.vocab_size = None;
        }
        if let Some(size) = self.vocab_size {
            config.tokenizer.vocab_size = Some(size);
            config.tokenizer.path = None;
        }
        config.threads = self.threads.unwrap_or(config.threads);
        config.rank = prepare::rank(self.rank, self.world)?;
        prepare::leave_on_interrupt(&config.output.dir);
        let summary = prepare::run(&config)?;
        eprint!("{}", prepare::describe(&summary));
        Ok(())
    }
}

/// The folder for what is prepared from `inputs`: `data/NAME` for a single file or folder NAME.
fn default_output(inputs: &[PathBuf]) -> Result<PathBuf> {
    let name = match inputs {
        [] => return Err(Error::Usage("nothing to read: name a file or folder, or give --input PATH".into())),
        [one] => name(one),
        _ => None,
    };
    let name =
        name.ok_or_else(|| Error::Usage("--output is not given, and the input has no one name: add it".into()))?;
    Ok(Path::new("data").join(name))
}

/// `notes` for `notes/`, `notes.txt` and `notes.jsonl.zst`; nothing for a glob or a path without a name.
fn name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = if path.is_dir() { name } else { name.split('.').next().filter(|stem| !stem.is_empty())? };
    (!stem.contains(['*', '?', '['])).then(|| stem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_is_named_after_a_single_input() {
        let output = |paths: &[&str]| default_output(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        for path in ["notes/", "notes", "/a/notes.txt", "notes.jsonl.zst"] {
            assert_eq!(output(&[path]).unwrap(), Path::new("data/notes"), "{path}");
        }
        for paths in [&["a", "b"][..], &["crawl/*.warc.gz"], &[".."], &["/"], &[]] {
            assert_eq!(output(paths).unwrap_err().exit_code(), 2, "{paths:?}");
        }
    }
}
