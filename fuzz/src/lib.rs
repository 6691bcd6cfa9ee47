//! What is asserted of every decoder, whatever it is given: a body for each fuzz target, and [`seeds`] for it.
//!
//! A body returns whether the input was accepted, so that a test can tell seeds that reach nothing.
#![allow(clippy::unwrap_used)]

pub mod seeds;

use std::io::Cursor;

use petrel::authority::Request;
use petrel::chain::crl::Crl;
use petrel::chain::{
    image_extension_value, is_followed_by_stream, read_image_extension, request, route,
};
use petrel::client::{Head, MAX_HEAD};
use petrel::console::lines::{MAX_LINE, Splitter, TRUNCATED};
use petrel::console::ring::{History, Item, Moment, Ring};
use petrel::endpoint::{Answers, RawStream, Verdict, read_lists};
use petrel::inflate::{Arriving, InflateError};
use petrel::manifest::Manifest;
use petrel::name::{Label, Name, Path};
use petrel::policy::Policy;
use petrel::private_key::ecdsa_with_public_key;
use petrel::unikernel::Config;
use petrel::wire::frame::{FrameBuffer, FrameError, MAX_CHUNK, Next, frame, read_frame};
use petrel::wire::state::{State, albatross};
use petrel::wire::{
    CertExtension, Command, Message, Payload, PolicyCommand, Success, UnikernelCommand, domain,
};
use time::OffsetDateTime;

/// A body: takes bytes, panics where a promise is broken, and tells whether they were accepted.
pub type Body = fn(&[u8]) -> bool;

/// Every target and its body.
pub const TARGETS: [(&str, Body); 19] = [
    ("answers", answers),
    ("chain", chain),
    ("console", console),
    ("download", download),
    ("ecdsa_key", ecdsa_key),
    ("extension", extension),
    ("frame", frames),
    ("image_extension", image_extension),
    ("inflate", inflate),
    ("manifest", manifest),
    ("message", message),
    ("name", name),
    ("request", signing_request),
    ("revocation_file", revocation_file),
    ("crl", crl),
    ("show", show),
    ("state", state),
    ("state_albatross", state_albatross),
    ("upload", upload),
];

/// A message is read, and what is written of it is read as the same; numbers and names are looked at as petreld does.
pub fn message(bytes: &[u8]) -> bool {
    let Ok(message) = Message::decode(bytes) else {
        return false;
    };
    let written = message.encode().unwrap();
    assert_eq!(Message::decode(&written).as_ref(), Ok(&message));
    if let Ok(name) = domain::name(&message.header.name) {
        assert_eq!(name.to_string().parse(), Ok(name));
    }
    if let Payload::Command(command) = &message.payload {
        look_at(command);
    }
    true
}

/// The value of a certificate extension, likewise.
pub fn extension(bytes: &[u8]) -> bool {
    let Ok(extension) = CertExtension::decode(bytes) else {
        return false;
    };
    let written = extension.encode().unwrap();
    assert_eq!(CertExtension::decode(&written).as_ref(), Ok(&extension));
    look_at(&extension.command);
    true
}

fn look_at(command: &Command) {
    let _ = (route(command), is_followed_by_stream(command));
    match command {
        Command::Policy(PolicyCommand::Add(policy)) => {
            if let Ok(policy) = Policy::try_from(policy) {
                let record = petrel::wire::Policy::from(&policy);
                assert_eq!(Policy::try_from(&record), Ok(policy));
            }
        }
        Command::Unikernel(
            UnikernelCommand::Create(record) | UnikernelCommand::ForceCreate(record),
        ) => {
            if let Ok(config) = Config::try_from(record) {
                let mut record = config.to_wire(record.compressed, record.image.0.clone());
                let read = Config::try_from(&record).unwrap();
                record = read.to_wire(record.compressed, record.image.0);
                assert_eq!(Config::try_from(&record), Ok(read));
            }
        }
        _ => {}
    }
}

/// Our own state file: what is read is written and read again as the same.
pub fn state(bytes: &[u8]) -> bool {
    let Ok(state) = State::decode(bytes) else {
        return false;
    };
    let written = state.encode().unwrap();
    assert_eq!(State::decode(&written).as_ref(), Ok(&state));
    true
}

