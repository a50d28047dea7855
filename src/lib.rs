//! floorcast broadcasts a supervisor's message to every workstation on a call-centre floor: over UDP multicast, in
//! order, repaired by NACK, confirmed.

pub mod notice;
pub mod proto;
pub mod rng;
pub mod sim;
pub mod station;
pub mod time;
pub mod wire;
