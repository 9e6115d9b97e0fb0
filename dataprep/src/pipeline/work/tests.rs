//! Tests of stages and tasks.

use super::*;
use crate::durable::DISK;
use crate::pipeline::flow::flow;
use crate::pipeline::{Rank, Silent};
use crate::shard::MANIFEST;

fn config(rank: usize, world: usize, threads: usize) -> PrepConfig {
    PrepConfig { rank: Rank::new(rank, world).unwrap(), threads, wait_seconds: 1, ..PrepConfig::default() }
}

fn with_work<T>(folder: &Path, config: &PrepConfig, body: impl FnOnce(&Work<'_>) -> T) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build().unwrap();
    body(&Work::new(&DISK, folder.into(), config, ManifestWatch::now(config), pool, &mut Silent))
}

fn stage(tasks: usize) -> Stage {
    Stage { name: "squares", title: "square", sizes: vec![1; tasks] }
}

/// Writes the square of the task's number.
fn square(task: usize, draft: &mut Draft<'_>) -> Result<u64> {
    let mut file = draft.create("square")?;
    write!(file, "{}", task * task).unwrap();
    draft.publish(file)?;
    Ok((task * task) as u64)
}

fn squares(work: &Work<'_>, tasks: usize) -> Result<Vec<u64>> {
    let receipts = work.run(&stage(tasks), square)?;
    for receipt in &receipts {
        let mut text = String::new();
        let mut input = receipt.open(&work.folder().join("squares"), "square")?.unwrap();
        input.read_to_string(&mut text).map_err(|e| input.damaged(e))?;
        assert_eq!(text, receipt.report.to_string());
        assert!(receipt.open(&work.folder().join("squares"), "cube")?.is_none());
    }
    Ok(receipts.into_iter().map(|receipt| receipt.report).collect())
}

#[test]
fn only_tasks_without_a_receipt_are_done_again() {
    let dir = tempfile::tempdir().unwrap();
    for threads in [1, 3] {
        let folder = dir.path().join(threads.to_string());
        let failing = |task, draft: &mut Draft<'_>| match task {
            3 => Err(Error::Tokenize("task 3".into())),
            _ => square(task, draft),
        };
        let error = with_work(&folder, &config(0, 1, threads), |work| work.run(&stage(6), failing).unwrap_err());
        assert!(error.to_string().contains("task 3"), "{error}");
        let (before, again) = (count_receipts(&folder.join("squares")).unwrap(), AtomicUsize::new(0));
        assert!((3..6).contains(&before));
        let counted = |task, draft: &mut Draft<'_>| {
            again.fetch_add(1, Ordering::Relaxed);
            square(task, draft)
        };
        with_work(&folder, &config(0, 1, threads), |work| work.run(&stage(6), counted).unwrap());
        assert_eq!(again.into_inner(), 6 - before);
        assert_eq!(with_work(&folder, &config(0, 1, threads), |w| squares(w, 6)).unwrap(), [0, 1, 4, 9, 16, 25]);
    }
}

#[test]
fn ranks_share_the_tasks_and_wait_for_one_another() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let rank = |index| with_work(dir.path(), &config(index, 3, 2), |work| squares(work, 7).unwrap());
        let ranks: Vec<_> = (0..3).map(|index| scope.spawn(move || rank(index))).collect();
        ranks.into_iter().for_each(|rank| assert_eq!(rank.join().unwrap(), [0, 1, 4, 9, 16, 25, 36]));
    });
}

#[test]
fn a_rank_that_does_not_get_on_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = with_work(dir.path(), &config(1, 2, 1), |work| squares(work, 5)).unwrap_err().to_string();
    assert!(error.contains("3 of 5 tasks") && error.contains("number 0, of rank 0"), "{error}");
    // A later process, alone, finishes what is left.
    assert_eq!(with_work(dir.path(), &config(0, 1, 1), |work| squares(work, 5)).unwrap().len(), 5);
}

#[test]
fn tasks_in_order_end_where_no_more_are_needed() {
    let dir = tempfile::tempdir().unwrap();
    let sum = |before: &[Receipt<u64>]| before.iter().map(|receipt| receipt.report).sum::<u64>();
    let run = |rank, world| {
        with_work(dir.path(), &config(rank, world, 2), |work| {
            let done = work.run_in_order(
                &stage(50),
                |before| sum(before) < 10,
                |task, before, draft| Ok(square(task, draft)? + sum(before)),
            );
            done.unwrap().into_iter().map(|receipt| receipt.report).collect::<Vec<_>>()
        })
    };
    // 0, 1 + 0, 4 + 1, 9 + 6: the sum is then above 10.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| run(1, 2));
        assert_eq!(run(0, 2), [0, 1, 5, 15]);
        assert_eq!(other.join().unwrap(), [0, 1, 5, 15]);
    });
}

