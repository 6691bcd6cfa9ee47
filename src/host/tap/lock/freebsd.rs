//! FreeBSD: its bridges have no such rules for a port.

use super::super::TapError;
use crate::supervisor::Owner;
use crate::unikernel::Mac;

const NOT_HERE: TapError = TapError::NoLock("only Linux can do that");

/// None can be made here.
#[derive(Debug)]
pub enum AddressLock {}

impl AddressLock {
    pub fn set<'a>(
        _: &Owner,
        _: impl Iterator<Item = (&'a str, Option<Mac>)>,
    ) -> Result<Self, TapError> {
        Err(NOT_HERE)
    }

    pub fn add(&self, _: &str, _: Mac) -> Result<(), TapError> {
        match *self {}
    }

    pub fn forget(&self, _: &str) -> Result<(), TapError> {
        match *self {}
    }

    pub fn remove(&self) {
        match *self {}
    }
}

/// Says that they cannot.
pub fn check() -> Result<(), TapError> {
    Err(NOT_HERE)
}

/// There is nothing.
pub fn remove_left(_: &Owner) {}
