//! What is told of keys: their type and the identifier of their public half.

use pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::page::{Page, hex};
use crate::authority::{Key, key_identifier, key_kind, private_key_kind};
use crate::private_key::to_pkcs8;

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

/// A private key in a PEM block, of which nothing secret is shown. `curve` is the content of an `EC PARAMETERS` block.
pub(super) fn private_key(
    page: &mut Page,
    block: &Pem,
    curve: Option<&[u8]>,
) -> Result<(), String> {
    let pkcs8 = match to_pkcs8(block, curve) {
        Ok(pkcs8) => pkcs8,
        Err(fault) => {
            page.field("private key", format_args!("not readable here: {fault}"));
            return Ok(());
        }
    };
    let unreadable = || "invalid private key: its encoding is damaged".to_owned();
    let kind = private_key_kind(&pkcs8).ok_or_else(unreadable)?;
    let info = Key::from_pkcs8(&pkcs8).map(|key| key.public_key_info());
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

fn in_words(kind: Result<&'static str, String>) -> String {
    match kind {
        Ok(kind) => kind.to_owned(),
        Err(kind) => format!("{kind} (not supported)"),
    }
}
