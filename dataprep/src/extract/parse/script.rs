//! Where scripts and other elements end whose content is not markup.

/// Bytes before the tag that ends an element called `name`, in any case; all if there is none.
pub(super) fn text_end(bytes: &[u8], name: &str) -> usize {
    memchr::memchr_iter(b'<', bytes).find(|&at| ends(&bytes[at..], name)).unwrap_or(bytes.len())
}

/// Does a tag begin here that ends an element called `name`?
fn ends(bytes: &[u8], name: &str) -> bool {
    bytes.get(1) == Some(&b'/') && is_word(bytes.get(2..).unwrap_or_default(), name)
}

/// Are the first bytes `word`, in any case, and does it end there?
fn is_word(bytes: &[u8], word: &str) -> bool {
    bytes.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
        && bytes.get(word.len()).is_some_and(|after| matches!(after, b'\t' | b'\n' | b'\x0c' | b' ' | b'/' | b'>'))
}

/// The same for a script. In what looks like a comment a script may hold another one with its end.
pub(super) fn script_end(bytes: &[u8]) -> usize {
    const SCRIPT: &str = "script";
    let mut at = 0;
    loop {
        // Outside of comments.
        let Some(found) = memchr::memchr_iter(b'<', &bytes[at..])
            .map(|found| at + found)
            .find(|&found| ends(&bytes[found..], SCRIPT) || bytes[found..].starts_with(b"<!--"))
        else {
            return bytes.len();
        };
        if ends(&bytes[found..], SCRIPT) {
            return found;
        }
        // The hyphens that begin a comment may end it, too.
        at = found + 2;
        let mut inner = false;
        loop {
            let Some(next) = memchr::memchr2(b'<', b'-', &bytes[at..]) else {
                return bytes.len();
            };
            at += next;
            let rest = &bytes[at..];
            if rest.starts_with(b"-->") {
                at += 3;
                break;
            }
            match inner {
                _ if rest[0] == b'-' => {}
                false if ends(rest, SCRIPT) => return at,
                false => inner = is_word(&rest[1..], SCRIPT),
                true => inner = !ends(rest, SCRIPT),
            }
            at += 1;
        }
    }
}
