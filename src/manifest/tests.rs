#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::io::Cursor;

use super::*;
use crate::elf::test_image::{Image, abi_note, manifest, manifest_note, note};

const NET: u32 = 2;
const BLOCK: u32 = 1;

fn read(image: &Image) -> Result<Manifest, ManifestError> {
    Manifest::read(&mut Cursor::new(image.build()))
}

fn refusal(image: &Image) -> String {
    read(image).unwrap_err().to_string()
}

fn with_manifest(payload: &[u8]) -> Image {
    Image::new()
        .note(&abi_note(2, 2))
        .note(&manifest_note(payload))
}

fn names(manifest: &Manifest) -> Vec<(&str, DeviceKind, u32)> {
    manifest
        .devices
        .iter()
        .map(|device| (device.name.as_str(), device.kind, device.handle))
        .collect()
}

#[test]
fn target_version_machine_and_devices_are_read() {
    let image = Image::solo5(2, &[("service", NET), ("storage", BLOCK)]);
    let manifest = read(&image).unwrap();
    assert_eq!(manifest.target, Target::Spt);
    assert_eq!(manifest.abi_version, 2);
    assert_eq!(manifest.machine, crate::elf::EM_X86_64);
    assert_eq!(
        names(&manifest),
        [
            ("service", DeviceKind::Net, 1),
            ("storage", DeviceKind::Block, 2)
        ]
    );
    assert_eq!(
        manifest.payload(),
        crate::elf::test_image::manifest(&[("service", NET), ("storage", BLOCK)])
    );
}

#[test]
fn every_target_number_has_its_name() {
    for (number, name) in [
        (1, "hvt"),
        (2, "spt"),
        (3, "virtio"),
        (4, "muen"),
        (5, "genode"),
        (6, "xen"),
        (0, "unknown (0)"),
        (u32::MAX, "unknown (4294967295)"),
    ] {
        let target = read(&Image::solo5(number, &[])).unwrap().target;
        assert_eq!(target.to_string(), name);
    }
}

#[test]
fn order_of_the_notes_and_foreign_notes_do_not_matter() {
    let mut foreign = note(1, 4, &[0; 4]);
    foreign[12..20].copy_from_slice(b"OpenBSD\0");
    let image = Image::new()
        .note(&foreign)
        .note(&[0; 12])
        .note(&[0; 19])
        .note(&manifest_note(&manifest(&[("a", NET)])))
        .note(&abi_note(1, 2));
    assert_eq!(read(&image).unwrap().target, Target::Hvt);
}

#[test]
fn a_note_header_must_match_in_size_name_and_type() {
    for (offset, byte) in [(0, 5), (0, 7), (12, b's'), (17, b'x'), (8, 0)] {
        let mut abi = abi_note(2, 2);
        abi[offset] = byte;
        let image = Image::new().note(&abi).note(&manifest_note(&manifest(&[])));
        assert_eq!(refusal(&image), "not a Solo5 image: it has no ABI note");
    }
}

#[test]
fn the_padding_of_the_name_is_not_compared() {
    let mut abi = abi_note(2, 2);
    abi[18..20].copy_from_slice(b"!!");
    let image = Image::new().note(&abi).note(&manifest_note(&manifest(&[])));
    assert!(read(&image).is_ok());
}

#[test]
fn the_second_note_of_a_segment_is_invisible() {
    let both = [abi_note(2, 2), manifest_note(&manifest(&[]))].concat();
    assert_eq!(
        refusal(&Image::new().note(&both)),
        "not a Solo5 image: it has no manifest note"
    );
}

#[test]
fn an_image_without_notes_is_no_solo5_image() {
    let image = Image::new().load(0x10_0000, 5, b"code", 4);
    assert_eq!(refusal(&image), "not a Solo5 image: it has no ABI note");
}

#[test]
fn an_empty_note_before_the_match_refuses_the_image() {
    for length in [0, 11] {
        let image = Image::new()
            .note(&vec![0; length])
            .note(&abi_note(2, 2))
            .note(&manifest_note(&manifest(&[])));
        assert!(refusal(&image).contains("empty or truncated note"));
    }
}

