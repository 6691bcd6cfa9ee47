//! From a verified certificate path to a request: its name, its policies, its command (WIRE 8.1, 10, 11.3).
#![forbid(unsafe_code)]

pub mod algorithm;
mod anchor;
mod certificate;
pub mod crl;
mod path_error;
mod request;
mod route;
mod validity;
pub mod verify;
mod words;

pub use certificate::{
    Certificate, EXTENSION, ExtensionError, IMAGE_EXTENSION, image_extension_value, numbers,
    read_image_extension,
};
pub use request::{ChainError, MAX_PATH, Request, request};
pub use route::{
    Answer, Daemon, Leaf, Route, is_answered_by_content, is_followed_by_stream, route,
};
pub use validity::{ends_soon, time};
pub(crate) use words::in_words;
pub use words::unreadable;
