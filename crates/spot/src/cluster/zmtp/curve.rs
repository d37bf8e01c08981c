//! CURVE (RFC 26): who a peer is, and that nobody reads or changes what it says.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use dryoc::classic::{
    crypto_box::{
        crypto_box_beforenm, crypto_box_detached_afternm_inplace, crypto_box_open_detached_afternm_inplace,
    },
    crypto_core::crypto_scalarmult_base,
};
use zeroize::Zeroizing;

use super::{Properties, ZmtpError, command::take, frame};

/// A public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CurvePublic(pub [u8; 32]);

/// A secret key. It does not show in debug output.
#[derive(Clone)]
pub struct CurveSecret(pub [u8; 32]);

impl std::fmt::Debug for CurveSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CurveSecret(…)")
    }
}

/// Both keys of a party.
#[derive(Debug, Clone)]
pub struct CurveKeys {
    /// To be known.
    pub public: CurvePublic,
    /// To be kept.
    pub secret: CurveSecret,
}

impl CurveKeys {
    /// The keys that belong to 32 random bytes.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let public = CurvePublic(public_of(&secret));
        Self { public, secret: CurveSecret(secret) }
    }
}

impl CurvePublic {
    /// Reads the 40 characters of Z85 that ZeroMQ's tools show.
    pub fn from_z85(text: &str) -> Option<Self> {
        z85_decode(text).map(Self)
    }

    /// As ZeroMQ's tools show it.
    pub fn to_z85(&self) -> String {
        z85_encode(&self.0)
    }
}

impl CurveSecret {
    /// Reads the 40 characters of Z85 that ZeroMQ's tools show.
    pub fn from_z85(text: &str) -> Option<Self> {
        z85_decode(text).map(Self)
    }
}

const Z85: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

fn z85_encode(bytes: &[u8; 32]) -> String {
    let digits = bytes.as_chunks::<4>().0.iter().flat_map(|chunk| {
        let value = u32::from_be_bytes(*chunk);
        [52_200_625, 614_125, 7_225, 85, 1].map(|place| Z85[(value / place % 85) as usize] as char)
    });
    digits.collect()
}

fn z85_decode(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 40 {
        return None;
    }
    for (digits, place) in text.as_bytes().chunks(5).zip(out.chunks_mut(4)) {
        let value = digits
            .iter()
            .try_fold(0_u64, |value, digit| Some(value * 85 + Z85.iter().position(|z| z == digit)? as u64))?;
        place.copy_from_slice(&u32::try_from(value).ok()?.to_be_bytes());
    }
    Some(out)
}

const MAC_LEN: usize = 16;
/// Bytes that a message grows by: name, nonce, mac and flags.
const MESSAGE_PREFIX: &[u8; 8] = b"\x07MESSAGE";

fn short_nonce(prefix: &[u8; 16], counter: u64) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..16].copy_from_slice(prefix);
    nonce[16..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

fn long_nonce(prefix: &[u8; 8], tail: &[u8]) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(prefix);
    nonce[8..].copy_from_slice(tail);
    nonce
}

/// What two parties share, or one keeps for itself: the key of XSalsa20-Poly1305. Wiped when it is done with.
type Shared = Zeroizing<[u8; 32]>;

fn public_of(secret: &[u8; 32]) -> [u8; 32] {
    let mut public = [0; 32];
    crypto_scalarmult_base(&mut public, secret);
    public
}

/// What our secret key and their public key agree on. An error for the few public keys that agree with everybody's.
fn agree(theirs: &[u8; 32], ours: &[u8; 32], what: &'static str) -> Result<Shared, ZmtpError> {
    crypto_box_beforenm(theirs, ours).map(Zeroizing::new).map_err(|_| ZmtpError::Crypto { what })
}

/// Seals into `mac | ciphertext`.
fn seal(key: &[u8; 32], nonce: &[u8; 24], plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0; MAC_LEN];
    out.extend(plain);
    let mut mac = [0; MAC_LEN];
    crypto_box_detached_afternm_inplace(&mut out[MAC_LEN..], &mut mac, nonce, key);
    out[..MAC_LEN].copy_from_slice(&mac);
    out
}

