//! A shard that is truncated, replaced or written to while a loader reads it ends in an error that names the file.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fathom_dataprep::pipeline::{self, PrepConfig, Silent};
use fathom_dataprep::{Error, Evaluation, Loader, LoaderOptions, Packing, Split, TokenBatch};

const TIMES: usize = 40;

/// A prepared folder, whose files look as if they had been written a while ago.
fn prepared(folder: &Path) -> PathBuf {
    let (text, shards) = (folder.join("play.txt"), folder.join("shards"));
    fs::write(&text, "To be, or not to be, that is the question.\n".repeat(2000)).unwrap();
    let mut config = PrepConfig::default();
    config.input.paths = vec![text];
    config.output.dir = shards.clone();
    pipeline::run(&config, &mut Silent).unwrap();
    shards
}

fn options(shuffle: bool, packing: Packing) -> LoaderOptions {
    LoaderOptions { sequence_length: 64, shuffle, seed: 1, vocab_size: None, packing }
}

/// Changes of a file, by number.
fn change(kind: usize, path: &Path) -> &'static str {
    let length = fs::metadata(path).unwrap().len();
    let open = || OpenOptions::new().write(true).open(path).unwrap();
    match kind % 6 {
        0 => {
            open().set_len(0).unwrap();
            "truncated to nothing"
        }
        1 => {
            open().set_len(length / 2).unwrap();
            "truncated to the half"
        }
        2 => {
            let fresh = path.with_extension("fresh");
            fs::copy(path, &fresh).unwrap();
            fs::rename(&fresh, path).unwrap();
            "replaced by a copy"
        }
        3 => {
            fs::remove_file(path).unwrap();
            "removed"
        }
        4 => {
            let mut file = open();
            file.seek(SeekFrom::Start(length / 2)).unwrap();
            file.write_all(&[0; 8]).unwrap();
            // A clock may tick more slowly than this test runs.
            file.set_times(FileTimes::new().set_modified(SystemTime::now() + Duration::from_secs(1))).unwrap();
            "written to in place"
        }
        _ => {
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(&[0; 64]).unwrap();
            "made longer"
        }
    }
}

fn names(error: &Error, path: &Path) -> bool {
    matches!(error, Error::ShardChanged { path: found, .. } if found == path)
}

#[test]
fn a_shard_that_changes_in_the_middle_of_an_epoch_ends_in_an_error_that_names_it() {
    let mut seen = 0;
    for kind in 0..TIMES {
        let folder = tempfile::tempdir().unwrap();
        let shards = prepared(folder.path());
        let packing = if kind % 4 == 1 { Packing::BestFit } else { Packing::Concatenate };
        let mut loader = Loader::open(&[&shards], Split::Train, options(kind % 2 == 0, packing)).unwrap();
        let mut batch = TokenBatch::default();
        for _ in 0..kind % 5 {
            loader.fill_batch(3, &mut batch).unwrap();
        }
        let suffix = if kind % 3 == 2 { "idx" } else { "bin" };
        let path = shards.join(format!("train-00000.{suffix}"));
        let what = change(kind / 3, &path);
        let next = loader.next_index();
        let error = loader.fill_batch(3, &mut batch).unwrap_err();
        assert!(names(&error, &path), "{what}: {error}");
        assert_eq!(loader.next_index(), next, "the cursor stays where it was");
        assert!(error.to_string().contains("changed while it was read"), "{error}");

        let path = shards.join(format!("validation-00000.{suffix}"));
        let mut evaluation = Evaluation::open(&[&shards.join("validation-00000")], Split::Train, 64, None).unwrap();
        evaluation.fill_batch(3, &mut batch).unwrap();
        let what = change(kind / 3, &path);
        let error = evaluation.fill_batch(3, &mut batch).unwrap_err();
        assert!(names(&error, &path), "{what}: {error}");
        seen += 2;
    }
    println!("{seen} changes between two batches, all seen");
    assert!(seen >= 80);
}

/// With another thread that changes the file at any moment of a read.
#[test]
fn a_shard_that_is_truncated_during_a_read_sends_no_signal() {
    let folder = tempfile::tempdir().unwrap();
    let shards = prepared(folder.path());
    let path = shards.join("train-00000.bin");
    let whole = fs::read(&path).unwrap();
    let (mut errors, mut batches) = (0, 0);
    for _ in 0..100 {
        // The same file again, as it was when it was prepared.
        File::create(&path).unwrap().write_all(&whole).unwrap();
        let mut loader = Loader::open(&[&shards], Split::Train, options(true, Packing::Concatenate)).unwrap();
        let begun = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !begun.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
            });
            let mut batch = TokenBatch::default();
            let error = loop {
                match loader.fill_batch(2, &mut batch) {
                    Ok(()) => batches += 1,
                    Err(error) => break error,
                }
                begun.store(true, Ordering::Relaxed);
            };
            assert!(names(&error, &path), "{error}");
            errors += 1;
        });
    }
    println!("{errors} truncations while {batches} batches were read, no signal");
    assert_eq!(errors, 100);
}
