//! A state file of albatross becomes ours: its images go to the image store, everything else to the state.

use super::images::ImageError;
use crate::unikernel::{ImageDigest, Kind, Version};
use crate::wire::state::albatross::{self, Import};
use crate::wire::state::{DesiredState, Recorded, State};
use std::sync::Arc;

/// What came of a state file of albatross.
#[derive(Debug)]
pub struct Imported {
    /// What can be taken over.
    pub state: State,
    /// What cannot (which entry, why).
    pub refused: Vec<String>,
}

/// Takes over everything that makes sense. The policy of the root is the host's own, and found out anew. `keep` puts an
/// image, compressed or not, where it belongs; if that fails for another reason than the image, this does as well.
pub fn import(
    file: albatross::State,
    mut keep: impl FnMut(&[u8], bool) -> Result<ImageDigest, ImageError>,
) -> Result<Imported, ImageError> {
    let Import {
        unikernels,
        policies,
        refused,
    } = file.import();
    let mut refused: Vec<_> = refused.iter().map(ToString::to_string).collect();
    let mut recorded = Vec::new();
    for unikernel in unikernels {
        let albatross::Unikernel {
            name,
            config,
            compressed,
            image,
        } = unikernel;
        if name.label().is_none() {
            refused.push(format!("entry '{name}': a path is no name of a unikernel"));
            continue;
        }
        let kept = match config.kind {
            Kind::Solo5 => keep(&image, compressed),
            Kind::Bhyve => Ok(ImageDigest::NONE),
        };
        match kept {
            Ok(image) => recorded.push(Arc::new(Recorded {
                name,
                version: Arc::new(Version { config, image }),
                previous: None,
                standing: DesiredState::Up,
            })),
            Err(ImageError::Content(error)) => {
                refused.push(format!("entry '{name}': its image: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    let policies = policies.into_iter().filter(|(path, _)| !path.is_root());
    Ok(Imported {
        state: State {
            unikernels: recorded,
            policies: policies.collect(),
            ..State::default()
        },
        refused,
    })
}