/// Opens `mac | ciphertext` in place.
fn open<'a>(
    key: &[u8; 32],
    nonce: &[u8; 24],
    sealed: &'a mut [u8],
    what: &'static str,
) -> Result<&'a mut [u8], ZmtpError> {
    let (mac, body) = sealed.split_first_chunk_mut::<MAC_LEN>().ok_or(ZmtpError::Crypto { what })?;
    crypto_box_open_detached_afternm_inplace(body, mac, nonce, key)
        .map_err(|_| ZmtpError::Crypto { what })?;
    Ok(body)
}

/// Opens traffic.
pub struct MessageOpener {
    key: Arc<Shared>,
    prefix: &'static [u8; 16],
    last: u64,
}

/// Seals traffic.
pub struct MessageSealer {
    key: Arc<Shared>,
    prefix: &'static [u8; 16],
    next: u64,
}

impl std::fmt::Debug for MessageOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageOpener").field("last", &self.last).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for MessageSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageSealer").field("next", &self.next).finish_non_exhaustive()
    }
}

const FROM_CLIENT: &[u8; 16] = b"CurveZMQMESSAGEC";
const FROM_SERVER: &[u8; 16] = b"CurveZMQMESSAGES";

impl MessageOpener {
    /// Opens the body of a frame in place: the flags inside, and the body inside.
    pub fn open<'a>(&mut self, body: &'a mut [u8]) -> Result<(u8, &'a [u8]), ZmtpError> {
        const BAD: ZmtpError =
            ZmtpError::Malformed { what: "CURVE MESSAGE", expected: "name, nonce and box" };
        let (head, sealed) = body.split_at_mut_checked(16).ok_or(BAD)?;
        let (name, counter) = head.split_at(8);
        let counter = counter.try_into().map(u64::from_be_bytes).map_err(|_| BAD)?;
        if name != MESSAGE_PREFIX || counter <= self.last {
            return Err(BAD);
        }
        let plain = open(&self.key, &short_nonce(self.prefix, counter), sealed, "MESSAGE")?;
        self.last = counter;
        let (flags, body) = plain.split_first().ok_or(BAD)?;
        // Inside, `more` is 1 and `command` is 2; outside, command is 4.
        Ok((flags & frame::MORE | (flags & 2) << 1, body))
    }
}

impl MessageSealer {
    /// Writes a frame that holds another one, sealed.
    pub fn seal(&mut self, flags: u8, body: &[u8], out: &mut BytesMut) {
        let len = MESSAGE_PREFIX.len() + 8 + MAC_LEN + 1 + body.len();
        out.reserve(frame::HEADER_LEN_MAX + len);
        frame::put_header(out, 0, len);
        out.put_slice(MESSAGE_PREFIX);
        out.put_u64(self.next);
        let mac = out.len();
        out.put_bytes(0, MAC_LEN);
        out.put_u8(flags & frame::MORE | (flags & frame::COMMAND) >> 1);
        out.put_slice(body);
        let nonce = short_nonce(self.prefix, self.next);
        let mut tag = [0; MAC_LEN];
        crypto_box_detached_afternm_inplace(&mut out[mac + MAC_LEN..], &mut tag, &nonce, &self.key);
        out[mac..mac + MAC_LEN].copy_from_slice(&tag);
        self.next += 1;
    }
}

fn traffic(
    key: Shared,
    sealing: &'static [u8; 16],
    opening: &'static [u8; 16],
    next: u64,
    last: u64,
) -> (MessageSealer, MessageOpener) {
    let key = Arc::new(key);
    (MessageSealer { key: key.clone(), prefix: sealing, next }, MessageOpener { key, prefix: opening, last })
}

/// The client's side of a handshake.
pub(super) struct CurveClient {
    pub(super) keys: CurveKeys,
    pub(super) server: CurvePublic,
    pub(super) short: [u8; 32],
    pub(super) vouch_nonce: [u8; 16],
    session: Option<Shared>,
}

impl CurveClient {
    pub(super) fn new(keys: CurveKeys, server: CurvePublic, entropy: &[u8; 64]) -> Self {
        let (mut short, mut vouch_nonce) = ([0; 32], [0; 16]);
        short.copy_from_slice(&entropy[..32]);
        vouch_nonce.copy_from_slice(&entropy[32..48]);
        Self { keys, server, short, vouch_nonce, session: None }
    }

    fn short_public(&self) -> [u8; 32] {
        public_of(&self.short)
    }

