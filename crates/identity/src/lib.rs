//! Who is calling: our certificate authority, device certificates, connection kits, access keys,
//! API keys.
//!
//! ```text
//! ca/  (0700)   root.private.key (0600)  root-CA.crt  root.json  server.json (0600)
//! metastore     things        name        -> Thing { attributes, type, groups, .. }
//!               certificates  sha-256 hex -> Certificate { things, ACTIVE | INACTIVE | REVOKED, .. }
//!               issuers       sha-256 hex -> Issuer { active, mode, .. }, authorities of others
//!               iot-policies  name        -> Policy { versions, .. }, attached to certificates
//!               access-keys   id          -> secret, Active | Inactive, session
//!               api-keys      name        -> sha-256 of the key, its endpoints and end
//! ```
//!
//! Invariants
//! * A device's private key is made here, handed over once in its [`Kit`], and kept nowhere.
//! * A certificate admits its bearer while its fingerprint is registered, ACTIVE and in date
//!   ([`Registry::lookup`]). Being signed by our authority is never sufficient, and necessary
//!   unless the certificate was registered as one made elsewhere
//!   ([`Registry::register_certificate`]). In either case the peer proves that it holds the key.
//! * A change of status is stored before it is believed, and believed before anyone is told.
//! * An authority that is incomplete or unreadable is an error, never a reason to make a new
//!   one: that would lock out every device in the field.
//! * No private key, secret or session token has a `Debug` or `Display` that shows it.
//! * A secret answers for its key while the key is Active, its session has not ended and the key
//!   that the session goes back to is Active ([`Keys::admit`]).
//!
//! The certificate says who somebody is; the policies attached to it say what they may do: the
//! [`Gate`] settles both into [`policy::Rights`] when a client connects.

mod api_keys;
mod authority;
mod files;
mod foreign;
mod gate;
mod issuers;
pub mod keys;
mod kit;
pub mod policies;
pub mod policy;
mod registry;
mod secret;
mod server;
pub mod sigv4;
mod things;
mod web;

pub use api_keys::{API_KEY_PREFIX, API_KEYS_MAX, ApiKey, ApiKeyRefusal, ApiKeys};
pub use authority::{Authority, Issued, certificate_id};
pub use foreign::Foreign;
pub use gate::{Gate, Visitor};
pub use issuers::{Issuer, Mode, Registered};
pub use keys::{AccessKey, KeyRefusal, KeyStatus, Keys, Principal, Session};
pub use kit::{Endpoint, Kit, KitFile, KitFileKind, write_files};
pub use policies::Policies;
pub use registry::{Certificate, Change, Found, Registry, Status};
pub use secret::Secret;
pub use things::{NewAttributes, Thing, ThingGroup, ThingType, ThingUpdate};
pub use web::is_aws_host;
