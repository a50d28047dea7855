//! Reads a floor file as every program does, and says what it makes of it.

use serde::Serialize;

use crate::floor::Floor;
use crate::net::Interface;
use crate::output::{Ending, Failure, PrintError, Printer};

/// That the floor's root stands behind a floor file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// The root's fingerprint.
    pub root: String,
    /// Which edition of the file it has signed.
    pub edition: u64,
    /// When, RFC 3339.
    pub issued: String,
}

/// What a floor file says.
#[derive(Serialize)]
struct Checked<'a> {
    event: &'static str,
    ok: bool,
    floor: &'a str,
    id: String,
    signed: bool,
    #[serde(flatten)]
    signature: Option<&'a Signature>,
    interface: &'a str,
    interface_detail: String,
    ttl: u8,
    data_bytes_per_s: u64,
    repair_bytes_per_s: u64,
    groups: Vec<CheckedGroup<'a>>,
}

#[derive(Serialize)]
struct CheckedGroup<'a> {
    name: &'a str,
    address: String,
    listed: usize,
}

/// Prints what `floor` says, who has signed it, and which interface would be used.
///
/// # Errors
/// [`Failure`] when standard output cannot be written; what is wrong with a floor is found when it is read.
pub fn run(
    floor: &Floor,
    interface: &Interface,
    signature: Option<&Signature>,
    is_json: bool,
) -> Result<Ending, Failure> {
    let listed = |name: &str| floor.roster.listed.get(name).map_or(0, Vec::len);
    let groups = floor.groups.iter().map(|group| CheckedGroup {
        name: &group.name,
        address: group.address.to_string(),
        listed: listed(&group.name),
    });
    let checked = Checked {
        event: "floor",
        ok: true,
        floor: &floor.name,
        id: floor.id.to_string(),
        signed: signature.is_some(),
        signature,
        interface: &interface.name,
        interface_detail: interface.to_string(),
        ttl: floor.ttl,
        data_bytes_per_s: floor.rates.data_bytes_per_s,
        repair_bytes_per_s: floor.rates.repair_bytes_per_s,
        groups: groups.collect(),
    };
    let mut text = format!(
        "floor {}: good; through {interface}, ttl {}",
        floor.name, floor.ttl
    );
    text.push_str(&match signature {
        Some(Signature {
            root,
            edition,
            issued,
        }) => format!("\n  signed: edition {edition} of {issued}, by root {root}"),
        None => "\n  not signed: agents and senders take it with --open-lab only; floorcast floor sign signs it".to_owned(),
    });
    for group in &checked.groups {
        text.push_str(&format!("\n  {} at {}", group.name, group.address));
        if group.listed > 0 {
            text.push_str(&format!(", {} workstations listed", group.listed));
        }
    }
    let mut printer = Printer::new(is_json);
    let printed = printer
        .print(&checked, &text)
        .and_then(|()| printer.flush());
    printed.or_else(PrintError::into_ending)?;
    Ok(Ending::Done)
}
