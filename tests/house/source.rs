//! Source files, with code, comments and string literals told apart.

/// A line of a file, three times: what is not code, comment or text is blank in each, so columns stay.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub raw: String,
    pub code: String,
    pub comment: String,
    pub text: String,
    /// Begins inside a string literal.
    pub inside_text: bool,
    /// Belongs to an item under `#[cfg(test)]` or `#[test]`.
    pub test: bool,
}

/// A file of Rust or CUDA C++.
#[derive(Clone, Debug)]
pub struct Source {
    /// Relative to the project's root, with `/`.
    pub path: String,
    pub lines: Vec<Line>,
}

/// A word or a punctuation mark of code; `::` is one mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    /// Counted from 0.
    pub line: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Text,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The end of a string literal that begins at `start`, if one does: its prefix, hashes and quotes included.
fn literal(chars: &[char], start: usize) -> Option<usize> {
    let mut at = start;
    while at < chars.len() && at < start + 2 && matches!(chars[at], 'b' | 'c' | 'r') {
        at += 1;
    }
    let raw = chars[start..at].contains(&'r');
    if at > start && start > 0 && is_word(chars[start - 1]) {
        return None;
    }
    let mut hashes = 0;
    while raw && chars.get(at) == Some(&'#') {
        (hashes, at) = (hashes + 1, at + 1);
    }
    if chars.get(at) != Some(&'"') {
        return None;
    }
    at += 1;
    while at < chars.len() {
        match chars[at] {
            '\\' if !raw => at += 1,
            '"' if chars[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes => {
                return Some((at + 1 + hashes).min(chars.len()));
            }
            _ => {}
        }
        at += 1;
    }
    Some(chars.len())
}

/// The end of a character literal that begins at `start`, if one does and it is no lifetime.
fn character(chars: &[char], start: usize) -> Option<usize> {
    match (chars.get(start + 1)?, chars.get(start + 2)) {
        ('\\', _) => (start + 3..chars.len().min(start + 12)).find(|&i| chars[i] == '\'').map(|i| i + 1),
        (_, Some('\'')) => Some(start + 3),
        _ => None,
    }
}

fn kinds(chars: &[char]) -> Vec<Kind> {
    let mut kinds = vec![Kind::Code; chars.len()];
    let mut at = 0;
    while at < chars.len() {
        let (end, kind) = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => {
                (chars[at..].iter().position(|&c| c == '\n').map_or(chars.len(), |n| at + n), Kind::Comment)
            }
            ('/', Some('*')) => {
                let (mut depth, mut end) = (1, at + 2);
                while end < chars.len() && depth > 0 {
                    match (chars[end], chars.get(end + 1)) {
                        ('*', Some('/')) => (depth, end) = (depth - 1, end + 2),
                        ('/', Some('*')) => (depth, end) = (depth + 1, end + 2),
                        _ => end += 1,
                    }
                }
                (end, Kind::Comment)
            }
            ('\'', _) => (character(chars, at).unwrap_or(at + 1), Kind::Code),
            ('"' | 'b' | 'c' | 'r', _) => literal(chars, at).map_or((at + 1, Kind::Code), |end| (end, Kind::Text)),
            _ => (at + 1, Kind::Code),
        };
        // A character literal may hold a quote or a slash: its inside counts as text.
        let kind = if chars[at] == '\'' && end > at + 1 { Kind::Text } else { kind };
        kinds[at..end.min(chars.len())].fill(kind);
        at = end;
    }
    kinds
}

impl Source {
    pub fn new(path: &str, content: &str) -> Self {
        let chars: Vec<char> = content.chars().collect();
        let kinds = kinds(&chars);
        let (mut lines, mut line) = (Vec::new(), Line::default());
        for (i, (&c, &kind)) in chars.iter().zip(&kinds).enumerate() {
            if c == '\n' {
                let next = Line { inside_text: kind == Kind::Text, ..Line::default() };
                lines.push(std::mem::replace(&mut line, next));
                continue;
            }
            let blank = |wanted| if kind == wanted { c } else { ' ' };
            line.raw.push(c);
            line.code.push(blank(Kind::Code));
            line.comment.push(blank(Kind::Comment));
            line.text.push(blank(Kind::Text));
            if i + 1 == chars.len() {
                lines.push(std::mem::take(&mut line));
            }
        }
        let mut source = Self { path: path.into(), lines };
        source.mark_tests();
        source
    }

