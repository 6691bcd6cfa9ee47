//! Frames that are passed on: uploads to a daemon, and its answers (WIRE 7.3, 9.5). Only the answer to the policies is
//! held as a whole.

use std::error::Error;
use std::fmt;

use super::image::{FixedImage, ImageRefusal};
use super::outcome::{Fault, RequestEnd, Verdict};
use crate::chain::Request;
use crate::wire::frame::{FrameError, FramePart, Frames, MAX_CHUNK, MAX_MESSAGE};
use crate::wire::{Message, Payload, Success, Text};

/// Upload: frames of at most [`MAX_CHUNK`] bytes up to an empty one (WIRE 7.3).
#[derive(Debug, Default)]
pub struct RawStream {
    frames: Frames,
    /// Image that the certificate fixes, if any.
    fixed: Option<FixedImage>,
    pub(super) ended: bool,
}

/// Reason why an upload is aborted. Its end is not passed on, so that the daemon discards it.
#[derive(Debug)]
pub enum UploadError {
    /// The framing is invalid.
    Frame(FrameError),
    /// The image is not the one that the certificate fixes.
    Image(ImageRefusal),
}

impl RawStream {
    /// Upload that follows this request.
    pub(super) fn of(request: &Request) -> Self {
        let fixed = request
            .image
            .and_then(|digest| FixedImage::of(&request.command, digest));
        Self {
            fixed,
            ..Self::default()
        }
    }

    /// Whether the upload has ended.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Number of `bytes` that belong to the upload: all, unless it ends among them.
    ///
    /// # Errors
    /// When the framing is invalid, or the image is not the one that the certificate fixes.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<usize, UploadError> {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            match self.frames.next(rest) {
                FramePart::Content(count, _) => {
                    if let Some(fixed) = &mut self.fixed {
                        fixed.pass(rest.get(..count).unwrap_or_default())?;
                    }
                    taken += count;
                }
                FramePart::Part(count) => taken += count,
                FramePart::Prefix(count, 0) => {
                    if let Some(fixed) = self.fixed.take() {
                        fixed.finish()?;
                    }
                    self.ended = true;
                    return Ok(taken + count);
                }
                FramePart::Prefix(count, announced) => {
                    let announced = announced as usize;
                    if announced > MAX_CHUNK {
                        let error = FrameError::TooLong(announced, MAX_CHUNK);
                        return Err(UploadError::Frame(error));
                    }
                    taken += count;
                }
            }
        }
        Ok(taken)
    }
}

impl Error for UploadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Frame(error) => Some(error),
            Self::Image(error) => Some(error),
        }
    }
}

impl From<ImageRefusal> for UploadError {
    fn from(error: ImageRefusal) -> Self {
        Self::Image(error)
    }
}

impl fmt::Display for UploadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => write!(f, "upload refused: {error}"),
            Self::Image(error) => error.fmt(f),
        }
    }
}

/// Answers of a daemon: first that to the policies of the chain, which is not passed on, then those for the client.
#[derive(Debug)]
pub struct Answers {
    /// Whether the answer to the policies is still missing.
    pub(super) awaits_chain: bool,
    /// Paths that keep the policy of a newer certificate.
    pub(super) kept: Vec<Text>,
    /// Part of the answer to the policies that has arrived.
    held: Vec<u8>,
    pub(super) frames: Frames,
    /// First bytes of the first frame for the client, which tell its kind.
    head: Vec<u8>,
    pub(super) verdict: Option<Verdict>,
    /// Number of frames that were passed on completely.
    pub(super) passed_on: usize,
    /// Whether everything was passed on.
    pub(super) complete: bool,
}

impl Answers {
    /// Maximum size of a header that is examined, in bytes. Longer ones do not occur.
    const HEAD: usize = 1 << 10;

    /// Answers to a request alone.
    pub fn to_request() -> Self {
        Self {
            awaits_chain: false,
            kept: Vec::new(),
            held: Vec::new(),
            frames: Frames::default(),
            head: Vec::new(),
            verdict: None,
            passed_on: 0,
            complete: false,
        }
    }

    /// Answers to the policies of a chain, and then to a request.
    pub fn to_chain_and_request() -> Self {
        Self {
            awaits_chain: true,
            ..Self::to_request()
        }
    }

    /// Appends to `out` the frames for the client: with `single` one, otherwise all.
    ///
    /// # Errors
    /// When the policies were refused, or the daemon broke the protocol.
    pub fn pass(
        &mut self,
        bytes: &[u8],
        single: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), RequestEnd> {
        let mut rest = bytes;
        while !rest.is_empty() && !self.complete {
            let passed = self.frames.next(rest);
            let (FramePart::Content(count, _)
            | FramePart::Prefix(count, _)
            | FramePart::Part(count)) = passed;
            let (front, back) = rest.split_at(count);
            rest = back;
            if self.awaits_chain {
                self.hold(&passed, front)?;
                continue;
            }
            match passed {
                FramePart::Prefix(_, announced) if !self.frames.is_inside() => {
                    // No daemon sends such a frame, and the client could take it for the end.
                    let reason = format!(
                        "an unexpected frame of length {announced:#x} arrived from the daemon"
                    );
                    return Err(RequestEnd::Failure(Fault::Host, reason));
                }
                FramePart::Part(_) => {}
                FramePart::Prefix(..) => out.extend_from_slice(&self.frames.prefix()),
                FramePart::Content(_, last) => {
                    out.extend_from_slice(front);
                    self.look_at(front);
                    if last {
                        self.passed_on += 1;
                        self.complete = single;
                    }
                }
            }
        }
        Ok(())
    }