/// A state file of albatross: what is read is written in one form only.
pub fn state_albatross(bytes: &[u8]) -> bool {
    let Ok(state) = albatross::State::decode(bytes) else {
        return false;
    };
    let written = state.encode().unwrap();
    let read = albatross::State::decode(&written).unwrap();
    assert_eq!(read.encode().unwrap(), written);
    let entries = state.unikernels().count() + state.policies().count();
    let import = state.import();
    let taken = import.unikernels.len() + import.policies.len();
    assert_eq!(taken + import.refused.len(), entries);
    true
}

/// Frames are the same whether they are read from a stream or cut out of pieces of any size, and none is larger than
/// allowed. The first byte chooses the size of the pieces.
pub fn frames(bytes: &[u8]) -> bool {
    const LIMIT: usize = 1 << 12;
    let Some((size, bytes)) = bytes.split_first() else {
        return false;
    };
    let mut whole = Vec::new();
    let mut reader = bytes;
    let refused = loop {
        match read_frame(&mut reader, LIMIT) {
            Ok(Some(content)) => whole.push(content),
            Ok(None) => break false,
            Err(FrameError::TooLong(announced, limit)) => {
                assert!(announced > limit && limit == LIMIT);
                break true;
            }
            Err(_) => break false,
        }
    };
    let mut cut = Vec::new();
    let mut buffer = FrameBuffer::default();
    'pieces: for piece in bytes.chunks(usize::from(*size).max(1)) {
        buffer.push(piece);
        loop {
            match buffer.next(LIMIT) {
                Ok(Some(Next::Frame(content))) => cut.push(content),
                Ok(Some(Next::End)) => {
                    assert!(!refused);
                    break 'pieces;
                }
                Ok(None) => break,
                Err(_) => {
                    assert!(refused);
                    break 'pieces;
                }
            }
        }
    }
    assert_eq!(whole, cut);
    let rest: Vec<u8> = whole.iter().flat_map(|one| frame(one).unwrap()).collect();
    assert!(bytes.starts_with(&rest));
    !whole.is_empty()
}

/// A text is a name, path or label in one canonical form only.
pub fn name(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let name: Option<Name> = text.parse().ok();
    if let Some(name) = &name {
        assert_eq!(name.to_string().parse().as_ref(), Ok(name));
        assert_eq!(name.relative_to(name.path()).unwrap().label(), name.label());
        assert!(name.path().is_within(&Path::ROOT));
    }
    let path: Option<Path> = text.parse().ok();
    if let Some(path) = &path {
        assert_eq!(path.joined().parse().as_ref(), Ok(path));
        assert_eq!(path.to_string().parse(), Ok(Name::from(path.clone())));
    }
    let label: Option<Label> = text.parse().ok();
    if let Some(label) = &label {
        assert!((1..=Label::MAX_BYTES).contains(&label.as_str().len()));
        assert_eq!(label.as_str().parse().as_ref(), Ok(label));
    }
    name.is_some() || path.is_some() || label.is_some()
}

/// Certificates, each in a frame, leaf first: the name that they speak of lies at or below the last policy's path.
pub fn chain(bytes: &[u8]) -> bool {
    let mut reader = bytes;
    let mut certificates = Vec::new();
    while let Ok(Some(certificate)) = read_frame(&mut reader, bytes.len()) {
        certificates.push(certificate);
    }
    let Ok(request) = request(&certificates) else {
        return false;
    };
    let lowest = request.policies.last().map(|(path, _)| path.clone());
    assert!(request.name.path().is_within(&lowest.unwrap_or_default()));
    let below = request.policies.iter().skip(1);
    for ((path, _), (lower, _)) in request.policies.iter().zip(below) {
        assert_eq!(lower.parent().as_ref(), Some(path));
    }
    look_at(&request.command);
    true
}

/// A signing request.
pub fn signing_request(bytes: &[u8]) -> bool {
    Request::parse(bytes).is_ok()
}

/// A CRL.
pub fn crl(bytes: &[u8]) -> bool {
    Crl::read(bytes).is_ok()
}

/// A file of CRLs: the same ones are found if there is text around them.
pub fn revocation_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(lists) = read_lists(text) else {
        return false;
    };
    assert!(!lists.is_empty());
    let more = read_lists(&format!("around\n{text}\n{text}\naround"));
    // Without a line's end between them, the last section and the next one are in one line.
    assert!(more.is_err() || more.is_ok_and(|more| more.len() == 2 * lists.len()));
    true
}

