//! ELF images for tests, built piece by piece.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use super::{EM_X86_64, PT_LOAD, PT_NOTE, ProgramHeader};

/// An image under construction: a valid header, and whatever segments are added.
pub(crate) struct Image {
    pub(crate) machine: u16,
    pub(crate) entry: u64,
    headers: Vec<ProgramHeader>,
    contents: Vec<Vec<u8>>,
}

impl Image {
    pub(crate) fn new() -> Self {
        Self {
            machine: EM_X86_64,
            entry: 0x10_0000,
            headers: Vec::new(),
            contents: Vec::new(),
        }
    }

    /// An image for `target` with the usual notes and a manifest of these devices (name, type).
    pub(crate) fn solo5(target: u32, devices: &[(&str, u32)]) -> Self {
        Self::new()
            .note(&abi_note(target, 2))
            .note(&manifest_note(&manifest(devices)))
    }

    pub(crate) fn note(self, bytes: &[u8]) -> Self {
        let header = ProgramHeader {
            kind: PT_NOTE,
            ..ProgramHeader::default()
        };
        self.segment(header, bytes)
    }

    pub(crate) fn load(self, address: u64, flags: u32, bytes: &[u8], memory_size: u64) -> Self {
        let header = ProgramHeader {
            kind: PT_LOAD,
            flags,
            address,
            memory_size,
            align: 0x1000,
            ..ProgramHeader::default()
        };
        self.segment(header, bytes)
    }

    /// A segment with these bytes; its offset and size in the file are filled in by `build`.
    pub(crate) fn segment(mut self, header: ProgramHeader, bytes: &[u8]) -> Self {
        self.headers.push(header);
        self.contents.push(bytes.to_vec());
        self
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut offset = 64 + 56 * self.headers.len();
        let mut file = Vec::new();
        file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend(2u16.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(self.entry.to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file.extend([0; 12]);
        file.extend(64u16.to_le_bytes());
        file.extend(56u16.to_le_bytes());
        file.extend((self.headers.len() as u16).to_le_bytes());
        file.extend([0; 6]);
        for (header, bytes) in self.headers.iter().zip(&self.contents) {
            file.extend(header.kind.to_le_bytes());
            file.extend(header.flags.to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            file.extend(header.address.to_le_bytes());
            file.extend(header.address.to_le_bytes());
            file.extend((bytes.len() as u64).to_le_bytes());
            file.extend(header.memory_size.to_le_bytes());
            file.extend(header.align.to_le_bytes());
            offset += bytes.len();
        }
        self.contents.iter().for_each(|bytes| file.extend(bytes));
        file
    }
}

pub(crate) fn note(kind: u32, size: u32, after_header: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend(6u32.to_le_bytes());
    note.extend(size.to_le_bytes());
    note.extend(kind.to_le_bytes());
    note.extend(b"Solo5\0\0\0");
    note.extend(after_header);
    note
}

pub(crate) fn abi_note(target: u32, version: u32) -> Vec<u8> {
    let words = [target, version, 0, 0];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    note(0x3149_4241, 16, &bytes)
}

pub(crate) fn manifest_note(payload: &[u8]) -> Vec<u8> {
    let padded = [&[0xee; 4], payload].concat();
    note(0x3154_464d, padded.len() as u32, &padded)
}

/// A manifest payload: version 1, the reserved entry, then these devices (name, type).
pub(crate) fn manifest(devices: &[(&str, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(1u32.to_le_bytes());
    payload.extend((devices.len() as u32 + 1).to_le_bytes());
    for (name, kind) in [("", 0x4000_0000)].iter().chain(devices) {
        let mut entry = [0; 104];
        entry[..name.len()].copy_from_slice(name.as_bytes());
        entry[68..72].copy_from_slice(&kind.to_le_bytes());
        payload.extend(entry);
    }
    payload
}