    /// The words and marks of the code.
    pub fn tokens(&self) -> Vec<Token> {
        let mut tokens = Vec::new();
        for (line, code) in self.lines.iter().map(|l| &l.code).enumerate() {
            let chars: Vec<char> = code.chars().collect();
            let mut at = 0;
            while at < chars.len() {
                let length = match chars[at] {
                    c if c.is_whitespace() => 0,
                    c if is_word(c) => chars[at..].iter().take_while(|&&c| is_word(c)).count(),
                    ':' if chars.get(at + 1) == Some(&':') => 2,
                    _ => 1,
                };
                if length > 0 {
                    tokens.push(Token { text: chars[at..at + length].iter().collect(), line });
                }
                at += length.max(1);
            }
        }
        tokens
    }

    fn mark_tests(&mut self) {
        let tokens = self.tokens();
        for (start, end) in test_items(&tokens) {
            let last = tokens[end.min(tokens.len() - 1)].line;
            self.lines[tokens[start].line..=last].iter_mut().for_each(|line| line.test = true);
        }
    }
}

/// The index of the mark that closes the bracket at `open`.
pub fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    tokens.len().saturating_sub(1)
}

/// First and last token of every item under `#[cfg(test)]` or `#[test]`, attributes included.
pub fn test_items(tokens: &[Token]) -> Vec<(usize, usize)> {
    let is = |i: usize, text: &str| tokens.get(i).is_some_and(|t| t.text == text);
    let (mut items, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if !(is(at, "#") && is(at + 1, "[")) {
            at += 1;
            continue;
        }
        let (start, mut test) = (at, false);
        while is(at, "#") && is(at + 1, "[") {
            let end = closing(tokens, at + 1);
            let words: Vec<&str> = tokens[at + 2..end].iter().map(|t| t.text.as_str()).collect();
            test |= words == ["test"]
                || words.first() == Some(&"cfg") && words.contains(&"test") && !words.contains(&"not");
            at = end + 1;
        }
        if !test {
            continue;
        }
        // The item ends at a `;` or at the end of its block, whichever comes first outside other brackets.
        let mut end = at;
        while end < tokens.len() {
            match tokens[end].text.as_str() {
                ";" | "," => break,
                "{" => {
                    end = closing(tokens, end);
                    break;
                }
                "(" | "[" => end = closing(tokens, end),
                _ => {}
            }
            end += 1;
        }
        items.push((start, end.min(tokens.len().saturating_sub(1))));
        at = end + 1;
    }
    items
}

#[test]
fn comments_and_texts_are_told_apart() {
    let source = Source::new(
        "a.rs",
        "let a = \"// no comment\"; // a \"comment\"\nlet b = r#\"x \" y\n z\"#; let c = '\"'; /* d /* e */ f */ let g: &'a u8;\n",
    );
    let trimmed = |f: fn(&Line) -> &String| source.lines.iter().map(|l| f(l).trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(trimmed(|l| &l.comment)[0], "// a \"comment\"");
    assert_eq!(trimmed(|l| &l.text)[0], "\"// no comment\"");
    assert_eq!(trimmed(|l| &l.text)[1], "r#\"x \" y");
    assert!(source.lines[2].inside_text && !source.lines[1].inside_text);
    assert_eq!(trimmed(|l| &l.comment)[2], "/* d /* e */ f */");
    let words: Vec<String> = source.tokens().into_iter().map(|t| t.text).collect();
    assert!(words.ends_with(&["let", "g", ":", "&", "'", "a", "u8", ";"].map(String::from)), "{words:?}");
}

#[test]
fn test_items_are_marked() {
    let source = Source::new(
        "a.rs",
        "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\n#[cfg(not(test))]\nfn c() {}\n#[cfg(test)]\nuse x::y;\nfn d() {}\n",
    );
    let marked: Vec<bool> = source.lines.iter().map(|l| l.test).collect();
    assert_eq!(marked, [false, true, true, true, true, false, false, true, true, false]);
}