    pub(super) fn hello(&self) -> Result<Vec<u8>, ZmtpError> {
        let mut data = vec![1, 0];
        data.extend([0; 72]);
        data.extend(self.short_public());
        data.extend(1_u64.to_be_bytes());
        data.extend(seal(
            &*agree(&self.server.0, &self.short, "HELLO")?,
            &short_nonce(b"CurveZMQHELLO---", 1),
            &[0; 64],
        ));
        Ok(data)
    }

    /// Takes the data of WELCOME, gives the data of INITIATE.
    pub(super) fn initiate(&mut self, welcome: &[u8], properties: &Properties) -> Result<Vec<u8>, ZmtpError> {
        const BAD: ZmtpError =
            ZmtpError::Malformed { what: "WELCOME", expected: "160 bytes of nonce and box" };
        let (nonce, sealed) = welcome.split_at_checked(16).ok_or(BAD)?;
        let mut sealed = sealed.to_vec();
        let nonce = long_nonce(b"WELCOME-", nonce);
        let plain = open(&*agree(&self.server.0, &self.short, "WELCOME")?, &nonce, &mut sealed, "WELCOME")?;
        let (server_short, cookie) = plain.split_first_chunk::<32>().ok_or(BAD)?;
        if cookie.len() != 96 {
            return Err(BAD);
        }
        let session = agree(server_short, &self.short, "WELCOME")?;
        let mut vouched = self.short_public().to_vec();
        vouched.extend(self.server.0);
        let vouch = seal(
            &*agree(server_short, &self.keys.secret.0, "WELCOME")?,
            &long_nonce(b"VOUCH---", &self.vouch_nonce),
            &vouched,
        );
        let mut plain = self.keys.public.0.to_vec();
        plain.extend(self.vouch_nonce);
        plain.extend(vouch);
        let mut encoded = BytesMut::new();
        properties.encode(&mut encoded);
        plain.extend(encoded);

        let mut data = cookie.to_vec();
        data.extend(2_u64.to_be_bytes());
        data.extend(seal(&session, &short_nonce(b"CurveZMQINITIATE", 2), &plain));
        self.session = Some(session);
        Ok(data)
    }

    /// Takes the data of READY.
    pub(super) fn ready(
        &mut self,
        ready: &[u8],
    ) -> Result<(Properties, MessageSealer, MessageOpener), ZmtpError> {
        const BAD: ZmtpError = ZmtpError::Malformed { what: "READY", expected: "a nonce and a box" };
        let (counter, sealed) = ready.split_first_chunk::<8>().ok_or(BAD)?;
        let counter = u64::from_be_bytes(*counter);
        let session = self.session.take().ok_or(BAD)?;
        let mut sealed = sealed.to_vec();
        let plain = open(&session, &short_nonce(b"CurveZMQREADY---", counter), &mut sealed, "READY")?;
        let properties = Properties::decode(plain)?;
        let (sealer, opener) = traffic(session, FROM_CLIENT, FROM_SERVER, 3, counter);
        Ok((properties, sealer, opener))
    }
}

/// The server's side of a handshake.
pub(super) struct CurveServer {
    keys: CurveKeys,
    short: [u8; 32],
    cookie_key: [u8; 32],
    cookie_nonce: [u8; 16],
    welcome_nonce: [u8; 16],
}

/// What INITIATE proved.
pub(super) struct Initiated {
    pub(super) client: CurvePublic,
    pub(super) properties: Properties,
    session: Shared,
    counter: u64,
}

impl CurveServer {
    pub(super) fn new(keys: CurveKeys, entropy: &[u8; 96]) -> Self {
        let mut rest = &entropy[..];
        let mut next = |out: &mut [u8]| {
            let (head, tail) = rest.split_at(out.len());
            out.copy_from_slice(head);
            rest = tail;
        };
        let (mut short, mut cookie_key, mut cookie_nonce, mut welcome_nonce) =
            ([0; 32], [0; 32], [0; 16], [0; 16]);
        next(&mut short);
        next(&mut cookie_key);
        next(&mut cookie_nonce);
        next(&mut welcome_nonce);
        Self { keys, short, cookie_key, cookie_nonce, welcome_nonce }
    }

