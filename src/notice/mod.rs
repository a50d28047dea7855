//! What is broadcast, who is expected to have it, and who has it: pure state machines over the wire's words.

mod inbox;
mod receipts;
mod roster;

use std::fmt;
use std::str::FromStr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::wire::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX, Status, is_station_name};

pub use inbox::{Inbox, Received};
pub use receipts::{NOTICES_MAX, Receipts, Tally};
pub use roster::{Outgoing, REMEMBER_RECOMMENDED, Roster, RosterConfig, everybody};

/// The layout of a notice's bytes (R-NOTE-1).
const LAYOUT: u8 = 1;
/// First byte of a message that is no notice, but bytes that two programs understand between them: measurements.
pub const OPAQUE: u8 = 0;
const FLAG_CONFIRM: u8 = 0x01;
/// The two bits of a notice's status.
const STATUS_SHIFT: u8 = 1;
const FIXED_BYTES: usize = 1 + 1 + 8 + 8 + 8 + 1;

/// Longest text of a notice: what a message holds beside the sender's name and the times.
pub const TEXT_BYTES_MAX: usize = MESSAGE_BYTES_MAX - FIXED_BYTES - NAME_BYTES_MAX;

/// A notice's own name; drawn by its sender, the same in every group it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NoticeId(pub u64);

impl fmt::Display for NoticeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Text that shares the memory it came in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Text(Bytes);

impl Text {
    /// The text that `bytes` are, if they are UTF-8.
    pub fn new(bytes: Bytes) -> Option<Self> {
        std::str::from_utf8(&bytes).is_ok().then_some(Self(bytes))
    }

    /// The text. It was UTF-8 when it was made, and cannot have changed.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Its length in bytes.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What a supervisor broadcasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its own name.
    pub id: NoticeId,
    /// Who sent it: a station name.
    pub from: Text,
    /// When it was sent, nanoseconds since 1970 by the sender's clock.
    pub sent_ns: u64,
    /// After this it is not shown any more, nanoseconds since 1970; `None`: it stays true.
    pub expires_ns: Option<u64>,
    /// Whether a receipt is expected.
    pub confirm: bool,
    /// Whether it is meant.
    pub status: Status,
    /// What it says.
    pub text: Text,
}

/// Why a message is not a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoticeError {
    /// Too short for its fields.
    #[error("it is cut short")]
    Truncated,
    /// Written by a version that this one does not know.
    #[error("its layout {0} is not known")]
    Layout(u8),
    /// A name or text that is not allowed.
    #[error("its {0} is not allowed")]
    Field(&'static str),
}

impl Notice {
    /// Its bytes.
    ///
    /// # Errors
    /// [`NoticeError::Field`] when the name is no station name or the text is longer than [`TEXT_BYTES_MAX`].
    pub fn encode(&self) -> Result<Bytes, NoticeError> {
        if !is_station_name(self.from.as_str()) {
            return Err(NoticeError::Field("sender's name"));
        }
        if self.text.len() > TEXT_BYTES_MAX {
            return Err(NoticeError::Field("text's length"));
        }
        let mut bytes = BytesMut::with_capacity(FIXED_BYTES + self.from.len() + self.text.len());
        bytes.put_u8(LAYOUT);
        let confirm = if self.confirm { FLAG_CONFIRM } else { 0 };
        bytes.put_u8(confirm | (self.status as u8) << STATUS_SHIFT);
        bytes.put_u64(self.id.0);
        bytes.put_u64(self.sent_ns);
        bytes.put_u64(self.expires_ns.unwrap_or(0));
        bytes.put_u8(
            u8::try_from(self.from.len()).map_err(|_| NoticeError::Field("sender's name"))?,
        );
        bytes.put_slice(self.from.as_bytes());
        bytes.put_slice(self.text.as_bytes());
        Ok(bytes.freeze())
    }

    /// The notice that `bytes` say.
    ///
    /// # Errors
    /// [`NoticeError`], the first fault found.
    pub fn decode(mut bytes: Bytes) -> Result<Self, NoticeError> {
        if bytes.len() < FIXED_BYTES {
            return Err(NoticeError::Truncated);
        }
        let layout = bytes.get_u8();
        if layout != LAYOUT {
            return Err(NoticeError::Layout(layout));
        }
        let flags = bytes.get_u8();
        let (id, sent_ns, expires_ns) =
            (NoticeId(bytes.get_u64()), bytes.get_u64(), bytes.get_u64());
        let name_len = usize::from(bytes.get_u8());
        if name_len > bytes.len() {
            return Err(NoticeError::Truncated);
        }
        let from =
            Text::new(bytes.split_to(name_len)).filter(|from| is_station_name(from.as_str()));
        Ok(Self {
            id,
            from: from.ok_or(NoticeError::Field("sender's name"))?,
            sent_ns,
            expires_ns: (expires_ns > 0).then_some(expires_ns),
            confirm: flags & FLAG_CONFIRM != 0,
            status: Status::from_bits(flags >> STATUS_SHIFT),
            text: Text::new(bytes).ok_or(NoticeError::Field("text"))?,
        })
    }
}

/// Whom a notice is for: all, or groups by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    groups: Vec<String>,
}

/// Why a text names no audience.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AudienceError {
    /// Nothing between commas, or nothing at all.
    #[error(
        "audience \"{0}\" has an empty name; name a group, or several with commas, such as all or billing,sales"
    )]
    Empty(String),
}

impl Audience {
    /// The groups named, each once, in the order they were named.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }
}

impl FromStr for Audience {
    type Err = AudienceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut groups: Vec<String> = Vec::new();
        for name in text.split(',').map(str::trim) {
            if name.is_empty() {
                return Err(AudienceError::Empty(text.to_owned()));
            }
            if !groups.iter().any(|known| known == name) {
                groups.push(name.to_owned());
            }
        }
        Ok(Self { groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice() -> Notice {
        Notice {
            id: NoticeId(0xfeed),
            from: "süd-1".into(),
            sent_ns: 5,
            expires_ns: Some(9),
            confirm: true,
            status: Status::Exercise,
            text: "Panne réseau ☎\u{202e}\t".into(),
        }
    }

    #[test]
    fn survives_the_wire_and_refuses_nonsense() {
        let bytes = notice().encode().unwrap();
        assert_eq!(Notice::decode(bytes.clone()), Ok(notice()));
        for len in 0..FIXED_BYTES + 6 {
            assert!(Notice::decode(bytes.slice(..len)).is_err(), "{len}");
        }
        let mut bad = bytes.to_vec();
        bad[0] = 2;
        assert_eq!(
            Notice::decode(bad.clone().into()),
            Err(NoticeError::Layout(2))
        );
        let last = bad.len() - 1;
        bad[0] = 1;
        bad[last] = 0xff;
        assert_eq!(
            Notice::decode(bad.clone().into()),
            Err(NoticeError::Field("text"))
        );
        assert!(
            Notice {
                text: "x".repeat(TEXT_BYTES_MAX + 1).into(),
                ..notice()
            }
            .encode()
            .is_err()
        );
        assert!(
            Notice {
                text: "x".repeat(TEXT_BYTES_MAX).into(),
                ..notice()
            }
            .encode()
            .is_ok()
        );
        assert!(
            Notice {
                from: Text::default(),
                ..notice()
            }
            .encode()
            .is_err()
        );
    }

    #[test]
    fn audience_is_a_list_of_names() {
        let audience: Audience = "all, billing,all".parse().unwrap();
        assert_eq!(audience.groups(), ["all", "billing"]);
        assert!("".parse::<Audience>().is_err() && "a,,b".parse::<Audience>().is_err());
    }
}