#[test]
fn sizes_of_notes_are_bounded() {
    let sized = |size: u32, room: usize| {
        Image::new()
            .note(&note(0x3149_4241, size, &vec![0; room]))
            .note(&manifest_note(&manifest(&[])))
    };
    assert!(refusal(&sized(0, 16)).contains("out of range"));
    assert!(refusal(&sized(33, 40)).contains("out of range"));
    assert!(refusal(&sized(u32::MAX, 40)).contains("out of range"));
    assert!(refusal(&sized(16, 15)).contains("does not fit its segment"));
    assert!(refusal(&sized(7, 7)).contains("too short"));
    assert!(read(&sized(8, 8)).is_ok());
    assert!(read(&sized(32, 32)).is_ok());
}

#[test]
fn a_manifest_note_of_padding_only_is_empty() {
    for size in 1..=4 {
        let image = Image::new()
            .note(&abi_note(2, 2))
            .note(&note(0x3154_464d, size, &[0; 4]));
        assert!(refusal(&image).contains("it is empty"), "size {size}");
    }
}

#[test]
fn notes_outside_the_file_are_refused() {
    let file = Image::solo5(2, &[]).build();
    let error = |bytes: &[u8]| {
        Manifest::read(&mut Cursor::new(bytes))
            .unwrap_err()
            .to_string()
    };
    assert!(error(&file[..file.len() - 1]).contains("outside the file"));
    for offset in [u64::MAX, u64::MAX - 20, i64::MAX as u64, 1 << 40] {
        let mut moved = file.clone();
        moved[64 + 8..64 + 16].copy_from_slice(&offset.to_le_bytes());
        assert!(error(&moved).contains("outside the file"), "{offset:x}");
    }
}

#[test]
fn every_damage_of_a_manifest_is_named() {
    let good = manifest(&[("a", NET)]);
    let entry = 8 + 104;
    let damaged = |offset: usize, byte: u8| {
        let mut payload = good.clone();
        payload[offset] = byte;
        refusal(&with_manifest(&payload))
    };
    assert!(damaged(0, 2).contains("version"));
    assert!(damaged(4, 0).contains("no entries"));
    assert!(damaged(4, 1).contains("does not fit"));
    assert!(damaged(4, 3).contains("does not fit"));
    assert!(damaged(4, 65).contains("more than 64"));
    assert!(damaged(7, 0xff).contains("more than 64"));
    assert!(damaged(8, b'x').contains("reserved"));
    assert!(damaged(8 + 68, 1).contains("reserved"));
    assert!(damaged(8 + 67, 1).contains("not terminated"));
    assert!(damaged(8 + 96, 1).contains("attached"));
    assert!(damaged(entry + 67, 1).contains("not terminated"));
    assert!(damaged(entry + 96, 1).contains("attached"));
    assert!(refusal(&with_manifest(&good[..7])).contains("too short"));
    assert!(refusal(&with_manifest(&good[..entry + 103])).contains("does not fit"));
    assert!(refusal(&with_manifest(&[&good[..], &[0]].concat())).contains("does not fit"));
}

#[test]
fn what_a_tender_ignores_in_an_entry_is_ignored() {
    let mut payload = manifest(&[("a", NET)]);
    payload[8 + 104 + 72..8 + 104 + 96].fill(0xff);
    assert!(read(&with_manifest(&payload)).is_ok());
}

#[test]
fn sixty_three_devices_fit_and_sixty_four_do_not() {
    let many: Vec<_> = (0..64).map(|i| (format!("d{i}"), BLOCK)).collect();
    let many: Vec<_> = many
        .iter()
        .map(|(name, kind)| (name.as_str(), *kind))
        .collect();
    let manifest = read(&Image::solo5(2, &many[..63])).unwrap();
    assert_eq!(manifest.devices.len(), 63);
    assert_eq!(manifest.devices[62].handle, 63);
    assert!(refusal(&Image::solo5(2, &many)).contains("out of range"));
}

