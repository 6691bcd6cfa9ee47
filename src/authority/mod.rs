//! The certificate authority: keys, signing requests, certificates, and the two commands on top of them
//! (WIRE 10, 12).
#![forbid(unsafe_code)]

mod acceptance;
mod allowance;
mod certificate;
mod crl;
mod database;
mod error;
mod file;
mod generate;
mod issue;
mod key;
mod request;
mod revoke;
mod sign;

pub use allowance::check_policy;
pub use certificate::{Certificate, check_links, read_chain, to_pem};
pub use error::AuthorityError;
pub use file::{MAX_FILE, read_from};
pub use generate::{GenerateOrder, Generated, MAX_FILE_NAME, generate};
pub use issue::{
    CLOCK_SKEW, Issuer, Lifetime, Profile, Validity, common_name, key_identifier, self_signed,
};
pub use key::{Key, KeyType, OtherType};
pub(crate) use key::{kind as key_kind, private_kind as private_key_kind};
pub(crate) use request::requested_extensions;
pub use request::{Request, WrittenRequest, create_request, file_stem, write_request};
pub use revoke::{CRL_DAYS, RevokeOrder, Revoked, RevokedEntry, revoke};
pub use sign::{AUTHORITY_DAYS, COMMAND_DAYS, Draft, SignOrder, Warning, sign};
