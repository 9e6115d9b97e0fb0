//! How much of an element's text is in links.

use super::tree::{Attribute, Id, Measure, NONE, Tag, Tree};

/// The text and links of an element.
#[derive(Clone, Copy, Default)]
pub(super) struct Links {
    pub(super) text: Measure,
    links: u32,
    /// Links that show text, how much, and how many of them hardly any.
    shown: u32,
    chars: u32,
    short: u32,
    /// The same as `chars`, where links to places on the page count less.
    weighted: f64,
}

impl Links {
    /// Which part of the text is in links.
    pub(super) fn share(&self) -> f64 {
        if self.text.chars == 0 { 0.0 } else { self.weighted / f64::from(self.text.chars) }
    }
}

/// Characters of a link that shows hardly any.
const SHORT: u32 = 10;

/// Text and links of all elements below one, measured in one pass.
pub(super) struct Density {
    top: Id,
    links: Vec<Links>,
}

impl Density {
    /// Of all below `top`, which was made before anything that is below it.
    pub(super) fn of(tree: &Tree, top: Id) -> Self {
        let mut density = Self { top, links: vec![Links::default(); tree.len() - top as usize] };
        let order: Vec<Id> = tree.below(top).collect();
        // Backwards, so that all that is in an element comes before it, from its end to its start.
        for &id in order.iter().rev() {
            let mut own = density.links[(id - top) as usize];
            if tree.is_text(id) {
                own.text = tree.measure(id);
            } else if tree.tag(id) == Tag::A {
                let chars = own.text.chars;
                own.links += 1;
                own.shown += u32::from(chars > 0);
                own.chars = own.chars.saturating_add(chars);
                own.weighted += f64::from(chars) * weight_of_link(tree, id);
                own.short += u32::from((1..SHORT).contains(&chars));
            }
            density.links[(id - top) as usize] = own;
            let parent = tree.parent(id);
            if parent != NONE {
                let above = &mut density.links[(parent - top) as usize];
                above.text = own.text.then(above.text);
                above.links += own.links;
                above.shown += own.shown;
                above.chars = above.chars.saturating_add(own.chars);
                above.short += own.short;
                above.weighted += own.weighted;
            }
        }
        density
    }

    /// Of an element; of nothing where it was not there or lies elsewhere.
    pub(super) fn get(&self, id: Id) -> Links {
        let at = id.checked_sub(self.top).unwrap_or(NONE);
        self.links.get(at as usize).copied().unwrap_or_default()
    }

    /// Does an element consist of links, more or less?
    pub(super) fn is_links(&self, tree: &Tree, id: Id) -> bool {
        let Links { text, links, shown, chars, short, .. } = self.get(id);
        if links == 0 {
            return false;
        }
        if links == 1 && chars > 10 && f64::from(chars) > f64::from(text.chars) * 0.9 {
            return true;
        }
        let limit = match (tree.tag(id) == Tag::P, tree.next_element(id) == NONE) {
            (true, true) => 60,
            (true, false) => 30,
            (false, true) => 300,
            (false, false) => 100,
        };
        text.chars < limit
            && (shown == 0
                || f64::from(chars) > f64::from(text.chars) * 0.8
                || (shown > 1 && f64::from(short) > f64::from(shown) * 0.8))
    }

    /// Is a table there for its links?
    pub(super) fn is_table_of_links(&self, table: Id) -> bool {
        let Links { text, links, shown, chars, .. } = self.get(table);
        let share = if text.chars < 1000 { 0.8 } else { 0.5 };
        links > 0 && text.chars >= 200 && (shown == 0 || f64::from(chars) > f64::from(text.chars) * share)
    }
}

/// Links to places on the page itself are no sign of a list of links.
pub(super) fn weight_of_link(tree: &Tree, id: Id) -> f64 {
    let target = tree.attribute(id, Attribute::Href).map_or("", str::trim);
    if target.len() > 1 && target.starts_with('#') { 0.3 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::super::tree::{ROOT, Tags};
    use super::*;

    fn is_links(html: &str) -> bool {
        let tree = parse(html, 512, 1000).unwrap();
        let divs = tree.tagged(ROOT, Tags::of(&[Tag::Div]));
        Density::of(&tree, ROOT).is_links(&tree, divs[0])
    }

    #[test]
    fn lists_of_links_are_told_from_text() {
        assert!(!is_links("<div>no link</div>"));
        assert!(is_links("<div><a>a long enough link</a></div>"));
        assert!(!is_links("<div><a>a link</a> and as much text that is no link</div>"));
        assert!(is_links("<div><a>1</a> <a>2</a> <a>3</a> and more</div>"));
        assert!(is_links("<div>text<a></a></div>"));
        let long = "words ".repeat(60);
        assert!(!is_links(&format!("<div>{long}<a>1</a><a>2</a></div>")));
    }
}
