//! Files of the authority: PEM in, PEM out.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Result as IoResult, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pem::{EncodeConfig, LineEnding, Pem};

use super::AuthorityError;

/// Most bytes of a PEM file that is read: a certificate with an image inside has at most 16 MB (WIRE 11.4).
pub const MAX_FILE: u64 = 48 << 20;

/// The label of a certificate in PEM.
pub(super) const CERTIFICATE: &str = "CERTIFICATE";

/// The content of a file, of [`MAX_FILE`] bytes at most.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, AuthorityError> {
    let file = File::open(path).map_err(AuthorityError::file("read", path))?;
    read_from(file, path)
}

/// The same from a reader that is known as `path`.
pub fn read_from(reader: impl Read, path: &Path) -> Result<Vec<u8>, AuthorityError> {
    let mut content = Vec::new();
    reader
        .take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .map_err(AuthorityError::file("read", path))?;
    if content.len() as u64 > MAX_FILE {
        return Err(AuthorityError::malformed(
            path,
            "file that is read here",
            format!("it has more than {} MiB", MAX_FILE >> 20),
        ));
    }
    Ok(content)
}

/// The blocks of a PEM file with this label; at least one. Other blocks and text around them are skipped.
pub(super) fn read_blocks(
    path: &Path,
    label: &'static str,
) -> Result<Vec<Vec<u8>>, AuthorityError> {
    let text = read(path)?;
    let blocks = pem::parse_many(&text)
        .map_err(|error| AuthorityError::malformed(path, "PEM file", error))?;
    let wanted: Vec<_> = blocks
        .into_iter()
        .filter(|block| block.tag() == label)
        .map(Pem::into_contents)
        .collect();
    if wanted.is_empty() {
        return Err(AuthorityError::NoBlock(path.to_owned(), label));
    }
    Ok(wanted)
}

/// The only block of a PEM file with this label.
pub(super) fn read_block(path: &Path, label: &'static str) -> Result<Vec<u8>, AuthorityError> {
    let mut blocks = read_blocks(path, label)?;
    if let (Some(block), true) = (blocks.pop(), blocks.is_empty()) {
        return Ok(block);
    }
    Err(AuthorityError::SeveralBlocks(path.to_owned(), label))
}

/// PEM with 64 characters a line.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    pem::encode_config(
        &Pem::new(label, der),
        EncodeConfig::new().set_line_ending(LineEnding::LF),
    )
}

/// Writes a file in one step: whatever happens meanwhile, it is there whole or not at all. One that exists is replaced
/// with `force`, and otherwise left alone.
pub(super) fn write(
    path: &Path,
    mode: u32,
    content: &str,
    force: bool,
) -> Result<(), AuthorityError> {
    let beside = beside(path);
    // Left behind by a process that had this number and crashed.
    let _ = fs::remove_file(&beside);
    let written = write_new(&beside, mode, content)
        .map_err(AuthorityError::file("write", path))
        .and_then(|()| put(&beside, path, force));
    // A file that was renamed is not there any more.
    let _ = fs::remove_file(&beside);
    written?;
    sync_directory(path)
}

/// Gives a file that is complete its name. A link, unlike a new name, replaces nothing.
fn put(beside: &Path, path: &Path, force: bool) -> Result<(), AuthorityError> {
    if force {
        return fs::rename(beside, path).map_err(AuthorityError::file("replace", path));
    }
    fs::hard_link(beside, path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => AuthorityError::Exists(path.to_owned()),
        _ => AuthorityError::File("create", path.to_owned(), error),
    })
}

/// The name of a new file is kept only with its directory.
pub(super) fn sync_directory(path: &Path) -> Result<(), AuthorityError> {
    let directory = match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(AuthorityError::file("write the directory of", path))
}

/// Whether a certificate may be written to `path`: nothing is there, or `force` and nothing but certificates, and none
/// of the `own` files of the authority.
pub(super) fn check_replaceable(
    path: &Path,
    force: bool,
    own: &[&Path],
) -> Result<(), AuthorityError> {
    let exists = path
        .try_exists()
        .map_err(AuthorityError::file("look for", path))?;
    if !exists {
        return Ok(());
    }
    if !force {
        return Err(AuthorityError::Exists(path.to_owned()));
    }
    let canonical = |path: &Path| fs::canonicalize(path).ok();
    if own.iter().any(|own| canonical(own) == canonical(path)) {
        return Err(AuthorityError::OwnFile(path.to_owned()));
    }
    let blocks = pem::parse_many(read(path)?).unwrap_or_default();
    if !blocks.is_empty() && blocks.iter().all(|block| block.tag() == CERTIFICATE) {
        Ok(())
    } else {
        Err(AuthorityError::NoCertificate(path.to_owned()))
    }
}

/// Where the new content of a file lies until it is complete. No two processes have the same place.
fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new.{}", std::process::id()));
    beside.into()
}

fn write_new(path: &Path, mode: u32, content: &str) -> IoResult<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;

    #[test]
    fn what_a_crash_left_behind_does_not_hinder_a_replacement() {
        let directory = Directory::short();
        let directory = &directory.0;
        let path = directory.join("web.pem");
        for file in [&path, &beside(&path), &directory.join("web.pem.new")] {
            fs::write(file, "before").unwrap();
        }
        let refused = write(&path, 0o644, "after", false);
        assert!(matches!(refused, Err(AuthorityError::Exists(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        assert!(!beside(&path).exists());
        write(&path, 0o644, "after", true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        assert!(!beside(&path).exists());
        let new = directory.join("new.key");
        fs::write(beside(&new), "cut").unwrap();
        write(&new, 0o400, "whole", false).unwrap();
        assert_eq!(fs::read_to_string(&new).unwrap(), "whole");
        assert!(!beside(&new).exists());
    }
}