#[test]
fn damage_is_found_and_the_remedy_works() {
    let dir = tempfile::tempdir().unwrap();
    let squares = || with_work(dir.path(), &config(0, 1, 1), |work| squares(work, 3));
    squares().unwrap();
    let folder = dir.path().join("squares");
    for (name, content) in
        [("00002.square", "5"), ("00002.square", "44"), ("00001.receipt", "{}"), ("00001.receipt", "{}\n0\n")]
    {
        let good = fs::read(folder.join(name)).unwrap();
        fs::write(folder.join(name), content).unwrap();
        let error = squares().unwrap_err();
        let Error::Intermediate { path, remove, .. } = &error else { panic!("{error}") };
        assert_eq!(path, &folder.join(name));
        fs::remove_file(remove).unwrap();
        assert_eq!(squares().unwrap(), [0, 1, 4]);
        assert_eq!(fs::read(folder.join(name)).unwrap(), good);
    }
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_receipt_or_its_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("squares");
    let stage = stage(12);
    let squares = || with_work(dir.path(), &config(0, 1, 1), |work| work.run(&stage, square));
    let receipts = squares().unwrap();
    let read = |task: usize| -> Result<u64> {
        let receipt: Receipt<u64> = read_receipt(&folder, task)?;
        let mut text = String::new();
        let mut input = receipt.open(&folder, "square")?.expect("the receipt names it");
        input.read_to_string(&mut text).map_err(|e| input.damaged(e))?;
        assert_eq!(receipt, receipts[task]);
        Ok(receipt.report)
    };
    read(11).unwrap();
    for name in ["00011.receipt", "00011.square"] {
        let path = folder.join(name);
        let good = fs::read(&path).unwrap();
        let flipped = (0..good.len() * 8).map(|bit| {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bad
        });
        // The last byte is the end of the line with the checksum, which says nothing.
        let (mut found, mut same) = (0, 0);
        for bad in flipped.chain((0..good.len()).map(|length| good[..length].to_vec())) {
            fs::write(&path, &bad).unwrap();
            match read(11) {
                Err(error) => {
                    assert!(error.to_string().contains("00011."), "{error}");
                    found += 1;
                }
                Ok(_) => same += 1,
            }
        }
        fs::write(&path, &good).unwrap();
        println!("{name}: {found} found, {same} that change nothing");
        assert!(same <= if name.ends_with("receipt") { 5 } else { 0 }, "{same} pass");
    }
}

#[test]
fn a_folder_that_is_taken_away_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("work");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| with_work(&folder, &config(1, 2, 1), |work| squares(work, 1)));
        while !folder.join("squares").exists() {
            std::thread::yield_now();
        }
        fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(waiting.join().unwrap().unwrap_err(), Error::WorkGone { .. }));
    });
}

#[test]
fn who_comes_too_late_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(1, 2, 1);
    config.output.dir = dir.path().into();
    let folder = dir.path().join("work/key");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| with_work(&folder, &config, |work| squares(work, 1)));
        while !folder.join("squares").exists() {
            std::thread::yield_now();
        }
        // The folder is there, and nobody will ever put the first process's receipt into it.
        fs::write(dir.path().join(MANIFEST), "{}").unwrap();
        assert!(matches!(waiting.join().unwrap().unwrap_err(), Error::WorkGone { .. }));
    });
}

#[test]
fn items_flow_in_order_and_errors_stop_them() {
    let dir = tempfile::tempdir().unwrap();
    for threads in [1, 3] {
        with_work(dir.path(), &config(0, 1, threads), |work| {
            let run = |bad_batch: usize, bad_item: usize, bad_sink: usize| {
                let (mut batches, mut out) = (0, Vec::new());
                let next = || {
                    batches += 1;
                    match batches {
                        n if n == bad_batch => Err(Error::Tokenize("batch".into())),
                        1..=4 => Ok((batches * 100..batches * 100 + 100).collect()),
                        _ => Ok(Vec::new()),
                    }
                };
                let map = |(): &mut (), item: usize| match item {
                    item if item == bad_item => Err(Error::Tokenize("item".into())),
                    item => Ok(item * 2),
                };
                let sink = |item| {
                    out.push(item);
                    if out.len() == bad_sink { Err(Error::Tokenize("sink".into())) } else { Ok(()) }
                };
                flow(work, next, || (), map, sink).map(|()| out)
            };
            assert_eq!(run(0, 0, 0).unwrap(), (100..500).map(|i| i * 2).collect::<Vec<_>>());
            for (bad, name) in [((3, 0, 0), "batch"), ((0, 250, 0), "item"), ((0, 0, 120), "sink")] {
                assert!(run(bad.0, bad.1, bad.2).unwrap_err().to_string().contains(name));
            }
        });
    }
}
