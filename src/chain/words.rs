//! Errors of libraries in words.

use std::fmt;

use x509_parser::asn1_rs::Error;
use x509_parser::error::X509Error;
use x509_parser::nom;

/// Describes in words why DER cannot be parsed. The parser's own text is its `Debug` form.
pub fn unreadable(error: nom::Err<X509Error>) -> String {
    match X509Error::from(error) {
        X509Error::Der(Error::UnexpectedTag { .. } | Error::InvalidTag | Error::UnknownTag(_)) => {
            "it has an unexpected structure".to_owned()
        }
        X509Error::Der(Error::Incomplete(_)) => "it is truncated".to_owned(),
        X509Error::Der(_) | X509Error::NomError(_) | X509Error::Generic => {
            "its encoding is damaged".to_owned()
        }
        other => in_words(&other),
    }
}

/// Name of an enum's variant as words: `BadDerTime` is "bad der time". Some errors of libraries have no other text.
pub(crate) fn in_words(variant: &impl fmt::Debug) -> String {
    let name = format!("{variant:?}");
    let name = name.split(|part: char| !part.is_alphanumeric()).next();
    let mut words = String::new();
    let mut within = false;
    for letter in name.unwrap_or_default().chars() {
        if letter.is_uppercase() && within {
            words.push(' ');
        }
        within = !letter.is_uppercase();
        words.extend(letter.to_lowercase());
    }
    words
}
