//! Marks of an element, by what it calls itself: its class, identifier, role and style.
//!
//! The names are those that trafilatura's and Readability's published rules look for; one automaton finds all of them
//! in one pass over an attribute.

use super::tree::{Attribute, Id, Tag, Tags, Tree};
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use std::sync::LazyLock;

/// A set of marks.
pub(super) type Marks = u32;

/// The element may hold the main text: by how sure that is, surest first.
pub(super) const CONTENT: [Marks; 5] = [1, 1 << 1, 1 << 2, 1 << 3, 1 << 4];
/// Navigation, footers, advertisements and the like, or something that is hidden.
pub(super) const BOILERPLATE: Marks = 1 << 5;
/// Is in the way of precision: headers, boxes of links, frames.
pub(super) const DOUBTFUL: Marks = 1 << 6;
pub(super) const TEASER: Marks = 1 << 7;
pub(super) const CAPTION: Marks = 1 << 8;
/// What readers wrote.
pub(super) const COMMENTS: Marks = 1 << 9;
/// Hardly main text, by the older rules of Readability.
pub(super) const UNLIKELY: Marks = 1 << 10;
/// Holds highlighted code.
pub(super) const HIGHLIGHT: Marks = 1 << 11;
/// A box of code.
pub(super) const CODE_BOX: Marks = 1 << 12;
/// A word that highlight.js has coloured.
pub(super) const COLOURED: Marks = 1 << 13;
/// Hardly main text, by the present rules of Readability.
pub(super) const DISTRUSTED: Marks = 1 << 14;
/// Not to be seen, or not part of the page.
pub(super) const UNSEEN: Marks = 1 << 15;
/// Says who wrote it and when.
pub(super) const BYLINE: Marks = 1 << 16;
/// Asks for consent to cookies.
pub(super) const CONSENT: Marks = 1 << 17;
/// Is called a footer.
pub(super) const FOOTER: Marks = 1 << 26;
/// What a class or an identifier says for an element and against it.
const GOOD_CLASS: Marks = 1 << 18;
const BAD_CLASS: Marks = 1 << 19;
const GOOD_NAME: Marks = 1 << 20;
const BAD_NAME: Marks = 1 << 21;
/// Marks that only this module sees.
const LIKELY: Marks = 1 << 22;
const HIDDEN: Marks = 1 << 23;
const LINKS: Marks = 1 << 24;
const TRUSTED: Marks = 1 << 25;

/// What an element's names are worth to Readability.
pub(super) fn weight(marks: Marks) -> f64 {
    let worth = |mark| if marks & mark != 0 { 25.0 } else { 0.0 };
    worth(GOOD_CLASS) - worth(BAD_CLASS) + worth(GOOD_NAME) - worth(BAD_NAME)
}

/// Boxes of any kind.
const BOXES: Tags =
    Tags::of(&[Tag::Div, Tag::Dd, Tag::Dt, Tag::Li, Tag::Ul, Tag::Ol, Tag::Dl, Tag::P, Tag::Section, Tag::Span]);
const SECTIONS: Tags = Tags::of(&[Tag::Article, Tag::Div, Tag::Main, Tag::Section]);
const THREADS: Tags = Tags::of(&[Tag::Div, Tag::Ol, Tag::Ul, Tag::Dl, Tag::Section, Tag::Details]);

