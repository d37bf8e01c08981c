//! After the handshake: bytes to batches of messages, and frames to wire bytes.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::{
    Command, ZmtpError,
    command::{self, PING_CONTEXT_LEN_MAX},
    curve::{MessageOpener, MessageSealer},
    frame::{self, COMMAND, Header, MORE},
};

/// What a peer may make us hold at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderLimits {
    /// Bytes of one message, all its frames and their headers; more closes the connection.
    pub message_len_max: usize,
    /// Frames of one message; more closes the connection.
    pub frames_max: usize,
}

impl DecoderLimits {
    /// 64 MiB and 2²⁰ frames: a list of a million topics fits.
    pub const STANDARD: Self = Self { message_len_max: 64 << 20, frames_max: 1 << 20 };
}

/// Where a frame's body lies in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    start: u32,
    len: u32,
    /// Whether it is the last of its message.
    pub last: bool,
}

impl Frame {
    /// The place of the body in [`Batch::bytes`].
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// Whole messages that came in one read. Payloads are taken out as slices, without copying.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The frames of all messages, in order.
    pub frames: Vec<Frame>,
    /// What the frames point into.
    pub bytes: Bytes,
    /// How much memory a slice of it keeps alive.
    pub pins: usize,
}

impl Batch {
    /// The messages, each as its frames.
    pub fn messages(&self) -> impl Iterator<Item = &[Frame]> {
        self.frames.split_inclusive(|frame| frame.last)
    }

    /// A frame's body.
    pub fn body(&self, frame: &Frame) -> &[u8] {
        &self.bytes[frame.range()]
    }
}

/// A peer's connection, inwards.
#[derive(Debug)]
pub struct Decoder {
    limits: DecoderLimits,
    opener: Option<MessageOpener>,
    /// Bytes at the front of the buffer that are frames of a message that is not whole yet, not to be read again.
    scanned: usize,
    /// Their frames.
    partial: Vec<Frame>,
    /// Opened frames of a message that is not whole yet, when encrypted.
    plain: BytesMut,
    replies: BytesMut,
    pongs: u64,
}

impl Decoder {
    pub(super) fn new(limits: DecoderLimits, opener: Option<MessageOpener>) -> Self {
        let (partial, plain, replies) = Default::default();
        Self { limits, opener, scanned: 0, partial, plain, replies, pongs: 0 }
    }

    /// A decoder without encryption, as after a NULL handshake.
    pub fn plain(limits: DecoderLimits) -> Self {
        Self::new(limits, None)
    }

    /// Takes all whole messages off the buffer. What is left there is the beginning of the next.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Batch, ZmtpError> {
        match self.opener.is_some() {
            false => self.decode_plain(buffer),
            true => self.decode_sealed(buffer),
        }
    }

    /// How many more bytes the buffer needs before [`decode`](Self::decode) can get further; 0 if not known.
    pub fn bytes_wanted(&self, buffer: &[u8]) -> usize {
        match Header::read(buffer.get(self.scanned..).unwrap_or_default()) {
            Ok(Some(header)) => {
                let whole = (self.scanned as u64 + header.header_len as u64).saturating_add(header.body_len);
                whole.saturating_sub(buffer.len() as u64).min(self.limits.message_len_max as u64) as usize
            }
            _ => 0,
        }
    }

    /// Bytes that it holds of a message that is not whole yet, beside what is left in the buffer.
    pub fn held_bytes(&self) -> usize {
        self.plain.len() + self.partial.len() * size_of::<Frame>()
    }

    /// Commands to send back: PONGs.
    pub fn take_replies(&mut self) -> Option<Bytes> {
        (!self.replies.is_empty()).then(|| self.replies.split().freeze())
    }

    /// How many PONGs have come.
    pub fn pongs(&self) -> u64 {
        self.pongs
    }

    fn decode_plain(&mut self, buffer: &mut BytesMut) -> Result<Batch, ZmtpError> {
        let mut frames = std::mem::take(&mut self.partial);
        let mut whole_frames = 0;
        let mut whole_bytes = 0;
        let mut at = self.scanned;
        while let Some(header) = Header::read(&buffer[at..])? {
            // A length that was made up can be anything.
            let len = ((at - whole_bytes + header.header_len) as u64).saturating_add(header.body_len);
            self.check(len, frames.len() - whole_frames)?;
            let start = at + header.header_len;
            let end = start + header.body_len as usize;
            if buffer.len() < end {
                break;
            }
            at = end;
            if header.flags & COMMAND != 0 {
                // Between the frames of a message a command may stand too; it belongs to none.
                let body = &buffer[start..end];
                handle_command(body, &mut self.replies, &mut self.pongs)?;
                if frames.len() == whole_frames {
                    whole_bytes = at;
                }
                continue;
            }
            let last = header.flags & MORE == 0;
            frames.push(Frame { start: start as u32, len: header.body_len as u32, last });
            if last {
                (whole_frames, whole_bytes) = (frames.len(), at);
            }
        }
        self.partial = frames.split_off(whole_frames);
        for frame in &mut self.partial {
            frame.start -= whole_bytes as u32;
        }
        self.scanned = at - whole_bytes;
        let pins = buffer.capacity();
        Ok(Batch { frames, bytes: buffer.split_to(whole_bytes).freeze(), pins })
    }

    fn decode_sealed(&mut self, buffer: &mut BytesMut) -> Result<Batch, ZmtpError> {
        const SEALED: ZmtpError = ZmtpError::Malformed { what: "frame", expected: "a CURVE MESSAGE" };
        let mut frames = std::mem::take(&mut self.partial);
        let mut whole_frames = frames.iter().rposition(|frame| frame.last).map_or(0, |i| i + 1);
        let mut whole_bytes = 0;
        while let Some(header) = Header::read(buffer)? {
            let held = (self.plain.len() - whole_bytes) as u64;
            self.check(held.saturating_add(header.body_len), frames.len() - whole_frames)?;
            if ((buffer.len() - header.header_len) as u64) < header.body_len {
                break;
            }
            let mut sealed = buffer.split_to(header.header_len + header.body_len as usize);
            let Some(opener) = self.opener.as_mut() else { return Err(SEALED) };
            let (flags, body) = opener.open(&mut sealed[header.header_len..])?;
            if flags & COMMAND != 0 {
                handle_command(body, &mut self.replies, &mut self.pongs)?;
                continue;
            }
            let last = flags & MORE == 0;
            frames.push(Frame { start: self.plain.len() as u32, len: body.len() as u32, last });
            self.plain.extend_from_slice(body);
            if last {
                (whole_frames, whole_bytes) = (frames.len(), self.plain.len());
            }
        }
        self.partial = frames.split_off(whole_frames);
        for frame in &mut self.partial {
            frame.start -= whole_bytes as u32;
        }
        let pins = self.plain.capacity();
        Ok(Batch { frames, bytes: self.plain.split_to(whole_bytes).freeze(), pins })
    }

    fn check(&self, len: u64, frames: usize) -> Result<(), ZmtpError> {
        if len > self.limits.message_len_max as u64 {
            return Err(ZmtpError::TooLarge {
                what: "message",
                len,
                max: self.limits.message_len_max as u64,
            });
        }
        if frames >= self.limits.frames_max {
            return Err(ZmtpError::TooManyFrames { max: self.limits.frames_max });
        }
        Ok(())
    }
}

