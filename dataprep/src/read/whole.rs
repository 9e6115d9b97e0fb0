//! The reader of files that are one document each.

use super::binary::{self, Nature, nature};
use super::decode::is_trailing;
use super::record::{BINARY, BYTE_ORDER_MARK, Context, Found, Record, Records};
use super::stream::Stream;
use crate::document::Dropped;
use std::io;

/// The one document of a file.
pub(super) struct Whole {
    context: Context,
    stream: Stream,
    is_page: bool,
    done: bool,
    /// Error after the end of the document.
    trailing: Option<io::Error>,
}

impl Whole {
    pub(super) fn new(context: Context, stream: Stream, is_page: bool) -> Self {
        Self { context, stream, is_page, done: false, trailing: None }
    }

    fn text(&self, mut bytes: Vec<u8>, length: u64) -> Record {
        let mark = if bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        bytes.drain(..mark);
        let range = mark as u64..length;
        match nature(&bytes) {
            Nature::Binary(value) => {
                let dropped = Dropped { rule: BINARY, value, threshold: binary::MAX_SHARE };
                return Record::Dropped(self.context.document(Found::text(range, String::new())), dropped);
            }
            Nature::Text | Nature::Damaged(_) => {}
        }
        match String::from_utf8(bytes) {
            Ok(text) => self.context.record(0, Ok(Found::text(range, text))),
            Err(e) => {
                let text = String::from_utf8_lossy(e.as_bytes()).into_owned();
                Record::Bytes(self.context.document(Found::text(range, text)), e.into_bytes())
            }
        }
    }
}

impl Records for Whole {
    fn next(&mut self) -> io::Result<Option<Record>> {
        if std::mem::replace(&mut self.done, true) {
            return self.trailing.take().map_or(Ok(None), Err);
        }
        let (limit, mut bytes) = (self.context.config.max_document_bytes, Vec::new());
        match self.stream.read_up_to(limit.saturating_add(1), &mut bytes) {
            Err(e) if is_trailing(&e) => self.trailing = Some(e),
            other => drop(other?),
        }
        let length = bytes.len() as u64;
        if length > limit {
            return Ok(Some(self.context.too_large(Found::text(0..length, String::new()), length)));
        }
        if self.is_page {
            let page = crate::extract::decode(&bytes, None, None);
            return self.context.page(Found::text(0..length, page)).map(Some);
        }
        Ok(Some(self.text(bytes, length)))
    }

    fn position(&self) -> u64 {
        self.stream.position()
    }
}
