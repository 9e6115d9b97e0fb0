//! States of a folder that a power failure may leave after the first operations of a trace.
//!
//! What was synced is there. Of each name that was given, moved or removed since its folder was synced, and of each
//! block of 4 KiB that was written since its file was synced, a coin says whether it is; a file may have any size that
//! it had meanwhile, and reads zeros where no block came. So operations may be lost, torn and reordered, but a rename
//! is one operation.

use std::collections::BTreeMap;
use std::path::Path;

use super::record::{Folders, Id, Op, Trace};

const BLOCK: usize = 4096;

/// A generator of random numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// A folder as a power failure left it.
pub struct State {
    folders: Folders,
    files: BTreeMap<Id, Vec<u8>>,
}

/// How much of what was not synced is there.
#[derive(Clone, Copy, PartialEq)]
enum Luck {
    All,
    Nothing,
    Random,
}

impl State {
    /// A state after `done` operations, which follows from `seed`.
    pub fn after(trace: &Trace, done: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let luck = |n: usize| [Luck::All, Luck::Nothing, Luck::Random, Luck::Random][n];
        let (names, contents) = (luck(random.below(4)), luck(random.below(4)));
        let ops = &trace.ops[..done];
        let folders = replay(trace, ops, names, &mut random);
        let written: BTreeMap<Id, Vec<&Op>> = ops.iter().fold(BTreeMap::new(), |mut all, op| {
            if let Op::Truncate(id) | Op::Write(id, ..) | Op::SyncFile(id) = op {
                all.entry(*id).or_insert_with(Vec::new).push(op);
            }
            all
        });
        let files = written.into_iter().map(|(id, ops)| (id, content(&ops, contents, &mut random))).collect();
        Self { folders, files }
    }

    /// Makes the folder.
    pub fn write(&self, folder: &Path) {
        self.write_folder(0, folder);
    }

    fn write_folder(&self, id: Id, path: &Path) {
        for (name, id) in &self.folders[&id] {
            let path = path.join(name);
            if self.folders.contains_key(id) {
                std::fs::create_dir(&path).unwrap();
                self.write_folder(*id, &path);
            } else {
                std::fs::write(&path, self.files.get(id).map_or(&[][..], Vec::as_slice)).unwrap();
            }
        }
    }
}

/// The names that are there.
fn replay(trace: &Trace, ops: &[Op], luck: Luck, random: &mut Random) -> Folders {
    // Every folder is made, for names in it; it is reached where its own name is there.
    let mut folders: Folders = trace.folders().map(|id| (id, BTreeMap::new())).collect();
    // Whether a name is for good follows from the operations behind it.
    let mut synced = std::collections::BTreeSet::new();
    let mut there = vec![false; ops.len()];
    for (i, op) in ops.iter().enumerate().rev() {
        let folder = match op {
            Op::SyncDir(id) => {
                synced.insert(*id);
                continue;
            }
            Op::Link(folder, ..) | Op::Rename(_, (folder, _), _) | Op::Unlink(folder, ..) => folder,
            _ => continue,
        };
        there[i] = synced.contains(folder)
            || match luck {
                Luck::All => true,
                Luck::Nothing => false,
                Luck::Random => random.below(2) == 0,
            };
    }
    for op in ops.iter().zip(there).filter_map(|(op, there)| there.then_some(op)) {
        match op {
            Op::Link(folder, name, id) => {
                folders.get_mut(folder).unwrap().insert(name.clone(), *id);
            }
            Op::Rename((from, before), (to, after), id) => {
                let from = folders.entry(*from).or_default();
                if from.get(before) == Some(id) {
                    from.remove(before);
                }
                folders.get_mut(to).unwrap().insert(after.clone(), *id);
            }
            Op::Unlink(folder, name, id) => {
                let names = folders.get_mut(folder).unwrap();
                if names.get(name) == Some(id) {
                    names.remove(name);
                }
            }
            _ => {}
        }
    }
    folders
}

/// The content of a file by the operations on it.
fn content(ops: &[&Op], luck: Luck, random: &mut Random) -> Vec<u8> {
    let after = |count: usize| {
        let mut bytes = Vec::new();
        for op in &ops[..count] {
            match op {
                Op::Truncate(_) => bytes.clear(),
                Op::Write(_, at, new) => {
                    let (at, end) = (*at as usize, *at as usize + new.len());
                    bytes.resize(end.max(bytes.len()), 0);
                    bytes[at..end].copy_from_slice(new);
                }
                _ => {}
            }
        }
        bytes
    };
    let synced = ops.iter().rposition(|op| matches!(op, Op::SyncFile(_))).map_or(0, |at| at + 1);
    match luck {
        Luck::All => return after(ops.len()),
        Luck::Nothing => return after(synced),
        Luck::Random if synced == ops.len() => return after(synced),
        Luck::Random => {}
    }
    let between = synced + random.below(ops.len() - synced + 1);
    let versions = [after(synced), after(between), after(ops.len())];
    let size = versions[random.below(3)].len();
    let mut bytes = vec![0; size];
    for start in (0..size).step_by(BLOCK) {
        let version = &versions[random.below(3)];
        let end = size.min(start + BLOCK).min(version.len());
        if start < end {
            bytes[start..end].copy_from_slice(&version[start..end]);
        }
    }
    bytes
}

#[test]
fn what_was_synced_is_there_and_everything_else_may_be() {
    use super::record::Recorder;
    use fathom_dataprep::durable::{Files, replace};
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::new(folder.path());
    let path = folder.path().join("f");
    replace(&recorder, &path, b"old").unwrap();
    let before = recorder.trace().ops.len();
    let mut file = recorder.create(&folder.path().join("f.tmp")).unwrap();
    file.write_all(&[7; 9000]).unwrap();
    recorder.rename(&folder.path().join("f.tmp"), &path).unwrap();
    let trace = recorder.trace();
    let read = |done, seed| {
        let state = State::after(&trace, done, seed);
        state.folders[&0].get("f").map(|id| state.files.get(id).cloned().unwrap_or_default())
    };
    assert!((0..200).all(|seed| read(before, seed) == Some(b"old".to_vec())), "the sync of the folder keeps it");
    let seen: std::collections::BTreeSet<_> = (0..400).filter_map(|seed| read(trace.ops.len(), seed)).collect();
    assert!(seen.contains(&b"old"[..]) && seen.contains(&[7; 9000][..]) && seen.contains(&[][..]));
    let torn = |bytes: &Vec<u8>| bytes.len() == 9000 && bytes[0] != bytes[5000];
    assert!(seen.iter().any(torn), "renamed before its blocks were written");
}
