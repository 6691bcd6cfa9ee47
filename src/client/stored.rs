//! A file that is received: inflated within a bound, written beside its place, and moved there when it is complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::display::Output;
use super::error::ClientError;
use crate::inflate::Arriving;
use crate::name::Name;

/// Mode of a file that is downloaded: images and block devices hold secrets of their tenant.
const DOWNLOAD_MODE: u32 = 0o600;

/// A file in the making; removed unless it is kept.
#[derive(Debug)]
pub(super) struct StoredFile {
    path: PathBuf,
    /// Where it is written.
    partial: PathBuf,
    file: File,
    content: Arriving,
}

impl StoredFile {
    /// A new file of at most `limit` bytes, for content that comes as a zlib stream or not: the one that was asked for,
    /// or one in the current directory that is named after the object. A file that exists is not replaced.
    pub(super) fn create(
        name: &Name,
        compressed: bool,
        limit: u64,
        output: &Output,
    ) -> Result<Self, ClientError> {
        let path = match output.download() {
            Some(file) => file.to_owned(),
            None => file_name(name, output.started()).into(),
        };
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
            .mode(DOWNLOAD_MODE)
            .open(&partial)
            .map_err(|error| cannot_create(&partial, error))?;
        Ok(Self {
            path,
            partial,
            file,
            content: Arriving::new(compressed, limit),
        })
    }

    /// Adds content as it was received.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let Self {
            content,
            file,
            partial,
            ..
        } = self;
        content.write(bytes, |plain| {
            file.write_all(plain)
                .map_err(ClientError::file("write", partial))
        })
    }

    /// Ends the content, and moves the file to its place: the path there.
    pub(super) fn keep(self) -> Result<PathBuf, ClientError> {
        self.content.finish()?;
        self.file
            .sync_all()
            .map_err(ClientError::file("write", &self.partial))?;
        refuse_existing(&self.path)?;
        fs::rename(&self.partial, &self.path)
            .map_err(ClientError::file("move the download to", &self.path))?;
        Ok(self.path.clone())
    }
}

impl Drop for StoredFile {
    fn drop(&mut self) {
        // After it was kept there is none.
        let _ = fs::remove_file(&self.partial);
    }
}

/// Refuses a file that exists.
pub(super) fn refuse_existing(path: &Path) -> Result<(), ClientError> {
    match path.symlink_metadata() {
        Ok(_) => Err(ClientError::Exists(path.to_owned())),
        Err(_) => Ok(()),
    }
}

fn cannot_create(path: &Path, error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::AlreadyExists => ClientError::Exists(path.to_owned()),
        _ => ClientError::File("create", path.to_owned(), error),
    }
}

/// File name for a download of the object: without a colon, which scp(1) and tar(1) take for the end of a host name.
fn file_name(name: &Name, time: OffsetDateTime) -> String {
    let labels = name.path().labels().iter().chain(name.label());
    let labels: Vec<_> = labels.map(ToString::to_string).collect();
    format!(
        "{}.{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        // No label has this character.
        labels.join("_"),
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;
    use crate::inflate::InflateError;
    use flate2::Compression;
    use flate2::read::ZlibEncoder;
    use std::io::Read;

    fn zlib(bytes: impl Read) -> Vec<u8> {
        let mut compressed = Vec::new();
        ZlibEncoder::new(bytes, Compression::fast())
            .read_to_end(&mut compressed)
            .unwrap();
        compressed
    }

    #[test]
    fn file_names_have_no_colon_and_tell_paths_apart() {
        let time = OffsetDateTime::from_unix_timestamp(1_795_385_296).unwrap();
        for (name, stem) in [
            (":web", "web"),
            ("tenant:web", "tenant_web"),
            ("a:b.c:web-1", "a_b.c_web-1"),
        ] {
            let name = name.parse().unwrap();
            assert_eq!(file_name(&name, time), format!("{stem}.20261122T220816Z"));
        }
    }

    #[test]
    fn content_arrives_whole_however_it_is_cut() {
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
        for (compressed, sent) in [(false, content.clone()), (true, zlib(&content[..]))] {
            for cut in [7, 4096, 1 << 20] {
                let directory = Directory::short();
                let path = directory.0.join("content");
                let mut file = StoredFile::create_at(path.clone(), compressed, 400_000).unwrap();
                sent.chunks(cut).for_each(|piece| file.push(piece).unwrap());
                assert!(!path.exists());
                assert_eq!(file.keep().unwrap(), path);
                assert!(fs::read(&path).unwrap() == content);
                assert!(matches!(
                    StoredFile::create_at(path.clone(), compressed, 1),
                    Err(ClientError::Exists(_))
                ));
                fs::remove_file(&path).unwrap();
            }
        }
    }

    #[test]
    fn content_beyond_the_bound_is_not_written() {
        // Of 16 MiB the stream has about 16 KiB: it arrives at once.
        let bomb = zlib(io::repeat(0).take(1 << 24));
        let directory = Directory::short();
        let path = directory.0.join("content");
        let mut file = StoredFile::create_at(path.clone(), true, 100_000).unwrap();
        let error = file.push(&bomb).unwrap_err();
        let beyond = InflateError::TooLarge(100_000);
        assert!(matches!(error, ClientError::Inflate(found) if found == beyond));
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
        let directory = Directory::short();
        let path = directory.0.join("content");
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
