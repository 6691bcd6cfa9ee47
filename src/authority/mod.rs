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
pub use generate::{GenerateOrder, Generated, generate};
pub use issue::{Issuer, Profile, Validity, common_name, self_signed};
pub use key::{Key, KeyType};
pub use request::{Request, create_request, write_request};
pub use sign::{SignOrder, Signed, check_policy, sign};
