//! CRLs in words.

use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::name;
use super::page::{Page, hex, time, validity};
use crate::chain::unreadable;

/// A CRL.
pub(super) fn list(page: &mut Page, der: &[u8], now: i64) -> Result<(), String> {
    let list = match CertificateRevocationList::from_der(der) {
        Ok((&[], list)) => list,
        Ok(_) => return Err("bytes follow the list".to_owned()),
        Err(error) => return Err(unreadable(error)),
    };
    page.group("CRL", |page| {
        page.field("issuer", name(list.issuer()));
        if let Some(number) = list.crl_number() {
            page.field("number", number);
        }
        let from = list.last_update().timestamp();
        match list.next_update() {
            Some(until) => page.field("valid", validity(from, until.timestamp(), now)),
            None => page.field("valid", format_args!("from {}, without end", time(from))),
        }
        for entry in list.iter_revoked_certificates() {
            let reason = entry.reason_code().map(|(_, reason)| format!(", {reason}"));
            page.field(
                "revoked",
                format_args!(
                    "{} on {}{}",
                    hex(entry.raw_serial()),
                    time(entry.revocation_date.timestamp()),
                    reason.unwrap_or_default()
                ),
            );
        }
    });
    Ok(())
}
