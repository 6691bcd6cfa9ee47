//! A file that is sent: opened once, so that what was checked is what is sent.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::ClientError;
use super::upload::CHUNK;
use crate::manifest::Manifest;
use crate::supervisor::bhyve;
use crate::unikernel::{Config, ImageDigest, Kind};

/// Bytes read at once: a frame of them is sent without a copy.
const PIECE: usize = CHUNK;

/// Bytes of a MB.
const MB: u64 = 1 << 20;

/// A file to be sent.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    file: File,
    /// Bytes when it was opened; `None` of what cannot tell, such as a pipe.
    length: Option<u64>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, ClientError> {
        let mut file = File::open(path).map_err(ClientError::file("open", path))?;
        let kind = file
            .metadata()
            .map_err(ClientError::file("look at", path))?
            .file_type();
        if kind.is_dir() {
            let error = io::Error::from(ErrorKind::IsADirectory);
            return Err(ClientError::File("read", path.to_owned(), error));
        }
        let length = file.seek(SeekFrom::End(0)).ok();
        let mut source = Self {
            path: path.to_owned(),
            file,
            length,
        };
        if length.is_some() {
            source.rewind()?;
        }
        Ok(source)
    }

    /// Opens an image that must fit the configuration, and be the one with this digest if there is one.
    pub(super) fn image(
        path: &Path,
        config: &Config,
        digest: Option<&ImageDigest>,
    ) -> Result<Self, ClientError> {
        let mut image = Self::open(path)?;
        if let Some(expected) = digest {
            let found = image.digest()?;
            if found != *expected {
                return Err(ClientError::Image(
                    path.to_owned(),
                    format!("its SHA-256 is {found}, but the certificate is for {expected} only"),
                ));
            }
        }
        image.check_manifest(config)?;
        Ok(image)
    }

    /// Opens what is to replace the content of a block device. Nobody means an empty file by mistake with `force`.
    pub(super) fn replacement(path: &Path, force: bool) -> Result<Self, ClientError> {
        let content = Self::open(path)?;
        if content.length == Some(0) && !force {
            return Err(ClientError::Usage(format!(
                "'{}' is empty and would make the whole device zero: pass --force if that is meant",
                path.display()
            )));
        }
        Ok(content)
    }

    /// Opens the content of a block device of `size` MB, which it has to fit into.
    pub(super) fn block_content(path: &Path, size: u64) -> Result<Self, ClientError> {
        let refused = |why: String| Err(ClientError::Usage(format!("'{}' {why}", path.display())));
        let content = Self::open(path)?;
        let room = size.saturating_mul(MB);
        match content.length {
            Some(length) if length <= room => Ok(content),
            Some(length) => refused(format!(
                "has {length} bytes, which do not fit into {size} MB ({room} bytes)"
            )),
            None => refused(
                "cannot tell its size, so that it may not fit: --data needs a file".to_owned(),
            ),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes, if it can tell.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Whether the manifest declares exactly the devices of `config`. Of a BHyve machine's image only its presence
    /// matters, but its devices follow rules, too.
    fn check_manifest(&mut self, config: &Config) -> Result<(), ClientError> {
        if config.kind == Kind::Bhyve {
            let checked = bhyve::check(config);
            return checked.map_err(|refusal| ClientError::Usage(refusal.to_string()));
        }
        let nets: Vec<&str> = config.nets.iter().map(|net| &net.device[..]).collect();
        let blocks = config.blocks.iter().map(|block| &block.device[..]);
        let blocks: Vec<&str> = blocks.collect();
        let checked = Manifest::read(&mut self.file)
            .map_err(|error| error.to_string())
            .and_then(|manifest| {
                manifest
                    .check_devices(&nets, &blocks)
                    .map_err(|error| error.to_string())
            });
        checked.map_err(|why| ClientError::Image(self.path.clone(), why))?;
        self.rewind()
    }

    /// The SHA-256 of the whole file.
    pub(super) fn digest(&mut self) -> Result<ImageDigest, ClientError> {
        let mut hash = Sha256::new();
        self.copy_to(&mut hash)?
            .map_err(ClientError::file("hash", &self.path))?;
        self.rewind()?;
        Ok(ImageDigest(hash.finalize().into()))
    }

    /// Copies the file to its end; the inner result is that of the receiving side. An error if the file has not the
    /// length any more that it had when it was opened.
    pub(super) fn copy_to(
        &mut self,
        target: &mut impl Write,
    ) -> Result<io::Result<()>, ClientError> {
        let mut piece = vec![0; PIECE];
        let mut copied = 0;
        loop {
            let count = match self.file.read(&mut piece) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(ClientError::File("read", self.path.clone(), error)),
            };
            copied += count as u64;
            let at_the_end = count == 0;
            if self
                .length
                .is_some_and(|length| copied > length || at_the_end && copied < length)
            {
                return Err(ClientError::Changed(self.path.clone()));
            }
            if at_the_end {
                return Ok(Ok(()));
            }
            if let Err(error) = target.write_all(&piece[..count]) {
                return Ok(Err(error));
            }
        }
    }

    fn rewind(&mut self) -> Result<(), ClientError> {
        self.file
            .rewind()
            .map_err(ClientError::file("read", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_grows_or_shrinks_is_not_sent_to_its_end() {
        let path = std::env::temp_dir().join(format!("petrel-source-{}", std::process::id()));
        for (before, after) in [(100_000, 100_001), (100_000, 99_999), (0, 1)] {
            std::fs::write(&path, vec![7; before]).unwrap();
            let mut source = Source::open(&path).unwrap();
            assert_eq!(source.length(), Some(before as u64));
            source.digest().unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(after).unwrap();
            let mut sent = Vec::new();
            let outcome = source.copy_to(&mut sent);
            assert!(matches!(outcome, Err(ClientError::Changed(_))));
            assert!(sent.len() <= before);
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_digest_is_that_of_the_whole_file() {
        let path = std::env::temp_dir().join(format!("petrel-digest-{}", std::process::id()));
        std::fs::write(&path, "abc").unwrap();
        let mut source = Source::open(&path).unwrap();
        for _ in 0..2 {
            let digest = source.digest().unwrap().to_string();
            assert!(digest.starts_with("ba7816bf"), "{digest}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
