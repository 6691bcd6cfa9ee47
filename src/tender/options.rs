//! The command line of the tender (SOLO5 facts, chapter 4).
//!
//! It is read twice, as Solo5's tender does: `CommandLine::split` finds the kernel, and only
//! once that has shown to be an image for this tender does `Options::parse` look closer.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Memory without `--mem`, in MiB.
pub const DEFAULT_MEMORY: u64 = 512;
/// The block size without `--block-sector-size`, in bytes.
pub const DEFAULT_SECTOR_SIZE: u16 = 512;
/// The longest name of a network interface, in bytes (Linux `IFNAMSIZ` less the terminator).
pub const MAX_INTERFACE_NAME: usize = 15;
/// The longest name of a device, in bytes: what a manifest entry can hold.
pub const MAX_DEVICE_NAME: usize = 67;
/// The longest command line of a guest, in bytes, without the terminator.
pub const MAX_GUEST_ARGUMENTS: usize = 8191;

/// What the tender was called for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// `--help`.
    Help,
    /// `--version`.
    Version,
    /// There is no kernel among the arguments.
    NoKernel,
    /// Run a guest.
    Run {
        /// The options, not yet looked at.
        options: Vec<OsString>,
        /// The file of the image.
        kernel: OsString,
        /// The arguments of the guest.
        arguments: Vec<OsString>,
    },
}

/// The options of a run. Names of devices are letters and digits, at most [`MAX_DEVICE_NAME`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Guest memory in MiB, at least 1.
    pub memory: u64,
    /// Whether all guest memory is executable.
    pub executable_heap: bool,
    /// `--net:NAME=`, in order.
    pub nets: Vec<(String, NetSource)>,
    /// `--net-mac:NAME=`, in order. All zero means: choose one.
    pub macs: Vec<(String, [u8; 6])>,
    /// `--block:NAME=`, in order.
    pub blocks: Vec<(String, OsString)>,
    /// `--block-sector-size:NAME=`, in order: powers of two, 512..=32768.
    pub sector_sizes: Vec<(String, u16)>,
    /// `--arguments=@`: the inherited descriptor of a file with arguments of the guest.
    pub arguments: Option<i32>,
}

/// What a network device is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetSource {
    /// A tap interface that exists, by name.
    Interface(String),
    /// An inherited descriptor of a tap interface.
    Descriptor(i32),
}

/// An option that makes no sense: which one, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError {
    option: String,
    why: &'static str,
}

/// The arguments of the guest are longer than [`MAX_GUEST_ARGUMENTS`]; holds their length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgumentsTooLong(pub usize);

impl CommandLine {
    /// Splits the arguments (without the program's name) at the kernel. `--help` and
    /// `--version` before it act at once; `--` ends the options.
    pub fn split(arguments: impl IntoIterator<Item = OsString>) -> Self {
        let mut arguments = arguments.into_iter();
        let mut options = Vec::new();
        let kernel = loop {
            match arguments.next() {
                None => return Self::NoKernel,
                Some(argument) if argument == "--help" => return Self::Help,
                Some(argument) if argument == "--version" => return Self::Version,
                Some(argument) if argument == "--" => break arguments.next(),
                Some(argument) if argument.as_bytes().starts_with(b"-") => options.push(argument),
                Some(argument) => break Some(argument),
            }
        };
        match kernel {
            None => Self::NoKernel,
            Some(kernel) => Self::Run {
                options,
                kernel,
                arguments: arguments.collect(),
            },
        }
    }
}

impl Options {
    /// Reads the options in order; of a repeated `--mem` the last one counts.
    pub fn parse(options: &[OsString]) -> Result<Self, OptionError> {
        let mut parsed = Self {
            memory: DEFAULT_MEMORY,
            executable_heap: false,
            nets: Vec::new(),
            macs: Vec::new(),
            blocks: Vec::new(),
            sector_sizes: Vec::new(),
            arguments: None,
        };
        for option in options {
            parsed
                .take(option.as_bytes())
                .map_err(|why| OptionError::new(option, why))?;
        }
        Ok(parsed)
    }

