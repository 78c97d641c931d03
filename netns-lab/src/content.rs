//! The files the targets serve: pseudorandom, different from each other, the same in every lab.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// Name and size in bytes of every file (1k is 1024 bytes, 1m is 1024 times that).
pub const FILES: [(&str, u64); 6] = [
    ("1k", 1 << 10),
    ("10k", 10 << 10),
    ("100k", 100 << 10),
    ("1m", 1 << 20),
    ("10m", 10 << 20),
    ("100m", 100 << 20),
];

/// Writes all files into a directory.
///
/// # Errors
/// When the disk is full, mostly.
pub fn write_all(dir: &Path) -> Result<()> {
    for (name, size) in FILES {
        let path = dir.join(name);
        write_one(&path, size).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// SplitMix64 (Steele, Lea, Flood 2014), seeded by the size: fast, and no two files share a prefix.
fn write_one(path: &Path, size: u64) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, File::create(path)?);
    let mut state = size;
    for _ in 0..size / 8 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.write_all(&(z ^ (z >> 31)).to_le_bytes())?;
    }
    out.flush()
}

/// The SHA-256 of a file as lower-case hex.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_of_file(path: &Path) -> Result<String> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(sha256_of(file)?.0)
}

/// The SHA-256 as lower-case hex, and the length in bytes, of all a reader gives.
///
/// # Errors
/// The reader's.
pub fn sha256_of(mut reader: impl Read) -> std::io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut length = 0;
    loop {
        let n = reader.read(&mut buffer)?;
        let Some(part) = buffer.get(..n).filter(|p| !p.is_empty()) else { break };
        hash.update(part);
        length += part.len() as u64;
    }
    Ok((hash.finalize().iter().map(|b| format!("{b:02x}")).collect(), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_multiple_of_a_word_and_none_repeats() {
        assert!(FILES.iter().all(|(_, size)| size % 8 == 0));
        let dir = tempfile::tempdir().unwrap();
        let (one, ten) = (dir.path().join("1k"), dir.path().join("10k"));
        write_one(&one, 1 << 10).unwrap();
        write_one(&ten, 10 << 10).unwrap();
        assert_eq!(one.metadata().unwrap().len(), 1024);
        assert_ne!(std::fs::read(&one).unwrap()[..64], std::fs::read(&ten).unwrap()[..64]);
    }

    #[test]
    fn the_hash_is_sha256() {
        let (hash, length) = sha256_of(&b"abc"[..]).unwrap();
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(length, 3);
    }
}
