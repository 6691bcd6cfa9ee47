//! Check that an image is the one that a certificate fixes (`chain::IMAGE_EXTENSION`), hashed while it is passed on.

use std::error::Error;
use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::inflate::{Arriving, InflateError};
use crate::unikernel::{ImageDigest, MAX_IMAGE};
use crate::wire::{Command, UnikernelCommand as U};

/// Image that is being passed on, with its expected digest.
#[derive(Debug)]
pub struct FixedImage {
    expected: ImageDigest,
    hash: Sha256,
    arriving: Arriving,
}

/// Reason why an image is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum ImageRefusal {
    /// The image cannot be decompressed.
    Content(InflateError),
    /// The image is another one.
    Digest {
        /// Digest that the certificate allows.
        expected: ImageDigest,
        /// Digest of the image.
        found: ImageDigest,
    },
}

impl FixedImage {
    /// Image of `command`, or `None` if the command has none.
    pub fn of(command: &Command, expected: ImageDigest) -> Option<Self> {
        image(command).map(|(compressed, _)| Self {
            expected,
            hash: Sha256::new(),
            arriving: Arriving::new(compressed, MAX_IMAGE),
        })
    }

    /// Checks the image that is embedded in `command`, if any.
    ///
    /// # Errors
    /// When the image is another one.
    pub fn check_embedded(command: &Command, expected: ImageDigest) -> Result<(), ImageRefusal> {
        let (Some(mut fixed), Some((_, image))) = (Self::of(command, expected), image(command))
        else {
            return Ok(());
        };
        fixed.pass(image)?;
        fixed.finish()
    }

    /// Hashes the next piece.
    ///
    /// # Errors
    /// When the image cannot be decompressed.
    pub fn pass(&mut self, piece: &[u8]) -> Result<(), ImageRefusal> {
        let hash = &mut self.hash;
        self.arriving.write(piece, |plain| {
            hash.update(plain);
            Ok(())
        })
    }

    /// Checks the digest after the last piece.
    ///
    /// # Errors
    /// When the image is incomplete or another one.
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

/// Whether the image of a command that creates a unikernel is compressed, and the image, which is empty if it follows.
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
                "image refused: its SHA-256 is {found}, but the certificate allows only {expected}"
            ),
        }
    }
}

impl Error for ImageRefusal {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Content(error) => Some(error),
            Self::Digest { .. } => None,
        }
    }
}
