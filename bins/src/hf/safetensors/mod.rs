//! The safetensors format, streamed: a header that is checked to the last byte, then tensor after tensor.
//!
//! A file is a little-endian u64, that many bytes of JSON, and the tensors' bytes. The header is trusted with nothing:
//! its length is bounded before anything is allocated, products are checked, and the tensors must cover the rest of the
//! file without holes or overlaps, so that no byte is unaccounted for. Files are read with `read`, never mapped: a file
//! that is replaced while it is read gives an error, not a signal.

use super::error::{Damage, HfError};
use fathom_core::DType;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The longest header that is read, as in the reference implementation.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Bytes converted at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Element types of the format that a checkpoint can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// Single precision.
    F32,
    /// bfloat16.
    BF16,
    /// Half precision.
    F16,
    /// Codes with four exponent bits, which mean something with their scales only.
    E4M3,
    /// A power of two as its exponent: scales of codes.
    E8M0,
    /// A type of the format that is not read as weights.
    Other {
        /// Its name in a header.
        name: &'static str,
        /// Bits of an element.
        bits: u64,
    },
}

/// Every other type of the format: name and bits.
const OTHER_TYPES: [(&str, u64); 15] = [
    ("BOOL", 8),
    ("U8", 8),
    ("I8", 8),
    ("F8_E5M2", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("I16", 16),
    ("U16", 16),
    ("I32", 32),
    ("U32", 32),
    ("I64", 64),
    ("F64", 64),
];

impl ElementType {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(ElementType::F32),
            "BF16" => Some(ElementType::BF16),
            "F16" => Some(ElementType::F16),
            "F8_E4M3" => Some(ElementType::E4M3),
            "F8_E8M0" => Some(ElementType::E8M0),
            "U64" | "C64" => Some(ElementType::Other { name: if name == "U64" { "U64" } else { "C64" }, bits: 64 }),
            _ => OTHER_TYPES
                .iter()
                .find(|(known, _)| *known == name)
                .map(|&(name, bits)| ElementType::Other { name, bits }),
        }
    }

    /// What a tensor on a device is stored as.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 => ElementType::F32,
            DType::BF16 => ElementType::BF16,
            other => ElementType::Other { name: other.name(), bits: 8 * other.size() as u64 },
        }
    }

    /// The name in a header.
    pub fn name(self) -> &'static str {
        match self {
            ElementType::F32 => "F32",
            ElementType::BF16 => "BF16",
            ElementType::F16 => "F16",
            ElementType::E4M3 => "F8_E4M3",
            ElementType::E8M0 => "F8_E8M0",
            ElementType::Other { name, .. } => name,
        }
    }

    /// Bits of an element.
    pub fn bits(self) -> u64 {
        match self {
            ElementType::F32 => 32,
            ElementType::BF16 | ElementType::F16 => 16,
            ElementType::E4M3 | ElementType::E8M0 => 8,
            ElementType::Other { bits, .. } => bits,
        }
    }
}

/// A tensor of a file: what it is and where its bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// Its type.
    pub dtype: ElementType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub begin: u64,
    /// Byte after the last.
    pub end: u64,
}

impl TensorEntry {
    /// How many elements it has.
    pub fn elements(&self) -> usize {
        // Their bytes were found to lie in the file.
        self.shape.iter().product()
    }
}

/// An open file whose header has been checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    /// Sorted by name.
    entries: Vec<TensorEntry>,
    buffer: Vec<u8>,
}

impl TensorFile {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// [`HfError::Io`]; [`HfError::Damaged`] with the exact mistake.
    pub fn open(path: &Path) -> Result<Self, HfError> {
        let mut file = File::open(path).map_err(HfError::io("open", path))?;
        let bytes = file.metadata().map_err(HfError::io("read", path))?.len();
        let damaged = |problem| HfError::Damaged { path: path.into(), problem };
        if bytes < 8 {
            return Err(damaged(Damage::TooShort { bytes }));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(HfError::io("read", path))?;
        let stated = u64::from_le_bytes(length);
        if stated > MAX_HEADER_BYTES {
            return Err(damaged(Damage::HeaderTooLong { stated, limit: MAX_HEADER_BYTES }));
        }
        if stated > bytes - 8 {
            return Err(damaged(Damage::HeaderPastEnd { stated, bytes }));
        }
        // At most MAX_HEADER_BYTES, and no more than the file holds.
        let mut header = vec![0; stated as usize];
        file.read_exact(&mut header).map_err(HfError::io("read", path))?;
        let entries = parse_header(&header, 8 + stated, bytes).map_err(damaged)?;
        Ok(Self { path: path.into(), file, entries, buffer: Vec::new() })
    }

    /// Leaves out the tensors whose name `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|entry| keep(&entry.name));
    }

