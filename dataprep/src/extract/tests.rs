//! Tests of the extraction of main text.

use super::*;
use std::time::Instant;

fn page(body: &str) -> Arc<str> {
    format!("<html><head><title>Page</title></head><body><nav><a href=/>Home</a> <a href=/b>About</a></nav>{body}<footer>Copyright</footer></body></html>").into()
}

fn article() -> String {
    let sentence = "The main text of a page is what a reader came for, and it is longer than what surrounds it. ";
    format!("<article><h1>About text</h1><p>{0}</p><p>{0}</p></article>", sentence.repeat(4))
}

fn rule(page: &Arc<str>, config: ExtractConfig) -> Dropped {
    Extractor::new(config).extract(page).unwrap().unwrap_err()
}

#[test]
fn main_text_is_found_and_the_rest_left() {
    let page = page(&article());
    let text = Extractor::new(ExtractConfig::default()).extract(&page).unwrap().unwrap();
    assert!(text.starts_with("About text\nThe main text of a page") || text.starts_with("The main text"), "{text}");
    assert!(text.matches('\n').count() >= 1 && !text.contains("Copyright") && !text.contains("Home"), "{text}");
    assert_eq!(main_text(&page, &ExtractConfig::default()).unwrap(), text);
}

#[test]
fn words_in_pre_and_quotes_stay_where_they_are() {
    for tag in ["pre", "blockquote"] {
        let quote = format!("<{tag}>ALTER <em><b>name</b></em> RENAME TO <em><b>other</b></em>, <i>if</i> any</{tag}>");
        let page = page(&article().replace("</article>", &format!("{quote}</article>")));
        let text = main_text(&page, &ExtractConfig::default()).unwrap();
        assert!(text.ends_with("ALTER name RENAME TO other, if any"), "{text}");
    }
}

#[test]
fn limits_drop_a_page_by_name() {
    let small = ExtractConfig { max_page_bytes: 100, ..ExtractConfig::default() };
    let dropped = rule(&page(&article()), small);
    assert_eq!((dropped.rule, dropped.threshold), (PAGE_BYTES, 100.0));
    assert_eq!(rule(&page(&"<div>".repeat(100_000)), ExtractConfig::default()).rule, DEPTH);
    let few = ExtractConfig { max_elements: 5, ..ExtractConfig::default() };
    assert_eq!(rule(&page(&article()), few).rule, ELEMENTS);
    assert_eq!(rule(&page(""), ExtractConfig::default()).rule, NO_TEXT);
    assert_eq!(rule(&"".into(), ExtractConfig::default()).rule, NO_TEXT);
}

#[test]
fn the_deepest_page_that_is_allowed_is_walked() {
    let config = ExtractConfig { max_page_bytes: 1 << 20, ..ExtractConfig::default() };
    for tag in ["div", "span", "b", "blockquote", "ul><li", "table><tr><td"] {
        let levels = config.max_depth as usize / (1 + tag.matches('<').count()) - 10;
        let deep = page(&(format!("<{tag}>").repeat(levels / 2) + &article()));
        let outcome = Extractor::new(config.clone()).extract(&deep).unwrap();
        assert!(
            outcome.as_ref().is_ok_and(|text| !text.is_empty()) || outcome.as_ref().is_err_and(|e| e.rule == NO_TEXT),
            "{tag}: {outcome:?}"
        );
    }
}

#[test]
fn what_hangs_or_panics_is_left_behind() {
    let mut extractor = Extractor::new(ExtractConfig { seconds: 1, ..ExtractConfig::default() });
    let page = page(&article());
    let (release, wait) = mpsc::channel::<()>();
    let hangs = move |_: &str| {
        let _ = wait.recv();
        Ok(String::new())
    };
    let start = Instant::now();
    let dropped = extractor.run(&page, hangs).unwrap().unwrap_err();
    assert_eq!((dropped.rule, dropped.threshold), (TIME_LIMIT, 1.0));
    assert!(start.elapsed() >= Duration::from_secs(1));
    let dropped = extractor.run(&page, |_| std::panic::panic_any(())).unwrap().unwrap_err();
    assert_eq!(dropped.rule, PANICKED);
    // A thread that takes a panic lives on, and an abandoned one is replaced.
    assert_eq!(extractor.run(&page, |page| Ok(page[..6].to_owned())).unwrap().unwrap(), "<html>");
    assert!(ABANDONED.load(Ordering::Acquire) >= 1);
    drop(release);
    while ABANDONED.load(Ordering::Acquire) > 0 {
        thread::yield_now();
    }
}
