use super::*;
use crate::document::Origin;
use proptest::prelude::*;

fn document(text: &str) -> Document {
    Document::new(Origin { file: 0, bytes: 0..text.len() as u64, id: None }, text.to_owned())
}

proptest! {
    #[test]
    fn any_text_gets_a_verdict(text in any::<String>(), url in any::<Option<String>>()) {
        let mut config = FilterConfig::default();
        let all = Filters::new(&config).unwrap();
        config.language.enabled = false;
        config.gopher_quality.enabled = false;
        config.c4.min_sentences = Limit::Off;
        config.fineweb.min_terminal_lines = Limit::Off;
        let some = Filters::new(&config).unwrap();
        for filters in [all, some] {
            let mut first = document(&text);
            first.url = url.clone();
            let mut second = first.clone();
            prop_assert_eq!(filters.apply(&mut first), filters.apply(&mut second));
            prop_assert_eq!(first, second);
        }
    }
}
