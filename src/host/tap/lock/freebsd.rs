//! FreeBSD: its bridges have no such rules for a port.

use super::super::TapError;
use super::super::name::Owner;
use crate::unikernel::Mac;

/// None can be made here.
#[derive(Debug)]
pub enum AddressLock {}

impl AddressLock {
    pub fn set(_: &Owner, _: Vec<(String, Mac)>) -> Result<Self, TapError> {
        Err(NOT_HERE)
    }

    pub fn allow(&mut self, _: Vec<(String, Mac)>) -> Result<(), TapError> {
        match *self {}
    }

    pub fn forget(&mut self, _: &str) -> Result<(), TapError> {
        match *self {}
    }

    pub fn remove(&self) {
        match *self {}
    }
}

const NOT_HERE: TapError = TapError::NoLock("only Linux can do that");

pub fn check() -> Result<(), TapError> {
    Err(NOT_HERE)
}

pub fn remove_left(_: &Owner) {}
