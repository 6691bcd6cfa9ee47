//! A secret of the database: with it, nobody can foresee how taps and machines are called.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use super::temporary_file::{UNFINISHED, Unfinished};

/// Name of the file in the database directory.
pub(super) const FILE: &str = ".secret";

/// Bytes of it.
const LENGTH: usize = 32;

/// The secret of this database; nothing if it has none yet.
pub fn read(database: &Path) -> io::Result<Vec<u8>> {
    match fs::read(database.join(FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// Gives a database a secret, if it has none.
pub fn make(database: &Path) -> io::Result<()> {
    if !read(database)?.is_empty() {
        return Ok(());
    }
    let mut secret = [0; LENGTH];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let path = database.join(format!("{UNFINISHED}secret"));
    // Of a start that was broken off.
    let _ = fs::remove_file(&path);
    let mut made = Unfinished::create(&path)?;
    made.file.write_all(&secret)?;
    made.file.sync_all()?;
    made.rename(&database.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;

    #[test]
    fn a_database_has_one_secret_for_ever() {
        let directory = Directory::short();
        let directory = &directory.0;
        assert_eq!(read(directory).unwrap(), b"");
        make(directory).unwrap();
        let secret = read(directory).unwrap();
        assert_eq!(secret.len(), LENGTH);
        assert_ne!(secret, [0; LENGTH]);
        make(directory).unwrap();
        assert_eq!(read(directory).unwrap(), secret);
        assert_eq!(fs::read_dir(directory).unwrap().count(), 1);
    }
}
