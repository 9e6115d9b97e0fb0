//! Documents that deduplication removes, looked up task by task.
//!
//! A document's number is its task's in the upper half and its place among those the task kept in the lower: numbers
//! rise in the order of the corpus.

use crate::dedup::Removals;
use crate::error::Result;
use crate::shard::DedupEntry;
use std::path::PathBuf;

/// The number of a document.
pub(super) fn number(task: usize, place: u64) -> u64 {
    ((task as u64) << 32) | (place & 0xffff_ffff)
}

/// The removal sets, each with the rule that made it.
#[derive(Debug, Default)]
pub(super) struct Removed {
    pub sets: Vec<(&'static str, PathBuf)>,
    /// What was found.
    pub entry: DedupEntry,
}

/// The removal sets from the place of one task on.
pub(super) struct RemovedFrom {
    sets: Vec<(&'static str, Removals)>,
    next: u64,
}

impl Removed {
    /// For the documents of `task`, in order.
    pub fn of_task(&self, task: usize) -> Result<RemovedFrom> {
        let next = number(task, 0);
        let open = |(rule, path): &(&'static str, PathBuf)| Ok((*rule, Removals::open(path, next)?));
        Ok(RemovedFrom { sets: self.sets.iter().map(open).collect::<Result<_>>()?, next })
    }
}

impl RemovedFrom {
    /// For the next document: the rule that removes it, and the document that is kept in its place.
    pub fn next(&mut self) -> Result<Option<(&'static str, u64)>> {
        let mut found = None;
        for (rule, set) in &mut self.sets {
            found = found.or(set.kept_for(self.next)?.map(|kept| (*rule, kept)));
        }
        self.next += 1;
        Ok(found)
    }
}