    /// Replaces each tensor for which `parts` gives other tensors by those, which must lie in its bytes.
    pub fn split(&mut self, parts: impl Fn(&TensorEntry) -> Option<Vec<TensorEntry>>) {
        for entry in std::mem::take(&mut self.entries) {
            match parts(&entry) {
                Some(parts) => {
                    self.entries.reserve_exact(parts.len());
                    self.entries.extend(parts);
                }
                None => self.entries.push(entry),
            }
        }
        self.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor, by name.
    pub fn entries(&self) -> &[TensorEntry] {
        &self.entries
    }

    /// The tensor of that name.
    pub fn entry(&self, name: &str) -> Option<&TensorEntry> {
        let at = self.entries.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok()?;
        Some(&self.entries[at])
    }

    /// Reads a whole tensor as f32 into `values`, which gets the tensor's length. BF16, F16 and E8M0 widen exactly;
    /// codes of E4M3 are no numbers without their scales and are refused.
    ///
    /// # Errors
    /// [`HfError::MissingTensor`], [`HfError::WrongType`], [`HfError::Io`].
    pub fn read_f32(&mut self, name: &str, values: &mut Vec<f32>) -> Result<(), HfError> {
        let Some(entry) = self.entry(name).cloned() else {
            return Err(HfError::MissingTensor { path: self.path.clone(), tensor: name.into() });
        };
        values.clear();
        self.read_elements(&entry, 0..entry.elements(), values)
    }

    /// Appends elements `range` of a tensor of this file as f32 to `values`.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32).
    ///
    /// # Panics
    /// If the range is not inside the tensor.
    pub fn read_elements(
        &mut self,
        entry: &TensorEntry,
        range: Range<usize>,
        values: &mut Vec<f32>,
    ) -> Result<(), HfError> {
        if matches!(entry.dtype, ElementType::Other { .. } | ElementType::E4M3) {
            return Err(HfError::WrongType {
                path: self.path.clone(),
                tensor: entry.name.clone(),
                dtype: entry.dtype.name().into(),
                remedy: "weights are read in F32, BF16, F16, or F8_E4M3 with scales by blocks: convert it",
            });
        }
        values.reserve(range.len());
        let failed = HfError::io("read", &self.path);
        self.stream(entry, range, |bytes| append_f32(entry.dtype, bytes, values)).map_err(failed)
    }

    /// Appends the bytes of elements `range` of a tensor of this file, whose elements are whole bytes, to `bytes`.
    ///
    /// # Errors
    /// [`HfError::Io`].
    ///
    /// # Panics
    /// If the range is not inside the tensor.
    pub fn read_bytes(&mut self, entry: &TensorEntry, range: Range<usize>, bytes: &mut Vec<u8>) -> Result<(), HfError> {
        let failed = HfError::io("read", &self.path);
        self.stream(entry, range, |part| bytes.extend_from_slice(part)).map_err(failed)
    }

    /// Hands the bytes of elements `range` to `take`, a chunk of whole elements at a time.
    fn stream(&mut self, entry: &TensorEntry, range: Range<usize>, mut take: impl FnMut(&[u8])) -> std::io::Result<()> {
        let at = |element: usize| entry.begin + element as u64 * entry.dtype.bits() / 8;
        assert!(range.start <= range.end && at(range.end) <= entry.end, "elements of the tensor");
        self.file.seek(SeekFrom::Start(at(range.start)))?;
        let mut left = at(range.end) - at(range.start);
        while left > 0 {
            let now = left.min(CHUNK_BYTES as u64) as usize;
            self.buffer.resize(now, 0);
            self.file.read_exact(&mut self.buffer)?;
            take(&self.buffer);
            left -= now as u64;
        }
        Ok(())
    }
}

fn append_f32(dtype: ElementType, bytes: &[u8], values: &mut Vec<f32>) {
    let pairs = bytes.as_chunks::<2>().0.iter();
    match dtype {
        ElementType::F32 => values.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
        ElementType::BF16 => values.extend(pairs.map(|b| half::bf16::from_le_bytes(*b).to_f32())),
        ElementType::F16 => values.extend(pairs.map(|b| half::f16::from_le_bytes(*b).to_f32())),
        ElementType::E8M0 => values.extend(bytes.iter().map(|&code| fathom_core::fp8::ue8m0::decode(code))),
        ElementType::E4M3 | ElementType::Other { .. } => {}
    }
}

/// What the JSON says of a tensor.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Stated {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header in its own order, duplicates refused.
struct Header(Vec<(String, Stated)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries: Vec<(String, Stated)> = Vec::new();
                let mut names = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("tensor `{name}` appears twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<std::collections::BTreeMap<String, String>>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Checks a header against a file of `bytes` bytes whose data begin at `data`.
fn parse_header(header: &[u8], data: u64, bytes: u64) -> Result<Vec<TensorEntry>, Damage> {
    let parsed: Result<Header, serde_json::Error> = serde_json::from_slice(header);
    let Header(stated) = parsed.map_err(|error| Damage::Header {
        byte: 8 + offset_of(header, error.line(), error.column()),
        message: error.to_string(),
    })?;
    let mut entries =
        stated.into_iter().map(|(name, stated)| check_entry(name, &stated, data)).collect::<Result<Vec<_>, _>>()?;
    check_cover(&mut entries, data, bytes)?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// The byte of a line and column, both from 1; a header is usually a single line.
fn offset_of(text: &[u8], line: usize, column: usize) -> u64 {
    let before = text.split_inclusive(|&byte| byte == b'\n').take(line.saturating_sub(1));
    (before.map(<[u8]>::len).sum::<usize>() + column.saturating_sub(1)) as u64
}

fn check_entry(name: String, stated: &Stated, data: u64) -> Result<TensorEntry, Damage> {
    let [begin, end] = stated.data_offsets;
    let Some(dtype) = ElementType::from_name(&stated.dtype) else {
        return Err(Damage::UnknownType { tensor: name, dtype: stated.dtype.clone() });
    };
    let elements = stated.shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
    let bits = elements.and_then(|elements| elements.checked_mul(dtype.bits()));
    let shape: Option<Vec<usize>> = stated.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
    let (Some(bits), Some(shape)) = (bits, shape) else {
        return Err(Damage::ShapeOverflow { tensor: name, shape: stated.shape.clone() });
    };
    let needed = bits.div_ceil(8);
    let absolute = |offset: u64| data.checked_add(offset);
    match (end.checked_sub(begin), absolute(begin), absolute(end)) {
        (Some(size), Some(begin), Some(end)) if size == needed => Ok(TensorEntry { name, dtype, shape, begin, end }),
        _ => Err(Damage::WrongSize { tensor: name, begin, end, needed }),
    }
}

/// The tensors must follow one another from `data` to the end of the file.
fn check_cover(entries: &mut [TensorEntry], data: u64, bytes: u64) -> Result<(), Damage> {
    entries.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    let (mut byte, mut previous) = (data, "");
    for entry in entries.iter() {
        let tensor = entry.name.clone();
        if entry.begin > byte {
            return Err(Damage::Hole { byte, hole: entry.begin - byte, tensor });
        }
        if entry.begin < byte {
            return Err(Damage::Overlap { byte: entry.begin, tensor, previous: previous.into() });
        }
        (byte, previous) = (entry.end, &entry.name);
    }
    if byte != bytes {
        return Err(Damage::WrongLength { end: byte, bytes });
    }
    Ok(())
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its type.
    pub dtype: ElementType,
}

impl TensorSpec {
    /// Bytes it takes.
    pub fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() as u64 * self.dtype.bits()).div_ceil(8)
    }
}

/// The first bytes of a file that holds `tensors` one after the other: the header's length and the header, padded so
/// that the data begin on a multiple of 8.
pub fn header(tensors: &[TensorSpec]) -> Vec<u8> {
    let mut map = serde_json::Map::new();
    map.insert("__metadata__".into(), serde_json::json!({ "format": "pt" }));
    let mut begin = 0u64;
    for tensor in tensors {
        let end = begin + tensor.bytes();
        let entry =
            serde_json::json!({ "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [begin, end] });
        map.insert(tensor.name.clone(), entry);
        begin = end;
    }
    let mut json = serde_json::Value::Object(map).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes
}

#[cfg(test)]
mod tests;
