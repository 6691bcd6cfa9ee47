//! Where the segments of an image go in guest memory, and with which protection.
//!
//! The rules are those of Solo5's loader (SOLO5 facts, chapter 7): only `PT_LOAD` segments with
//! bytes in the file count; they ascend, do not overlap, lie in memory, and are not both
//! writable and executable.
#![forbid(unsafe_code)]

use std::fmt;

use crate::elf::{Elf, PF_R, PF_W, PF_X, PT_LOAD, ProgramHeader};

/// The lowest guest address of an image.
pub const LOWEST_ADDRESS: u64 = 0x10_0000;
/// The size of a page, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// A checked plan: everything in it lies in `LOWEST_ADDRESS..memory_size`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// Guest address of the first instruction.
    pub entry: u64,
    /// The end of the highest segment, rounded up to its alignment; 0 when there is none.
    pub kernel_end: u64,
    /// The segments in ascending order.
    pub segments: Vec<Segment>,
}

/// One segment: `file_size` bytes at `offset` of the file go to `address`; the rest of
/// `start..end` stays zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where its bytes begin in the file.
    pub offset: u64,
    /// Where they go in guest memory.
    pub address: u64,
    /// How many, at least 1.
    pub file_size: u64,
    /// First address of its pages.
    pub start: u64,
    /// First address after its pages.
    pub end: u64,
    /// Readable.
    pub read: bool,
    /// Writable; never together with `execute`.
    pub write: bool,
    /// Executable.
    pub execute: bool,
}

/// Why an image cannot be loaded into this much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The entry point lies outside guest memory.
    Entry(u64),
    /// A segment (its `p_vaddr`) breaks a rule.
    Segment(u64, &'static str),
}

impl LoadPlan {
    /// Checks every segment of `elf` against a memory of `memory_size` bytes.
    pub fn new(elf: &Elf, memory_size: u64) -> Result<Self, PlanError> {
        if !(LOWEST_ADDRESS..memory_size).contains(&elf.entry) {
            return Err(PlanError::Entry(elf.entry));
        }
        let mut segments: Vec<Segment> = Vec::new();
        let loads = elf.program_headers.iter().filter(|h| h.kind == PT_LOAD);
        for header in loads {
            if header.file_size == 0 {
                check_empty(header, memory_size)?;
            } else {
                let segment = Segment::new(header, segments.last(), memory_size)
                    .map_err(|why| PlanError::Segment(header.address, why))?;
                segments.push(segment);
            }
        }
        Ok(Self {
            entry: elf.entry,
            kernel_end: segments.last().map_or(0, |segment| segment.end),
            segments,
        })
    }
}

impl Segment {
    fn new(
        header: &ProgramHeader,
        previous: Option<&Self>,
        memory_size: u64,
    ) -> Result<Self, &'static str> {
        let in_memory = |end: &u64| *end <= memory_size;
        if header.address < LOWEST_ADDRESS {
            return Err("its address is too low");
        }
        if previous.is_some_and(|previous| header.address < previous.address) {
            return Err("it is not in ascending order");
        }
        if !header.align.is_power_of_two() {
            return Err("its alignment is not a power of two");
        }
        let start = header.address & !(header.align - 1);
        if start < LOWEST_ADDRESS {
            return Err("its address is too low");
        }
        if previous.is_some_and(|previous| start < previous.end) {
            return Err("it overlaps the one before it");
        }
        header
            .address
            .checked_add(header.file_size)
            .filter(in_memory)
            .ok_or("its bytes in the file do not fit guest memory")?;
        if header.memory_size < header.file_size {
            return Err("it is larger in the file than in memory");
        }
        let end = header
            .address
            .checked_add(header.memory_size)
            .and_then(|end| end.checked_next_multiple_of(header.align))
            .filter(in_memory)
            .ok_or("it does not fit guest memory")?;
        if !start.is_multiple_of(PAGE_SIZE) || !end.is_multiple_of(PAGE_SIZE) {
            return Err("it is not aligned to pages");
        }
        let flag = |flag| header.flags & flag != 0;
        if flag(PF_W) && flag(PF_X) {
            return Err("it is both writable and executable");
        }
        Ok(Self {
            offset: header.offset,
            address: header.address,
            file_size: header.file_size,
            start,
            end,
            read: flag(PF_R),
            write: flag(PF_W),
            execute: flag(PF_X),
        })
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(entry) => {
                write!(f, "its entry point {entry:#x} lies outside guest memory")
            }
            Self::Segment(address, why) => {
                write!(f, "its segment at {address:#x} cannot be loaded: {why}")
            }
        }
    }
}

impl std::error::Error for PlanError {}

