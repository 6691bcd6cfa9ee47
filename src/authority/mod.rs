//! The certificate authority: keys, signing requests, certificates, and the two commands on top of them
//! (WIRE 10, 12).
#![forbid(unsafe_code)]

mod certificate;
mod error;
mod file;
mod generate;
mod issue;
mod key;
mod request;
mod sign;

pub use certificate::{Certificate, read_chain, to_pem};
pub use error::AuthorityError;
pub use file::MAX_FILE;
pub use generate::{GenerateOrder, Generated, MAX_FILE_NAME, generate};
pub use issue::{Issuer, LATENESS, Profile, Validity, common_name, self_signed};
pub use key::{Key, KeyType};
pub use request::{Request, create_request, file_stem, write_request};
pub use sign::{AUTHORITY_DAYS, COMMAND_DAYS, SignOrder, Signed, check_policy, sign};
