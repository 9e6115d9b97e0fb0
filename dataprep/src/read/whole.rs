//! Files that are one document.

use super::record::{Context, Found, Record, Records};
use super::stream::Stream;
use std::io;

/// The one document of a file.
pub(super) struct Whole {
    context: Context,
    stream: Stream,
    is_page: bool,
    done: bool,
}

impl Whole {
    pub(super) fn new(context: Context, stream: Stream, is_page: bool) -> Self {
        Self { context, stream, is_page, done: false }
    }
}

impl Records for Whole {
    fn next(&mut self) -> io::Result<Option<Record>> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        let (limit, mut bytes) = (self.context.config.max_document_bytes, Vec::new());
        let length = self.stream.read_up_to(limit.saturating_add(1), &mut bytes)?;
        if length > limit {
            return Ok(Some(self.context.too_large(Found::text(0..length, String::new()), length)));
        }
        if self.is_page {
            let page = crate::extract::decode(&bytes, None, None);
            return self.context.page(Found::text(0..length, page)).map(Some);
        }
        let mark =
            if bytes.starts_with(super::record::BYTE_ORDER_MARK) { super::record::BYTE_ORDER_MARK.len() } else { 0 };
        bytes.drain(..mark);
        let range = mark as u64..length;
        Ok(Some(match String::from_utf8(bytes) {
            Ok(text) => self.context.record(0, Ok(Found::text(range, text))),
            Err(e) => {
                let text = String::from_utf8_lossy(e.as_bytes()).into_owned();
                Record::Bytes(self.context.document(Found::text(range, text)), e.into_bytes())
            }
        }))
    }

    fn position(&self) -> u64 {
        self.stream.position()
    }
}
