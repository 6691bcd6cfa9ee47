//! What is checked here before a daemon is asked.

use std::fs::File;
use std::path::Path;

use super::error::ClientError;
use crate::manifest::Manifest;
use crate::unikernel::{Config, Kind};
use crate::wire;

/// Whether the image's manifest declares exactly these devices. Of a BHyve machine's image only its presence matters.
pub(super) fn image(
    path: &Path,
    kind: Kind,
    nets: &[&str],
    blocks: &[&str],
) -> Result<(), ClientError> {
    let mut file = File::open(path).map_err(ClientError::file("open", path))?;
    if kind == Kind::Bhyve {
        return Ok(());
    }
    let refused = |why: String| ClientError::Image(path.to_owned(), why);
    let manifest = Manifest::read(&mut file).map_err(|error| refused(error.to_string()))?;
    manifest
        .check_devices(nets, blocks)
        .map_err(|error| refused(error.to_string()))
}

/// The same with the devices of a record.
pub(super) fn image_of(path: &Path, record: &wire::Config) -> Result<(), ClientError> {
    let config = Config::try_from(record).map_err(|error| ClientError::Usage(error.to_string()))?;
    let nets: Vec<&str> = config.nets.iter().map(|net| &net.device[..]).collect();
    let blocks: Vec<&str> = config
        .blocks
        .iter()
        .map(|block| &block.device[..])
        .collect();
    image(path, config.kind, &nets, &blocks)
}
