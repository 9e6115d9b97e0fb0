//! Full pages by the tokens that lead to them, so that sequences with a common beginning share them.
//!
//! The key of a page is chained: it holds the entry of the page before, and the page's own tokens. Keys are compared
//! whole, so no collision of hashes can give a sequence another one's page.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use fathom_core::cache::PagePool;

/// Everything that the content of a page follows from, the page before included.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The entry of the page before; 0 for the first page.
    pub parent: u64,
    /// The page's tokens, and those after it that its content depends on.
    pub tokens: Box<[u32]>,
    /// How many of the page's tokens belong to the prompt: prompt and output are computed in different phases.
    pub prompt: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Key,
    page: u32,
    depth: usize,
    used: u64,
}

/// An index over pages. It holds one reference to each of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Prefixes {
    entries: HashMap<u64, Entry>,
    ids: HashMap<Key, u64>,
    /// The least recently used first, and of a chain the last page first.
    order: BTreeSet<(u64, Reverse<usize>, u64)>,
    last: u64,
    clock: u64,
}

impl Prefixes {
    /// The entry and page of a key. It counts as used now.
    pub fn find(&mut self, key: &Key) -> Option<(u64, u32)> {
        let id = *self.ids.get(key)?;
        let entry = self.entries.get_mut(&id)?;
        self.clock += 1;
        self.order.remove(&(entry.used, Reverse(entry.depth), id));
        entry.used = self.clock;
        self.order.insert((entry.used, Reverse(entry.depth), id));
        Some((id, entry.page))
    }

    /// Whether an entry is still there; 0, the start of every sequence, always is.
    pub fn holds(&self, id: u64) -> bool {
        id == 0 || self.entries.contains_key(&id)
    }

    /// Adds the page at place `depth` of a sequence, and gives its entry. Where an equal page is there already, that
    /// one stays.
    pub fn add(&mut self, key: Key, page: u32, depth: usize, pool: &mut PagePool) -> Option<u64> {
        if let Some((id, _)) = self.find(&key) {
            return Some(id);
        }
        pool.share(page).ok()?;
        self.last += 1;
        self.clock += 1;
        let (id, used) = (self.last, self.clock);
        self.ids.insert(key.clone(), id);
        self.order.insert((used, Reverse(depth), id));
        self.entries.insert(id, Entry { key, page, depth, used });
        Some(id)
    }

    /// Pages that no sequence uses.
    pub fn unused(&self, pool: &PagePool) -> usize {
        self.entries.values().filter(|entry| pool.references(entry.page) == 1).count()
    }

    /// Gives up the least recently used page that no sequence uses. False if there is none.
    pub fn evict(&mut self, pool: &mut PagePool) -> bool {
        let unused = |&&(_, _, id): &&(u64, Reverse<usize>, u64)| {
            self.entries.get(&id).is_some_and(|entry| pool.references(entry.page) == 1)
        };
        let Some(&place) = self.order.iter().find(unused) else { return false };
        self.order.remove(&place);
        let Some(entry) = self.entries.remove(&place.2) else { return false };
        self.ids.remove(&entry.key);
        pool.release(entry.page).is_ok()
    }

    /// The pages it holds.
    #[cfg(test)]
    pub fn pages(&self) -> impl Iterator<Item = u32> {
        self.entries.values().map(|entry| entry.page)
    }
}
