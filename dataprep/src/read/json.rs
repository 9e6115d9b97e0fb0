//! Files that hold JSON objects over many lines: one object, several behind one another, or an array of them.

use super::fields;
use super::record::{Context, Found, Record, Records};
use super::stream::Stream;
use std::io;

/// The objects of a file, each a record.
pub(super) struct Json {
    context: Context,
    objects: Objects,
}

impl Json {
    pub(super) fn new(context: Context, stream: Stream) -> Self {
        Self { context, objects: Self::objects(stream) }
    }

    /// The objects as they stand in a stream.
    pub(super) fn objects(stream: Stream) -> Objects {
        Objects { stream }
    }
}

/// Where an object begins, and its bytes, or what stands in its place.
pub(super) type Place = (u64, Result<Vec<u8>, String>);

/// Cuts a stream into JSON objects.
pub(super) struct Objects {
    stream: Stream,
}

impl Objects {
    /// The next object, no longer than `limit`, and where it begins; or what stands in its place. `None` at the end.
    pub(super) fn next_object(&mut self, limit: u64) -> io::Result<Option<Place>> {
        self.skip_between()?;
        let start = self.stream.position();
        let object = match self.peek()? {
            None => return Ok(None),
            Some(b'{') => {
                let mut buffer = Vec::new();
                let (length, ended) = self.object(limit, &mut buffer)?;
                match () {
                    () if !ended => Err("the file ends within this JSON object".into()),
                    () if length > limit => Err(format!("a JSON object of {length} bytes")),
                    () => Ok(buffer),
                }
            }
            Some(_) => Err("not a JSON object".into()),
        };
        Ok(Some((start, object)))
    }

    /// The next byte that is not consumed yet.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.stream.fill()?.first().copied())
    }

    /// Passes over what stands between objects.
    fn skip_between(&mut self) -> io::Result<()> {
        if self.stream.position() == 0 && self.stream.fill()?.starts_with(super::record::BYTE_ORDER_MARK) {
            self.stream.consume(super::record::BYTE_ORDER_MARK.len());
        }
        loop {
            let chunk = self.stream.fill()?;
            let between = chunk.iter().take_while(|byte| b" \t\r\n,[]".contains(byte)).count();
            if between == 0 {
                return Ok(());
            }
            self.stream.consume(between);
        }
    }

    /// Reads the object that begins here, at most `limit` bytes of it into `buffer`. Gives its length, and whether it
    /// ends.
    fn object(&mut self, limit: u64, buffer: &mut Vec<u8>) -> io::Result<(u64, bool)> {
        let (mut depth, mut quoted, mut escaped, mut length) = (0_u64, false, false, 0_u64);
        loop {
            let chunk = self.stream.fill()?;
            if chunk.is_empty() {
                return Ok((length, false));
            }
            let mut used = 0;
            let mut ended = false;
            for &byte in chunk {
                used += 1;
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    b'{' | b'[' if !quoted => depth += 1,
                    b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
                    _ => {}
                }
                if depth == 0 {
                    ended = true;
                    break;
                }
            }
            let room = usize::try_from(limit.saturating_sub(length)).unwrap_or(usize::MAX);
            buffer.extend_from_slice(&chunk[..used.min(room)]);
            length += used as u64;
            self.stream.consume(used);
            if ended {
                return Ok((length, true));
            }
        }
    }

    /// Passes over a value that is no object.
    fn skip_value(&mut self) -> io::Result<()> {
        let (mut quoted, mut escaped) = (false, false);
        loop {
            let chunk = self.stream.fill()?;
            if chunk.is_empty() {
                return Ok(());
            }
            let mut used = 0;
            let mut ended = false;
            for &byte in chunk {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    b',' | b'[' | b']' | b'{' | b'\n' if !quoted => {
                        ended = true;
                        break;
                    }
                    _ => {}
                }
                used += 1;
            }
            self.stream.consume(used);
            if ended {
                // A lone closing brace or the like must not be met again.
                return Ok(());
            }
        }
    }
}

impl Records for Json {
    fn next(&mut self) -> io::Result<Option<Record>> {
        let objects = &mut self.objects;
        objects.skip_between()?;
        let start = objects.stream.position();
        match objects.peek()? {
            None => Ok(None),
            Some(b'{') => {
                let (limit, mut buffer) = (self.context.config.max_document_bytes, Vec::new());
                let (length, ended) = objects.object(limit, &mut buffer)?;
                let range = start..start.saturating_add(length);
                Ok(Some(if !ended {
                    self.context.bad(start, "the file ends within this JSON object".into())
                } else if length > limit {
                    self.context.too_large(Found::text(range, String::new()), length)
                } else {
                    let found = fields::of_json(&buffer, &self.context.config.fields);
                    self.context.record(start, found.map(|fields| Found { range, fields }))
                }))
            }
            Some(_) => {
                objects.skip_value()?;
                Ok(Some(self.context.bad(start, "not a JSON object".into())))
            }
        }
    }

    fn position(&self) -> u64 {
        self.objects.stream.position()
    }
}
