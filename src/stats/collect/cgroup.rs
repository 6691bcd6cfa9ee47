//! The texts of control groups, version 2 (`Documentation/admin-guide/cgroup-v2.rst` of the kernel).

use std::path::{Component, Path};

use super::Disk;
use crate::name::Name;

/// The group that `/proc/PID/cgroup` tells, relative to the root, if it is that of the unikernel `name` alone: petreld gives
/// it that name.
pub fn own_group<'a>(text: &'a str, name: &Name) -> Option<&'a Path> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let path = Path::new(path);
    let plain = |part| matches!(part, Component::Normal(_));
    let own = path.file_name()? == name.to_string().as_str() && path.components().all(plain);
    own.then_some(path)
}

/// What `io.stat` tells, over all devices. Devices that lie upon others, as with encryption, are counted besides those.
pub fn disk(text: &str) -> Disk {
    let sum = |key: &str| {
        let fields = text.split_ascii_whitespace();
        fields
            .filter_map(|field| field.strip_prefix(key)?.parse().ok())
            .fold(0_i64, i64::saturating_add)
    };
    Disk {
        read: sum("rbytes="),
        written: sum("wbytes="),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_to_all_devices_is_counted_together() {
        let text = "254:0 rbytes=4096 wbytes=1048576 rios=1 wios=16 dbytes=512 dios=1\n\
                    7:1 \n\
                    8:16 rbytes=8192 wbytes=0 rios=2 wios=0 dbytes=0 dios=0 cost.usage=77\n";
        let expected = Disk {
            read: 12288,
            written: 1_048_576,
        };
        assert_eq!(disk(text), expected);
        assert_eq!(disk(""), Disk::default());
        assert_eq!(disk("8:0 rbytes=x wbytes\n"), Disk::default());
        let most = format!("8:0 rbytes={}\n8:1 rbytes=9\n", i64::MAX);
        assert_eq!(disk(&most).read, i64::MAX);
    }

    #[test]
    fn a_group_is_its_own_if_it_has_its_name() {
        let of = |text, name: &str| own_group(text, &name.parse().unwrap());
        let text = "4:memory:/x\n0::/system.slice/petreld.service/t:u:hello\n";
        let group = Path::new("system.slice/petreld.service/t:u:hello");
        assert_eq!(of(text, "t:u:hello"), Some(group));
        for (text, name) in [
            (text, "t:hello"),
            (text, ":hello"),
            ("4:memory:/t:a\n0::/\n", "t:a"),
            ("0::/system.slice/petreld.service\n", "t:a"),
            ("0::/../x/t:a\n", "t:a"),
            ("0::/x/t:a (deleted)\n", "t:a"),
            ("", "t:a"),
        ] {
            assert_eq!(of(text, name), None, "{text:?}");
        }
    }
}
