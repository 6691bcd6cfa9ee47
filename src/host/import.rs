//! A state file of albatross becomes ours: its images go to the image store, everything else to the state.

use super::MAX_IMAGE;
use super::images::{ImageError, ImageStore};
use crate::supervisor::{Ages, launch};
use crate::unikernel::Version;
use crate::wire::state::albatross::{self, Import};
use crate::wire::state::{Recorded, Standing, State};

/// Takes over everything that makes sense, and names the rest in the log. The policy of the root is the host's own, and
/// found out anew. An error if an image cannot be written: then nothing but images was.
pub fn import(file: albatross::State, images: &mut ImageStore) -> Result<State, ImageError> {
    let Import {
        unikernels,
        policies,
        refused,
    } = file.import();
    for error in refused {
        log::error!("{error}; not imported");
    }
    let mut recorded = Vec::new();
    for unikernel in unikernels {
        let albatross::Unikernel {
            name,
            config,
            compressed,
            image,
        } = unikernel;
        if name.label().is_none() {
            log::error!("entry '{name}': a path is no name of a unikernel; not imported");
            continue;
        }
        // BHyve machines have none.
        let compressed = compressed && !image.is_empty();
        let image = match images.import(&image, compressed, MAX_IMAGE) {
            Ok(image) => image,
            Err(ImageError::Content(error)) => {
                log::error!("entry '{name}': its image: {error}; not imported");
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Err(why) = launch::supported(&config) {
            log::warn!("{name}: {why}: imported, but not started");
        }
        recorded.push(Recorded {
            name,
            version: Version { config, image },
            previous: None,
            standing: Standing::Up,
        });
    }
    let policies: Vec<_> = policies
        .into_iter()
        .filter(|(path, _)| !path.is_root())
        .collect();
    log::info!(
        "{} unikernels and {} policies of albatross imported",
        recorded.len(),
        policies.len()
    );
    Ok(State {
        unikernels: recorded,
        policies,
        ages: Ages::default(),
    })
}
