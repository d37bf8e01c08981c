//! The forms in which messages travel.

use std::{fmt, str::FromStr};

use serde::{Serialize, de::DeserializeOwned};

/// How a channel writes its messages. Peers of one group may use different ones: a reader is told which by the
/// channel (subprotocol, content type) or by the message itself.
///
/// [`Compact`](Self::Compact) and [`Binary`](Self::Binary) are about patches; for other messages they are the same as
/// [`Json`](Self::Json) and [`MessagePack`](Self::MessagePack).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum EncodingFormat {
    /// JSON (RFC 8259), readable by people.
    Json,
    /// JSON with patches as arrays, about a third of the size.
    Compact,
    /// MessagePack with field names, readable by whatever reads the JSON.
    MessagePack,
    /// The smallest: patches in their binary form, with two bytes around them.
    Binary,
}

/// A message that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("could not write {format}: {reason}")]
pub struct EncodeError {
    /// The form that was asked for.
    pub format: EncodingFormat,
    /// What the encoder said.
    pub reason: String,
}

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not valid {format}: {reason}")]
pub struct DecodeError {
    /// The form that was expected.
    pub format: EncodingFormat,
    /// What was wrong, and where.
    pub reason: String,
}

impl EncodingFormat {
    /// All forms.
    pub const ALL: [Self; 4] = [Self::Json, Self::Compact, Self::MessagePack, Self::Binary];

    /// Writes a message.
    pub fn encode<T: Serialize + ?Sized>(self, message: &T) -> Result<Vec<u8>, EncodeError> {
        match self {
            Self::Json | Self::Compact => serde_json::to_vec(message).map_err(|e| e.to_string()),
            Self::MessagePack | Self::Binary => rmp_serde::to_vec_named(message).map_err(|e| e.to_string()),
        }
        .map_err(|reason| EncodeError { format: self, reason })
    }

    /// Reads a message that fills `bytes` exactly: bytes left over are an error.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, DecodeError> {
        match self {
            Self::Json | Self::Compact => serde_json::from_slice(bytes).map_err(|e| e.to_string()),
            Self::MessagePack | Self::Binary => {
                let mut rest = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
                rest.set_max_depth(Self::DEPTH_MAX);
                T::deserialize(&mut rest).map_err(|e| e.to_string()).and_then(|message| {
                    match bytes.len() as u64 - rest.position() {
                        0 => Ok(message),
                        left => Err(format!("{left} bytes left over after the message")),
                    }
                })
            }
        }
        .map_err(|reason| DecodeError { format: self, reason })
    }

    /// The deepest nesting that [`decode`](Self::decode) follows; deeper input is an error, not a full stack.
    pub const DEPTH_MAX: usize = 128;
}

impl fmt::Display for EncodingFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Compact => "compact",
            Self::MessagePack => "msgpack",
            Self::Binary => "binary",
        })
    }
}

/// A name that no encoding has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown encoding {name:?}: expected json, compact, msgpack or binary")]
pub struct UnknownEncoding {
    /// The name.
    pub name: String,
}

impl FromStr for EncodingFormat {
    type Err = UnknownEncoding;
    fn from_str(name: &str) -> Result<Self, UnknownEncoding> {
        Self::ALL
            .into_iter()
            .find(|format| format.to_string() == name)
            .ok_or_else(|| UnknownEncoding { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Message {
        id: u64,
        name: Option<String>,
        body: Vec<u32>,
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(id: u64, name: Option<String>, body: Vec<u32>) {
            let message = Message { id, name, body };
            for format in EncodingFormat::ALL {
                prop_assert_eq!(&format.decode::<Message>(&format.encode(&message).unwrap()).unwrap(), &message);
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes: Vec<u8>) {
            for format in EncodingFormat::ALL {
                let _ = format.decode::<Message>(&bytes);
                let _ = format.decode::<Value>(&bytes);
            }
        }
    }

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for format in EncodingFormat::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        let error = "yaml".parse::<EncodingFormat>().unwrap_err();
        assert_eq!(error.to_string(), "unknown encoding \"yaml\": expected json, compact, msgpack or binary");
    }

    #[test]
    fn a_deep_nest_is_refused() {
        assert!(EncodingFormat::Json.decode::<Value>("[".repeat(100_000).as_bytes()).is_err());
        assert!(EncodingFormat::MessagePack.decode::<Value>(&[0x91; 100_000]).is_err());
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        let error = EncodingFormat::MessagePack.decode::<u8>(&[1, 2]).unwrap_err();
        assert_eq!(error.to_string(), "not valid msgpack: 1 bytes left over after the message");
        assert!(EncodingFormat::Json.decode::<u8>(b"1 2").is_err());
    }
}
