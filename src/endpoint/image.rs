//! Whether an image is the one that a certificate fixes (`chain::IMAGE_EXTENSION`): hashed as it passes, never held.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::inflate::{Arriving, InflateError};
use crate::unikernel::{ImageDigest, MAX_IMAGE};
use crate::wire::{Command, UnikernelCommand as U};

/// An image that passes, and what it must be.
#[derive(Debug)]
pub struct FixedImage {
    expected: ImageDigest,
    hash: Sha256,
    arriving: Arriving,
}

/// Why it is another image.
#[derive(Debug, PartialEq, Eq)]
pub enum ImageRefusal {
    /// No image at all.
    Content(InflateError),
    /// Another one.
    Digest {
        /// What the certificate allows.
        expected: ImageDigest,
        /// What came.
        found: ImageDigest,
    },
}

impl FixedImage {
    /// The image of `command`, which is to be `expected`; `None` if the command has no image.
    pub fn of(command: &Command, expected: ImageDigest) -> Option<Self> {
        image(command).map(|(compressed, _)| Self {
            expected,
            hash: Sha256::new(),
            arriving: Arriving::new(compressed, MAX_IMAGE),
        })
    }

    /// Checks the image that is part of `command`, if it has one.
    pub fn check_embedded(command: &Command, expected: ImageDigest) -> Result<(), ImageRefusal> {
        let (Some(mut fixed), Some((_, image))) = (Self::of(command, expected), image(command))
        else {
            return Ok(());
        };
        fixed.pass(image)?;
        fixed.finish()
    }

    /// The next piece passes.
    pub fn pass(&mut self, piece: &[u8]) -> Result<(), ImageRefusal> {
        let hash = &mut self.hash;
        self.arriving.write(piece, |plain| {
            hash.update(plain);
            Ok(())
        })
    }

    /// Nothing follows.
    pub fn finish(self) -> Result<(), ImageRefusal> {
        self.arriving.finish()?;
        let (expected, found) = (self.expected, ImageDigest(self.hash.finalize().into()));
        if found == expected {
            Ok(())
        } else {
            Err(ImageRefusal::Digest { expected, found })
        }
    }
}

/// The image of a command that creates a unikernel, empty if it follows, and whether it is compressed.
fn image(command: &Command) -> Option<(bool, &[u8])> {
    match command {
        Command::Unikernel(U::Create(config) | U::ForceCreate(config)) => {
            Some((config.compressed, &config.image.0))
        }
        _ => None,
    }
}

impl From<InflateError> for ImageRefusal {
    fn from(error: InflateError) -> Self {
        Self::Content(error)
    }
}

impl fmt::Display for ImageRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(error) => write!(f, "image refused: {error}"),
            Self::Digest { expected, found } => write!(
                f,
                "image refused: its SHA-256 is {found}, the certificate allows {expected} only"
            ),
        }
    }
}

impl std::error::Error for ImageRefusal {}
