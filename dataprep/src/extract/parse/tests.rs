//! Tests of parsing, beside `html5ever`'s own tokenizer.

use super::super::tree::{Attribute, Id, ROOT, Tag};
use super::*;
use html5ever::ParseOpts;
use html5ever::tendril::{StrTendril, TendrilSink};
use proptest::prelude::*;

fn by_html5ever(page: &str) -> (Tree, Shape) {
    let mut parser = html5ever::parse_document(Builder::new(page.len()), ParseOpts::default());
    parser.process(StrTendril::from_slice(page));
    parser.finish()
}

/// All nodes, each with that which it is in and its text.
fn nodes(tree: &Tree) -> Vec<(Id, Tag, &str)> {
    let mut places = vec![0; tree.len()];
    let node = |(place, id): (usize, Id)| {
        places[id as usize] = place as Id + 1;
        (places[tree.parent(id) as usize], tree.tag(id), tree.text_of(id))
    };
    tree.below(ROOT).enumerate().map(node).collect()
}

/// The attributes of all elements.
fn attributes(tree: &Tree) -> Vec<Vec<(Attribute, &str)>> {
    tree.elements(ROOT).into_iter().map(|id| tree.attributes_of(id).collect()).collect()
}

/// Parses a page, and checks that another tokenizer makes the same of it.
fn checked(page: &str) -> Shape {
    let (other, shape) = by_html5ever(page);
    let tree = parse(page, u32::MAX, u32::MAX).unwrap();
    assert_eq!(nodes(&tree), nodes(&other), "{page:?}");
    // What is taken out again counts while the tree grows, and so do comments: such a page may still be too deep.
    let within = |max_depth, max_elements| parse(page, max_depth, max_elements).is_ok();
    assert!(within(u32::MAX, shape.elements), "{page:?}");
    assert!(!within(shape.depth - 1, shape.elements) && !within(u32::MAX, shape.elements - 1), "{page:?}");
    // What is in a template hangs elsewhere there.
    if !page.contains("<template") {
        let other = scraper::Html::parse_document(page);
        let kept = |element: scraper::ElementRef<'_>| {
            let mut kept: Vec<_> = element
                .value()
                .attrs
                .iter()
                .filter(|(name, _)| name.prefix.is_none())
                .filter_map(|(name, value)| Some((Attribute::named(name.local.as_bytes())?, value.to_string())))
                .collect();
            kept.sort_by_key(|it| it.0 as u8);
            kept
        };
        let theirs: Vec<_> = other.tree.root().descendants().filter_map(scraper::ElementRef::wrap).map(kept).collect();
        let mut own = attributes(&tree);
        own.iter_mut().for_each(|list| list.sort_by_key(|it| it.0 as u8));
        let own: Vec<Vec<_>> = own
            .into_iter()
            .map(|list| list.into_iter().map(|(name, value)| (name, value.to_owned())).collect())
            .collect();
        assert_eq!(own, theirs, "{page:?}");
    }
    shape
}

fn shape(page: &str) -> (u32, u32) {
    let shape = checked(page);
    (shape.depth, shape.elements)
}

#[test]
fn depth_is_that_of_the_tree() {
    // html, head, body, and what is in it.
    assert_eq!(shape(""), (2, 3));
    assert_eq!(shape("<p>a<p>b<p>c"), (3, 6));
    assert_eq!(shape("<div><div><div>x</div></div></div>"), (5, 6));
    // The formatting elements are opened again in each paragraph.
    assert_eq!(shape("<b><i><p>1<p>2"), shape("<b><i><p>1</p><p>2</p>"));
    assert_eq!(shape("<p><b><i><u>1<p>2"), (6, 11));
    assert_eq!(shape("<template><div><p>x</template>"), (6, 7));
    assert_eq!(shape("<table><tr><td><table><td>x"), (10, 11));
    assert_eq!(shape("<svg><td><td><td>"), (6, 7));
}

