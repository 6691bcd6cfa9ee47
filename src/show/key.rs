//! What is told of keys: their type and the identifier of their public half.

use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::page::{Page, hex, quoted};
use crate::authority::{Key, key_identifier, key_kind, private_key_kind};

/// A public key: type, and the identifier that certificates refer to it by.
pub(super) fn public_key(info: &SubjectPublicKeyInfo<'_>) -> String {
    let bits = match info.parsed() {
        Ok(key @ PublicKey::RSA(_)) => format!(" of {} bits", key.key_size()),
        _ => String::new(),
    };
    format!(
        "{}{bits}, identifier {}",
        in_words(key_kind(&info.algorithm)),
        hex(&key_identifier(&info.subject_public_key.data))
    )
}

/// A private key in PKCS#8, of which nothing secret is shown.
pub(super) fn private_key(page: &mut Page, pkcs8: &[u8]) -> Result<(), String> {
    let unreadable = || "it is no key in PKCS#8".to_owned();
    let kind = private_key_kind(pkcs8).ok_or_else(unreadable)?;
    let info = Key::from_pkcs8(pkcs8).map(|key| key.public_key_info());
    match info
        .as_deref()
        .and_then(|info| SubjectPublicKeyInfo::from_der(info).ok())
    {
        Some((_, info)) => page.field("private key", public_key(&info)),
        // Such as an ECDSA key of albatross, whose public half is not in the file.
        None => page.field(
            "private key",
            format_args!("{}, identifier unknown", in_words(kind)),
        ),
    }
    Ok(())
}

/// A private key in another form than PKCS#8.
pub(super) fn other_private_key(page: &mut Page, label: &str) {
    page.field(
        "private key",
        format_args!("{}, a form that is not used here", quoted(label)),
    );
}

fn in_words(kind: Result<&'static str, String>) -> String {
    match kind {
        Ok(kind) => kind.to_owned(),
        Err(kind) => format!("{kind} (not supported)"),
    }
}
