//! The attributes of a page's elements that somebody looks at; others are never kept.

use super::Id;

macro_rules! attributes {
    ($($attribute:ident $name:literal)*) => {
        /// The name of an attribute that somebody looks at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(in crate::extract) enum Attribute {
            $(#[doc = $name] $attribute,)*
        }

        impl Attribute {
            /// The attribute with this name, in any case.
            pub(in crate::extract) fn named(name: &[u8]) -> Option<Self> {
                $(const _: () = assert!($name.len() <= LONGEST);)*
                let mut lower = [0; LONGEST];
                let lower = lower.get_mut(..name.len())?;
                lower.copy_from_slice(name);
                lower.make_ascii_lowercase();
                $(if lower == $name.as_bytes() {
                    return Some(Self::$attribute);
                })*
                None
            }
        }
    };
}

/// Bytes of the longest name.
const LONGEST: usize = 27;

attributes! {
    Class "class" Href "href" Identifier "id" Style "style" Role "role" Rel "rel" Itemprop "itemprop" Hidden "hidden"
    AriaHidden "aria-hidden" Lang "lang" Summary "summary" DataComponent "data-component"
    Replacement "data-lp-replacement-content"
}

/// Where a list of attributes begins and ends.
pub(in crate::extract) type List = (u32, u32);

/// The attributes of all nodes that were parsed.
#[derive(Debug, Default)]
pub(in crate::extract) struct Attributes {
    entries: Vec<Entry>,
    /// All values.
    values: String,
    /// The list of each node.
    lists: Vec<List>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Attribute,
    start: u32,
    end: u32,
}

impl Attributes {
    /// How many nodes have a list, be it empty.
    pub(in crate::extract) fn nodes(&self) -> usize {
        self.lists.len()
    }

    /// Adds a node without attributes.
    pub(in crate::extract) fn add_node(&mut self) {
        self.lists.push((0, 0));
    }

    /// Gives a node a list.
    pub(in crate::extract) fn give(&mut self, id: Id, list: List) {
        self.lists[id as usize] = list;
    }

    /// Begins a list.
    pub(in crate::extract) fn begin(&self) -> List {
        let at = self.entries.len() as u32;
        (at, at)
    }

    /// Adds to the list that was begun last what is not in it yet.
    pub(in crate::extract) fn add(&mut self, list: &mut List, name: Attribute, value: &str) {
        if self.listed(*list).all(|(other, _)| other != name) {
            let start = self.values.len() as u32;
            self.values.push_str(value);
            self.entries.push(Entry { name, start, end: self.values.len() as u32 });
            list.1 += 1;
        }
    }

    /// Adds to a node's attributes those of a list that it does not have yet.
    pub(in crate::extract) fn complete(&mut self, id: Id, list: List) {
        let mut all = self.begin();
        for (start, end) in [self.lists[id as usize], list] {
            for at in start..end {
                let entry = self.entries[at as usize];
                if self.listed(all).all(|(other, _)| other != entry.name) {
                    self.entries.push(entry);
                    all.1 += 1;
                }
            }
        }
        self.give(id, all);
    }

    fn listed(&self, list: List) -> impl Iterator<Item = (Attribute, &str)> {
        let entries = &self.entries[list.0 as usize..list.1 as usize];
        entries.iter().map(|entry| (entry.name, &self.values[entry.start as usize..entry.end as usize]))
    }

    /// Those of a node; none of one that was not parsed.
    pub(in crate::extract) fn of(&self, id: Id) -> impl Iterator<Item = (Attribute, &str)> {
        self.listed(self.lists.get(id as usize).copied().unwrap_or_default())
    }
}
