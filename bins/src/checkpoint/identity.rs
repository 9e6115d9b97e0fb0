//! Identity of the weights in a model folder: what tells them from other weights, wherever the folder lies.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::error::CheckpointError;
use super::locate::{is_weights, manifest_of};
use super::manifest::{hash_file, hex};
use crate::hf::names::AVERAGE;
use crate::hf::{CONFIG, ModelFiles};

/// Weights of at most this number of bytes in all are hashed whole.
const WHOLE: u64 = 1 << 30;
/// Of larger ones, blocks of this number of bytes in each file.
const BLOCK: u64 = 4096;
/// Blocks of a file, evenly spaced.
const BLOCKS: u64 = 256;

/// Identifies the weights in a model folder and their configuration, or with `average` their moving average, by a
/// SHA-256 in hexadecimal.
///
/// It is made of `config.json`, and of the sizes and hashes in the checkpoint's manifest. Where there is none, of
/// names, sizes and contents of the weight files; in weights of more than 1 GiB the contents that count are headers and
/// 256 blocks of 4 KiB a file.
///
/// # Errors
/// Files that cannot be read.
pub fn identity(folder: &Path, average: bool) -> Result<String, CheckpointError> {
    let mut hash = Sha256::new();
    let mut add = |name: &str, bytes: u64, content: &str| hash.update(format!("{name}\0{bytes}\0{content}\n"));
    let config = folder.join(CONFIG);
    add(CONFIG, 0, &hash_file(&config).map_err(CheckpointError::io("read", &config))?);
    if let Some(mut manifest) = manifest_of(folder)? {
        manifest.files.retain(|file| if average { file.path == AVERAGE } else { is_weights(&file.path) });
        manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
        manifest.files.iter().for_each(|file| add(&file.path, file.bytes, &file.sha256));
        return Ok(hex(hash));
    }
    let model = ModelFiles::open(folder)?;
    let mut paths: Vec<&Path> = model.files().iter().map(|file| file.path()).collect();
    paths.sort();
    let sizes = paths.iter().map(|path| Ok(path.metadata().map_err(CheckpointError::io("find", path))?.len()));
    let sizes: Vec<u64> = sizes.collect::<Result<_, CheckpointError>>()?;
    let whole = sizes.iter().sum::<u64>() <= WHOLE;
    for (path, bytes) in paths.into_iter().zip(sizes) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let content = if whole { hash_file(path) } else { hash_parts(path, bytes, BLOCKS) };
        add(&name, bytes, &content.map_err(CheckpointError::io("read", path))?);
    }
    Ok(hex(hash))
}

/// SHA-256 of a safetensors file's header, and of some of its blocks.
fn hash_parts(path: &Path, bytes: u64, blocks: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut add = |from: u64, count: u64| -> io::Result<()> {
        file.seek(SeekFrom::Start(from))?;
        let mut part = (&mut file).take(count);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match part.read(&mut buffer)? {
                0 => return Ok(()),
                read => hash.update(&buffer[..read]),
            }
        }
    };
    let mut length = [0; 8];
    File::open(path)?.read_exact(&mut length)?;
    let header = u64::from_le_bytes(length).saturating_add(8).min(bytes);
    add(0, header)?;
    let rest = bytes - header;
    for block in 0..blocks {
        let from = (u128::from(rest.saturating_sub(BLOCK)) * u128::from(block) / u128::from(blocks.max(2) - 1)) as u64;
        add(header + from, BLOCK)?;
    }
    Ok(hex(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_blocks_tell_large_files_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let mut bytes = 2u64.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        bytes.extend((0..100_000u32).map(|i| (i % 251) as u8));
        let of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            hash_parts(&path, bytes.len() as u64, 3).unwrap()
        };
        let first = of(&bytes);
        for place in [9, 10, 10 + 47_952, bytes.len() - 1] {
            let mut other = bytes.clone();
            other[place] ^= 1;
            assert_ne!(of(&other), first, "byte {place} is in the header or in a block");
        }
        let mut other = bytes.clone();
        other[20_000] ^= 1;
        assert_eq!(of(&other), first, "and this one is between blocks");
    }
}
