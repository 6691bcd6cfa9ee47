//! What the guest finds in low memory: boot information, its manifest with the devices filled
//! in, and its command line (SOLO5 facts, 8.1, 8.2 and 8.4).
#![forbid(unsafe_code)]

use crate::manifest::{ENTRY_SIZE, MANIFEST_HEADER_SIZE};

/// The guest address of the boot information, which the guest gets in its first argument.
pub const BOOT_INFO: u64 = 0x1_1000;
const BOOT_INFO_SIZE: u64 = 40;

/// Offsets in a manifest entry.
const DEVICE_DATA: usize = 72;
const NET_MTU: usize = 78;
const BLOCK_SIZE: usize = 80;
const HOST_DESCRIPTOR: usize = 88;
const ATTACHED: usize = 96;

/// What the guest is told beside its devices and command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootInfo {
    /// The size of guest memory in bytes, which is the first address after it.
    pub memory_size: u64,
    /// The first address after the image.
    pub kernel_end: u64,
    /// The descriptor of the epoll set.
    pub epoll: i32,
    /// The descriptor of the timer.
    pub timer: i32,
}

/// What the guest is told about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its index in the manifest, 1..=63.
    pub handle: u32,
    /// Its descriptor.
    pub descriptor: i32,
    /// The rest depends on its kind.
    pub details: Details,
}

/// What the guest is told about a device of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Details {
    /// A network device.
    Net {
        /// Its address.
        mac: [u8; 6],
        /// Its largest packet in bytes, without the Ethernet header.
        mtu: u16,
    },
    /// A block device.
    Block {
        /// Its size in bytes.
        capacity: u64,
        /// The size of one block in bytes.
        block_size: u16,
    },
}

/// The bytes to put at [`BOOT_INFO`]: less than 16 KiB.
///
/// `manifest` is the payload of an image's manifest; a handle outside it is ignored.
pub fn low_memory(
    info: &BootInfo,
    manifest: &[u8],
    devices: &[Attached],
    command_line: &[u8],
) -> Vec<u8> {
    let manifest_address = BOOT_INFO + BOOT_INFO_SIZE;
    let command_line_address = manifest_address + manifest.len() as u64;
    let mut bytes = Vec::with_capacity(16 * 1024);
    bytes.extend(info.memory_size.to_le_bytes());
    bytes.extend(info.kernel_end.to_le_bytes());
    bytes.extend(command_line_address.to_le_bytes());
    bytes.extend(manifest_address.to_le_bytes());
    bytes.extend(info.epoll.to_le_bytes());
    bytes.extend(info.timer.to_le_bytes());
    bytes.extend(fill_in(manifest, devices));
    bytes.extend(command_line);
    bytes.push(0);
    bytes
}

fn fill_in(manifest: &[u8], devices: &[Attached]) -> Vec<u8> {
    let mut filled = manifest.to_vec();
    for device in devices {
        let start = MANIFEST_HEADER_SIZE + ENTRY_SIZE * device.handle as usize;
        let Some(entry) = filled.get_mut(start..start + ENTRY_SIZE) else {
            continue;
        };
        match device.details {
            Details::Net { mac, mtu } => {
                put(entry, DEVICE_DATA, &mac);
                put(entry, NET_MTU, &mtu.to_le_bytes());
            }
            Details::Block {
                capacity,
                block_size,
            } => {
                put(entry, DEVICE_DATA, &capacity.to_le_bytes());
                put(entry, BLOCK_SIZE, &block_size.to_le_bytes());
            }
        }
        put(entry, HOST_DESCRIPTOR, &device.descriptor.to_le_bytes());
        put(entry, ATTACHED, &[1]);
    }
    filled
}

fn put(entry: &mut [u8], offset: usize, bytes: &[u8]) {
    for (to, from) in entry.iter_mut().skip(offset).zip(bytes) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::test_image::manifest;
    use crate::elf::{u16_at, u32_at, u64_at};

    const INFO: BootInfo = BootInfo {
        memory_size: 0x20_0000,
        kernel_end: 0x10_3000,
        epoll: 7,
        timer: 8,
    };

    #[test]
    fn the_guest_finds_everything_by_its_pointers() {
        let payload = manifest(&[("a", 2)]);
        let bytes = low_memory(&INFO, &payload, &[], b"hello world");
        assert_eq!(u64_at(&bytes, 0), 0x20_0000);
        assert_eq!(u64_at(&bytes, 8), 0x10_3000);
        assert_eq!(u64_at(&bytes, 24), 0x1_1028);
        assert_eq!(u64_at(&bytes, 16), 0x1_1028 + 8 + 2 * 104);
        assert_eq!((u32_at(&bytes, 32), u32_at(&bytes, 36)), (7, 8));
        assert_eq!(&bytes[40..40 + payload.len()], payload);
        assert_eq!(&bytes[40 + payload.len()..], b"hello world\0");
    }

    #[test]
    fn devices_are_filled_in_and_nothing_else_changes() {
        let payload = manifest(&[("a", 2), ("b", 1)]);
        let devices = [
            Attached {
                handle: 1,
                descriptor: 5,
                details: Details::Net {
                    mac: [2, 0, 0, 0, 0, 9],
                    mtu: 1500,
                },
            },
            Attached {
                handle: 2,
                descriptor: 6,
                details: Details::Block {
                    capacity: 1 << 33,
                    block_size: 4096,
                },
            },
            Attached {
                handle: 3,
                descriptor: 9,
                details: Details::Block {
                    capacity: 1,
                    block_size: 1,
                },
            },
        ];
        let filled = fill_in(&payload, &devices);
        let (head, net, block) = (&filled[..112], &filled[112..216], &filled[216..]);
        assert_eq!(head, &payload[..112]);
        assert_eq!(&net[..72], &payload[112..184]);
        assert_eq!(&net[72..78], [2, 0, 0, 0, 0, 9]);
        assert_eq!(u16_at(net, 78), 1500);
        assert_eq!((u32_at(net, 88), net[96]), (5, 1));
        assert_eq!((u64_at(block, 72), u16_at(block, 80)), (1 << 33, 4096));
        assert_eq!((u32_at(block, 88), block[96]), (6, 1));
        assert_eq!(filled.len(), payload.len());
    }

    #[test]
    fn the_largest_hand_over_stays_below_the_image() {
        let names: Vec<_> = (0..63).map(|i| format!("d{i}")).collect();
        let devices: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let bytes = low_memory(&INFO, &manifest(&devices), &[], &[b'x'; 8191]);
        assert!(BOOT_INFO + (bytes.len() as u64) < 0x10_0000);
    }
}
