//! The primitive conventions of the protocol (WIRE 1): what strict DER would refuse or lose is kept here.

use rasn::types::{Constraints, Identifier, Tag};
use rasn::{AsnType, Decode, Decoder, Encode, Encoder, de::Error as _};
use time::{Date, Month, OffsetDateTime, Time as TimeOfDay};

use crate::policy::UNLIMITED;

/// An INTEGER of the protocol: −2^62 … 2^62−1 (WIRE 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Int(i64);

/// An OCTET STRING of exactly eight bytes, big endian two's complement (WIRE 1.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Int64(pub i64);

/// An INTEGER that carries 32 bits, sign-extended; read modulo 2^32 (WIRE 1.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Int32(pub i64);

/// A `UTF8String` whose content may be any bytes (WIRE 1.8).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(pub Vec<u8>);

/// An OCTET STRING.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

/// A hardware address: an OCTET STRING of exactly six bytes (WIRE 1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

/// A SET OF in the order of its encoding: as it arrived, or sorted as a writer must (WIRE 1.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set<T>(Vec<T>);

/// A `GeneralizedTime`, kept as it was written (WIRE 1.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timestamp {
    text: Vec<u8>,
    seconds: i64,
    milliseconds: u16,
}

impl Int {
    const LEAST: i64 = -(1 << 62);

    /// The value, clamped to what the protocol can carry.
    pub fn new(value: i64) -> Self {
        Self(value.clamp(Self::LEAST, UNLIMITED.cast_signed()))
    }

    /// The value, where negative numbers make no sense.
    pub fn unsigned(self) -> Option<u64> {
        u64::try_from(self.0).ok()
    }

    /// The value.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl From<u64> for Int {
    /// Numbers above 2^62−1 become 2^62−1, the protocol's "unlimited".
    fn from(value: u64) -> Self {
        Self(value.min(UNLIMITED).cast_signed())
    }
}

impl<T: Encode> Set<T> {
    /// The items in the order in which DER writes them: ascending by their encodings.
    pub fn sorted(items: impl IntoIterator<Item = T>) -> Self {
        let mut items: Vec<T> = items.into_iter().collect();
        items.sort_by_cached_key(|item| rasn::der::encode(item).unwrap_or_default());
        Self(items)
    }
}

impl<T> Set<T> {
    /// The items as they arrived.
    pub fn unsorted(items: Vec<T>) -> Self {
        Self(items)
    }

    /// The items in the order of the encoding.
    pub fn items(&self) -> &[T] {
        &self.0
    }

    /// Likewise.
    pub fn into_items(self) -> Vec<T> {
        self.0
    }
}

impl Text {
    /// The content where it is valid UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The content with everything that is not valid UTF-8 replaced.
    pub fn to_lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Timestamp {
    /// The time `seconds` after 1970 (UTC), clamped to the years 0 to 9999, and a fraction in picoseconds, of
    /// which milliseconds are written, and only if the fraction is not zero.
    pub fn from_unix(seconds: i64, picoseconds: u64) -> Self {
        const YEAR_0: i64 = -62_167_219_200;
        const YEAR_9999: i64 = 253_402_300_799;
        let seconds = seconds.clamp(YEAR_0, YEAR_9999);
        let time =
            OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let milliseconds = u16::try_from(picoseconds / 1_000_000_000 % 1000).unwrap_or(0);
        let mut text = format!(
            "{:04}{:02}{:02}{:02}{:02}{:02}",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute(),
            time.second()
        );
        let fraction = if picoseconds == 0 {
            "Z".to_owned()
        } else {
            format!(".{milliseconds:03}Z")
        };
        text += &fraction;
        Self {
            text: text.into_bytes(),
            seconds,
            milliseconds,
        }
    }

    /// Whole seconds since 1970, rounded down.
    pub fn seconds(&self) -> i64 {
        self.seconds
    }

    /// Milliseconds after [`Self::seconds`], below 1000.
    pub fn milliseconds(&self) -> u16 {
        self.milliseconds
    }

    /// The forms a released encoder writes: `YYYYMMDDhhmmssZ` and `YYYYMMDDhhmmss.mmmZ`.
    fn parse(text: &[u8]) -> Option<Self> {
        let (digits, rest) = text.split_at_checked(14)?;
        let number = |from: usize, to: usize| decimal(digits.get(from..to)?);
        let milliseconds = match rest {
            b"Z" => 0,
            [b'.', fraction @ .., b'Z'] if fraction.len() == 3 => decimal(fraction)?,
            _ => return None,
        };
        let month = Month::try_from(u8::try_from(number(4, 6)?).ok()?).ok()?;
        let date = Date::from_calendar_date(
            i32::from(number(0, 4)?),
            month,
            u8::try_from(number(6, 8)?).ok()?,
        )
        .ok()?;
        let [hour, minute, second] = [number(8, 10)?, number(10, 12)?, number(12, 14)?]
            .map(|n| u8::try_from(n).unwrap_or(u8::MAX));
        let time = TimeOfDay::from_hms(hour, minute, second).ok()?;
        Some(Self {
            text: text.to_vec(),
            seconds: date.with_time(time).assume_utc().unix_timestamp(),
            milliseconds,
        })
    }
}

fn decimal(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0_u16, |number, digit| {
        digit.is_ascii_digit().then_some(())?;
        number.checked_mul(10)?.checked_add(u16::from(digit - b'0'))
    })
}

