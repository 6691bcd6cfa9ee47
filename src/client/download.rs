//! Receiving an image: it arrives inside one message, which may be larger than memory should hold.

use std::io::Read;

use super::conversation::{MAX_ANSWER, receive_error};
use super::display::Output;
use super::error::ClientError;
use super::progress::Progress;
use super::stored::StoredFile;
use crate::wire::frame::{FrameError, length, read_prefix};
use crate::wire::{Header, Message, VERSION, domain};

/// Most bytes before the image: the header, with any sensible name, and the beginnings of the records around.
pub const MAX_HEAD: usize = 1 << 12;

/// Most bytes of an image, inflated: what fits into a frame as it is.
pub const MAX_STORED_IMAGE: u64 = 1 << 31;

/// Bytes copied at once.
const PIECE: usize = 1 << 16;

/// What a `get` was answered with.
pub(super) enum Download {
    /// The image is in a file, and this was said.
    Stored,
    /// Some other message.
    Message(Box<Message>),
}

/// Reads the answer to `get`, and stores the image in the download directory. `None`: there is no answer.
pub(super) fn receive(
    reader: &mut impl Read,
    output: &mut Output,
) -> Result<Option<Download>, ClientError> {
    let prefix = read_prefix(reader).map_err(receive_error)?;
    let Some(total) = prefix.and_then(length) else {
        return Ok(None);
    };
    let mut frame = reader.take(total as u64);
    let mut bytes = Vec::new();
    read_up_to(&mut frame, MAX_HEAD, &mut bytes)?;
    let Some(head) = Head::read(&bytes, total) else {
        if total > MAX_ANSWER {
            return Err(ClientError::Receive(FrameError::TooLong(total, MAX_ANSWER)));
        }
        read_up_to(&mut frame, total, &mut bytes)?;
        if bytes.len() < total {
            return Err(ClientError::Receive(FrameError::Truncated));
        }
        let message = Message::decode(&bytes).map_err(ClientError::Answer)?;
        return Ok(Some(Download::Message(Box::new(message))));
    };
    let name = domain::name(&head.header.name)
        .map_err(|_| ClientError::Unexpected("the name in it is none"))?;
    let mut file = StoredFile::create(&name, head.compressed, MAX_STORED_IMAGE, output)?;
    let mut rest = bytes[head.image_start..].chain(frame);
    let mut missing = total - head.image_start;
    let mut piece = Vec::with_capacity(PIECE);
    let mut progress = Progress::new(Some(missing as u64));
    while missing > 0 {
        piece.clear();
        read_up_to(&mut rest, PIECE.min(missing), &mut piece)?;
        if piece.is_empty() {
            return Err(ClientError::Receive(FrameError::Truncated));
        }
        file.push(&piece)?;
        missing -= piece.len();
        progress.advance(piece.len());
    }
    drop(progress);
    let received = (total - head.image_start) as u64;
    let path = file.keep()?;
    output.stored(
        &head.header.name,
        head.content,
        head.compressed,
        received,
        &path,
    )?;
    Ok(Some(Download::Stored))
}

fn read_up_to(
    reader: &mut impl Read,
    total: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), ClientError> {
    let missing = total.saturating_sub(bytes.len()) as u64;
    reader
        .take(missing)
        .read_to_end(bytes)
        .map(|_| ())
        .map_err(|error| receive_error(error.into()))
}

/// The beginning of a message with an image, as far as the image itself.
pub struct Head {
    /// The message's header.
    pub header: Header,
    /// What it is an image of.
    pub content: &'static str,
    /// Whether it is a zlib stream.
    pub compressed: bool,
    /// Where the image begins; it goes to the end of the message.
    pub image_start: usize,
}

impl Head {
    /// Reads the records around an image, each of which must end where the message ends, after `total` bytes.
    pub fn read(bytes: &[u8], total: usize) -> Option<Self> {
        const SEQUENCE: u8 = 0x30;
        const REPLY: u8 = 0xa1;
        const IMAGES: [(u8, &str); 2] = [(0xa6, "image"), (0xa7, "block device image")];
        const OCTET_STRING: u8 = 0x04;

        let to_the_end = |position, tag| {
            let (start, length) = element(bytes, position, tag)?;
            (start.checked_add(length)? == total).then_some(start)
        };
        let header_start = to_the_end(0, SEQUENCE)?;
        let (start, length) = element(bytes, header_start, SEQUENCE)?;
        let header_end = start.checked_add(length)?;
        let header: Header = rasn::der::decode(bytes.get(header_start..header_end)?).ok()?;
        let reply = to_the_end(header_end, REPLY)?;
        let (image, content) = IMAGES
            .into_iter()
            .find_map(|(tag, content)| Some((to_the_end(reply, tag)?, content)))?;
        let flag = to_the_end(image, SEQUENCE)?;
        let compressed = match bytes.get(flag..flag + 3)? {
            [1, 1, 0] => false,
            [1, 1, 0xff] => true,
            _ => return None,
        };
        (header.version.get() == VERSION).then_some(())?;
        Some(Self {
            header,
            content,
            compressed,
            image_start: to_the_end(flag + 3, OCTET_STRING)?,
        })
    }
}

/// Where the content of the element at `position` begins, and its length.
fn element(bytes: &[u8], position: usize, tag: u8) -> Option<(usize, usize)> {
    let rest = bytes.get(position..)?;
    let (first, rest) = rest.split_first()?;
    let (short, rest) = rest.split_first()?;
    (*first == tag).then_some(())?;
    if *short < 0x80 {
        return Some((position + 2, usize::from(*short)));
    }
    let count = usize::from(short & 0x7f);
    let digits = rest.get(..count).filter(|_| (1..=4).contains(&count))?;
    let length = digits
        .iter()
        .fold(0_u64, |length, digit| length << 8 | u64::from(*digit));
    Some((position + 2 + count, usize::try_from(length).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Bytes, Image, Payload, Success};

    fn message(image: &[u8], compressed: bool) -> Vec<u8> {
        let name = "foo:bar".parse().unwrap();
        let command = crate::wire::Command::Unikernel(crate::wire::UnikernelCommand::Info(()));
        let header = Message::command(0, &name, command).header;
        let image = Image {
            compressed,
            image: Bytes(image.to_vec()),
        };
        Message::answer(header, Payload::Reply(Success::UnikernelImage(image)))
            .encode()
            .unwrap()
    }

    #[test]
    fn an_image_is_found_at_the_end_of_its_message() {
        for size in [0, 1, 100, 127, 128, 255, 256, 65_536, 1 << 20] {
            let image = vec![7; size];
            let bytes = message(&image, true);
            let head = Head::read(&bytes[..bytes.len().min(MAX_HEAD)], bytes.len()).unwrap();
            assert!(head.compressed);
            assert_eq!(&bytes[head.image_start..], &image[..]);
            assert_eq!(head.header.name.to_lossy(), "foo:bar");
        }
    }

    #[test]
    fn lengths_that_do_not_fit_each_other_are_refused() {
        let bytes = message(&[7; 300], false);
        for position in 0..bytes.len() - 300 {
            let mut changed = bytes.clone();
            changed[position] = changed[position].wrapping_add(1);
            let same = Head::read(&changed, changed.len())
                .is_none_or(|head| head.image_start == bytes.len() - 300);
            assert!(same, "byte {position}");
        }
        assert!(Head::read(&bytes, bytes.len() + 1).is_none());
        for end in 0..bytes.len() - 300 {
            assert!(Head::read(&bytes[..end], bytes.len()).is_none());
        }
    }
}
