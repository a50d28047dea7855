//! The main job under keys: every test of `loopback.rs` once more, on floors that are sealed and signed.

#![cfg(feature = "app")]

#[path = "loopback.rs"]
mod loopback;
