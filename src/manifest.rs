//! What a Solo5 image says about itself: its target, and the devices it wants.
//!
//! Both are notes of the ELF image. The rules are those of Solo5's own loader (SOLO5 facts,
//! chapters 2 and 3), so an image accepted here is one that a tender of its target accepts.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Seek};

use crate::elf::{Elf, ElfError, PT_NOTE, ProgramHeader, read_at, u32_at};

/// Bytes of one manifest entry.
pub const ENTRY_SIZE: usize = 104;
/// Bytes before the first entry of a manifest: its version and its count.
pub const MANIFEST_HEADER_SIZE: usize = 8;
/// The most entries of a manifest, the reserved first one included.
pub const MAX_ENTRIES: usize = 64;

const NOTE_HEADER_SIZE: usize = 20;
const ELF_NOTE_HEADER_SIZE: u64 = 12;
const NOTE_NAME: &[u8] = b"Solo5\0";
const ABI_NOTE: NoteKind = NoteKind {
    what: "ABI note",
    number: 0x3149_4241,
    max_size: 32,
    align: 4,
};
const MANIFEST_NOTE: NoteKind = NoteKind {
    what: "manifest note",
    number: 0x3154_464d,
    max_size: 6668,
    align: 8,
};
const MANIFEST_VERSION: u32 = 1;
const TYPE_BLOCK: u32 = 1;
const TYPE_NET: u32 = 2;
const TYPE_RESERVED: u32 = 0x4000_0000;
const NAME_SIZE: usize = 68;
const TYPE_OFFSET: usize = 68;
const ATTACHED_OFFSET: usize = 96;

/// Which tender an image is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Hardware virtualization: `solo5-hvt`.
    Hvt,
    /// A sandboxed process: `solo5-spt`, `petrel-spt`.
    Spt,
    /// A virtual machine with virtio devices (`QEMU`, bhyve).
    Virtio,
    /// The Muen separation kernel.
    Muen,
    /// The Genode framework.
    Genode,
    /// Xen, as a PVH guest.
    Xen,
    /// A number that Solo5 has not given out as far as we know.
    Unknown(u32),
}

/// What sort of device a manifest entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// An Ethernet interface.
    Net,
    /// A block device.
    Block,
    /// A type that no known tender can attach.
    Other(u32),
}

/// A device that the image needs attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The name by which `--net:NAME=` and `--block:NAME=` call it. Solo5's own tools only
    /// write ASCII letters and digits; any byte that is not printable ASCII, and the
    /// backslash, appears here escaped (`\xff`), so that different names stay different.
    pub name: String,
    /// Its kind.
    pub kind: DeviceKind,
    /// Its index in the manifest, 1..=63: what the guest calls it by.
    pub handle: u32,
}

/// The notes of a Solo5 image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The tender it is made for.
    pub target: Target,
    /// The version of the interface between the two; a tender takes exactly its own.
    pub abi_version: u32,
    /// `e_machine` of the ELF header, such as [`crate::elf::EM_X86_64`].
    pub machine: u16,
    /// The devices that must be attached, in the order of the manifest. Entries of reserved
    /// types, which never need attaching, are left out.
    pub devices: Vec<Device>,
    payload: Vec<u8>,
}

/// Why the notes of an image could not be read.
#[derive(Debug)]
pub enum ManifestError {
    /// It is no ELF file that Solo5 could load.
    Elf(ElfError),
    /// A read or seek failed.
    Read(io::Error),
    /// There is no such note: not a Solo5 image. (`"ABI note"` or `"manifest note"`.)
    Missing(&'static str),
    /// A note is damaged: which one, and how.
    Note(&'static str, &'static str),
    /// The manifest is damaged.
    Invalid(&'static str),
}

/// The image declares other devices than were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceMismatch {
    declared: BTreeSet<(DeviceKind, String)>,
    asked: BTreeSet<(DeviceKind, String)>,
}

impl Manifest {
    /// Reads the notes of the image in `reader`.
    ///
    /// Reads only headers and notes, less than 70 KiB, wherever they are in the file.
    pub fn read<R: Read + Seek>(reader: &mut R) -> Result<Self, ManifestError> {
        let elf = Elf::read(reader).map_err(ManifestError::Elf)?;
        Self::read_notes(reader, &elf)
    }