/// Replies to commands at most waiting; a flood of PINGs beyond it is answered in part.
const REPLIES_LEN_MAX: usize = 4096;

fn handle_command(body: &[u8], replies: &mut BytesMut, pongs: &mut u64) -> Result<(), ZmtpError> {
    let command = Command::decode(body)?;
    match command.name {
        b"PING" => {
            let context =
                command.data.get(2..).filter(|context| context.len() <= PING_CONTEXT_LEN_MAX).ok_or(
                    ZmtpError::Malformed {
                        what: "PING",
                        expected: "a time to live and up to 16 bytes of context",
                    },
                )?;
            if replies.len() < REPLIES_LEN_MAX {
                command::put_pong(replies, context);
            }
        }
        b"PONG" => *pongs += 1,
        b"ERROR" => return Err(ZmtpError::Refused { reason: command.error_reason() }),
        // SUBSCRIBE and CANCEL of other socket types, and whatever comes later: nothing to us.
        _ => {}
    }
    Ok(())
}

/// A peer's connection, outwards: turns whole frames into what goes on the wire.
#[derive(Debug)]
pub struct Encoder {
    sealer: Option<MessageSealer>,
}

impl Encoder {
    pub(super) fn new(sealer: Option<MessageSealer>) -> Self {
        Self { sealer }
    }

    /// An encoder without encryption.
    pub fn plain() -> Self {
        Self { sealer: None }
    }

    /// Whether each segment given to [`encode`](Self::encode) must hold whole frames.
    pub fn is_sealed(&self) -> bool {
        self.sealer.is_some()
    }

    /// Turns a segment of frames into wire bytes. Without encryption it is given back as it is.
    pub fn encode(&mut self, frames: Bytes) -> Bytes {
        let Some(sealer) = &mut self.sealer else { return frames };
        let mut out = BytesMut::with_capacity(frames.len() + frames.len() / 8 + 256);
        let mut rest = &frames[..];
        while let Ok(Some(header)) = Header::read(rest) {
            let end = header.header_len + header.body_len as usize;
            let Some(body) = rest.get(header.header_len..end) else { break };
            sealer.seal(header.flags, body, &mut out);
            rest = &rest[end..];
        }
        out.freeze()
    }

    /// Writes a PING frame.
    pub fn ping(ttl_deciseconds: u16) -> Bytes {
        let mut out = BytesMut::new();
        command::put_ping(&mut out, ttl_deciseconds, b"");
        out.freeze()
    }
}

/// Writes a message of the given frames.
pub fn put_message(out: &mut BytesMut, frames: &[&[u8]]) {
    for (i, body) in frames.iter().enumerate() {
        frame::put_frame(out, if i + 1 < frames.len() { MORE } else { 0 }, body);
    }
}