/// An upload ends at the same place wherever it is cut, and that is where its frames end; what it carries is taken and read as
/// petreld does. The first byte chooses the size of the pieces, and whether the content is compressed.
pub fn upload(bytes: &[u8]) -> bool {
    let Some((first, bytes)) = bytes.split_first() else {
        return false;
    };
    let (size, compressed) = (first & 0x7f, first & 0x80 != 0);
    let scan = |size: usize| {
        let mut upload = RawStream::default();
        let mut taken = 0;
        for piece in bytes.chunks(size.max(1)) {
            taken += upload.scan(piece).ok()?;
            if upload.has_ended() {
                break;
            }
        }
        Some((taken, upload.has_ended()))
    };
    let whole = scan(bytes.len());
    assert_eq!(scan(usize::from(size)), whole);
    let Some((taken, ended)) = whole else {
        return false;
    };
    assert!(taken == bytes.len() || ended);
    let mut buffer = FrameBuffer::default();
    buffer.push(&bytes[..taken]);
    let mut pieces = Vec::new();
    while let Ok(Some(next)) = buffer.next(MAX_CHUNK) {
        match next {
            Next::Frame(piece) => pieces.push(piece),
            Next::End => {
                assert!(ended);
                image(&pieces, compressed);
                return true;
            }
        }
    }
    assert!(!ended);
    false
}

/// The content of an upload is the same in its pieces and as a whole, is never larger than allowed, and may have a manifest.
fn image(pieces: &[Vec<u8>], compressed: bool) {
    const LIMIT: u64 = 1 << 18;
    let arrive = |pieces: &[Vec<u8>]| {
        let mut arriving = Arriving::new(compressed, LIMIT);
        let mut plain = Vec::new();
        for piece in pieces {
            arriving.write(piece, |more| {
                plain.extend_from_slice(more);
                assert!(plain.len() as u64 <= LIMIT);
                Ok::<_, InflateError>(())
            })?;
        }
        arriving.finish().map(|()| plain)
    };
    let plain = arrive(pieces).ok();
    assert_eq!(arrive(&[pieces.concat()]).ok(), plain);
    if let Some(plain) = plain {
        manifest(&plain);
    }
}

/// A daemon's answers are the same wherever they are cut: that to the policies of a chain stays, whole frames after it pass
/// as they are. The first bytes choose whether policies were sent, and the size of the pieces.
pub fn answers(bytes: &[u8]) -> bool {
    let [policies, size, bytes @ ..] = bytes else {
        return false;
    };
    let with_chain = policies % 2 == 1;
    let pass = |size: usize, single: bool| {
        let mut answers = if with_chain {
            Answers::to_chain_and_request()
        } else {
            Answers::to_request()
        };
        let mut out = Vec::new();
        for piece in bytes.chunks(size.max(1)) {
            if answers.pass(piece, single, &mut out).is_err() {
                return None;
            }
        }
        Some((out, answers.verdict()))
    };
    let mut passed = false;
    for single in [true, false] {
        let whole = pass(bytes.len(), single);
        assert_eq!(pass(usize::from(*size), single), whole);
        let Some((out, verdict)) = whole else {
            continue;
        };
        assert!(bytes.windows(out.len().max(1)).any(|part| part == out) || out.is_empty());
        if let Ok(Some(content)) = read_frame(&mut &out[..], bytes.len())
            && let Ok(message) = Message::decode(&content)
            && content.len() < 1 << 10
        {
            let expected = match message.payload {
                Payload::Failure(_) => Some(Verdict::Failure),
                Payload::Reply(_) | Payload::Data(_) => Some(Verdict::Success),
                Payload::Command(_) => None,
            };
            assert_eq!(verdict, expected);
            passed = true;
        }
    }
    passed
}

/// The image in a message is found where the whole message says that it is.
pub fn download(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(MAX_HEAD)];
    let Some(head) = Head::read(head, bytes.len()) else {
        return false;
    };
    if let Ok(message) = Message::decode(bytes) {
        let Payload::Reply(Success::UnikernelImage(image) | Success::OldBlockDeviceImage(image)) =
            message.payload
        else {
            panic!("{:?} has no image", message.payload);
        };
        assert_eq!(message.header, head.header);
        assert_eq!(image.compressed, head.compressed);
        assert_eq!(image.image.0, &bytes[head.image_start..]);
    }
    true
}

/// A key without its public half is the beginning of what is made of it.
pub fn ecdsa_key(bytes: &[u8]) -> bool {
    for public in [&[4; 65][..], &[4; 97]] {
        let Some(completed) = ecdsa_with_public_key(bytes, public) else {
            return false;
        };
        assert!(completed.len() > bytes.len() + public.len());
        assert!(completed.ends_with(public));
    }
    true
}

