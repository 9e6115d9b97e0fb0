//! Tests of the loader.

use super::*;
use crate::shard::{Dtype, ShardWriter};

/// A stream of `0, 1, 2, ...` in documents of `document` tokens (the last of which is 999), in several small shards.
fn data(tokens: u32, document: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::new(dir.path(), "train", Dtype::I32, 999, 64);
    for first in (0..tokens).step_by(document as usize) {
        writer.push(&(first..first + document - 1).collect::<Vec<_>>(), 0).unwrap();
    }
    writer.finish().unwrap().commit().unwrap();
    dir
}

fn options(sequence_length: usize, shuffle: bool) -> LoaderOptions {
    LoaderOptions { sequence_length, shuffle, seed: 5, vocab_size: None, packing: Packing::Concatenate }
}

fn loader(dir: &tempfile::TempDir, options: LoaderOptions) -> Loader {
    Loader::open(&[dir.path()], Split::Train, options).unwrap()
}

#[test]
fn sequences_overlap_by_one_token_and_know_their_documents() {
    let dir = data(25, 5);
    let mut loader = loader(&dir, options(4, false));
    assert_eq!(loader.sequences(), 6);
    let batch = loader.next_batch(2).unwrap();
    assert_eq!(batch.row(0), [0, 1, 2, 3, 999]);
    assert_eq!(batch.row(1), [999, 5, 6, 7, 8]);
    assert_eq!(batch.document_starts, [0, 0, 0, 0, 0, 1, 1, 1]);
    loader.next_batch(4).unwrap();
    assert_eq!(loader.next_batch(1).unwrap().row(0), [0, 1, 2, 3, 999], "the next epoch begins again");
    assert_eq!(loader.cursor().epoch, 1);
}

#[test]
fn every_epoch_has_every_sequence_in_another_order() {
    let dir = data(1000, 10);
    let mut loader = loader(&dir, options(7, true));
    let n = loader.sequences();
    let mut epoch = || -> Vec<u64> {
        let order = (0..n).map(|i| loader.locate(loader.next_index() + i).unwrap().1).collect();
        loader.set_next_index(loader.next_index() + n);
        order
    };
    let (first, second) = (epoch(), epoch());
    assert_ne!(first, second);
    for mut order in [first, second] {
        order.sort_unstable();
        assert_eq!(order, (0..n).collect::<Vec<_>>());
    }
}

#[test]
fn batches_do_not_depend_on_how_they_are_asked_for() {
    let dir = data(300, 10);
    let mut whole = loader(&dir, options(8, true));
    let expected = whole.next_batch(100).unwrap();
    // One by one, across epochs.
    let mut single = loader(&dir, options(8, true));
    for b in 0..100 {
        assert_eq!(single.next_batch(1).unwrap().row(0), expected.row(b));
    }
    // Three workers, each every third sequence.
    let shared = loader(&dir, options(8, true));
    for rank in 0..3 {
        let mut batch = TokenBatch::default();
        let mine: Vec<u64> = (0..100).filter(|k| k % 3 == rank).collect();
        shared.fill_sequences(mine.iter().copied(), &mut batch).unwrap();
        for (row, k) in mine.iter().enumerate() {
            assert_eq!(batch.row(row), expected.row(*k as usize));
        }
    }
}

#[test]
fn a_saved_cursor_continues_exactly() {
    let dir = data(300, 10);
    let mut straight = loader(&dir, options(8, true));
    straight.next_batch(50).unwrap();
    let saved = serde_json::to_string(&straight.cursor()).unwrap();
    let mut resumed = loader(&dir, options(8, true));
    resumed.seek(&serde_json::from_str(&saved).unwrap()).unwrap();
    assert_eq!(resumed.cursor(), straight.cursor());
    for _ in 0..10 {
        assert_eq!(resumed.next_batch(7).unwrap(), straight.next_batch(7).unwrap());
    }
}

#[test]
fn a_cursor_of_other_data_or_order_is_refused() {
    let (dir, other) = (data(300, 10), data(310, 10));
    let cursor = loader(&dir, options(8, true)).cursor();
    let refuse = |mut loader: Loader, field: &str, cursor: &Cursor| {
        let error = loader.seek(cursor).unwrap_err();
        assert!(matches!(&error, Error::CursorMismatch { field: f, .. } if *f == field), "{error}");
    };
    refuse(loader(&dir, options(9, true)), "sequence length", &cursor);
    refuse(loader(&dir, options(8, false)), "shuffle", &cursor);
    refuse(loader(&dir, LoaderOptions { seed: 6, ..options(8, true) }), "seed", &cursor);
    refuse(loader(&other, options(8, true)), "tokens", &cursor);
    let far = Cursor { position: 1000, ..cursor.clone() };
    refuse(loader(&dir, options(8, true)), "position", &far);
    let overflow = Cursor { epoch: u64::MAX, ..cursor };
    refuse(loader(&dir, options(8, true)), "position", &overflow);
}

