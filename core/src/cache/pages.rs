//! Which pages of a cache are free, and how many sequences use each.

use alloc::vec::Vec;

use crate::error::InvalidOp;

/// Free pages and reference counts. It knows no device and no sequences.
///
/// A page that was released last is handed out first, and fresh pages in rising order, so the numbers that a run takes
/// follow from its calls alone.
#[derive(Clone, Debug)]
pub struct PagePool {
    /// Free pages, the next one last.
    free: Vec<u32>,
    /// How often each page is used; 0 for a free one.
    references: Vec<u32>,
}

impl PagePool {
    /// A pool of `pages` free pages.
    ///
    /// # Panics
    /// For more pages than 32 bits can number, which no cache has.
    pub fn new(pages: usize) -> Self {
        let pages = u32::try_from(pages).expect("a cache numbers its pages in 32 bits");
        Self { free: (0..pages).rev().collect(), references: alloc::vec![0; pages as usize] }
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.references.len()
    }

    /// Number of free pages.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// How often a page is used; 0 for a free one and for a number that is no page's.
    pub fn references(&self, page: u32) -> u32 {
        self.references.get(page as usize).copied().unwrap_or(0)
    }

    /// Takes a free page, which then is used once; none if all are in use.
    pub fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.references[page as usize] = 1;
        Some(page)
    }

    /// Uses a page once more.
    ///
    /// # Errors
    /// The page is free, or there is none of this number.
    pub fn share(&mut self, page: u32) -> Result<(), InvalidOp> {
        let count = self.used("share", page)?;
        *count = count.checked_add(1).ok_or(InvalidOp::plain("share", "a page is used too often"))?;
        Ok(())
    }

    /// Uses a page once less. True if it became free.
    ///
    /// # Errors
    /// The page is free already, or there is none of this number.
    pub fn release(&mut self, page: u32) -> Result<bool, InvalidOp> {
        let count = self.used("release", page)?;
        *count -= 1;
        let freed = *count == 0;
        if freed {
            self.free.push(page);
        }
        Ok(freed)
    }

    /// The count of a page in use.
    fn used(&mut self, op: &'static str, page: u32) -> Result<&mut u32, InvalidOp> {
        let pages = self.pages();
        let count = self.references.get_mut(page as usize);
        let count = count.ok_or(InvalidOp::not_below(op, "page", page as usize, "the number of pages", pages))?;
        if *count == 0 { Err(InvalidOp::plain(op, "the page is free")) } else { Ok(count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Copy, Debug)]
    enum Action {
        Take,
        Share(u32),
        Release(u32),
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let action =
            prop_oneof![Just(Action::Take), (0u32..9).prop_map(Action::Share), (0u32..9).prop_map(Action::Release),];
        prop::collection::vec(action, 0..200)
    }

    proptest! {
        /// The plain model: a map from pages in use to their counts, and a stack of pages that were released.
        #[test]
        fn a_pool_is_a_map_of_counts_and_a_stack(pages in 0usize..8, actions in actions()) {
            let mut pool = PagePool::new(pages);
            let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
            let (mut released, mut fresh) = (Vec::new(), 0..pages as u32);
            for action in actions {
                match action {
                    Action::Take => {
                        let want = released.pop().or_else(|| fresh.next());
                        prop_assert_eq!(pool.take(), want);
                        counts.extend(want.map(|page| (page, 1)));
                    }
                    Action::Share(page) => {
                        let shared = pool.share(page).is_ok();
                        prop_assert_eq!(shared, counts.contains_key(&page));
                        counts.entry(page).and_modify(|count| *count += 1);
                    }
                    Action::Release(page) => {
                        let freed = pool.release(page).ok();
                        let want = counts.get_mut(&page).map(|count| {
                            *count -= 1;
                            *count == 0
                        });
                        prop_assert_eq!(freed, want);
                        if want == Some(true) {
                            counts.remove(&page);
                            released.push(page);
                        }
                    }
                }
                prop_assert_eq!(pool.free(), pages - counts.len());
                for page in 0..9 {
                    prop_assert_eq!(pool.references(page), counts.get(&page).copied().unwrap_or(0));
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_page_is_said() {
        let mut pool = PagePool::new(2);
        let page = pool.take().expect("two are free");
        assert_eq!(pool.release(page), Ok(true));
        let message = |e: InvalidOp| std::format!("{e}");
        assert_eq!(pool.release(page).map_err(message), Err("release: the page is free".into()));
        assert_eq!(pool.share(7).map_err(message), Err("share: page 7 is not below the number of pages 2".into()));
    }
}