    /// As [`Manifest::read`], for a caller that holds the headers already.
    pub fn read_notes<R: Read + Seek>(reader: &mut R, elf: &Elf) -> Result<Self, ManifestError> {
        let abi = ABI_NOTE.find(reader, elf)?;
        if abi.len() < 8 {
            return Err(ManifestError::Note(ABI_NOTE.what, "it is too short"));
        }
        let payload = MANIFEST_NOTE.find(reader, elf)?;
        Ok(Self {
            target: Target::from(u32_at(&abi, 0)),
            abi_version: u32_at(&abi, 4),
            machine: elf.machine,
            devices: parse_devices(&payload)?,
            payload,
        })
    }

    /// The manifest as the guest sees it: 8 bytes of version and count, then one entry of
    /// [`ENTRY_SIZE`] bytes a device and one for the reserved first entry.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The first device of this name and kind, which is the one a tender attaches.
    pub fn device(&self, name: &str, kind: DeviceKind) -> Option<&Device> {
        self.devices
            .iter()
            .find(|device| device.kind == kind && device.name == name)
    }

    /// Whether the devices of the manifest are exactly `nets` and `blocks`, in any order.
    /// A name given twice counts once.
    pub fn check_devices(&self, nets: &[&str], blocks: &[&str]) -> Result<(), DeviceMismatch> {
        let declared = self
            .devices
            .iter()
            .map(|device| (device.kind, device.name.clone()))
            .collect();
        let asked = nets
            .iter()
            .map(|name| (DeviceKind::Net, (*name).to_owned()))
            .chain(
                blocks
                    .iter()
                    .map(|name| (DeviceKind::Block, (*name).to_owned())),
            )
            .collect();
        if declared == asked {
            Ok(())
        } else {
            Err(DeviceMismatch { declared, asked })
        }
    }
}

impl From<u32> for Target {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::Hvt,
            2 => Self::Spt,
            3 => Self::Virtio,
            4 => Self::Muen,
            5 => Self::Genode,
            6 => Self::Xen,
            other => Self::Unknown(other),
        }
    }
}

impl From<u32> for DeviceKind {
    fn from(number: u32) -> Self {
        match number {
            TYPE_BLOCK => Self::Block,
            TYPE_NET => Self::Net,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hvt => f.write_str("hvt"),
            Self::Spt => f.write_str("spt"),
            Self::Virtio => f.write_str("virtio"),
            Self::Muen => f.write_str("muen"),
            Self::Genode => f.write_str("genode"),
            Self::Xen => f.write_str("xen"),
            Self::Unknown(number) => write!(f, "unknown ({number})"),
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net => f.write_str("net"),
            Self::Block => f.write_str("block"),
            Self::Other(number) => write!(f, "type {number}"),
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf(error) => error.fmt(f),
            Self::Read(error) => write!(f, "reading the image failed: {error}"),
            Self::Missing(what) => write!(f, "not a Solo5 image: it has no {what}"),
            Self::Note(what, why) => write!(f, "its Solo5 {what} is damaged: {why}"),
            Self::Invalid(why) => write!(f, "its Solo5 manifest is invalid: {why}"),
        }
    }
}

impl std::error::Error for ManifestError {}

impl fmt::Display for DeviceMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the manifest of the image declares ")?;
        write_devices(f, &mut self.declared.iter())?;
        f.write_str(", but asked for ")?;
        write_devices(f, &mut self.asked.iter())?;
        if self.declared.difference(&self.asked).next().is_some() {
            f.write_str("; missing: ")?;
            write_devices(f, &mut self.declared.difference(&self.asked))?;
        }
        if self.asked.difference(&self.declared).next().is_some() {
            f.write_str("; not declared: ")?;
            write_devices(f, &mut self.asked.difference(&self.declared))?;
        }
        f.write_str(
            " (what counts is the name of the device in the manifest, not that of a bridge or file)",
        )
    }
}

impl std::error::Error for DeviceMismatch {}

/// One of the two notes Solo5 knows.
struct NoteKind {
    what: &'static str,
    number: u32,
    /// The most a note may say its size is, in bytes.
    max_size: usize,
    /// The alignment of the payload, counted from the start of the note.
    align: usize,
}

