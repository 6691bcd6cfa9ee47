//! `struct ifmibdata` of FreeBSD's `<net/if_mib.h>`, as sysctl(3) `net.link.generic.ifdata` writes it on 64-bit
//! systems from FreeBSD 11 on.

use crate::wire::{IfData, Int32, Int64, Text};

/// Its size.
pub const LENGTH: usize = 208;

/// Bytes of the name at its beginning.
const NAME: usize = 16;

/// The record of an interface; nothing if it has not this size.
pub fn parse(bytes: &[u8]) -> Option<IfData> {
    let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
    let int = |at: usize| {
        let four = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(Int32::from(u32::from_ne_bytes(four)))
    };
    let long = |at: usize| {
        let eight = bytes.get(at..at + 8)?.try_into().ok()?;
        Some(Int64(i64::from_ne_bytes(eight)))
    };
    // The counters are in a `struct if_data`, which begins after 20 bytes of numbers and 20 of filling.
    let data = 56;
    let name = bytes[..NAME].iter().copied();
    Some(IfData {
        bridge: Text(name.take_while(|byte| *byte != 0).collect()),
        flags: int(20)?,
        send_length: int(24)?,
        max_send_length: int(28)?,
        send_drops: int(32)?,
        mtu: int(data + 8)?,
        baudrate: long(data + 16)?,
        input_packets: long(data + 24)?,
        input_errors: long(data + 32)?,
        output_packets: long(data + 40)?,
        output_errors: long(data + 48)?,
        collisions: long(data + 56)?,
        input_bytes: long(data + 64)?,
        output_bytes: long(data + 72)?,
        input_mcast: long(data + 80)?,
        output_mcast: long(data + 88)?,
        input_dropped: long(data + 96)?,
        output_dropped: long(data + 104)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_read_at_its_place() {
        let mut bytes = Vec::new();
        bytes.extend(b"tap7\0garbage....");
        for number in [1_u32, 0x1043, 3, 4, 5, 0, 0, 0, 0] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend([0; 4]);
        bytes.extend([6, 0, 6, 0, 2, 0]);
        bytes.extend(152_u16.to_ne_bytes());
        bytes.extend(1500_u32.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        for number in 100_u64..117 {
            bytes.extend(number.to_ne_bytes());
        }
        let data = parse(&bytes).unwrap();
        assert_eq!(data.bridge, "tap7".into());
        let ints = [
            data.flags,
            data.send_length,
            data.max_send_length,
            data.send_drops,
            data.mtu,
        ];
        assert_eq!(ints.map(Int32::bits), [0x1043, 3, 4, 5, 1500]);
        let longs = [
            data.baudrate,
            data.input_packets,
            data.input_errors,
            data.output_packets,
            data.output_errors,
            data.collisions,
            data.input_bytes,
            data.output_bytes,
            data.input_mcast,
            data.output_mcast,
            data.input_dropped,
            data.output_dropped,
        ];
        assert_eq!(
            longs.map(|long| long.0),
            std::array::from_fn(|n| 100 + i64::try_from(n).unwrap())
        );
        assert!(parse(&bytes[1..]).is_none());
    }
}
