//! Values of options: numbers, times, devices.

use std::str::FromStr;

use time::format_description::well_known::Rfc3339;
use time::{Date, Month, OffsetDateTime};

use crate::name::{Label, Name, Path};
use crate::unikernel::{Block, Kind, Mac, Net};
use crate::wire::BridgeTap;
use crate::wire::domain::sector_size;

/// A number, decimal or with `0x`, `0o`, `0b`.
pub(super) fn number<N: TryFrom<u64>>(text: &str) -> Result<N, String> {
    const RADIXES: [(&str, u32); 3] = [("0x", 16), ("0o", 8), ("0b", 2)];
    let (digits, radix) = RADIXES
        .iter()
        .find_map(|(prefix, radix)| Some((text.strip_prefix(prefix)?, *radix)))
        .unwrap_or((text, 10));
    if digits.starts_with(['+', '-']) {
        return Err("it must be a number from 0".to_owned());
    }
    let number = u64::from_str_radix(digits, radix);
    let number = number.map_err(|_| "it must be a number, without a unit".to_owned())?;
    N::try_from(number).map_err(|_| "the number is too large".to_owned())
}

/// A zlib compression level, 0 for none.
pub(super) fn level(text: &str) -> Result<u32, String> {
    match number(text)? {
        level @ 0..=9 => Ok(level),
        _ => Err("compression levels go from 0 to 9".to_owned()),
    }
}

/// What `--verbosity` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verbosity {
    /// No warnings.
    ErrorsOnly,
    /// What is said anyway.
    Usual,
    /// Also where a command goes.
    Steps,
    /// Everything.
    Debug,
}

/// A level of the log.
pub(super) fn verbosity(text: &str) -> Result<Verbosity, String> {
    match text {
        "quiet" | "error" => Ok(Verbosity::ErrorsOnly),
        "warning" => Ok(Verbosity::Usual),
        "info" => Ok(Verbosity::Steps),
        "debug" => Ok(Verbosity::Debug),
        _ => Err("there are quiet, error, warning, info and debug".to_owned()),
    }
}

/// When output is coloured, which it never is.
pub(super) fn color(text: &str) -> Result<(), String> {
    match text {
        "auto" | "always" | "never" => Ok(()),
        _ => Err("there are auto, always and never".to_owned()),
    }
}

/// A path, with or without the colon that ends it as a name.
pub(super) fn path(text: &str) -> Result<Path, String> {
    text.strip_suffix(':')
        .unwrap_or(text)
        .parse::<Path>()
        .map_err(|error| error.to_string())
}

/// Kind of virtual machine.
pub(super) fn kind(text: &str) -> Result<Kind, String> {
    [Kind::Solo5, Kind::Bhyve]
        .into_iter()
        .find(|kind| kind.to_string() == text)
        .ok_or_else(|| "there are solo5 and bhyve".to_owned())
}

/// `NAME[:DEVICE][@SECTOR]`; the device is a label, or `PATH:LABEL` at a path below that of the unikernel.
pub(super) fn block(text: &str) -> Result<Block, String> {
    let (rest, sector) = match text.split_once('@') {
        Some((rest, sector)) => (rest, Some(sector)),
        None => (text, None),
    };
    let (name, host) = split_host(rest);
    let sector_size = sector.map(|sector| {
        sector_size(number::<u32>(sector)?.into())
            .ok_or_else(|| "a sector size is a power of two from 512 to 32768".to_owned())
    });
    Ok(Block {
        device: device(name)?,
        host_device: host.map(host_device).transpose()?,
        sector_size: sector_size.transpose()?,
    })
}

/// A block device of the host: a label, `PATH:LABEL` below the unikernel's own path, or a ZFS volume.
fn host_device(text: &str) -> Result<String, String> {
    if text.starts_with(Block::VOLUMES) {
        return Ok(text.to_owned());
    }
    if !text.contains(':') {
        let label = Label::from_str(text).map_err(|error| error.to_string())?;
        return Ok(label.to_string());
    }
    let name = Name::from_str(text).map_err(|error| error.to_string())?;
    if name.path().is_root() || name.label().is_none() {
        return Err(format!(
            "invalid block device '{text}': expected LABEL, or PATH:LABEL below the path of the unikernel"
        ));
    }
    Ok(name.to_string())
}

/// `NAME[:BRIDGE][@MAC]`.
pub(super) fn net(text: &str) -> Result<Net, String> {
    let (rest, address) = match text.split_once('@') {
        Some((rest, address)) => (rest, Some(address)),
        None => (text, None),
    };
    let (name, bridge) = split_host(rest);
    Ok(Net {
        device: device(name)?,
        bridge: bridge.map(host_name).transpose()?,
        mac: address.map(mac).transpose()?,
    })
}

/// Size of a block device in MB.
pub(super) fn device_size(text: &str) -> Result<u32, String> {
    match number(text)? {
        0 => Err("a block device has 1 MB at least".to_owned()),
        size => Ok(size),
    }
}