/// Patterns of one mark, for classes and for identifiers, with white space between them. `=` begins one that is the
/// whole value, `^` one that begins it, `?` one that begins the class of an element without identifier, `~` one in
/// which case does not matter; `.` stands for a space.
const PATTERNS: &[(Marks, &str, &str)] = &[
    (
        CONTENT[0],
        "=post =entry post-text post_text post-body post-entry postentry post-content post_content ~postcontent
         post_inner_wrapper article-text ~articletext entry-content article-content article__content article-body
         article__body ~articlebody ArticleContent page-content text-content body-text article__container art-content",
        "entry-content article-content article__content article-body article__body ~articlebody =articleContent
         body-text art-content",
    ),
    (
        CONTENT[2],
        "post-bodycopy storycontent story-content =postarea =art-postcontent theme-content blog-content
         section-content single-content single-post main-column wpb_text_column ^article =text =cell =story story-body
         field-body ~fulltext",
        "^primary =article =story story-body",
    ),
    (
        CONTENT[3],
        "content-main content_main content-body content__body ~main-content ~page-content =content",
        "content-main content-body contentBody ~main-content =content",
    ),
    (CONTENT[4], "^main", "^main"),
    (
        BOILERPLATE,
        "~footer elated viral ?shar share- social sociable syndication embed newsletter subnav cookie tags tag-list
         sidebar banner bar meta menu ^nav avigation navbar navbox ^post-nav breadcrumb bread-crumb author button
         ~byline rating widget attachment timestamp user-info user-profile -ad- -icon article-infos nfoline outbrain
         taboola criteo options expand consent modal-content .ad. permission next- -stories most-popular mol-factbox
         ^ZendeskForm message-container yin zlylin xg1 slide viewport overlay paid-content paidcontent obfuscated
         blurred",
        "~footer related viral ^shar ~share social syndication ^jp- ^dpsp-content newsletter cookie tags sidebar
         banner menu ~nav breadcrumb bread-crumb author button message-container bmdh premium",
    ),
    (
        HIDDEN,
        "comments-title nocomments ?reply- -reply- message akismet suggest-links ^hide- -hide- hide-print .hidden .hide
         noprint notloaded",
        "^reply- reader-comments akismet hidden",
    ),
    (LINKS, "bottom link", "bottom link"),
    (TEASER, "~teaser", "~teaser"),
    (CAPTION, "caption", "caption"),
    (
        COMMENTS,
        "^comment ^Comment article-comments post-comments",
        "^comment ^Comment ^comol ^disqus_thread ^dsq-comments",
    ),
    (UNLIKELY, UNLIKELY_NAMES, UNLIKELY_NAMES),
    (LIKELY, LIKELY_NAMES, LIKELY_NAMES),
    (DISTRUSTED, DISTRUSTED_NAMES, DISTRUSTED_NAMES),
    (TRUSTED, TRUSTED_NAMES, TRUSTED_NAMES),
    (BYLINE, BYLINE_NAMES, BYLINE_NAMES),
    (CONSENT, CONSENT_NAMES, CONSENT_NAMES),
    (GOOD_CLASS, GOOD_NAMES, ""),
    (BAD_CLASS, BAD_NAMES, ""),
    (GOOD_NAME, "", GOOD_NAMES),
    (BAD_NAME, "", BAD_NAMES),
    (FOOTER, "footer", "footer"),
    (HIGHLIGHT, "highlight", ""),
    (CODE_BOX, "w3-code", ""),
    (COLOURED, "^hljs .hljs", ""),
];
const UNLIKELY_NAMES: &str = "~combx ~comment ~community ~disqus ~extra ~foot ~header ~menu ~remark ~rss ~shoutbox
    ~sidebar ~sponsor ~ad-break ~agegate ~pagination ~pager ~popup ~tweet ~twitter";
const LIKELY_NAMES: &str = "~and ~article ~body ~column ~main ~shadow";
const DISTRUSTED_NAMES: &str = "~-ad- ~ai2html ~banner ~breadcrumbs ~combx ~comment ~community ~cover-wrap ~disqus
    ~extra ~footer ~gdpr ~header ~legends ~menu ~related ~remark ~replies ~rss ~shoutbox ~sidebar ~skyscraper ~social
    ~sponsor ~supplemental ~ad-break ~agegate ~pagination ~pager ~popup ~yom-remote";
const TRUSTED_NAMES: &str = "~and ~article ~body ~column ~content ~main ~mathjax ~shadow";
const BYLINE_NAMES: &str = "~byline ~author ~dateline ~writtenby";
const CONSENT_NAMES: &str = "~cookiebanner ~cookie-banner ~cookie_banner ~cookiebar ~cookie-bar ~cookie_bar
    ~cookieconsent ~cookie-consent ~cookie_consent ~cookielaw ~cookie-law ~cookie-notice ~cookie_notice ~cookienotice
    ~cookie-policy ~cookiepolicy ~notice-cookie ~consent-banner ~consent-manager ~borlabs ~cookiebot ~cmplz ~onetrust
    ~moove-gdpr ~moove_gdpr";