    /// Result that the answer for the client reports, if it is known.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    fn hold(&mut self, passed: &FramePart, bytes: &[u8]) -> Result<(), RequestEnd> {
        let refused = |fault, text: &str| {
            RequestEnd::Failure(
                fault,
                format!("the policies of the certificates were refused: {text}"),
            )
        };
        let wrong = |text: &str| refused(Fault::Host, text);
        match passed {
            FramePart::Prefix(_, announced) => {
                let fits = (1..=MAX_MESSAGE).contains(&(*announced as usize));
                fits.then_some(())
                    .ok_or_else(|| wrong("the supervisor's answer is too long"))
            }
            FramePart::Part(_) => Ok(()),
            FramePart::Content(_, last) => {
                self.held.extend_from_slice(bytes);
                if !last {
                    return Ok(());
                }
                let answer = Message::decode(&std::mem::take(&mut self.held));
                match answer.map(|message| message.payload) {
                    Ok(Payload::Reply(success)) => {
                        if let Success::ChainSet(kept) = success {
                            self.kept = kept;
                        }
                        self.awaits_chain = false;
                        Ok(())
                    }
                    Ok(Payload::Failure(text)) => Err(refused(Fault::Request, &text.to_lossy())),
                    Ok(_) => Err(wrong("the supervisor sent another message than an answer")),
                    Err(error) => Err(wrong(&error.to_string())),
                }
            }
        }
    }

    fn look_at(&mut self, bytes: &[u8]) {
        if self.passed_on > 0 || self.verdict.is_some() || self.head.len() >= Self::HEAD {
            return;
        }
        self.head
            .extend(bytes.iter().take(Self::HEAD - self.head.len()));
        self.verdict = kind_of(&self.head);
    }
}

/// Result that an answer reports, by the tag after its header (WIRE 4): `SEQUENCE { SEQUENCE header, [n] payload }`.
fn kind_of(head: &[u8]) -> Option<Verdict> {
    let (0x30, _, message) = element(head)? else {
        return None;
    };
    let (0x30, length, header) = element(message)? else {
        return None;
    };
    match header.get(length?)? {
        0xa1 | 0xa3 => Some(Verdict::Success),
        0xa2 => Some(Verdict::Failure),
        _ => None,
    }
}

/// Tag, length and what follows them of a DER element with a one-byte tag.
fn element(bytes: &[u8]) -> Option<(u8, Option<usize>, &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    match first {
        0..=0x7f => Some((*tag, Some(usize::from(*first)), rest)),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = length
                .iter()
                .fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
            Some((*tag, Some(length), rest))
        }
        _ => Some((*tag, None, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Header, Int, Int64, VERSION, frame};

    fn answer(payload: Payload) -> Vec<u8> {
        let header = Header {
            version: Int::new(VERSION),
            sequence: Int64(0),
            name: "a:b".into(),
        };
        frame::frame(&Message::answer(header, payload).encode().unwrap()).unwrap()
    }

    fn success() -> Vec<u8> {
        answer(Payload::Reply(Success::String("done".into())))
    }

    #[test]
    fn an_upload_ends_at_the_empty_frame_wherever_it_is_cut() {
        let stream = b"\0\0\0\x03abc\0\0\0\x01x\0\0\0\0more";
        for size in 1..stream.len() {
            let mut upload = RawStream::default();
            let mut taken = 0;
            for piece in stream.chunks(size) {
                taken += upload.scan(piece).unwrap();
                if upload.ended {
                    break;
                }
            }
            assert!(upload.ended);
            assert_eq!(taken, stream.len() - 4, "cut every {size}");
        }
    }

    #[test]
    fn a_chunk_over_the_limit_is_refused_with_its_prefix() {
        let mut upload = RawStream::default();
        assert!(upload.scan(&[0, 1, 0, 0, b'x']).is_ok());
        for prefix in [[0, 1, 0, 1], [0x80, 0, 0, 0], [0xff; 4]] {
            assert!(RawStream::default().scan(&prefix).is_err(), "{prefix:?}");
        }
    }

    #[test]
    fn the_answer_to_policies_is_not_passed_on_and_the_next_one_is() {
        let kept = answer(Payload::Reply(Success::ChainSet(vec!["a:".into()])));
        let bytes = [kept, success(), b"junk".to_vec()].concat();
        for size in 1..bytes.len() {
            let mut answers = Answers::to_chain_and_request();
            let mut out = Vec::new();
            for piece in bytes.chunks(size) {
                answers.pass(piece, true, &mut out).unwrap();
            }
            assert_eq!(out, success(), "cut every {size}");
            assert!(answers.complete);
            assert_eq!(answers.kept, ["a:".into()]);
            assert_eq!(answers.verdict, Some(Verdict::Success));
        }
    }

    #[test]
    fn refused_policies_end_the_request_with_the_reason_of_the_daemon() {
        let bytes = answer(Payload::Failure("too large".into()));
        let mut out = Vec::new();
        let mut answers = Answers::to_chain_and_request();
        let Err(RequestEnd::Failure(Fault::Request, text)) = answers.pass(&bytes, true, &mut out)
        else {
            panic!("accepted");
        };
        assert!(text.contains("too large"), "{text}");
        assert!(out.is_empty());
    }

    #[test]
    fn the_result_of_an_answer_is_known_from_its_head() {
        assert_eq!(kind_of(&success()[4..]), Some(Verdict::Success));
        let failed = answer(Payload::Failure("x".repeat(300).as_str().into()));
        assert_eq!(kind_of(&failed[4..]), Some(Verdict::Failure));
        for end in 0..20 {
            assert_eq!(kind_of(&failed[4..4 + end]), None);
        }
        assert_eq!(kind_of(b"\x30\x80\x30\x80"), None);
    }
}
