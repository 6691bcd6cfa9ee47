//! `petrel generate`: a root authority and the certificate of a server below it (WIRE 12.3).

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::certificate::to_pem;
use super::error::AuthorityError;
use super::file_name::is_file_name;
use super::issue::{Issuer, Profile, common_name, self_signed};
use super::key::{Key, KeyType, OtherType};
use super::validity::Validity;
use super::{database, file};

/// File name of the root authority's certificate, without its suffix.
const AUTHORITY: &str = "cacert";

/// Arguments of [`generate`].
#[derive(Debug)]
pub struct GenerateOrder<'a> {
    /// Common name of the root authority, and name of its key file.
    pub name: &'a str,
    /// Database of issued certificates.
    pub database: &'a Path,
    /// Lifetime of the root authority in days.
    pub days: u32,
    /// Common name of the server, and name of its files.
    pub server: &'a str,
    /// Lifetime of the server's certificate in days.
    pub server_days: u32,
    /// Type of new keys.
    pub key_type: KeyType,
    /// Directory of all files except the database.
    pub directory: &'a Path,
    /// Whether existing certificates are replaced; keys never are.
    pub force: bool,
}

/// The files that `generate` wrote or used.
#[derive(Debug)]
pub struct Generated {
    /// Certificate of the root authority.
    pub authority: PathBuf,
    /// Key of the root authority.
    pub authority_key: PathBuf,
    /// Certificate of the server.
    pub server: PathBuf,
    /// Key of the server.
    pub server_key: PathBuf,
    /// Existing keys that are used although they are not of the requested type.
    pub of_other_type: Vec<OtherType>,
}

/// Creates a root authority and a certificate for a server, and the keys that are missing.
///
/// # Errors
/// When a file exists without `force`, or cannot be read or written.
pub fn generate(
    order: &GenerateOrder<'_>,
    now: OffsetDateTime,
) -> Result<Generated, AuthorityError> {
    for name in [order.name, order.server] {
        if !is_file_name(name) {
            return Err(AuthorityError::FileName(name.to_owned()));
        }
    }
    if order.server == order.name || order.server == AUTHORITY {
        return Err(AuthorityError::FileName(order.server.to_owned()));
    }
    let path = |name: &str, suffix| order.directory.join(format!("{name}.{suffix}"));
    let mut files = Generated {
        authority: path(AUTHORITY, "pem"),
        authority_key: path(order.name, "key"),
        server: path(order.server, "pem"),
        server_key: path(order.server, "key"),
        of_other_type: Vec::new(),
    };
    let validity = Validity::days(now, order.days)?;
    let server_validity = Validity::days(now, order.server_days)?;
    // Fails before anything is written, so that a second attempt does not require `force`.
    database::open(order.database)?;
    let own: [&Path; 3] = [&files.authority_key, &files.server_key, order.database];
    for certificate in [&files.authority, &files.server] {
        file::check_replaceable(certificate, order.force, &own)?;
    }

    let (key, other_key) = Key::reuse_or_generate(&files.authority_key, order.key_type)?;
    let authority = self_signed(order.name, &key, validity)?;
    let (server_key, other_server_key) = Key::reuse_or_generate(&files.server_key, order.key_type)?;
    files.of_other_type = [other_key, other_server_key]
        .into_iter()
        .flatten()
        .collect();
    let issuer = Issuer::new(authority, key);
    let server = issuer.issue(
        common_name(order.server),
        &server_key.public_key_info(),
        &Profile::Server,
        server_validity,
    )?;
    file::write(
        &files.authority,
        0o644,
        &to_pem(issuer.chain()),
        order.force,
    )?;
    database::record(
        order.database,
        &server.serial,
        order.server,
        &issuer.details(&server),
    )?;
    file::write(&files.server, 0o644, &to_pem([&server]), order.force)?;
    Ok(files)
}