#[test]
fn the_same_tree_as_by_another_tokenizer() {
    for page in [
        "<b><div></b><div></b>x",
        "<a><p><a><table><a>x</table></a>",
        "<p><b><p><i></b>x</i>",
        "<table>a<b>c<tr>d",
        "a<!-- b -->c<table>d<td>e<caption>f</table>g<select><option>h",
        "\u{feff}<p>a\u{feff}b",
        "a<script>b<p>c</script>d",
        "a<script async src='x>y'>b</script>d<script></script>e",
        "a<script>b<!--<script>c</script>d</script>e--></script>f",
        "a<script><!-->b</script>c<script><!--->b</script>c<script><!--<script/-->b</script>c",
        "a<script><!--<script>b</script -->c</script>d<script><!-- <scripted></script>e<script><!--</script>",
        "a<style type=x>b</style >d<STYLE>e</STYLE>f<script>g</SCRIPT\n>h",
        "<!-- <script> -->a<textarea><script></textarea>b<title><script></title>c<p title='<script>'>d</script>e",
        "a<svg><style>b<p>c</style>d</svg>e<scripted>f</scripted>g<script>h</scripts>i</script>j<script>k",
        "a<script>b<!-- c</script>d<style><!-- e</style>f --></style>g<math><script>h<b>i</script>j",
        "<!><!-><!--><!---><!----><!--a--!>b<!--a--!-->b<!--!>c--><!--<!-->d<!--a-- >e--><!-",
        "a<!--b--->c<!----->d<!--e---!>f<!------- g ------->h<!-- i -->j",
        "<font size=1 size=2 color=a color=b><p>x<p>y</font><b id=1 class=x id=2 class=y><b class=x id=1><p>z",
        "<!doctype html><p><table>",
        "<!doctype html public '-//W3C//DTD HTML 3.2//EN'><p><table>",
        "<!DOCTYPE><p><table><!doctype html>",
        "<?php a ?>b</ c>d</>e</",
        "a < b <3 <",
        "<title>a&amp;b<b></title>&lt;<textarea>\n\nc</textarea><pre>\n\nd</pre><pre>&#10;\ne</pre>",
        "<plaintext>a</plaintext><p>",
        "<svg><![CDATA[a]]b\0]]>c</svg><![CDATA[d]]>",
        "<svg><foreignObject class=a><p id=b><image class=c></svg><image class=d>",
        "<html lang=a><body class=b><html class=c lang=d><body id=e class=f>",
        "<td class=a><tr class=b>x<table class=c><td class=d><input type=hidden class=e><input class=f></table>",
        "<b id=1><b id=1 CLASS=x><b class=x id=1><b id=1><b id=1><p>a<b x=y><b x=z><b><b x=y><p>b",
        "<a href='x' class=y><p>a<table><a href=z>b</table>c</a><font color=r>d<svg><font size=1>e</svg><svg><font>f",
        "<p class=a class=b id =\n'c' =d/hidden/ e='f'role=g rel=\"h\"i lang= >x<p class=",
        "<p href=?a&amp=b&amp;c&ampd&am&#65 lang='&not=&notit;&notin;&#x80;&#x;'>&notit;&notin;&#xD800;&#1114112;&#65x",
        "&&amp&amp;&ampx&CounterClockwiseContourIntegral;&CounterClockwiseContourIntegralx&#;&#x",
        "<p\0q cl\0ass=a\0b>c\0d<title>e\0</title>",
        "a\r\nb\rc<p class='d\r\ne'>&#13;<p\rid=f\r>",
        "<frameset><frame class=a></frameset>x<noframes>b<p></noframes>",
        "<math><annotation-xml encoding=TEXT/html><p>a</math><template class=a><td>b</template>c",
    ] {
        checked(page);
    }
}

#[test]
fn hostile_pages_are_given_up_early() {
    let deep = parse(&"<div>".repeat(2_000_000), 512, 500_000);
    assert!(matches!(deep, Err(TooLarge::Depth(513..10_000))), "{:?}", deep.err());
    let formatting: String = (0..400).map(|i| format!("<b id={i}>")).collect();
    let wide = parse(&(formatting + &"<p>x".repeat(1_000_000)), 512, 500_000);
    assert!(matches!(wide, Err(TooLarge::Elements(500_001..2_500_000))), "{:?}", wide.err());
    // Comparing each attribute with all others, or keeping each for all elements, would take minutes.
    let names: String = (0..300_000).map(|i| format!(" a{i}")).collect();
    assert!(parse(&format!("<b{names}>x"), 512, 500_000).is_ok());
    let equal = parse(&format!("<font{}>{}", " size=1".repeat(100_000), "<p>x".repeat(100_000)), 512, 500_000);
    assert!(equal.is_ok(), "{:?}", equal.err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_page_is_the_same_tree(parts in proptest::collection::vec(0..PARTS.len(), 0..24)) {
        checked(&parts.into_iter().map(|part| PARTS[part]).collect::<String>());
    }
}

/// What pages are put together from.
const PARTS: &[&str] = &[
    "<",
    ">",
    "/",
    "/>",
    "</",
    "=",
    "'",
    "\"",
    "&",
    ";",
    "#",
    "x",
    "3",
    "!",
    "-",
    "?",
    "--",
    "-->",
    "--!>",
    "]]>",
    "\0",
    "\r",
    "\n",
    " ",
    "é",
    "text ",
    "\r\n",
    "amp",
    "&amp;",
    "&not",
    "&#",
    "&#x",
    "<!--",
    "<!",
    "<![CDATA[",
    "<!doctype html>",
    "<!doctype ",
    "public '",
    "<script>",
    "</script>",
    "<script",
    "</script",
    "<style>",
    "</style>",
    "<title>",
    "</title>",
    "<textarea>",
    "</textarea>",
    "<xmp>",
    "</xmp>",
    "<noscript>",
    "</noscript>",
    "<svg>",
    "</svg>",
    "<math>",
    "<p>",
    "</p>",
    "<div ",
    "<P ",
    "class=",
    "CLASS",
    "id='a' ",
    "hidden",
    "href=\"b\" ",
    "<a href=c>",
    "</a>",
    "<a>",
    "<b>",
    "<b id=d>",
    "<i class=e>",
    "</b>",
    "</i>",
    "<table>",
    "<table class=f>",
    "<tr id=g>",
    "<td>",
    "</td>",
    "</table>",
    "<select>",
    "<option>",
    "<li class=h>",
    "<ul>",
    "<html class=i>",
    "<body id=j>",
    "</body>",
    "<head>",
    "<pre>",
    "<br>",
    "<img ",
    "<input type=hidden>",
    "<font size=1>",
    "<font>",
    "<foreignObject id=k>",
    "<image class=l>",
    "<frameset>",
    "<plaintext>",
    "<button>",
    "<h1 role=m>",
    "</h1>",
    "<col>",
    "<caption>",
    "<template>",
    "</template>",
];
