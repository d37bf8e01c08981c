//! Who may write, and who can read along.
//!
//! Two layers that can be used apart. **Signatures** say who wrote a patch: they are made by its author, kept in the
//! stores and passed on with the patch, so that no relay can forge or change one. **Seals** hide what goes over a
//! channel from whoever has no key: a relay sees topics, sizes, times and the ids of keys, and nothing else.
//!
//! `docs/formats/sync-security.md` has the layouts, and what each layer does not protect.

mod access;
mod messages;
mod names;
mod seal;
mod sealed_pubsub;

pub use access::{Access, AccessError, AuthorKey, Role, Signer};
pub use seal::{KEYS_MAX, Keyring, Opener, SEAL_BYTES, SENDERS_MAX, SealError, Sealer, SealingKey, WINDOW};
pub use sealed_pubsub::{SealCounters, SealedPubSub};