/// The id of a process.
pub(super) fn process(text: &str) -> Result<u32, String> {
    match number(text)? {
        id @ 1..=0x7fff_ffff => Ok(id),
        _ => Err("the id of a process is from 1 to 2147483647".to_owned()),
    }
}

/// `BRIDGE:TAP`.
pub(super) fn tap(text: &str) -> Result<BridgeTap, String> {
    let (bridge, tap) = text
        .split_once(':')
        .ok_or_else(|| "it is written as BRIDGE:TAP".to_owned())?;
    Ok(BridgeTap {
        bridge: host_name(bridge)?.into(),
        tap: host_name(tap)?.into(),
    })
}

/// The name of a bridge.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("a name on the host has printable ASCII characters only, at least one".to_owned())
    }
}

/// A point in time of RFC 3339, or a date (its beginning, UTC).
pub(super) fn since(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .or_else(|| date(text).map(|date| date.midnight().assume_utc()))
        .ok_or_else(|| "a time is written as 2026-11-22T22:08:16Z, a date as 2026-11-22".to_owned())
}

fn date(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let mut next = |digits| {
        let part = parts.next()?;
        let fits = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| part.parse::<u16>().ok()).flatten()
    };
    let (year, month, day) = (next(4)?, next(2)?, next(2)?);
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(year.into(), month, u8::try_from(day).ok()?).ok()?;
    parts.next().is_none().then_some(date)
}

fn split_host(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((name, host)) => (name, Some(host)),
        None => (text, None),
    }
}

/// The name of a device in a manifest: 1 to 67 letters and digits.
fn device(text: &str) -> Result<String, String> {
    if (1..=67).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        Ok(text.to_owned())
    } else {
        Err("a device's name has 1 to 67 letters and digits".to_owned())
    }
}

/// Six pairs of hexadecimal digits, all joined by `:` or all by `-`.
fn mac(text: &str) -> Result<Mac, String> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let bytes: Option<Vec<u8>> = text
        .split(separator)
        .map(|pair| {
            let digits = pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(pair, 16).ok()).flatten()
        })
        .collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .map(Mac)
        .ok_or_else(|| "a hardware address is written as 00:80:41:12:34:56".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_bases_and_a_range() {
        for (text, value) in [("10", 10_u16), ("0x1F", 31), ("0o17", 15), ("0b101", 5)] {
            assert_eq!(number(text), Ok(value));
        }
        for text in ["", "-1", "+1", "0x", "0x-1", "65536", "1.5"] {
            assert!(number::<u16>(text).is_err(), "{text}");
        }
        assert!(level("10").is_err());
    }

    #[test]
    fn devices_name_their_counterpart_on_the_host() {
        let service = net("service:br0@00-de-ad-be-ef-00").unwrap();
        assert_eq!(service.bridge(), "br0");
        assert_eq!(service.mac.unwrap().to_string(), "00:de:ad:be:ef:00");
        assert_eq!(net("service").unwrap().bridge(), "service");
        assert_eq!(net("a@02:00:00:00:00:01").unwrap().bridge, None);
        let data = block("data:disk-1@4096").unwrap();
        assert_eq!(
            (data.host_device(), data.sector_size),
            ("disk-1", Some(4096))
        );
        for text in ["", "a:", "a:../x", "a@511", "a@65536", "a_b", "a@1000"] {
            assert!(block(text).is_err(), "{text}");
        }
        for text in [
            "",
            "a:",
            "a@",
            "a@00:11:22:33:44",
            "a@0:1:2:3:4:5",
            "a@00:11-22:33:44:55",
        ] {
            assert!(net(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_process_a_tap_and_a_size_have_their_ranges() {
        assert_eq!(process("0x7fffffff"), Ok(i32::MAX.unsigned_abs()));
        assert_eq!(device_size("1"), Ok(1));
        assert_eq!(tap("br0:tap:1").unwrap().tap.to_lossy(), "tap:1");
        for text in ["0", "-1", "2147483648"] {
            assert!(process(text).is_err(), "{text}");
        }
        assert!(device_size("0").is_err());
        for text in ["", "br0", "br0:", ":tap"] {
            assert!(tap(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_of_rfc_3339_or_dates() {
        assert_eq!(since("1970-01-02").unwrap().unix_timestamp(), 86_400);
        assert_eq!(
            since("1970-01-01T01:00:00+01:00").unwrap().unix_timestamp(),
            0
        );
        for text in ["", "yesterday", "1970-13-01", "1970-1-1", "1970-01-01-01"] {
            assert!(since(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_may_end_in_its_colon() {
        assert_eq!(path("foo:bar:"), path("foo:bar"));
        assert_eq!(path(":").unwrap(), Path::ROOT);
        assert!(path("foo::").is_err());
    }
}