/// A segment without bytes in the file is not loaded and keeps the protection of plain memory,
/// but one that leaves memory would only crash the guest later.
fn check_empty(header: &ProgramHeader, memory_size: u64) -> Result<(), PlanError> {
    match header.address.checked_add(header.memory_size) {
        Some(end) if end <= memory_size => Ok(()),
        _ => Err(PlanError::Segment(
            header.address,
            "it does not fit guest memory",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const MEMORY: u64 = 2 << 20;

    fn load(address: u64, file_size: u64, memory_size: u64, flags: u32) -> ProgramHeader {
        ProgramHeader {
            kind: PT_LOAD,
            flags,
            offset: 0x1000,
            address,
            file_size,
            memory_size,
            align: 0x1000,
        }
    }

    fn text() -> ProgramHeader {
        load(0x10_0000, 0x1234, 0x1234, PF_R | PF_X)
    }

    fn plan(headers: &[ProgramHeader]) -> Result<LoadPlan, PlanError> {
        plan_with_entry(0x10_0000, headers)
    }

    fn plan_with_entry(entry: u64, headers: &[ProgramHeader]) -> Result<LoadPlan, PlanError> {
        let elf = Elf {
            machine: 62,
            entry,
            program_headers: headers.to_vec(),
        };
        LoadPlan::new(&elf, MEMORY)
    }

    fn refusal(header: ProgramHeader) -> &'static str {
        match plan(&[header]) {
            Err(PlanError::Segment(address, why)) if address == header.address => why,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn segments_are_rounded_to_pages_and_keep_their_protection() {
        let data = load(0x10_2010, 0x10, 0x2000, PF_R | PF_W);
        let plan = plan(&[text(), data]).unwrap();
        assert_eq!(plan.kernel_end, 0x10_5000);
        let [text, data] = plan.segments[..] else {
            unreachable!()
        };
        assert_eq!((text.start, text.end), (0x10_0000, 0x10_2000));
        assert_eq!((text.read, text.write, text.execute), (true, false, true));
        assert_eq!((data.start, data.end), (0x10_2000, 0x10_5000));
        assert_eq!((data.address, data.file_size), (0x10_2010, 0x10));
        assert_eq!((data.read, data.write, data.execute), (true, true, false));
    }

    #[test]
    fn the_entry_lies_in_memory() {
        for entry in [0, 0xf_ffff, MEMORY, u64::MAX] {
            assert_eq!(
                plan_with_entry(entry, &[text()]),
                Err(PlanError::Entry(entry))
            );
        }
        assert!(plan_with_entry(MEMORY - 1, &[text()]).is_ok());
    }

    #[test]
    fn segments_without_bytes_are_skipped_but_bounded() {
        let bss = load(0x10_2000, 0, 0x5000, PF_R | PF_W);
        let empty = load(0, 0, 0, 0);
        let plan_ = plan(&[text(), bss, empty]).unwrap();
        assert_eq!((plan_.segments.len(), plan_.kernel_end), (1, 0x10_2000));
        let beyond = load(MEMORY, 0, 1, PF_R | PF_W);
        assert_eq!(refusal(beyond), "it does not fit guest memory");
        assert_eq!(
            refusal(load(u64::MAX, 0, 1, 0)),
            "it does not fit guest memory"
        );
    }

    #[test]
    fn other_kinds_of_segments_are_skipped() {
        let note = ProgramHeader {
            kind: 4,
            ..load(0, 10, 10, 7)
        };
        assert!(plan(&[text(), note]).unwrap().segments.len() == 1);
    }

    #[test]
    fn each_rule_is_checked() {
        let aligned = |align| ProgramHeader { align, ..text() };
        for (header, why) in [
            (load(0xf_f000, 1, 1, PF_R), "too low"),
            (
                ProgramHeader {
                    align: 0x20_0000,
                    ..text()
                },
                "too low",
            ),
            (aligned(0), "power of two"),
            (aligned(3), "power of two"),
            (load(MEMORY, 1, 1, PF_R), "in the file"),
            (load(MEMORY - 0x1000, 0x1001, 0x1001, PF_R), "in the file"),
            (load(0x10_0000, u64::MAX, u64::MAX, PF_R), "in the file"),
            (load(0x10_0000, 2, 1, PF_R), "larger in the file"),
            (load(0x10_0000, 1, MEMORY, PF_R), "fit guest memory"),
            (load(0x10_0000, 1, u64::MAX, PF_R), "fit guest memory"),
            (
                load(0x10_0000, 1, u64::MAX - 0x10_0000, PF_R),
                "fit guest memory",
            ),
            (aligned(16), "pages"),
            (aligned(1), "pages"),
            (
                load(0x10_0000, 1, 1, PF_R | PF_W | PF_X),
                "writable and exec",
            ),
            (load(0x10_0000, 1, 1, PF_W | PF_X), "writable and exec"),
        ] {
            let message = refusal(header);
            assert!(message.contains(why), "{message} does not say {why}");
        }
        assert!(plan(&[load(MEMORY - 0x1000, 1, 0x1000, PF_R)]).is_ok());
    }

    #[test]
    fn segments_ascend_and_do_not_share_pages() {
        let rest = |address| load(address, 1, 1, PF_R);
        let error = |second| plan(&[load(0x10_3000, 0x10, 0x1010, PF_R), second]).unwrap_err();
        assert!(error(rest(0x10_2000)).to_string().contains("ascending"));
        assert!(error(rest(0x10_4fff)).to_string().contains("overlaps"));
        assert!(plan(&[load(0x10_3000, 0x10, 0x1010, PF_R), rest(0x10_5000)]).is_ok());
    }
}
