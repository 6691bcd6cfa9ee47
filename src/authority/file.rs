//! Files of the authority: PEM in, PEM out.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Result as IoResult, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pem::{EncodeConfig, LineEnding, Pem};

use super::error::AuthorityError;

/// Maximum size of a PEM file in bytes. A certificate with an embedded image has at most 16 MB (WIRE 11.4).
pub const MAX_FILE: u64 = 48 << 20;

/// PEM label of a certificate.
pub(super) const CERTIFICATE: &str = "CERTIFICATE";

/// Reads a file of at most [`MAX_FILE`] bytes.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, AuthorityError> {
    let file = File::open(path).map_err(AuthorityError::file("read", path))?;
    read_from(file, path)
}

/// Reads at most [`MAX_FILE`] bytes from a reader; `path` names it in errors.
///
/// # Errors
/// When reading fails, or there are more bytes.
pub fn read_from(reader: impl Read, path: &Path) -> Result<Vec<u8>, AuthorityError> {
    let mut content = Vec::new();
    reader
        .take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .map_err(AuthorityError::file("read", path))?;
    if content.len() as u64 > MAX_FILE {
        return Err(AuthorityError::malformed(
            path,
            "file of certificates or requests",
            format!("it has more than {} MiB", MAX_FILE >> 20),
        ));
    }
    Ok(content)
}

/// Reads the blocks with this label from a PEM file; at least one. Other blocks and text are skipped.
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

/// Reads the only block with this label from a PEM file.
pub(super) fn read_block(path: &Path, label: &'static str) -> Result<Vec<u8>, AuthorityError> {
    let mut blocks = read_blocks(path, label)?;
    if let (Some(block), true) = (blocks.pop(), blocks.is_empty()) {
        return Ok(block);
    }
    Err(AuthorityError::SeveralBlocks(path.to_owned(), label))
}

/// Encodes PEM with 64 characters per line.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    pem::encode_config(
        &Pem::new(label, der),
        EncodeConfig::new().set_line_ending(LineEnding::LF),
    )
}

/// Writes a file atomically: it is complete or unchanged. An existing file is replaced only with `force`.
pub(super) fn write(
    path: &Path,
    mode: u32,
    content: &str,
    force: bool,
) -> Result<(), AuthorityError> {
    let temporary = temporary(path);
    // A crashed process with the same number may have left it behind.
    let _ = fs::remove_file(&temporary);
    let written = write_new(&temporary, mode, content)
        .map_err(AuthorityError::file("write", path))
        .and_then(|()| publish(&temporary, path, force));
    // After a rename, there is nothing to remove.
    let _ = fs::remove_file(&temporary);
    written?;
    sync_directory(path)
}

/// Gives a complete file its name. A hard link, unlike a rename, replaces nothing.
fn publish(temporary: &Path, path: &Path, force: bool) -> Result<(), AuthorityError> {
    if force {
        return fs::rename(temporary, path).map_err(AuthorityError::file("replace", path));
    }
    fs::hard_link(temporary, path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => AuthorityError::Exists(path.to_owned()),
        _ => AuthorityError::file("create", path)(error),
    })
}

/// Syncs the directory of a new file, without which its name could be lost.
pub(super) fn sync_directory(path: &Path) -> Result<(), AuthorityError> {
    let directory = match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(AuthorityError::file("write the directory of", path))
}

/// Checks that a certificate may be written to `path`: the file is missing, or with `force` holds only certificates and
/// is none of the `own` files of the authority.
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

/// Path of a file until it is complete, different in each process.
fn temporary(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".new.{}", std::process::id()));
    temporary.into()
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
    fn a_file_left_by_a_crash_does_not_prevent_a_replacement() {
        let directory = Directory::short();
        let directory = &directory.0;
        let path = directory.join("web.pem");
        for file in [&path, &temporary(&path), &directory.join("web.pem.new")] {
            fs::write(file, "before").unwrap();
        }
        let refused = write(&path, 0o644, "after", false);
        assert!(matches!(refused, Err(AuthorityError::Exists(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        assert!(!temporary(&path).exists());
        write(&path, 0o644, "after", true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        assert!(!temporary(&path).exists());
        let new = directory.join("new.key");
        fs::write(temporary(&new), "cut").unwrap();
        write(&new, 0o400, "whole", false).unwrap();
        assert_eq!(fs::read_to_string(&new).unwrap(), "whole");
        assert!(!temporary(&new).exists());
    }
}
