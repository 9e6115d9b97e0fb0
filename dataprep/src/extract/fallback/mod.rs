//! The search for main text where names do not tell where it is: by the scores of paragraphs, and by their words.
//!
//! Readability's published method scores elements by the paragraphs in them; jusText's tells paragraphs of prose by
//! their lengths, links and commonest words. As in trafilatura, the first counts where it finds much more than was
//! found by names, and the second where little was found or the first left in what is no text. Both are worth their
//! time only where the page has enough other text, which is looked at first.

mod common;
mod prose;
mod scores;
mod slots;

use super::marks;
use super::page::{FEW, Page, spaced_length};
use super::tree::{Id, NONE, ROOT, Tag, Tags, Tree};

/// Elements that are no text, whatever found them.
const NO_TEXT: Tags = Tags::of(&[
    Tag::Aside,
    Tag::Audio,
    Tag::Button,
    Tag::Fieldset,
    Tag::Figure,
    Tag::Footer,
    Tag::Iframe,
    Tag::Input,
    Tag::Label,
    Tag::Link,
    Tag::Nav,
    Tag::Noscript,
    Tag::Object,
    Tag::Option,
    Tag::Select,
    Tag::Source,
    Tag::Svg,
    Tag::Time,
]);

/// The better of what was found by names and what can be found in `whole`, the page as it was.
pub(super) fn compare(page: &mut Page<'_>, whole: Id, found: Id) -> Id {
    let (mut best, mut length) = (found, spaced_length(page.tree, found));
    let paragraphs = page.tree.tagged(found, Tags::of(&[Tag::P]));
    let tables = page.tree.tagged(found, Tags::of(&[Tag::Table])).len();
    let no_paragraphs = paragraphs.iter().all(|&id| spaced_length(page.tree, id) == 0);
    let odd = no_paragraphs || tables > paragraphs.len();
    let is_better = |chars: usize| match (length, chars) {
        (_, 0) => false,
        (0, _) => true,
        _ if length > 2 * chars || length == chars => false,
        _ => chars > 2 * length || (chars > 2 * FEW && odd),
    };
    if is_better(length_of_rest(page, whole)) {
        let copy = page.tree.copy(whole);
        page.prune(copy, marks::BOILERPLATE);
        page.prune(copy, marks::UNLIKELY);
        if let Some(other) = scores::find(page, copy) {
            let chars = spaced_length(page.tree, other);
            if is_better(chars) {
                (best, length) = (other, chars);
            }
        }
    }
    let doubtful = best != found && page.tree.below(best).any(|id| NO_TEXT.has(page.tree.tag(id)));
    if let Some(prose) = (doubtful || length < FEW).then(|| prose::find(page, whole)).flatten() {
        let chars = spaced_length(page.tree, prose);
        if chars > 0 && length <= 4 * chars {
            return prose;
        }
    }
    if best != found {
        page.clean(best);
        strip(page.tree, best);
    }
    best
}

/// How much text scores could find.
fn length_of_rest(page: &Page<'_>, whole: Id) -> usize {
    let tree = &*page.tree;
    let (mut chars, mut id) = (0, tree.following(whole, whole));
    while id != NONE {
        if tree.is_text(id) {
            let own = tree.measure(id).chars as usize;
            chars += own + usize::from(own > 0);
            id = tree.following(id, whole);
            continue;
        }
        let out = page.marks(id) & (marks::BOILERPLATE | marks::UNLIKELY | marks::UNSEEN) != 0
            || matches!(tree.tag(id), Tag::Head | Tag::Template);
        id = if out { tree.following_outside(id, whole) } else { tree.following(id, whole) };
    }
    chars
}

/// Leaves out what is no text.
fn strip(tree: &mut Tree, top: Id) {
    debug_assert!(top != ROOT);
    for id in tree.tagged(top, NO_TEXT) {
        tree.remove_with_tail(id);
    }
}
