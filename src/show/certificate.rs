//! Certificates and signing requests in words, and what a chain of certificates stands for.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::objects::oid_registry;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::command::command;
use super::key::public_key;
use super::page::{Page, hex, quoted, validity};
use crate::authority::{self, check_links, requested_extensions};
use crate::chain::{self, ChainError, EXTENSION, IMAGE_EXTENSION, read_image_extension};
use crate::wire::CertExtension;

/// A certificate.
pub(super) fn certificate(page: &mut Page, der: &[u8], now: i64) -> Result<(), String> {
    let certificate = chain::Certificate::read(der)?;
    let x509 = certificate.x509();
    page.group(
        format_args!("certificate: {}", purpose(&certificate)),
        |page| {
            page.field("subject", name(x509.subject()));
            page.field("issuer", name(x509.issuer()));
            page.field("serial", certificate.serial());
            let (from, until) = (x509.validity().not_before, x509.validity().not_after);
            page.field("valid", validity(from.timestamp(), until.timestamp(), now));
            page.field("key", public_key(x509.public_key()));
            page.field("fingerprint", fingerprint(der));
            extensions(page, x509.extensions());
        },
    );
    Ok(())
}

/// A signing request.
pub(super) fn request(page: &mut Page, der: &[u8]) -> Result<(), String> {
    let request = match X509CertificationRequest::from_der(der) {
        Ok((&[], request)) => request,
        Ok(_) => return Err("bytes follow the request".to_owned()),
        Err(error) => return Err(chain::unreadable(error)),
    };
    let information = &request.certification_request_info;
    page.group("signing request", |page| {
        page.field("subject", name(&information.subject));
        page.field("key", public_key(&information.subject_pki));
        match authority::Request::parse(der) {
            Ok(_) => page.field("signature", "verifies"),
            Err(error) => page.field("not to be signed", error),
        }
        extensions(page, requested_extensions(&request));
    });
    Ok(())
}

/// What the certificates of a file stand for together, leaf first, seen from `trusted`.
pub(super) fn together(
    page: &mut Page,
    certificates: &[authority::Certificate],
    trusted: &[authority::Certificate],
) {
    let path: Vec<_> = certificates.iter().map(|one| &one.der).collect();
    let verdict = verdict(certificates, trusted);
    match chain::request(&path) {
        Ok(request) => page.field("command for", format_args!("{} ({verdict})", request.name)),
        Err(ChainError::CommandNotAllowed(name, _)) if policy_first(certificates) => {
            let path = match name.label() {
                Some(label) => name.path().child(label.clone()),
                None => name.path().clone(),
            };
            page.field("policy of", format_args!("{path} ({verdict})"));
        }
        Err(ChainError::NoExtensionInLeaf) if trusted.is_empty() => {}
        Err(ChainError::NoExtensionInLeaf) => page.field("chain", verdict),
        Err(error) => page.field("of no use", error),
    }
}

fn policy_first(certificates: &[authority::Certificate]) -> bool {
    certificates
        .first()
        .is_some_and(|first| matches!(first.policy(), Ok(Some(_))))
}

fn verdict(certificates: &[authority::Certificate], trusted: &[authority::Certificate]) -> String {
    if let Err(error) = check_links(certificates) {
        return format!("NO CHAIN: {error}");
    }
    let Some(last) = certificates.last().filter(|_| !trusted.is_empty()) else {
        return "not verified".to_owned();
    };
    let leads = |anchor| last == anchor || last.check_issuer(anchor).is_ok();
    if trusted.iter().any(leads) {
        "signed from the trusted certificate down".to_owned()
    } else {
        "NOT signed by the trusted certificate".to_owned()
    }
}

fn purpose(certificate: &chain::Certificate<'_>) -> &'static str {
    let (mut client, mut server) = (false, false);
    for extension in certificate.x509().extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return "an authority";
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                client |= usage.client_auth || usage.any;
                server |= usage.server_auth || usage.any;
            }
            _ => {}
        }
    }
    match (client, server) {
        (true, false) => "a client",
        (false, true) => "a server",
        _ => "neither an authority, nor a client or a server alone",
    }
}

/// Ours are shown, those of every certificate are not; of others there is the number.
fn extensions<'a>(page: &mut Page, all: impl IntoIterator<Item = &'a X509Extension<'a>>) {
    for extension in all {
        if extension.oid == EXTENSION {
            match CertExtension::decode(extension.value) {
                Ok(extension) => command(page, &extension.command),
                Err(error) => page.field("command cannot be read", error),
            }
            continue;
        }
        if extension.oid == IMAGE_EXTENSION {
            match read_image_extension(extension.value) {
                Ok(digest) => page.field("only with the image", format_args!("SHA-256 {digest}")),
                Err(error) => page.field("image cannot be read", error),
            }
            continue;
        }
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::SubjectKeyIdentifier(_)
            | ParsedExtension::AuthorityKeyIdentifier(_) => {}
            _ => {
                let critical = if extension.critical { ", critical" } else { "" };
                page.field(
                    "other extension",
                    format_args!("{}{critical}", extension.oid.to_id_string()),
                );
            }
        }
    }
}

/// A name as text. The parser's own conversion fails for some kinds of text.
pub(super) fn name(name: &X509Name<'_>) -> String {
    match name.to_string_with_registry(oid_registry()) {
        Ok(text) => quoted(text),
        Err(_) => format!("DER {}", hex(name.as_raw())),
    }
}

fn fingerprint(der: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    format!("SHA-256 {}", hex(&Sha256::digest(der)))
}
