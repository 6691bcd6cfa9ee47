#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Cursor;

use super::test_image::Image;
use super::*;

fn read(bytes: &[u8]) -> Result<Elf, ElfError> {
    Elf::read(&mut Cursor::new(bytes))
}

fn good() -> Vec<u8> {
    Image::new()
        .load(0x10_0000, PF_R | PF_X, b"code", 4)
        .build()
}

fn refusal(offset: usize, byte: u8) -> String {
    let mut image = good();
    image[offset] = byte;
    read(&image).unwrap_err().to_string()
}

#[test]
fn a_good_image_is_read() {
    let elf = read(&good()).unwrap();
    assert_eq!(elf.machine, EM_X86_64);
    assert_eq!(elf.entry, 0x10_0000);
    let [segment] = elf.program_headers[..] else {
        panic!("{elf:?}")
    };
    assert_eq!((segment.kind, segment.flags), (PT_LOAD, PF_R | PF_X));
    assert_eq!((segment.address, segment.offset), (0x10_0000, 64 + 56));
    assert_eq!((segment.file_size, segment.memory_size), (4, 4));
    assert_eq!(segment.align, 0x1000);
}

#[test]
fn every_checked_header_field_is_refused_when_wrong() {
    assert_eq!(refusal(0, 0), "not an ELF file");
    for (offset, byte, why) in [
        (4, 1, "64-bit"),
        (5, 2, "little-endian"),
        (20, 2, "version"),
        (52, 63, "size of its header"),
        (54, 57, "size of its program headers"),
        (56, 0, "no program headers"),
        (16, 3, "executable"),
    ] {
        let message = refusal(offset, byte);
        assert!(message.contains(why), "{message} does not say {why}");
    }
}

#[test]
fn unchecked_header_fields_do_not_matter() {
    for offset in [6, 7, 8, 9, 40, 48, 58, 60, 62] {
        let mut image = good();
        image[offset] = 0xff;
        assert!(read(&image).is_ok(), "offset {offset}");
    }
}

#[test]
fn a_foreign_machine_is_reported_not_refused() {
    let mut image = good();
    image[18] = 183;
    assert_eq!(read(&image).unwrap().machine, EM_AARCH64);
}

#[test]
fn short_files_are_refused() {
    let image = good();
    for length in 0..64 {
        assert!(matches!(read(&image[..length]), Err(ElfError::NotElf)));
    }
    for length in 64..120 {
        assert!(matches!(read(&image[..length]), Err(ElfError::Truncated)));
    }
}

#[test]
fn a_table_beyond_any_file_is_refused() {
    for offset in [1000, u64::MAX, u64::MAX - 55, 1 << 63] {
        let mut image = good();
        image[32..40].copy_from_slice(&offset.to_le_bytes());
        assert!(matches!(read(&image), Err(ElfError::Truncated)));
    }
}

#[test]
fn too_many_program_headers_are_refused_before_they_are_read() {
    let mut image = good();
    image[56..58].copy_from_slice(&1025u16.to_le_bytes());
    assert!(matches!(
        read(&image),
        Err(ElfError::TooManyProgramHeaders(1025))
    ));
}
