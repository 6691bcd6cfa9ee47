//! Certificate authority: keys, signing requests, certificates, CRLs, and the commands of `petrel` for them (WIRE 10, 12).
#![forbid(unsafe_code)]

mod acceptance;
mod allowance;
mod certificate;
mod crl;
mod database;
mod error;
mod file;
mod file_name;
mod generate;
mod issue;
mod key;
mod request;
mod revoke;
mod serial_number;
mod sign;
mod validity;

pub use allowance::check_policy;
pub use certificate::{Certificate, LinkError, check_links, read_chain, to_pem};
pub use error::AuthorityError;
pub use file::{MAX_FILE, read_from};
pub use file_name::{MAX_FILE_NAME, file_stem};
pub use generate::{GenerateOrder, Generated, generate};
pub use issue::{Issuer, Profile, common_name, key_identifier, self_signed};
pub use key::{Key, KeyType, OtherType};
pub(crate) use key::{kind as key_kind, private_kind as private_key_kind};
pub(crate) use request::requested_extensions;
pub use request::{Request, WrittenRequest, create_request, write_request};
pub use revoke::{CRL_DAYS, RevokeOrder, Revoked, RevokedEntry, revoke};
pub use sign::{AUTHORITY_DAYS, COMMAND_DAYS, Draft, SignOrder, Warning, sign};
pub use validity::{CLOCK_SKEW, Lifetime, LifetimeError, Validity};