#[test]
fn reserved_entries_need_no_device_and_unknown_ones_do() {
    let manifest = read(&Image::solo5(
        2,
        &[("a", 0x4000_0000), ("b", 3), ("c", u32::MAX), ("d", BLOCK)],
    ))
    .unwrap();
    assert_eq!(
        names(&manifest),
        [("b", DeviceKind::Other(3), 2), ("d", DeviceKind::Block, 4)]
    );
    let message = manifest.check_devices(&[], &["d"]).unwrap_err().to_string();
    assert!(message.contains("missing: type 3 \"b\""), "{message}");
}

#[test]
fn odd_names_stay_different_and_unreachable() {
    let mut payload = manifest(&[("a", NET), ("b", NET)]);
    payload[8 + 104] = 0xfe;
    payload[8 + 208] = 0xff;
    let manifest = read(&with_manifest(&payload)).unwrap();
    assert_eq!(manifest.devices[0].name, r"\xfe");
    assert_eq!(manifest.devices[1].name, r"\xff");
}

#[test]
fn the_first_device_of_a_name_and_kind_is_the_one() {
    let manifest = read(&Image::solo5(2, &[("a", BLOCK), ("a", NET), ("a", NET)])).unwrap();
    let handle = |kind| manifest.device("a", kind).map(|device| device.handle);
    assert_eq!(handle(DeviceKind::Block), Some(1));
    assert_eq!(handle(DeviceKind::Net), Some(2));
    assert_eq!(manifest.device("b", DeviceKind::Net), None);
}

#[test]
fn devices_compare_as_sets() {
    let manifest = read(&Image::solo5(2, &[("a", NET), ("b", NET), ("s", BLOCK)])).unwrap();
    assert_eq!(manifest.check_devices(&["b", "a"], &["s"]), Ok(()));
    assert_eq!(
        manifest.check_devices(&["a", "b", "a"], &["s", "s"]),
        Ok(())
    );
    assert!(manifest.check_devices(&["a"], &["s"]).is_err());
    assert!(manifest.check_devices(&["a", "b"], &[]).is_err());
    assert!(manifest.check_devices(&["a", "b", "s"], &["s"]).is_err());
    assert!(manifest.check_devices(&["a", "s"], &["b"]).is_err());
}

#[test]
fn a_mismatch_names_both_sides() {
    let manifest = read(&Image::solo5(2, &[("service", NET), ("storage", BLOCK)])).unwrap();
    let message = manifest
        .check_devices(&["br0"], &["storage"])
        .unwrap_err()
        .to_string();
    for part in [
        r#"declares net "service", block "storage""#,
        r#"asked for net "br0", block "storage""#,
        r#"missing: net "service""#,
        r#"not declared: net "br0""#,
        "not that of a bridge",
    ] {
        assert!(message.contains(part), "{message} lacks {part}");
    }
    let none = read(&Image::solo5(2, &[])).unwrap();
    let message = none.check_devices(&[], &["x"]).unwrap_err().to_string();
    assert!(message.contains("declares no devices"), "{message}");
}

#[test]
fn damaged_images_never_panic() {
    let good = Image::solo5(2, &[("service", NET), ("storage", BLOCK)])
        .load(0x10_0000, 5, b"code", 4)
        .build();
    let mut random = Random(0x5eed_0000_0000_0001);
    let mut accepted = 0;
    for _ in 0..50_000 {
        let mut image = good.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(image.len());
            // Headers matter most, and edge values more than others.
            let at = if random.below(2) == 0 { at % 256 } else { at };
            image[at] = [0, 1, 0x7f, 0x80, 0xff, random.below(256) as u8][random.below(6)];
        }
        image.truncate(image.len() - random.below(2) * random.below(image.len()));
        accepted += usize::from(Manifest::read(&mut Cursor::new(image)).is_ok());
    }
    assert!((1..50_000).contains(&accepted), "{accepted}");
}

/// A small deterministic generator (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
