//! floorcast broadcasts a supervisor's message to every workstation on a call-centre floor: over UDP multicast, in
//! order, repaired by NACK, confirmed.
//!
//! The pure floors (`wire`, `proto`, `notice`, `keys`, `station`, `sim`) touch no socket, clock or thread and are built without
//! the feature `app`, and so is `capture` but for its file; everything that touches the world is behind it. See `ARCHITECTURE.md`.

pub mod capture;
pub mod guard;
pub mod keys;
pub mod notice;
pub mod proto;
pub mod rng;
pub mod sim;
pub mod station;
pub mod time;
pub mod wire;

#[cfg(feature = "app")]
pub mod floor;
#[cfg(feature = "app")]
pub mod net;
#[cfg(feature = "app")]
pub mod runtime;

#[cfg(feature = "app")]
pub mod agent;
#[cfg(feature = "app")]
pub mod bench;
#[cfg(feature = "app")]
pub mod check;
#[cfg(feature = "app")]
pub mod cli;
#[cfg(feature = "app")]
pub mod demo;
#[cfg(feature = "app")]
pub mod keyring;
#[cfg(feature = "app")]
pub mod output;
#[cfg(feature = "app")]
pub mod proofs;
#[cfg(feature = "app")]
pub mod replay;
#[cfg(feature = "app")]
pub mod send;