impl NoteKind {
    /// The payload of the first such note. Only the first note of each `PT_NOTE` is looked at.
    fn find<R: Read + Seek>(&self, reader: &mut R, elf: &Elf) -> Result<Vec<u8>, ManifestError> {
        let notes = elf.program_headers.iter().filter(|h| h.kind == PT_NOTE);
        for note in notes {
            if note.file_size < ELF_NOTE_HEADER_SIZE {
                return Err(self.damaged("the image has an empty or truncated note"));
            }
            if note.file_size < NOTE_HEADER_SIZE as u64 {
                continue;
            }
            let mut header = [0; NOTE_HEADER_SIZE];
            self.read_exact(reader, note.offset, &mut header)?;
            if u32_at(&header, 0) as usize == NOTE_NAME.len()
                && header[12..].starts_with(NOTE_NAME)
                && u32_at(&header, 8) == self.number
            {
                return self.payload(reader, note, u32_at(&header, 4) as usize);
            }
        }
        Err(ManifestError::Missing(self.what))
    }

    fn payload<R: Read + Seek>(
        &self,
        reader: &mut R,
        note: &ProgramHeader,
        size: usize,
    ) -> Result<Vec<u8>, ManifestError> {
        if size == 0 || size > self.max_size {
            return Err(self.damaged("its size is out of range"));
        }
        if note.file_size < (NOTE_HEADER_SIZE + size) as u64 {
            return Err(self.damaged("it does not fit its segment"));
        }
        let padding = NOTE_HEADER_SIZE.next_multiple_of(self.align) - NOTE_HEADER_SIZE;
        let mut payload = vec![0; size.saturating_sub(padding)];
        if payload.is_empty() {
            return Err(self.damaged("it is empty"));
        }
        let start = note
            .offset
            .checked_add((NOTE_HEADER_SIZE + padding) as u64)
            .ok_or_else(|| self.damaged("it lies outside the file"))?;
        self.read_exact(reader, start, &mut payload)?;
        Ok(payload)
    }

    fn read_exact<R: Read + Seek>(
        &self,
        reader: &mut R,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), ManifestError> {
        match read_at(reader, offset, buffer) {
            Ok(got) if got == buffer.len() => Ok(()),
            Ok(_) => Err(self.damaged("it lies outside the file")),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                Err(self.damaged("it lies outside the file"))
            }
            Err(error) => Err(ManifestError::Read(error)),
        }
    }

    fn damaged(&self, why: &'static str) -> ManifestError {
        ManifestError::Note(self.what, why)
    }
}

fn parse_devices(payload: &[u8]) -> Result<Vec<Device>, ManifestError> {
    if payload.len() < MANIFEST_HEADER_SIZE {
        return Err(ManifestError::Invalid("it is too short"));
    }
    if u32_at(payload, 0) != MANIFEST_VERSION {
        return Err(ManifestError::Invalid("its version is not 1"));
    }
    let count = u32_at(payload, 4) as usize;
    if count > MAX_ENTRIES {
        return Err(ManifestError::Invalid("it has more than 64 entries"));
    }
    if count == 0 {
        return Err(ManifestError::Invalid("it has no entries"));
    }
    if payload.len() != MANIFEST_HEADER_SIZE + count * ENTRY_SIZE {
        return Err(ManifestError::Invalid(
            "its size does not fit its number of entries",
        ));
    }
    let entries = payload[MANIFEST_HEADER_SIZE..].chunks_exact(ENTRY_SIZE);
    let mut devices = Vec::new();
    for (handle, entry) in (0..).zip(entries) {
        if entry[NAME_SIZE - 1] != 0 {
            return Err(ManifestError::Invalid(
                "the name of a device is not terminated",
            ));
        }
        if entry[ATTACHED_OFFSET] != 0 {
            return Err(ManifestError::Invalid("a device is attached already"));
        }
        let number = u32_at(entry, TYPE_OFFSET);
        if handle == 0 {
            if number != TYPE_RESERVED || entry[0] != 0 {
                return Err(ManifestError::Invalid(
                    "its first entry is not the reserved one",
                ));
            }
        } else if number < TYPE_RESERVED {
            devices.push(Device {
                name: entry_name(entry),
                kind: DeviceKind::from(number),
                handle,
            });
        }
    }
    Ok(devices)
}

fn entry_name(entry: &[u8]) -> String {
    entry[..NAME_SIZE]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .escape_ascii()
        .to_string()
}

fn write_devices(
    f: &mut fmt::Formatter<'_>,
    devices: &mut dyn Iterator<Item = &(DeviceKind, String)>,
) -> fmt::Result {
    let mut first = true;
    for (kind, name) in devices {
        let comma = if first { "" } else { ", " };
        write!(f, "{comma}{kind} {name:?}")?;
        first = false;
    }
    if first {
        f.write_str("no devices")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
