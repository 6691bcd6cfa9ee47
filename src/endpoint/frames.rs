//! What passes in frames: uploads to a daemon, and a daemon's answers (WIRE 7.3, 9.5). Nothing of it is held whole but
//! the answer to policies.

use std::fmt;

use super::image::{FixedImage, ImageRefusal};
use super::outcome::{Fault, RequestEnd, Verdict};
use crate::chain::Request;
use crate::wire::frame::{FrameError, FramePart, Frames, MAX_CHUNK, MAX_MESSAGE};
use crate::wire::{Message, Payload, Success, Text};

/// An upload: frames of at most [`MAX_CHUNK`] bytes up to an empty one (WIRE 7.3).
#[derive(Debug, Default)]
pub struct RawStream {
    frames: Frames,
    /// What the content must be, where the certificate fixes it.
    fixed: Option<FixedImage>,
    pub(super) ended: bool,
}

/// Why an upload goes no further. Its end is not passed on then, so that nothing comes of it.
#[derive(Debug)]
pub enum UploadError {
    /// It is not cut into frames as it should be.
    Frame(FrameError),
    /// It is not the image that the certificate fixes.
    Image(ImageRefusal),
}

impl RawStream {
    /// The upload that follows this request.
    pub(super) fn of(request: &Request) -> Self {
        let fixed = request
            .image
            .and_then(|digest| FixedImage::of(&request.command, digest));
        Self {
            fixed,
            ..Self::default()
        }
    }

    /// Whether its end has passed.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// How many of `bytes` belong to the upload: all, unless it ends among them.
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

/// What comes from the daemon: the answer to the policies of the chain, which stays here, then what goes on to the client.
#[derive(Debug)]
pub struct Answers {
    /// Whether the policies are not answered yet.
    pub(super) awaits_chain: bool,
    /// The paths whose policy was not set because of a newer certificate's.
    pub(super) kept: Vec<Text>,
    /// The answer to the policies, as far as it has arrived.
    held: Vec<u8>,
    pub(super) frames: Frames,
    /// The first bytes of the first frame for the client, from which its kind is told.
    head: Vec<u8>,
    pub(super) verdict: Option<Verdict>,
    /// Frames that were passed on completely.
    pub(super) passed_on: usize,
    /// Nothing more is to be passed on.
    pub(super) complete: bool,
}

impl Answers {
    /// Longer headers than fit into this many bytes occur in no sane name.
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

    /// Appends to `out` what is for the client. With `single` that is one frame, otherwise all.
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
                    // No daemon ends its answers so. The client may be told nothing or everything after it.
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

    /// What the answer for the client says, as far as it can be told.
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
                    Ok(_) => Err(wrong("the supervisor's answer is no answer")),
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

/// The kind of an answer by the tag after its header (WIRE 4): `SEQUENCE { SEQUENCE header, [n] payload }`.
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
    fn the_answer_to_policies_stays_here_and_the_last_one_is_passed_on_as_it_is() {
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
    fn a_refused_chain_ends_it_with_the_daemons_words() {
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
    fn the_kind_of_an_answer_is_told_from_its_head() {
        assert_eq!(kind_of(&success()[4..]), Some(Verdict::Success));
        let failed = answer(Payload::Failure("x".repeat(300).as_str().into()));
        assert_eq!(kind_of(&failed[4..]), Some(Verdict::Failure));
        for end in 0..20 {
            assert_eq!(kind_of(&failed[4..4 + end]), None);
        }
        assert_eq!(kind_of(b"\x30\x80\x30\x80"), None);
    }
}