    fn take(&mut self, option: &[u8]) -> Result<(), &'static str> {
        if let Some(value) = option.strip_prefix(b"--mem=") {
            self.memory = parse_memory(value)?;
        } else if let Some(rest) = option.strip_prefix(b"--net:") {
            let (name, value) = split_device(rest)?;
            self.nets.push((name, parse_net_source(value)?));
        } else if let Some(rest) = option.strip_prefix(b"--net-mac:") {
            let (name, value) = split_device(rest)?;
            self.macs.push((name, parse_mac(value)?));
        } else if let Some(rest) = option.strip_prefix(b"--block:") {
            let (name, value) = split_device(rest)?;
            if value.is_empty() {
                return Err("the file of the block device is missing");
            }
            self.blocks.push((name, OsString::from_vec(value.to_vec())));
        } else if let Some(rest) = option.strip_prefix(b"--block-sector-size:") {
            let (name, value) = split_device(rest)?;
            self.sector_sizes.push((name, parse_sector_size(value)?));
        } else if let Some(value) = option.strip_prefix(b"--arguments=") {
            let value = value.strip_prefix(b"@").ok_or(NO_DESCRIPTOR)?;
            self.arguments = Some(parse_descriptor(value)?);
        } else if option.starts_with(b"--x-exec-heap") {
            self.executable_heap = true;
        } else {
            return Err("no such option");
        }
        Ok(())
    }
}

/// The command line of the guest: its arguments joined by single spaces, not quoted.
pub fn join_arguments(arguments: &[OsString]) -> Result<Vec<u8>, ArgumentsTooLong> {
    let words: Vec<&[u8]> = arguments.iter().map(|word| word.as_bytes()).collect();
    let joined = words.join(&b' ');
    if joined.len() > MAX_GUEST_ARGUMENTS {
        return Err(ArgumentsTooLong(joined.len()));
    }
    Ok(joined)
}

impl OptionError {
    fn new(option: &OsStr, why: &'static str) -> Self {
        Self {
            option: option.to_string_lossy().into_owned(),
            why,
        }
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invalid option {:?}: {}", self.option, self.why)
    }
}

impl std::error::Error for OptionError {}

impl fmt::Display for ArgumentsTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the arguments of the guest are {} bytes long, more than {MAX_GUEST_ARGUMENTS}",
            self.0
        )
    }
}

impl std::error::Error for ArgumentsTooLong {}

fn split_device(rest: &[u8]) -> Result<(String, &[u8]), &'static str> {
    let end = rest
        .iter()
        .position(|byte| !byte.is_ascii_alphanumeric())
        .unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    if name.is_empty() || name.len() > MAX_DEVICE_NAME {
        return Err("a device name is 1 to 67 letters and digits");
    }
    let value = rest
        .strip_prefix(b"=")
        .ok_or("a device name is letters and digits, followed by =")?;
    Ok((String::from_utf8_lossy(name).into_owned(), value))
}

/// Leading decimal digits count, and what follows them does not, as for Solo5's tender.
fn parse_memory(value: &[u8]) -> Result<u64, &'static str> {
    match leading_number(value) {
        Some(0) | None => Err("memory is a decimal number of MiB, at least 1"),
        Some(memory) => Ok(memory),
    }
}

fn parse_net_source(value: &[u8]) -> Result<NetSource, &'static str> {
    if let Some(digits) = value.strip_prefix(b"@") {
        return parse_descriptor(digits).map(NetSource::Descriptor);
    }
    if value.is_empty() || value.len() > MAX_INTERFACE_NAME {
        return Err("the name of a network interface has 1 to 15 bytes");
    }
    match str::from_utf8(value) {
        Ok(name) if !name.contains(['\0', '/']) => Ok(NetSource::Interface(name.to_owned())),
        _ => Err("not a name of a network interface"),
    }
}

/// What is wrong with a descriptor.
const NO_DESCRIPTOR: &str = "a descriptor is @ and a decimal number";

fn parse_descriptor(digits: &[u8]) -> Result<i32, &'static str> {
    str::from_utf8(digits)
        .ok()
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or(NO_DESCRIPTOR)
}