const GOOD_NAMES: &str = "~article ~body ~content ~entry ~main ~page ~post ~text ~blog ~story";
const BAD_NAMES: &str = "~-ad- ~banner ~combx ~comment ~com- ~contact ~footer ~gdpr ~masthead ~meta ~outbrain ~promo
    ~related ~share ~shoutbox ~sidebar ~skyscraper ~sponsor ~shopping ~tags ~widget";
/// Roles of what is not the text of a page.
const ROLES: [&str; 7] = ["menu", "menubar", "complementary", "navigation", "alert", "alertdialog", "dialog"];

/// Where in a value a pattern has to be.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Anywhere,
    Start,
    /// At the start, if the element has no identifier.
    StartAlone,
    Whole,
}

struct Pattern {
    text: String,
    place: Place,
    any_case: bool,
    marks: Marks,
}

/// Finds patterns in values.
struct Finder {
    automaton: AhoCorasick,
    patterns: Vec<Pattern>,
}

static CLASSES: LazyLock<Finder> = LazyLock::new(|| Finder::new(PATTERNS.iter().map(|it| (it.0, it.1))));
static IDENTIFIERS: LazyLock<Finder> = LazyLock::new(|| Finder::new(PATTERNS.iter().map(|it| (it.0, it.2))));

impl Finder {
    fn new(marked: impl Iterator<Item = (Marks, &'static str)>) -> Self {
        let patterns: Vec<Pattern> = marked
            .flat_map(|(marks, patterns)| patterns.split_whitespace().map(move |pattern| (marks, pattern)))
            .map(|(marks, pattern)| {
                let place = match pattern.as_bytes().first() {
                    Some(b'=') => Place::Whole,
                    Some(b'^') => Place::Start,
                    Some(b'?') => Place::StartAlone,
                    _ => Place::Anywhere,
                };
                let any_case = pattern.starts_with('~');
                let text = pattern.trim_start_matches(['=', '^', '?', '~']).replace('.', " ");
                Pattern { text, place, any_case, marks }
            })
            .collect();
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::DFA))
            .build(patterns.iter().map(|pattern| &pattern.text));
        // A hundred short words always fit.
        let automaton = automaton.unwrap_or_else(|e| unreachable!("{e}"));
        Self { automaton, patterns }
    }

    fn find(&self, value: &str, alone: bool) -> Marks {
        let mut marks = 0;
        for found in self.automaton.find_overlapping_iter(value) {
            let pattern = &self.patterns[found.pattern()];
            let placed = match pattern.place {
                Place::Anywhere => true,
                Place::Start => found.start() == 0,
                Place::StartAlone => found.start() == 0 && alone,
                Place::Whole => found.range() == (0..value.len()),
            };
            if placed && (pattern.any_case || value[found.range()] == pattern.text) {
                marks |= pattern.marks;
            }
        }
        marks
    }
}

