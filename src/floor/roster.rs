//! What a floor file says of who is expected: `[roster]` and `[roster.listed]`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use crate::wire::{NAME_BYTES_MAX, is_station_name};

use super::{Fault, Field, Group, odd_name, parse_duration, quoted, shortened};

/// How long a silent workstation stays expected where the file says nothing: longer than a restart, shorter than a
/// shift.
pub const REMEMBER_DEFAULT: Duration = Duration::from_secs(15 * 60);
/// Bounds of [`RosterRules::remember`]: 10 s spans a few lost presences, 12 hours a shift; a roster
/// cannot tell of more than 18.
pub const REMEMBER: RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(12 * 3_600);

/// Who is expected on the floor: those heard lately, and those listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterRules {
    /// How long a workstation that fell silent stays expected, within [`REMEMBER`].
    pub remember: Duration,
    /// Station names that are expected in a group (by its name) even when never heard, in the file's order, none twice.
    pub listed: BTreeMap<String, Vec<String>>,
}

impl Default for RosterRules {
    fn default() -> Self {
        Self {
            remember: REMEMBER_DEFAULT,
            listed: BTreeMap::new(),
        }
    }
}

pub(super) fn read(roster: &Field<'_>, groups: &[Group]) -> Result<RosterRules, Fault> {
    let section = roster.section("a line [roster] and under it remember = \"15m\"")?;
    section.allow(&["remember", "listed"])?;
    let remember = section
        .get("remember")
        .map_or(Ok(REMEMBER_DEFAULT), |it| read_remember(&it))?;
    let mut listed = BTreeMap::new();
    if let Some(field) = section.get("listed") {
        let lists =
            field.section("a line [roster.listed] and under it all = [\"ws-1\", \"ws-2\"]")?;
        for list in lists.fields() {
            if !groups.iter().any(|group| group.name == list.key) {
                let known: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
                let what = format!(
                    "[roster.listed] lists stations for group {}, but the file has no such group (it has {}); correct \
                     the name, or add the group",
                    quoted(list.key),
                    shortened(&known.join(", ")),
                );
                return Err(Fault::at(list.at, what));
            }
            listed.insert(list.key.to_owned(), read_stations(&list)?);
        }
    }
    Ok(RosterRules { remember, listed })
}

fn read_remember(field: &Field<'_>) -> Result<Duration, Fault> {
    let text = field.text("\"15m\"")?;
    let remember = parse_duration(text)
        .map_err(|error| Fault::at(field.at, format!("in [roster], remember = {error}")))?;
    if REMEMBER.contains(&remember) {
        return Ok(remember);
    }
    let what = format!(
        "in [roster], remember = {} is out of bounds; a silent workstation may stay expected for 10s to 12h; write \
         \"15m\", or leave it out",
        quoted(text)
    );
    Err(Fault::at(field.at, what))
}

fn read_stations(list: &Field<'_>) -> Result<Vec<String>, Fault> {
    let DeValue::Array(values) = list.value else {
        return Err(list.wrong_type("a list of station names", "write [\"ws-1\", \"ws-2\"]"));
    };
    let mut stations = Vec::with_capacity(values.len());
    let mut seen = BTreeSet::new();
    for value in values {
        let station = Field {
            table: &format!("a station of {}", list.path()),
            key: "",
            at: value.span().start,
            value: value.get_ref(),
        }
        .text("\"ws-1\"")?
        .to_owned();
        let at = value.span().start;
        if !is_station_name(&station) {
            let what = format!(
                "{} lists the station {}, which is {}, but a station's name is 1 to {NAME_BYTES_MAX} bytes without \
                 control characters; write it as that workstation's --name has it",
                list.path(),
                quoted(&station),
                odd_name(&station)
            );
            return Err(Fault::at(at, what));
        }
        if !seen.insert(station.clone()) {
            let what = format!(
                "{} lists the station {} twice; remove one of the two",
                list.path(),
                quoted(&station)
            );
            return Err(Fault::at(at, what));
        }
        stations.push(station);
    }
    Ok(stations)
}