#[test]
fn what_cannot_be_is_an_error() {
    let dir = data(25, 5);
    let open = |s| Loader::open(&[dir.path()], Split::Train, options(s, true)).map(|loader| loader.sequences());
    assert_eq!(open(24).unwrap(), 1);
    let error = open(25).unwrap_err();
    assert!(matches!(error, Error::SequenceTooLong { sequence_length: 25, tokens: 25, .. }), "{error}");
    assert!(matches!(open(0), Err(Error::Config { .. })));
    assert!(matches!(open(usize::MAX), Err(Error::Config { .. })));
    let small = LoaderOptions { vocab_size: Some(20), ..options(4, false) };
    let error = Loader::open(&[dir.path()], Split::Train, small).unwrap().next_batch(1).unwrap_err();
    assert!(matches!(error, Error::TokenOutOfRange { token: 999, vocab_size: 20, .. }), "{error}");
    assert!(matches!(Loader::open::<&Path>(&[], Split::Train, options(4, true)), Err(Error::Config { .. })));
}

#[test]
fn a_reused_batch_keeps_its_memory() {
    let dir = data(300, 10);
    let mut loader = loader(&dir, options(8, true));
    let mut batch = TokenBatch::default();
    loader.fill_batch(4, &mut batch).unwrap();
    let place = (batch.tokens.as_ptr(), batch.document_starts.as_ptr());
    for n in [4, 2, 4] {
        loader.fill_batch(n, &mut batch).unwrap();
        assert_eq!((batch.tokens.as_ptr(), batch.document_starts.as_ptr()), place);
        assert_eq!(batch.tokens.len(), n * 9);
    }
}