/// Implements rasn's traits for a type that is written as bytes under a universal tag.
macro_rules! as_bytes {
    ($type:ty, $tag:expr, $name:literal, |$value:ident| $write:expr, |$bytes:ident| $read:expr) => {
        impl AsnType for $type {
            const TAG: Tag = $tag;
            const IDENTIFIER: Identifier = Identifier(Some($name));
        }

        impl Encode for $type {
            fn encode_with_tag_and_constraints<'b, E: Encoder<'b>>(
                &self,
                encoder: &mut E,
                tag: Tag,
                constraints: &Constraints,
                identifier: Identifier,
            ) -> Result<(), E::Error> {
                let $value = self;
                encoder.encode_octet_string(tag, constraints, $write, identifier)?;
                Ok(())
            }
        }

        impl Decode for $type {
            fn decode_with_tag_and_constraints<D: Decoder>(
                decoder: &mut D,
                tag: Tag,
                constraints: &Constraints,
            ) -> Result<Self, D::Error> {
                let codec = decoder.codec();
                let $bytes: Vec<u8> = decoder.decode_octet_string(tag, constraints)?;
                let value: Option<$type> = $read;
                value.ok_or_else(|| D::Error::custom(concat!("bad ", $name), codec))
            }
        }
    };
}

as_bytes!(
    Text,
    Tag::UTF8_STRING,
    "UTF8String",
    |text| &text.0,
    |bytes| { Some(Text(bytes)) }
);
as_bytes!(
    Bytes,
    Tag::OCTET_STRING,
    "OCTET STRING",
    |bytes| &bytes.0,
    |bytes| Some(Bytes(bytes))
);
as_bytes!(
    Int64,
    Tag::OCTET_STRING,
    "number of eight bytes",
    |number| &number.0.to_be_bytes(),
    |bytes| bytes
        .try_into()
        .ok()
        .map(|bytes| Int64(i64::from_be_bytes(bytes)))
);
as_bytes!(
    MacAddress,
    Tag::OCTET_STRING,
    "hardware address",
    |address| &address.0,
    |bytes| bytes.try_into().ok().map(MacAddress)
);
as_bytes!(
    Timestamp,
    Tag::GENERALIZED_TIME,
    "GeneralizedTime",
    |time| &time.text,
    |bytes| Timestamp::parse(&bytes)
);

/// Implements rasn's traits for a number that is written as an INTEGER.
macro_rules! as_integer {
    ($type:ty, $write:expr, $read:expr) => {
        impl AsnType for $type {
            const TAG: Tag = Tag::INTEGER;
            const IDENTIFIER: Identifier = Identifier::INTEGER;
        }

        impl Encode for $type {
            fn encode_with_tag_and_constraints<'b, E: Encoder<'b>>(
                &self,
                encoder: &mut E,
                tag: Tag,
                constraints: &Constraints,
                identifier: Identifier,
            ) -> Result<(), E::Error> {
                let write: fn($type) -> i64 = $write;
                encoder.encode_integer(tag, constraints, &write(*self), identifier)?;
                Ok(())
            }
        }

        impl Decode for $type {
            fn decode_with_tag_and_constraints<D: Decoder>(
                decoder: &mut D,
                tag: Tag,
                constraints: &Constraints,
            ) -> Result<Self, D::Error> {
                let codec = decoder.codec();
                let value: i64 = decoder.decode_integer(tag, constraints)?;
                let read: fn(i64) -> Option<$type> = $read;
                read(value).ok_or_else(|| D::Error::custom("number out of range", codec))
            }
        }
    };
}

as_integer!(Int, |number| number.0, |value| (Int::new(value).0 == value)
    .then_some(Int(value)));
as_integer!(Int32, |number| number.0, |value| (Int::new(value).0
    == value)
    .then_some(Int32(value)));

impl Int32 {
    /// The number as its consumers read it: 32 bits without sign.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "read modulo 2^32 (WIRE 1.4)"
    )]
    pub fn bits(self) -> u32 {
        self.0 as u32
    }
}

impl From<u32> for Int32 {
    fn from(bits: u32) -> Self {
        Self(i64::from(bits.cast_signed()))
    }
}

impl<T: AsnType> AsnType for Set<T> {
    const TAG: Tag = Tag::SET;
    const IDENTIFIER: Identifier = Identifier::SET_OF;
}

impl<T: Encode> Encode for Set<T> {
    fn encode_with_tag_and_constraints<'b, E: Encoder<'b>>(
        &self,
        encoder: &mut E,
        tag: Tag,
        constraints: &Constraints,
        identifier: Identifier,
    ) -> Result<(), E::Error> {
        encoder.encode_sequence_of(tag, &self.0, constraints, identifier)?;
        Ok(())
    }
}

impl<T: Decode> Decode for Set<T> {
    fn decode_with_tag_and_constraints<D: Decoder>(
        decoder: &mut D,
        tag: Tag,
        constraints: &Constraints,
    ) -> Result<Self, D::Error> {
        Ok(Self(decoder.decode_sequence_of(tag, constraints)?))
    }
}
