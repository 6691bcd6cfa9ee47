//! Files of the authority: PEM in, PEM out, and the list of what was issued.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Result as IoResult, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pem::{EncodeConfig, LineEnding, Pem};

use super::AuthorityError;

/// Most octets of a PEM file that is read: a certificate with an image inside has at most 16 MB (WIRE 11.4).
pub const MAX_FILE: u64 = 48 << 20;

/// The content of a file, of [`MAX_FILE`] octets at most.
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
        let why = format!("there is no '{label}' block in it");
        return Err(AuthorityError::malformed(path, "such PEM file", why));
    }
    Ok(wanted)
}

/// The only block of a PEM file with this label.
pub(super) fn read_block(path: &Path, label: &'static str) -> Result<Vec<u8>, AuthorityError> {
    let mut blocks = read_blocks(path, label)?;
    if let (Some(block), true) = (blocks.pop(), blocks.is_empty()) {
        return Ok(block);
    }
    let why = format!("there is more than one '{label}' block in it");
    Err(AuthorityError::malformed(path, "such PEM file", why))
}

/// PEM with 64 characters a line.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    pem::encode_config(
        &Pem::new(label, der),
        EncodeConfig::new().set_line_ending(LineEnding::LF),
    )
}

/// Writes a file; one that exists is replaced in one step with `force`, and otherwise left alone.
pub(super) fn write(
    path: &Path,
    mode: u32,
    content: &str,
    force: bool,
) -> Result<(), AuthorityError> {
    if !force {
        return create(path, mode, content);
    }
    let beside = beside(path);
    let beside = beside.as_path();
    // Left behind by a process that had this number and crashed.
    let _ = fs::remove_file(beside);
    create(beside, mode, content)?;
    fs::rename(beside, path).map_err(|error| {
        let _ = fs::remove_file(beside);
        AuthorityError::File("replace", path.to_owned(), error)
    })?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(AuthorityError::file("write the folder of", path))
}

/// Where the new content of a file lies until it is complete. No two processes have the same place.
fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new.{}", std::process::id()));
    beside.into()
}

fn create(path: &Path, mode: u32, content: &str) -> Result<(), AuthorityError> {
    let mut file = match new_file(path, mode) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(AuthorityError::Exists(path.to_owned()));
        }
        Err(error) => return Err(AuthorityError::File("create", path.to_owned(), error)),
    };
    file.write_all(content.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| {
            let _ = fs::remove_file(path);
            AuthorityError::File("write", path.to_owned(), error)
        })
}

fn new_file(path: &Path, mode: u32) -> IoResult<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
}

/// Adds a line `SERIAL NAME` to the list of issued certificates (WIRE 6.4).
pub(super) fn record(database: &Path, serial: &str, name: &str) -> Result<(), AuthorityError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(database)
        .and_then(|mut file| {
            // One write, so that two signers do not mix their lines.
            file.write_all(format!("{serial} {name}\n").as_bytes())?;
            file.sync_all()
        })
        .map_err(AuthorityError::file("add a line to", database))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_left_behind_does_not_hinder_a_replacement() {
        let folder = std::env::temp_dir().join(format!("petrel-file-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("web.pem");
        for file in [&path, &beside(&path), &folder.join("web.pem.new")] {
            fs::write(file, "before").unwrap();
        }
        let refused = write(&path, 0o644, "after", false);
        assert!(matches!(refused, Err(AuthorityError::Exists(_))));
        write(&path, 0o644, "after", true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        assert!(!beside(&path).exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
