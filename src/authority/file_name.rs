//! Names of the files of a certificate.

/// Maximum length of a name that becomes a file name, in bytes.
pub const MAX_FILE_NAME: usize = 64;

/// Whether an operator's name for a certificate can be part of a file name.
pub(super) fn is_file_name(name: &str) -> bool {
    (1..=MAX_FILE_NAME).contains(&name.len())
        && !name.contains(|c: char| c == '/' || c.is_control())
        && !name.starts_with('.')
}

/// Stem of the files of a certificate with this common name. The files of a path itself have a stem that is not a label
/// and not hidden.
pub fn file_stem(name: &str) -> &str {
    match name {
        "." | ":" => "_path",
        label => label,
    }
}
