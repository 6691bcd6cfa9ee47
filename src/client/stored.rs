//! A file that is received: inflated within a bound, written beside its place, and moved there when it is complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::{Decompress, FlushDecompress, Status};

use super::display::Output;
use super::error::ClientError;
use crate::name::Name;

/// Octets inflated at once.
const PIECE: usize = 1 << 16;

/// A file of the download folder in the making; removed unless it is kept.
#[derive(Debug)]
pub(super) struct StoredFile {
    path: PathBuf,
    /// Where it is written.
    partial: PathBuf,
    file: File,
    inflate: Option<Inflate>,
    /// Most octets that are written.
    limit: u64,
    written: u64,
}

#[derive(Debug)]
struct Inflate {
    stream: Decompress,
    ended: bool,
    piece: Vec<u8>,
}

impl StoredFile {
    /// A new file `<TMPDIR or /tmp>/<name>.<start of the program>` (BEHAVIOUR 3.5) of at most `limit` octets, for
    /// content that comes as a zlib stream or not. A file that exists is not replaced.
    pub(super) fn create(
        name: &Name,
        compressed: bool,
        limit: u64,
        output: &Output,
    ) -> Result<Self, ClientError> {
        let folder = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
        let folder = folder.unwrap_or_else(|| "/tmp".into());
        let path = Path::new(&folder).join(format!("{name}.{}", output.start_time()));
        Self::create_at(path, compressed, limit)
    }

    fn create_at(path: PathBuf, compressed: bool, limit: u64) -> Result<Self, ClientError> {
        refuse_existing(&path)?;
        let mut partial = path.clone().into_os_string();
        partial.push(".part");
        let partial = PathBuf::from(partial);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&partial)
            .map_err(ClientError::file("create", &partial))?;
        Ok(Self {
            path,
            partial,
            file,
            inflate: compressed.then(|| Inflate {
                stream: Decompress::new(true),
                ended: false,
                piece: vec![0; PIECE],
            }),
            limit,
            written: 0,
        })
    }

    /// Adds content as it was received.
    pub(super) fn push(&mut self, mut octets: &[u8]) -> Result<(), ClientError> {
        let Some(mut inflate) = self.inflate.take() else {
            return self.write(octets);
        };
        loop {
            let made = inflate.advance(&mut octets)?;
            self.write(&inflate.piece[..made])?;
            // A full piece may not have been all of it.
            if octets.is_empty() && made < PIECE {
                self.inflate = Some(inflate);
                return Ok(());
            }
        }
    }

    /// Ends the content, and moves the file to its place: the path there.
    pub(super) fn keep(self) -> Result<PathBuf, ClientError> {
        if self.inflate.as_ref().is_some_and(|inflate| !inflate.ended) {
            return Err(ClientError::Unexpected(
                "the compressed content is not complete",
            ));
        }
        self.file
            .sync_all()
            .map_err(ClientError::file("write", &self.partial))?;
        refuse_existing(&self.path)?;
        fs::rename(&self.partial, &self.path)
            .map_err(ClientError::file("move the download to", &self.path))?;
        Ok(self.path.clone())
    }

    fn write(&mut self, octets: &[u8]) -> Result<(), ClientError> {
        self.written += octets.len() as u64;
        if self.written > self.limit {
            return Err(ClientError::TooLarge(self.limit));
        }
        self.file
            .write_all(octets)
            .map_err(ClientError::file("write", &self.partial))
    }
}

impl Inflate {
    /// Inflates from `octets` into the piece; how much is in it now.
    fn advance(&mut self, octets: &mut &[u8]) -> Result<usize, ClientError> {
        if self.ended {
            return if octets.is_empty() {
                Ok(0)
            } else {
                Err(ClientError::Unexpected(
                    "octets after the end of the compressed content",
                ))
            };
        }
        let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
        let status = self
            .stream
            .decompress(octets, &mut self.piece, FlushDecompress::None)
            .map_err(|_| ClientError::Unexpected("content that is no zlib stream"))?;
        self.ended = status == Status::StreamEnd;
        // Neither exceeds the slice it counts.
        let taken = usize::try_from(self.stream.total_in() - before_in).unwrap_or(octets.len());
        let made = usize::try_from(self.stream.total_out() - before_out).unwrap_or(PIECE);
        if taken == 0 && made == 0 && !self.ended && !octets.is_empty() {
            return Err(ClientError::Unexpected("content that is no zlib stream"));
        }
        *octets = &octets[taken.min(octets.len())..];
        Ok(made)
    }
}

impl Drop for StoredFile {
    fn drop(&mut self) {
        // After it was kept there is none.
        let _ = fs::remove_file(&self.partial);
    }
}

fn refuse_existing(path: &Path) -> Result<(), ClientError> {
    match path.symlink_metadata() {
        Ok(_) => Err(ClientError::File(
            "create",
            path.to_owned(),
            io::ErrorKind::AlreadyExists.into(),
        )),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::read::ZlibEncoder;
    use std::io::Read;

    fn place(test: &str) -> PathBuf {
        std::env::temp_dir().join(format!("petrel-{test}-{}", std::process::id()))
    }

    fn zlib(octets: impl Read) -> Vec<u8> {
        let mut compressed = Vec::new();
        ZlibEncoder::new(octets, Compression::fast())
            .read_to_end(&mut compressed)
            .unwrap();
        compressed
    }

    #[test]
    fn content_arrives_whole_however_it_is_cut() {
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
        for (compressed, sent) in [(false, content.clone()), (true, zlib(&content[..]))] {
            for cut in [7, 4096, 1 << 20] {
                let path = place("whole");
                let mut file = StoredFile::create_at(path.clone(), compressed, 400_000).unwrap();
                sent.chunks(cut).for_each(|piece| file.push(piece).unwrap());
                assert!(!path.exists());
                assert_eq!(file.keep().unwrap(), path);
                assert!(fs::read(&path).unwrap() == content);
                assert!(matches!(
                    StoredFile::create_at(path.clone(), compressed, 1),
                    Err(ClientError::File(..))
                ));
                fs::remove_file(&path).unwrap();
            }
        }
    }

    #[test]
    fn content_beyond_the_bound_is_not_written() {
        // Of 16 MiB the stream has about 16 KiB: it arrives at once.
        let bomb = zlib(io::repeat(0).take(1 << 24));
        let path = place("bomb");
        let mut file = StoredFile::create_at(path.clone(), true, 100_000).unwrap();
        let error = file.push(&bomb).unwrap_err();
        assert!(matches!(error, ClientError::TooLarge(100_000)));
        assert!(fs::metadata(&file.partial).unwrap().len() <= 100_000);
        let partial = file.partial.clone();
        drop(file);
        assert!(!path.exists() && !partial.exists());

        let mut file = StoredFile::create_at(path, false, 3).unwrap();
        assert!(file.push(b"abcd").is_err());
    }

    #[test]
    fn a_stream_that_is_cut_or_followed_by_something_is_refused() {
        let stream = zlib(&[7; 1000][..]);
        let path = place("cut");
        let new = || StoredFile::create_at(path.clone(), true, 1000).unwrap();
        {
            let mut file = new();
            file.push(&stream[..stream.len() - 1]).unwrap();
            assert!(file.keep().is_err());
        }
        {
            let mut file = new();
            file.push(&stream).unwrap();
            assert!(file.push(b"x").is_err());
        }
        assert!(new().push(b"no stream").is_err());
        assert!(!path.exists());
    }
}