/// The marks of an element.
pub(super) fn of(tree: &Tree, id: Id) -> Marks {
    let tag = tree.tag(id);
    let mut marks = match tag {
        Tag::Article => CONTENT[1],
        Tag::Main => CONTENT[4],
        Tag::Header => DOUBTFUL,
        _ => 0,
    };
    let alone = tree.attribute(id, Attribute::Identifier).is_none_or(str::is_empty);
    let mut border = false;
    for (name, value) in tree.attributes_of(id) {
        marks |= match name {
            Attribute::Class => CLASSES.find(value, alone),
            Attribute::Identifier => IDENTIFIERS.find(value, false),
            Attribute::Style => {
                border |= value.contains("border");
                let hides = ["hidden", "display:none", "display: none"].iter().any(|it| value.contains(it));
                if hides { HIDDEN | UNSEEN } else { 0 }
            }
            Attribute::Hidden => UNSEEN,
            Attribute::Rel if value == "author" => BYLINE,
            Attribute::Itemprop if value.contains("author") => BYLINE,
            Attribute::Role if ROLES.contains(&value) => UNSEEN | if value == "navigation" { BOILERPLATE } else { 0 },
            Attribute::Role if value == "article" => CONTENT[2],
            Attribute::Role if value.starts_with("main") => CONTENT[4],
            Attribute::Role if value.to_ascii_lowercase().contains("nav") => BOILERPLATE,
            Attribute::AriaHidden if value == "true" => HIDDEN,
            Attribute::Itemprop if value == "articleBody" => CONTENT[0],
            Attribute::DataComponent if value.contains("MostPopularStories") => BOILERPLATE,
            Attribute::Replacement => BOILERPLATE,
            _ => 0,
        };
    }
    if !BOXES.has(tag) {
        marks &= !(BOILERPLATE | TEASER | CAPTION);
    } else if border || marks & LINKS != 0 {
        marks |= DOUBTFUL;
    }
    if marks & HIDDEN != 0 {
        marks |= BOILERPLATE;
    }
    if !SECTIONS.has(tag) {
        marks &= !CONTENT.iter().fold(0, |all, it| all | it);
    }
    if !THREADS.has(tag) {
        marks &= !COMMENTS;
    }
    if marks & LIKELY != 0 || matches!(tag, Tag::Html | Tag::Body) {
        marks &= !UNLIKELY;
    }
    if marks & TRUSTED != 0 || matches!(tag, Tag::Html | Tag::Body | Tag::A) {
        marks &= !DISTRUSTED;
    }
    marks & !(LIKELY | HIDDEN | LINKS | TRUSTED)
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::super::tree::ROOT;
    use super::*;

    fn marks(element: &str) -> Marks {
        let tree = parse(element, 512, 1000).unwrap();
        of(&tree, tree.below(ROOT).find(|&id| tree.tag(tree.parent(id)) == Tag::Body).unwrap())
    }

    #[test]
    fn names_say_what_an_element_is() {
        let shown = |element| {
            let hidden =
                FOOTER | DISTRUSTED | UNSEEN | BYLINE | CONSENT | GOOD_CLASS | BAD_CLASS | GOOD_NAME | BAD_NAME;
            marks(element) & !hidden
        };
        let only = |element, mark| marks(element) & mark == mark;
        assert_eq!(shown("<div>"), 0);
        assert_eq!(shown("<div class=post>"), CONTENT[0]);
        assert_eq!(shown("<div class='post x'>"), 0);
        assert_eq!(shown("<div id=PostContent class=MyPostContent>"), CONTENT[0]);
        assert_eq!(shown("<p class=post-content>"), 0);
        assert_eq!(shown("<article>"), CONTENT[1]);
        assert_eq!(shown("<article class=article>"), CONTENT[1] | CONTENT[2]);
        assert_eq!(shown("<main role=main>"), CONTENT[4]);
        assert_eq!(shown("<div class=Footer>"), BOILERPLATE | UNLIKELY);
        assert_eq!(shown("<div role=Navigation>"), BOILERPLATE);
        assert_eq!(shown("<article class=navbar>"), CONTENT[1]);
        assert_eq!(shown("<div class=sharing>"), BOILERPLATE);
        assert_eq!(shown("<div class=sharing id=x>"), 0);
        assert_eq!(shown("<b style='display: none'>"), BOILERPLATE);
        assert_eq!(shown("<b aria-hidden=true>"), BOILERPLATE);
        assert_eq!(shown("<header>"), DOUBTFUL);
        assert_eq!(shown("<p style='border: 0'>"), DOUBTFUL);
        assert_eq!(shown("<ul id=comments>"), COMMENTS | UNLIKELY);
        assert_eq!(shown("<aside class='sidebar main'>"), 0);
        assert_eq!(shown("<div class='x hljs highlight w3-code'>"), COLOURED | HIGHLIGHT | CODE_BOX);
        assert!(only("<b rel=author>", BYLINE) && only("<b hidden>", UNSEEN) && only("<b role=dialog>", UNSEEN));
        assert!(only("<b id=onetrust-banner>", CONSENT) && only("<b class=sidebar>", DISTRUSTED));
        assert!(!only("<b class='sidebar main'>", DISTRUSTED));
        assert_eq!(weight(marks("<div class='article widget' id=content>")), 25.0);
        assert_eq!(weight(marks("<div id=promo>")), -25.0);
    }
}
