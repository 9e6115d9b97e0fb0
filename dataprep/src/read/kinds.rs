//! Kinds of files that are not read, told by their first bytes, and what to do with each.

/// A kind of file that is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    /// Its name.
    pub name: &'static str,
    /// How to make something of it that is read.
    pub remedy: &'static str,
    /// Whether it is made to hold other files: what is in it may well be the corpus.
    pub holds_files: bool,
}

impl Foreign {
    /// That a file is of this kind, and what to do.
    pub fn why(&self) -> String {
        format!("{}, which is not read; {}", self.name, self.remedy)
    }
}

const fn archive(name: &'static str, remedy: &'static str) -> Foreign {
    Foreign { name, remedy, holds_files: true }
}

const fn other(name: &'static str, remedy: &'static str) -> Foreign {
    Foreign { name, remedy, holds_files: false }
}

const TAR: Foreign = archive("a tar archive", "unpack it (tar -xf)");
const POINTER: Foreign = archive("a Git LFS pointer in place of the file", "fetch the file (git lfs pull)");
const PDF: Foreign = other("PDF", "convert it to text (pdftotext)");
/// A zstd frame that was made with a dictionary.
const NEEDS_DICTIONARY: Foreign = archive("zstd with a dictionary", "decompress it (zstd -d -D DICTIONARY)");
/// A zstd frame with a window that no decoder takes.
const WINDOW: Foreign = archive("zstd with a window of more than 2 GiB", "compress it again (zstd --long=31)");
/// The largest window of a zstd frame that is read.
const MAX_WINDOW: u64 = 1 << super::decode::MAX_WINDOW_LOG;

/// What files begin with.
const MAGIC: [(&[u8], Foreign); 37] = [
    (b"\xfd7zXZ\0", archive("xz", "decompress it (xz -d)")),
    (b"\x04\x22\x4d\x18", archive("LZ4", "decompress it (lz4 -d)")),
    (b"\x02\x21\x4c\x18", archive("LZ4 (legacy)", "decompress it (lz4 -d)")),
    (b"\x5d\x00\x00\x80\x00", archive("LZMA", "decompress it (xz -d)")),
    (b"LZIP\x01", archive("lzip", "decompress it (lzip -d)")),
    (b"\x89LZO\0\r\n\x1a\n", archive("lzop", "decompress it (lzop -d)")),
    (b"\x1f\x9d", archive("compress (.Z)", "decompress it (gzip -d)")),
    (b"\x1f\xa0", archive("compress (LZH)", "decompress it (gzip -d)")),
    (b"\x1f\x1e", archive("pack (.z)", "decompress it (gzip -d)")),
    (b"\xff\x06\0\0sNaPpY", archive("framed Snappy", "decompress it")),
    (b"7z\xbc\xaf\x27\x1c", archive("7-Zip", "unpack it (7z x)")),
    (
        b"PK\x03\x04",
        archive("ZIP (or a format in ZIP, such as .docx or .epub)", "unpack it (unzip) or convert it to text"),
    ),
    (b"PK\x05\x06", archive("an empty ZIP archive", "leave it out")),
    (b"Rar!\x1a\x07", archive("RAR", "unpack it (unrar x)")),
    (b"MSCF\0\0\0\0", archive("a cabinet archive", "unpack it (cabextract)")),
    (b"Obj\x01", archive("Avro", "convert it to JSON Lines or Parquet")),
    (b"ORC\x0a", archive("ORC", "convert it to JSON Lines or Parquet")),
    (b"ORC\x08", archive("ORC", "convert it to JSON Lines or Parquet")),
    (b"\x89HDF\r\n\x1a\n", archive("HDF5", "convert it to JSON Lines or Parquet")),
    (b"SQLite format 3\0", archive("SQLite", "export its table as CSV")),
    (b"PARE", archive("encrypted Parquet", "write it again without encryption")),
    (b"\x93NUMPY", other("NumPy", "convert it to JSON Lines or Parquet")),
    (b"GGUF", other("GGUF", "leave it out")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", other("Microsoft Office", "convert it to text")),
    (b"\x89PNG\r\n\x1a\n", other("PNG", "leave it out")),
    (b"\xff\xd8\xff", other("JPEG", "leave it out")),
    (b"GIF87a", other("GIF", "leave it out")),
    (b"GIF89a", other("GIF", "leave it out")),
    (b"RIFF", other("RIFF (WAV, AVI or WebP)", "leave it out")),
    (b"II*\0", other("TIFF", "leave it out")),
    (b"MM\0*", other("TIFF", "leave it out")),
    (b"OggS\0", other("Ogg", "leave it out")),
    (b"fLaC\0", other("FLAC", "leave it out")),
    (b"ID3", other("MP3", "leave it out")),
    (b"\x7fELF", other("ELF", "leave it out")),
    (b"\0asm", other("WebAssembly", "leave it out")),
    (b"\xca\xfe\xba\xbe", other("Java classes", "leave it out")),
];

/// The kind of a file that begins with `head`, if it is one that is not read. A text never is one, whatever its first
/// words are, unless it is the text of a pointer.
pub(super) fn foreign(head: &[u8]) -> Option<Foreign> {
    if head.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Some(POINTER);
    }
    if let [b'%', b'P', b'D', b'F', b'-', b'1'..=b'2', b'.', b'0'..=b'9', b'\r' | b'\n', ..] = head {
        return Some(PDF);
    }
    if is_tar(head) {
        return Some(TAR);
    }
    // Most begin as no such file: that is soon told.
    binary(head).filter(|_| !is_text_start(head))
}