/// Arguments that each end with a zero byte.
pub fn parse_arguments(bytes: &[u8]) -> Vec<OsString> {
    let bytes = bytes
        .strip_suffix(b"\0")
        .map(|bytes| bytes.split(|byte| *byte == 0));
    let words = bytes.into_iter().flatten();
    words
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect()
}

/// Six hexadecimal numbers of one or two digits; what follows the sixth is ignored.
fn parse_mac(value: &[u8]) -> Result<[u8; 6], &'static str> {
    const WHY: &str = "a MAC address is six hexadecimal numbers separated by colons";
    let mut mac = [0; 6];
    let mut rest = value;
    for (index, byte) in mac.iter_mut().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix(b":").ok_or(WHY)?;
        }
        let digits = rest
            .iter()
            .take(2)
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let (number, after) = rest.split_at(digits);
        *byte = str::from_utf8(number)
            .ok()
            .and_then(|number| u8::from_str_radix(number, 16).ok())
            .ok_or(WHY)?;
        rest = after;
    }
    Ok(mac)
}

fn parse_sector_size(value: &[u8]) -> Result<u16, &'static str> {
    leading_number(value)
        .and_then(|size| u16::try_from(size).ok())
        .filter(|size| *size >= 512 && size.is_power_of_two())
        .ok_or(
            "Block size must be a multiple of 2 greater than or equal 512: \
             a power of two, at most 32768",
        )
}

