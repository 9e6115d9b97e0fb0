//! Tests of trees and measures.

use super::super::parse::parse;
use super::*;

#[test]
fn measures_are_those_of_the_whole() {
    for parts in [["a", "b"], ["a ", " b"], [" ", "a"], ["a", " "], [" ", " "], ["a \n b", "c\u{ad}d "], ["", "x"]] {
        let whole = Measure::of(&parts.concat());
        assert_eq!(Measure::of(parts[0]).then(Measure::of(parts[1])), whole, "{parts:?}");
        let plain = parts.concat().replace('\u{ad}', "");
        let words: Vec<&str> = plain.split_whitespace().collect();
        assert_eq!(whole.chars as usize, words.join(" ").chars().count(), "{parts:?}");
    }
}

#[test]
fn nodes_are_moved_copied_and_taken_out() {
    let mut tree = parse("<p>a<b>b<i>c</i></b>d<u>e</u>f<s></s>", 512, 1000).unwrap();
    let find = |tree: &Tree, tag| tree.below(ROOT).find(|&id| tree.tag(id) == tag).unwrap();
    let (p, b) = (find(&tree, Tag::P), find(&tree, Tag::B));
    let copy = tree.copy(p);
    assert_eq!((&*tree.head_text(p), &*tree.tail_text(b), &*tree.head_text(b)), ("a", "d", "b"));
    tree.unwrap(b);
    assert_eq!((&*tree.head_text(p), tree.all_text(p)), ("ab", "abcdef".into()));
    tree.remove_with_tail(find(&tree, Tag::U));
    assert_eq!(tree.all_text(p), "abcd");
    tree.set_head_text(p, "");
    let s = find(&tree, Tag::S);
    tree.set_head_text(s, "x");
    tree.set_tail_text(s, "y");
    assert_eq!((tree.all_text(p), tree.all_text(copy)), ("cdxy".into(), "abcdef".into()));
}