/// The kind of a file with these first bytes, if it is no text.
fn binary(head: &[u8]) -> Option<Foreign> {
    if let [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..]
    | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, b'r', b'E', b'8', b'P', 0x90, ..] = head
    {
        return Some(archive("bzip2", "decompress it (bzip2 -d)"));
    }
    if head.get(4..8) == Some(b"ftyp") {
        return Some(other("MP4 or QuickTime", "leave it out"));
    }
    let known = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, kind)| *kind);
    known.or_else(|| foreign_zstd(head))
}

/// Whether a file begins with the header of a tar archive: its checksum is right.
fn is_tar(head: &[u8]) -> bool {
    let Some((header, field)) = head.get(..512).and_then(|header| Some((header, header.get(148..156)?))) else {
        return false;
    };
    let digits = field.iter().copied().skip_while(|&byte| byte == b' ').take_while(|byte| (b'0'..=b'7').contains(byte));
    let (mut stated, mut count) = (0_u64, 0);
    for digit in digits {
        stated = stated << 3 | u64::from(digit - b'0');
        count += 1;
    }
    let all: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
    let own: u64 = field.iter().map(|&byte| u64::from(byte)).sum();
    count >= 3 && header[0] != 0 && stated == all - own + 8 * u64::from(b' ')
}

/// Whether a zstd frame (RFC 8878) states something for which it cannot be read.
fn foreign_zstd(head: &[u8]) -> Option<Foreign> {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = head else {
        return None;
    };
    let single_segment = descriptor & 0x20 != 0;
    let window_bytes = usize::from(!single_segment);
    if let Some(&window) = rest.first().filter(|_| !single_segment) {
        let base = 1_u64 << (10 + (window >> 3));
        if base + base / 8 * u64::from(window & 7) > MAX_WINDOW {
            return Some(WINDOW);
        }
    }
    let length = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let dictionary = rest.get(window_bytes..window_bytes + length)?;
    dictionary.iter().any(|&byte| byte != 0).then_some(NEEDS_DICTIONARY)
}

/// Whether the first bytes of a file are UTF-8 text, of which the last character may be cut.
pub(super) fn is_text_start(head: &[u8]) -> bool {
    let complete = match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(e) => e.error_len().is_none(),
    };
    complete && controls(head) == 0
}

/// How many bytes are control characters that stand in no text: all but white space, backspace and escape.
pub(super) fn controls(bytes: &[u8]) -> usize {
    // Without branches, and in parts that a byte can count, so that many are looked at at once.
    let is_control = |byte: u8| {
        u8::from(byte < 8) | u8::from(byte.wrapping_sub(0x0e) < 18) & u8::from(byte != 0x1b) | u8::from(byte == 0x7f)
    };
    let part = |part: &[u8]| usize::from(part.iter().map(|&byte| is_control(byte)).sum::<u8>());
    bytes.chunks(255).map(part).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first entry of an archive, as `tar` writes it.
    fn tar() -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..5].copy_from_slice(b"a.txt");
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(b"00000000002");
        header[257..263].copy_from_slice(b"ustar\0");
        header[148..156].copy_from_slice(b"        ");
        let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    #[test]
    fn kinds_are_told_by_their_first_bytes() {
        let zstd = |rest: &[u8]| [b"\x28\xb5\x2f\xfd", rest].concat();
        for (head, name) in [
            (b"\xfd7zXZ\0\0\x04".to_vec(), "xz"),
            (b"BZh91AY&SY\xc1\xc0\xe2\xd2".to_vec(), "bzip2"),
            (b"\x04\x22\x4d\x18\x64\x40\xa7".to_vec(), "LZ4"),
            (b"PK\x03\x04\x14\0\0\0".to_vec(), "ZIP (or a format in ZIP, such as .docx or .epub)"),
            (tar(), "a tar archive"),
            (b"%PDF-1.4\n1 0 obj".to_vec(), "PDF"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec(), POINTER.name),
            (zstd(b"\x03\x50\x01\x02\x03\x04"), NEEDS_DICTIONARY.name),
            (zstd(b"\x00\xa9"), WINDOW.name),
        ] {
            assert_eq!(foreign(&head).map(|kind| kind.name), Some(name));
        }
        let control = |byte| matches!(byte, 0..=7 | 0x0e..=0x1a | 0x1c..=0x1f | 0x7f);
        assert!((0..=255).all(|byte| controls(&[byte; 300]) == if control(byte) { 300 } else { 0 }));
        let mut no_tar = tar();
        no_tar[0] = b'b';
        for head in [
            no_tar,
            zstd(b"\x00\xa8"),
            zstd(b"\x20\x05"),
            b"BZh is how bzip2 begins".to_vec(),
            b"GIF89a and RIFF are formats".to_vec(),
            b"%PDF-files".to_vec(),
            b"\x1f\x8b\x08\0".to_vec(),
            "Grüße".into(),
            Vec::new(),
        ] {
            assert_eq!(foreign(&head), None, "{head:?}");
        }
    }
}