fn leading_number(value: &[u8]) -> Option<u64> {
    let digits = value
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    str::from_utf8(value.get(..digits)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn os(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn split(words: &[&str]) -> CommandLine {
        CommandLine::split(os(words))
    }

    fn run(options: &[&str], kernel: &str, arguments: &[&str]) -> CommandLine {
        CommandLine::Run {
            options: os(options),
            kernel: kernel.into(),
            arguments: os(arguments),
        }
    }

    fn parse(option: &str) -> Result<Options, OptionError> {
        Options::parse(&os(&[option]))
    }

    #[test]
    fn the_kernel_is_the_first_argument_that_is_no_option() {
        assert_eq!(
            split(&["--mem=4", "k", "--x", "y"]),
            run(&["--mem=4"], "k", &["--x", "y"])
        );
        assert_eq!(split(&["--mem", "8"]), run(&["--mem"], "8", &[]));
        assert_eq!(
            split(&["--", "-k", "--", "z"]),
            run(&[], "-k", &["--", "z"])
        );
        assert_eq!(split(&["k", "--help"]), run(&[], "k", &["--help"]));
    }

    #[test]
    fn help_and_version_act_before_the_kernel_only() {
        assert_eq!(split(&["--nonsense", "--help", "k"]), CommandLine::Help);
        assert_eq!(split(&["--version"]), CommandLine::Version);
        assert_eq!(split(&["--", "--version"]), run(&[], "--version", &[]));
    }

    #[test]
    fn a_kernel_is_needed() {
        for words in [&[][..], &["--mem=4"], &["--"], &["-"]] {
            assert_eq!(split(words), CommandLine::NoKernel, "{words:?}");
        }
    }

    #[test]
    fn memory_is_decimal_and_ignores_what_follows() {
        for (option, memory) in [("--mem=64", 64), ("--mem=64x", 64), ("--mem=007", 7)] {
            assert_eq!(parse(option).unwrap().memory, memory);
        }
        for option in [
            "--mem=",
            "--mem=0",
            "--mem=0x40",
            "--mem=x",
            "--mem=-1",
            "--mem",
        ] {
            assert!(parse(option).is_err(), "{option}");
        }
        assert!(parse("--mem=99999999999999999999999").is_err());
        assert_eq!(Options::parse(&[]).unwrap().memory, 512);
        let twice = Options::parse(&os(&["--mem=1", "--mem=2"])).unwrap();
        assert_eq!(twice.memory, 2);
    }

    #[test]
    fn a_net_device_has_an_interface_or_a_descriptor() {
        let source = |option| parse(option).unwrap().nets[0].clone();
        assert_eq!(
            source("--net:service=tap0"),
            (
                "service".to_owned(),
                NetSource::Interface("tap0".to_owned())
            )
        );
        assert_eq!(source("--net:a=@12").1, NetSource::Descriptor(12));
        for option in [
            "--net:a=",
            "--net:=tap0",
            "--net:a",
            "--net:a b=tap0",
            "--net:a-b=tap0",
            "--net:a=sixteen-letters!",
            "--net:a=@",
            "--net:a=@-1",
            "--net:a=@+1",
            "--net:a=@3x",
            "--net:a=@4294967296",
            "--net:a=a/b",
        ] {
            assert!(parse(option).is_err(), "{option}");
        }
    }

    #[test]
    fn device_names_have_at_most_67_letters() {
        let option = |length| format!("--block:{}=f", "a".repeat(length));
        assert!(parse(&option(67)).is_ok());
        assert!(parse(&option(68)).is_err());
    }

    #[test]
    fn a_mac_address_is_six_hexadecimal_numbers() {
        let mac = |option| parse(option).unwrap().macs[0].1;
        assert_eq!(mac("--net-mac:a=02:00:00:00:00:fF"), [2, 0, 0, 0, 0, 255]);
        assert_eq!(mac("--net-mac:a=2:0:0:0:0:1"), [2, 0, 0, 0, 0, 1]);
        assert_eq!(mac("--net-mac:a=2:0:0:0:0:1:7 junk"), [2, 0, 0, 0, 0, 1]);
        for value in [
            "",
            "2:0:0:0:0",
            "2:0:0:0:0:",
            "2-0-0-0-0-1",
            "2:0:0:0:0:g",
            "222:0:0:0:0:1",
        ] {
            assert!(parse(&format!("--net-mac:a={value}")).is_err(), "{value}");
        }
    }

    #[test]
    fn block_files_may_contain_anything() {
        let blocks = parse("--block:storage=/tmp/a b=c").unwrap().blocks;
        assert_eq!(blocks, [("storage".to_owned(), "/tmp/a b=c".into())]);
        assert!(parse("--block:storage=").is_err());
    }

    #[test]
    fn a_block_size_is_a_power_of_two_from_512_to_32768() {
        for size in [512, 1024, 4096, 32768] {
            let option = format!("--block-sector-size:a={size}");
            assert_eq!(parse(&option).unwrap().sector_sizes[0].1, size);
        }
        for size in ["", "0", "256", "513", "521", "65536", "66048", "x"] {
            let option = format!("--block-sector-size:a={size}");
            assert!(parse(&option).is_err(), "{option}");
        }
    }

    #[test]
    fn arguments_come_from_a_descriptor_each_with_a_zero_at_its_end() {
        assert_eq!(parse("--arguments=@7").unwrap().arguments, Some(7));
        for option in [
            "--arguments=",
            "--arguments=7",
            "--arguments=@x",
            "--arguments",
        ] {
            assert!(parse(option).is_err(), "{option}");
        }
        assert_eq!(
            parse_arguments(b"--a=1\0\0b c\0"),
            os(&["--a=1", "", "b c"])
        );
        assert_eq!(parse_arguments(b"\0"), os(&[""]));
        assert_eq!(parse_arguments(b""), os(&[]));
    }

    #[test]
    fn unknown_options_are_named() {
        let error = parse("--gdb").unwrap_err().to_string();
        assert_eq!(error, "Invalid option \"--gdb\": no such option");
        assert!(parse("--x-exec-heap").unwrap().executable_heap);
        assert!(parse("--x-exec-heap=yes").unwrap().executable_heap);
    }

    #[test]
    fn guest_arguments_are_joined_by_single_spaces() {
        assert_eq!(join_arguments(&[]).unwrap(), b"");
        assert_eq!(join_arguments(&os(&["a", "", "b c"])).unwrap(), b"a  b c");
        let long = |length| join_arguments(&[OsString::from("x".repeat(length))]);
        assert_eq!(long(8191).unwrap().len(), 8191);
        assert_eq!(long(8192), Err(ArgumentsTooLong(8192)));
    }
}