/// Whatever is in a file that is shown, nothing of it commands the terminal.
pub fn show(bytes: &[u8]) -> bool {
    let Ok(shown) = petrel::show::file(bytes, &[], OffsetDateTime::UNIX_EPOCH) else {
        return false;
    };
    assert!(!shown.contains(|c: char| c.is_control() && c != '\n'));
    true
}

/// The manifest of an image holds no device twice, and every one under its name.
pub fn manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Manifest::read(&mut Cursor::new(bytes)) else {
        return false;
    };
    for device in &manifest.devices {
        assert_eq!(manifest.device(&device.name, device.kind), Some(device));
    }
    true
}

/// Lines are the same wherever the stream is cut, none is longer than allowed, and the ring keeps the newest, whether those
/// before are handed out or passed over. The first bytes choose the size of the pieces, and of the ring.
pub fn console(bytes: &[u8]) -> bool {
    const BYTES: usize = 1 << 12;
    let [size, room, bytes @ ..] = bytes else {
        return false;
    };
    let (size, room) = (usize::from(*size).max(1), usize::from(*room).max(1));
    let split = |size: usize| {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for mut piece in bytes.chunks(size.max(1)) {
            while !piece.is_empty() {
                piece = splitter.push(piece, 7, |line| lines.push(line.to_vec()));
            }
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        lines
    };
    let lines = split(bytes.len());
    assert_eq!(split(size), lines);
    let allowed =
        |line: &Vec<u8>| line.len() <= MAX_LINE + TRUNCATED.len() && !line.contains(&b'\n');
    assert!(lines.iter().all(allowed));

    let mut ring = Ring::new(room, BYTES);
    let mut splitter = Splitter::default();
    let now = Moment::default();
    for piece in bytes.chunks(size) {
        let (rest, passed) = splitter.pass_over(piece, room);
        ring.pass_over(passed);
        splitter.push(rest, usize::MAX, |line| ring.push(now, line));
    }
    splitter.finish(|line| ring.push(now, line));
    assert_eq!(ring.end(), lines.len() as u64);
    let mut reader = ring.reader(History::Count(i64::MAX));
    let mut kept = Vec::new();
    while let Some(Item::Line(line)) = ring.read(&mut reader) {
        kept.push(line.bytes.into_owned());
    }
    assert!(lines.ends_with(&kept) && kept.len() <= room);
    let held: usize = kept.iter().map(Vec::len).sum();
    let next = lines.len().checked_sub(kept.len() + 1);
    let is_full = kept.len() == room || next.is_none_or(|next| held + lines[next].len() > BYTES);
    assert!(held <= BYTES && is_full);
    !lines.is_empty()
}

/// The extension that fixes an image has one form.
pub fn image_extension(bytes: &[u8]) -> bool {
    let Ok(digest) = read_image_extension(bytes) else {
        return false;
    };
    assert_eq!(image_extension_value(&digest), bytes);
    true
}

/// A zlib stream that another reader takes is uncompressed as by that, wherever it is cut, and never beyond a limit. The first byte
/// chooses the size of the pieces.
pub fn inflate(bytes: &[u8]) -> bool {
    const LIMIT: u64 = 1 << 18;
    let Some((size, bytes)) = bytes.split_first() else {
        return false;
    };
    let uncompress = |size: usize| {
        let mut arriving = Arriving::new(true, LIMIT);
        let mut plain = Vec::new();
        for piece in bytes.chunks(size.max(1)) {
            arriving.write(piece, |more| {
                plain.extend_from_slice(more);
                assert!(plain.len() as u64 <= LIMIT);
                Ok::<_, InflateError>(())
            })?;
        }
        arriving.finish().map(|()| plain)
    };
    let plain = uncompress(bytes.len());
    assert_eq!(uncompress(usize::from(*size)).ok(), plain.clone().ok());
    // Another reader may take less: one that sees everything at once knows what lies before the beginning. A checksum
    // would tell both, but none is looked at in a build for fuzzing.
    let mut stream = flate2::Decompress::new(true);
    let mut other = Vec::with_capacity(1 << 18);
    let status = stream.decompress_vec(bytes, &mut other, flate2::FlushDecompress::Finish);
    let is_whole = stream.total_in() == bytes.len() as u64;
    if matches!(status, Ok(flate2::Status::StreamEnd)) && is_whole {
        assert_eq!(plain.as_ref(), Ok(&other));
    }
    plain.is_ok()
}