#[test]
fn evaluation_has_every_target_once() {
    for (tokens, s, n) in [(25, 4, 4), (25, 7, 2), (25, 100, 3), (30, 29, 1)] {
        let dir = data(tokens, 5);
        let mut evaluation = Evaluation::open(&[dir.path()], Split::Validation, s, None).unwrap();
        let mut all = vec![0; tokens as usize];
        evaluation.data().read(0, &mut all).unwrap();
        let (mut targets, mut windows, mut batch) = (Vec::new(), 0, TokenBatch::default());
        while evaluation.fill_batch(n, &mut batch).unwrap() > 0 {
            windows += batch.sequences as u64;
            (0..batch.sequences).for_each(|b| targets.extend_from_slice(&batch.row(b)[1..]));
        }
        assert_eq!(targets, all[1..]);
        assert_eq!((targets.len() as u64, windows), (evaluation.targets(), evaluation.windows()));
        evaluation.restart();
        assert!(evaluation.fill_batch(1, &mut batch).unwrap() == 1 && batch.row(0)[0] == 0);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::new(dir.path(), "train", Dtype::U16, 9, 64);
    writer.push(&[], 0).unwrap();
    writer.finish().unwrap().commit().unwrap();
    let error = Evaluation::open(&[dir.path()], Split::Train, 4, None).unwrap_err();
    assert!(matches!(error, Error::SequenceTooLong { .. }), "{error}");
}

#[test]
fn packed_rows_hold_whole_documents_and_know_where_they_begin() {
    // Documents of 5 tokens into rows of 12: two each, and two tokens of padding.
    let dir = data(30, 5);
    let mut packed = loader(&dir, LoaderOptions { packing: Packing::BestFit, ..options(11, false) });
    assert_eq!(packed.sequences(), 3);
    let batch = packed.next_batch(3).unwrap();
    assert_eq!(batch.row(0), [0, 1, 2, 3, 999, 5, 6, 7, 8, 999, 999, 999]);
    assert_eq!(batch.document_starts[..11], [0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 10]);
    let report = packed.packing_reports().unwrap()[0];
    assert_eq!((report.documents, report.documents_cut, report.rows, report.padding), (6, 0, 3, 6));
    // Cut from one stream, four of the documents lie in two rows.
    let stream = loader(&dir, options(4, false)).packing_reports().unwrap()[0];
    assert_eq!((stream.documents, stream.documents_cut, stream.cuts, stream.left_over), (6, 6, 6, 2));
    let cut = loader(&dir, LoaderOptions { packing: Packing::BestFit, ..options(3, false) });
    assert_eq!(cut.packing_reports().unwrap()[0].documents_cut, 6);
    let mut cursor = packed.cursor();
    cursor.packing = Packing::Concatenate;
    assert!(matches!(packed.seek(&cursor), Err(Error::CursorMismatch { field: "packing", .. })));
}

/// Sources of documents of 5 tokens, by name: tokens, weight, epochs.
fn mixed(sources: &[(&str, &tempfile::TempDir, Option<f64>, Option<f64>)]) -> Result<Loader> {
    let source = |&(name, dir, weight, epochs): &(&str, &tempfile::TempDir, Option<f64>, Option<f64>)| MixSource {
        name: name.into(),
        data: ShardSet::open(dir.path(), Split::Train).unwrap(),
        weight,
        epochs,
    };
    Loader::mixed(sources.iter().map(source).collect(), options(4, true))
}

#[test]
fn sources_come_in_their_shares_and_each_goes_through_its_own_epochs() {
    let (large, small) = (data(400, 5), data(100, 5));
    let mut mix = mixed(&[("large", &large, Some(1.0), None), ("small", &small, Some(3.0), None)]).unwrap();
    assert_eq!((mix.sequences(), mix.total()), (99 + 24, u64::MAX));
    let batch = mix.next_batch(400).unwrap();
    let count = |source| batch.sources.iter().filter(|&&s| s == source).count();
    assert_eq!((count(0), count(1)), (100, 300));
    let alone = loader(&small, options(4, true));
    let mut expected = TokenBatch::default();
    alone.fill_sequences((0..300).map(u64::from as fn(u32) -> u64), &mut expected).unwrap();
    let from_small = (0..400).filter(|&row| batch.sources[row] == 1);
    for (row, index) in from_small.zip(0..) {
        assert_eq!(batch.row(row), expected.row(index), "a source's own order does not depend on the others");
    }
    // The cursor is one number, and belongs to these sources in these shares.
    let mut resumed = mixed(&[("large", &large, Some(1.0), None), ("small", &small, Some(3.0), None)]).unwrap();
    resumed.seek(&mix.cursor()).unwrap();
    assert_eq!(resumed.next_batch(9).unwrap(), mix.next_batch(9).unwrap());
    let mut other = mixed(&[("large", &large, Some(1.0), None), ("small", &small, Some(2.0), None)]).unwrap();
    let error = other.seek(&mix.cursor()).unwrap_err();
    assert!(matches!(error, Error::CursorMismatch { field: "data fingerprint", .. }), "{error}");
}

#[test]
fn sources_end_after_their_epochs() {
    let (large, small) = (data(400, 5), data(100, 5));
    // Without weights, as many as there are: the small one twice.
    let mut mix = mixed(&[("large", &large, None, Some(1.0)), ("small", &small, None, Some(2.0))]).unwrap();
    assert_eq!(mix.total(), 99 + 48);
    let mut order: Vec<_> = (0..mix.total()).map(|k| mix.locate(k).unwrap()).collect();
    let half = order[..74].iter().filter(|(source, _)| *source == 1).count();
    assert!((23..=25).contains(&half), "{half} of 48 in the first half");
    order.sort_unstable();
    let expected = (0..99).map(|i| (0, i)).chain((0..24).flat_map(|i| [(1, i); 2]));
    assert_eq!(order, expected.collect::<Vec<_>>());
    mix.set_next_index(140);
    assert!(matches!(mix.next_batch(8), Err(Error::MixExhausted { total: 147 })));
    assert_eq!((mix.next_index(), mix.next_batch(7).unwrap().sequences), (140, 7));
    let end = mix.cursor();
    mix.seek(&end).unwrap();
    assert!(mix.next_batch(1).is_err());
    assert!(mix.seek(&Cursor { position: 148, ..end }).is_err());
}

#[test]
fn mixes_that_make_no_sense_are_refused() {
    let dir = data(100, 5);
    let refuse = |sources: &[(&str, &tempfile::TempDir, Option<f64>, Option<f64>)], text: &str| {
        let error = mixed(sources).unwrap_err().to_string();
        assert!(error.contains("data.sources") && error.contains(text), "{error}");
    };
    refuse(&[], "at least one");
    refuse(&[("a", &dir, Some(1.0), None), ("b", &dir, None, None)], "b has no weight");
    refuse(&[("a", &dir, Some(0.0), None)], "above 0");
    refuse(&[("a", &dir, None, Some(0.01))], "a: 0.01 epochs of 24 sequences");
    refuse(&[("a", &dir, None, Some(f64::NAN))], "epochs");
}
