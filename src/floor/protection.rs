//! What a floor file says of how its datagrams are protected: `[protection]`.

use std::collections::BTreeSet;

use toml::de::DeValue;

use crate::wire::Lane;

use super::{Fault, Field, quoted};

/// Reads the lanes whose datagrams bear no signature; none, where the file does not say.
pub(super) fn read(field: Option<Field<'_>>) -> Result<BTreeSet<Lane>, Fault> {
    let Some(field) = field else {
        return Ok(BTreeSet::new());
    };
    let section = field.section("a line [protection] and under it unsigned = [\"bulk\"]")?;
    section.allow(&["unsigned"])?;
    section
        .get("unsigned")
        .map_or(Ok(BTreeSet::new()), |lanes| read_lanes(&lanes))
}

fn read_lanes(field: &Field<'_>) -> Result<BTreeSet<Lane>, Fault> {
    let DeValue::Array(entries) = field.value else {
        return Err(field.wrong_type("a list of lanes", "write unsigned = [\"bulk\"]"));
    };
    let mut lanes = BTreeSet::new();
    for entry in entries.iter() {
        let name = match entry.get_ref() {
            DeValue::String(name) => name.as_ref(),
            _ => "",
        };
        let Some(lane) = Lane::ALL.into_iter().find(|lane| lane.as_str() == name) else {
            let what = format!(
                "in [protection], unsigned names {}, but a lane is \"emergency\", \"routine\" or \"bulk\"; whoever holds the \
                 floor's key can forge what is sent in an unsigned lane, so name few or none",
                quoted(name)
            );
            return Err(Fault::at(field.at, what));
        };
        lanes.insert(lane);
    }
    Ok(lanes)
}
