//! placeholder
#![cfg(all(unix, feature = "app"))]