    /// Takes the data of HELLO, gives the data of WELCOME.
    pub(super) fn welcome(&self, hello: &[u8]) -> Result<Vec<u8>, ZmtpError> {
        const BAD: ZmtpError = ZmtpError::Malformed { what: "HELLO", expected: "194 bytes, version 1.0" };
        let mut rest = hello;
        let version = take(&mut rest, 2).ok_or(BAD)?;
        take(&mut rest, 72).ok_or(BAD)?;
        let client: [u8; 32] = take(&mut rest, 32).and_then(|key| key.try_into().ok()).ok_or(BAD)?;
        let counter =
            take(&mut rest, 8).and_then(|n| n.try_into().ok()).map(u64::from_be_bytes).ok_or(BAD)?;
        if version != [1, 0] || rest.len() != 80 {
            return Err(BAD);
        }
        let with_client = agree(&client, &self.keys.secret.0, "HELLO")?;
        let mut sealed = rest.to_vec();
        open(&with_client, &short_nonce(b"CurveZMQHELLO---", counter), &mut sealed, "HELLO")?;

        let mut secrets = client.to_vec();
        secrets.extend(self.short);
        let mut plain = public_of(&self.short).to_vec();
        plain.extend(self.cookie_nonce);
        plain.extend(seal(&self.cookie_key, &long_nonce(b"COOKIE--", &self.cookie_nonce), &secrets));
        let mut data = self.welcome_nonce.to_vec();
        data.extend(seal(&with_client, &long_nonce(b"WELCOME-", &self.welcome_nonce), &plain));
        Ok(data)
    }

    /// Takes the data of INITIATE.
    pub(super) fn initiated(&self, initiate: &[u8]) -> Result<Initiated, ZmtpError> {
        const BAD: ZmtpError =
            ZmtpError::Malformed { what: "INITIATE", expected: "a cookie, a nonce and a box" };
        let mut rest = initiate;
        let cookie_nonce = take(&mut rest, 16).ok_or(BAD)?;
        let mut cookie = take(&mut rest, 80).ok_or(BAD)?.to_vec();
        let secrets = open(&self.cookie_key, &long_nonce(b"COOKIE--", cookie_nonce), &mut cookie, "cookie")?;
        let client_short: [u8; 32] = secrets[..32].try_into().map_err(|_| BAD)?;
        let counter =
            take(&mut rest, 8).and_then(|n| n.try_into().ok()).map(u64::from_be_bytes).ok_or(BAD)?;
        let session = agree(&client_short, &self.short, "INITIATE")?;
        let mut sealed = rest.to_vec();
        let plain = open(&session, &short_nonce(b"CurveZMQINITIATE", counter), &mut sealed, "INITIATE")?;
        let mut plain = &*plain;
        let client: [u8; 32] = take(&mut plain, 32).and_then(|key| key.try_into().ok()).ok_or(BAD)?;
        let vouch_nonce = take(&mut plain, 16).ok_or(BAD)?;
        let mut vouch = take(&mut plain, 80).ok_or(BAD)?.to_vec();
        let vouched = open(
            &*agree(&client, &self.short, "vouch")?,
            &long_nonce(b"VOUCH---", vouch_nonce),
            &mut vouch,
            "vouch",
        )?;
        if vouched[..32] != client_short || vouched[32..] != self.keys.public.0 {
            return Err(ZmtpError::Crypto { what: "vouch" });
        }
        let properties = Properties::decode(plain)?;
        Ok(Initiated { client: CurvePublic(client), properties, session, counter })
    }

    /// The data of READY, and the traffic after it.
    pub(super) fn ready(
        &self,
        initiated: Initiated,
        properties: &Properties,
    ) -> (Vec<u8>, MessageSealer, MessageOpener) {
        let mut plain = BytesMut::new();
        properties.encode(&mut plain);
        let mut data = 1_u64.to_be_bytes().to_vec();
        data.extend(seal(&initiated.session, &short_nonce(b"CurveZMQREADY---", 1), &plain));
        let (sealer, opener) = traffic(initiated.session, FROM_SERVER, FROM_CLIENT, 2, initiated.counter);
        (data, sealer, opener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn z85_is_that_of_the_rfc() {
        // The key pair of RFC 32's companion, the CurveZMQ test of libzmq.
        let text = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";
        assert_eq!(CurvePublic::from_z85(text).unwrap().to_z85(), text);
        let keys = CurveKeys::from_secret(
            CurveSecret::from_z85("D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs").unwrap().0,
        );
        assert_eq!(keys.public.to_z85(), text);
        assert_eq!(CurvePublic::from_z85("short"), None);
    }
}
