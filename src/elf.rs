//! The header and program headers of an ELF image, as far as Solo5 looks at them.
//!
//! Source: SOLO5 facts, chapter 1, and the ELF-64 object file format. Section headers are
//! never looked at, so stripped images are fine.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

/// `e_machine` of `x86_64`.
pub const EM_X86_64: u16 = 62;
/// `e_machine` of `aarch64`.
pub const EM_AARCH64: u16 = 183;
/// `p_type` of a segment that is loaded.
pub const PT_LOAD: u32 = 1;
/// `p_type` of a segment that holds notes.
pub const PT_NOTE: u32 = 4;
/// `p_flags`: executable.
pub const PF_X: u32 = 1;
/// `p_flags`: writable.
pub const PF_W: u32 = 2;
/// `p_flags`: readable.
pub const PF_R: u32 = 4;

/// The most program headers an image may have. Real ones have fewer than twenty; the bound
/// keeps a hostile image from making its reader allocate megabytes.
pub const MAX_PROGRAM_HEADERS: u16 = 1024;

/// Bytes of an ELF-64 header.
pub const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;
const ET_EXEC: u16 = 2;

/// An image that passed the header checks of Solo5's loaders, except for the machine, which
/// is kept so that a foreign image can be named as such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// `e_machine`, such as [`EM_X86_64`].
    pub machine: u16,
    /// `e_entry`: the guest address of the first instruction. Not checked here.
    pub entry: u64,
    /// The program headers in the order of the file, at least one.
    pub program_headers: Vec<ProgramHeader>,
}

/// One program header; every number is as found in the file, unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramHeader {
    /// `p_type`, such as [`PT_LOAD`].
    pub kind: u32,
    /// `p_flags`: [`PF_R`], [`PF_W`], [`PF_X`].
    pub flags: u32,
    /// `p_offset`: where the bytes begin in the file.
    pub offset: u64,
    /// `p_vaddr`: where they belong in guest memory.
    pub address: u64,
    /// `p_filesz`, in bytes.
    pub file_size: u64,
    /// `p_memsz`, in bytes.
    pub memory_size: u64,
    /// `p_align`, in bytes.
    pub align: u64,
}

/// Why a file is no ELF image that a Solo5 tender could load.
#[derive(Debug)]
pub enum ElfError {
    /// A read or seek failed.
    Read(io::Error),
    /// The file does not begin with the ELF magic number, or is shorter than an ELF header.
    NotElf,
    /// A field of the header has a value that Solo5's loaders refuse.
    Header(&'static str),
    /// More than [`MAX_PROGRAM_HEADERS`].
    TooManyProgramHeaders(u16),
    /// The file ends before its program headers do.
    Truncated,
}

impl Elf {
    /// Reads the header and the program headers from `reader`, from its start.
    ///
    /// Reads at most 64 + 56 × [`MAX_PROGRAM_HEADERS`] bytes.
    pub fn read<R: Read + Seek>(reader: &mut R) -> Result<Self, ElfError> {
        let mut header = [0; HEADER_SIZE];
        let got = read_at(reader, 0, &mut header).map_err(ElfError::Read)?;
        if got < HEADER_SIZE {
            return Err(ElfError::NotElf);
        }
        check_header(&header)?;
        let count = u16_at(&header, 56);
        if count > MAX_PROGRAM_HEADERS {
            return Err(ElfError::TooManyProgramHeaders(count));
        }
        let mut table = vec![0; usize::from(count) * usize::from(PROGRAM_HEADER_SIZE)];
        let got = read_at(reader, u64_at(&header, 32), &mut table).map_err(|error| match error
            .kind()
        {
            io::ErrorKind::InvalidInput => ElfError::Truncated,
            _ => ElfError::Read(error),
        })?;
        if got < table.len() {
            return Err(ElfError::Truncated);
        }
        Ok(Self {
            machine: u16_at(&header, 18),
            entry: u64_at(&header, 24),
            program_headers: table
                .chunks_exact(usize::from(PROGRAM_HEADER_SIZE))
                .map(ProgramHeader::parse)
                .collect(),
        })
    }
}

impl ProgramHeader {
    fn parse(bytes: &[u8]) -> Self {
        Self {
            kind: u32_at(bytes, 0),
            flags: u32_at(bytes, 4),
            offset: u64_at(bytes, 8),
            address: u64_at(bytes, 16),
            file_size: u64_at(bytes, 32),
            memory_size: u64_at(bytes, 40),
            align: u64_at(bytes, 48),
        }
    }
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "reading the image failed: {error}"),
            Self::NotElf => f.write_str("not an ELF file"),
            Self::Header(what) => write!(f, "not an ELF file that Solo5 can load: {what}"),
            Self::TooManyProgramHeaders(count) => write!(
                f,
                "the ELF file has {count} program headers, more than {MAX_PROGRAM_HEADERS}"
            ),
            Self::Truncated => f.write_str("the ELF file ends before its program headers do"),
        }
    }
}

impl std::error::Error for ElfError {}

/// Fills `buffer` from `offset` of `reader` as far as the file goes; returns how far.
///
/// An offset no seek can reach is `InvalidInput`.
pub(crate) fn read_at<R: Read + Seek>(
    reader: &mut R,
    offset: u64,
    buffer: &mut [u8],
) -> io::Result<usize> {
    // Linux takes an offset as a signed number; say the same for every reader.
    if i64::try_from(offset).is_err() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    reader.seek(SeekFrom::Start(offset))?;
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The little-endian number at `offset`; bytes past the end of `bytes` count as zero.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, offset))
}

/// As [`u16_at`], 32 bits.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

/// As [`u16_at`], 64 bits.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    for (to, from) in array.iter_mut().zip(bytes.iter().skip(offset)) {
        *to = *from;
    }
    array
}

/// Checks everything in an ELF header that Solo5's loaders look at, except for the machine.
///
/// # Errors
/// [`ElfError::NotElf`] or [`ElfError::Header`].
pub fn check_header(header: &[u8; HEADER_SIZE]) -> Result<(), ElfError> {
    if !header.starts_with(b"\x7fELF") {
        return Err(ElfError::NotElf);
    }
    let checks = [
        (header[4] == 2, "it is not for 64-bit machines"),
        (header[5] == 1, "it is not little-endian"),
        (u32_at(header, 20) == 1, "its version is not 1"),
        (u16_at(header, 52) == 64, "the size of its header is not 64"),
        (
            u16_at(header, 54) == PROGRAM_HEADER_SIZE,
            "the size of its program headers is not 56",
        ),
        (u16_at(header, 56) >= 1, "it has no program headers"),
        (
            u16_at(header, 16) == ET_EXEC,
            "it is not a statically linked, non-relocatable executable",
        ),
    ];
    match checks.iter().find(|(good, _)| !good) {
        Some((_, what)) => Err(ElfError::Header(what)),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod test_image;

#[cfg(test)]
mod tests;
