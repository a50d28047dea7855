//! What a floor file says of the keys of its workstations: `[enrolment]` and `[enrolment.keys]` (R-ENROL-1).

use std::collections::BTreeMap;

use crate::keys::{Enrolment, KEY_BYTES, Others, PublicKey};
use crate::wire::{FloorId, NAME_BYTES_MAX, SourceId, is_station_name};

use super::{Fault, Field, odd_name, quoted};

/// What shows the key that is to be listed.
const WHERE: &str = "floorcast keys station NAME shows it on that workstation";

/// Reads the table, where it stands.
pub(super) fn read(field: Option<Field<'_>>, floor: FloorId) -> Result<Enrolment, Fault> {
    let mut enrolment = Enrolment {
        known: BTreeMap::new(),
        // Without a list, a floor whose newcomers are refused would confirm nothing.
        others: Others::FirstUse,
    };
    let Some(field) = field else {
        return Ok(enrolment);
    };
    let section = field.section("a line [enrolment] and under it others = \"first-use\"")?;
    section.allow(&["others", "keys"])?;
    if let Some(field) = section.get("others") {
        enrolment.others = read_others(&field)?;
    }
    if let Some(field) = section.get("keys") {
        enrolment.known = read_keys(&field, floor)?;
    }
    Ok(enrolment)
}

fn read_others(field: &Field<'_>) -> Result<Others, Fault> {
    match field.text("\"first-use\" or \"refused\"")? {
        "first-use" => Ok(Others::FirstUse),
        "refused" => Ok(Others::Refused),
        other => {
            let what = format!(
                "in [enrolment], others is {}, but a workstation that is not listed is either taken at its \"first-use\" or \
                 \"refused\"; write one of the two",
                quoted(other)
            );
            Err(Fault::at(field.at, what))
        }
    }
}

fn read_keys(field: &Field<'_>, floor: FloorId) -> Result<BTreeMap<SourceId, PublicKey>, Fault> {
    let section =
        field.section("a line [enrolment.keys] and under it ws-001 = \"64 hexadecimal digits\"")?;
    let mut known = BTreeMap::new();
    let mut owners: BTreeMap<[u8; KEY_BYTES], String> = BTreeMap::new();
    for entry in section.fields() {
        let name = entry.key;
        if !is_station_name(name) {
            let what = format!(
                "[enrolment.keys] lists the station {}, which is {}, but a station's name is 1 to {NAME_BYTES_MAX} bytes \
                 without control characters; write it as that workstation's --name has it",
                quoted(name),
                odd_name(name)
            );
            return Err(Fault::at(entry.at, what));
        }
        let key = read_key(&entry)?;
        if let Some(owner) = owners.insert(key.to_bytes(), name.to_owned()) {
            let what = format!(
                "[enrolment.keys] gives {} the key of {}, but each workstation has one of its own; {WHERE}",
                quoted(name),
                quoted(&owner)
            );
            return Err(Fault::at(entry.at, what));
        }
        if known.insert(SourceId::of(floor, name), key).is_some() {
            let what = format!(
                "[enrolment.keys]: the station {} has the same id as another one that is listed; give one of them another \
                 name",
                quoted(name)
            );
            return Err(Fault::at(entry.at, what));
        }
    }
    Ok(known)
}

fn read_key(entry: &Field<'_>) -> Result<PublicKey, Fault> {
    let digits = entry.text("the key's 64 hexadecimal digits in double quotes")?;
    let name = quoted(entry.key);
    let fault = |why: String| {
        Err(Fault::at(
            entry.at,
            format!("in [enrolment.keys], the key of {name} {why}; {WHERE}"),
        ))
    };
    if let Some(odd) = digits.chars().find(|c| !c.is_ascii_hexdigit()) {
        return fault(format!(
            "contains {odd:?}, but a key is written in 0-9 and a-f"
        ));
    }
    if digits.len() != 2 * KEY_BYTES {
        return fault(format!(
            "has {} digits, but a key has {}",
            digits.len(),
            2 * KEY_BYTES
        ));
    }
    match PublicKey::from_hex(digits) {
        Some(key) => Ok(key),
        None => fault("is none that anybody can have: a digit of it is wrong".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Floor;
    use super::*;
    use crate::keys::PrivateKey;

    const HEAD: &str =
        "[floor]\nname = \"t\"\n[groups.all]\naddress = \"239.255.77.1:7700\"\n[enrolment]\n";

    fn hex(seed: u8) -> String {
        PrivateKey::from_seed(&[seed; KEY_BYTES]).public().to_hex()
    }

    fn read(text: &str) -> Result<Enrolment, String> {
        let floor = Floor::parse(&format!("{HEAD}{text}"), "floor.toml");
        floor
            .map(|floor| floor.enrolment)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_listed_is_known() {
        let nothing = Enrolment {
            known: BTreeMap::new(),
            others: Others::FirstUse,
        };
        assert_eq!(read(""), Ok(nothing.clone()));
        assert_eq!(read("others = \"first-use\""), Ok(nothing));
        let text = format!(
            "others = \"refused\"\n[enrolment.keys]\nws-001 = \"{}\"\n\"ws 2\" = \"{}\"\n",
            hex(1),
            hex(2).to_uppercase()
        );
        let floor = FloorId::of("t");
        let key = |seed| PrivateKey::from_seed(&[seed; KEY_BYTES]).public();
        let known = [
            (SourceId::of(floor, "ws-001"), key(1)),
            (SourceId::of(floor, "ws 2"), key(2)),
        ];
        assert_eq!(
            read(&text),
            Ok(Enrolment {
                known: known.into(),
                others: Others::Refused
            })
        );
    }

    #[test]
    fn faults_have_a_place_and_say_what_to_do() {
        let keys = |lines: &str| format!("[enrolment.keys]\n{lines}");
        let twice = format!("a = \"{0}\"\nb = \"{0}\"", hex(1));
        let cases = [
            ("others = true".to_owned(), 6, "text in double quotes"),
            ("others = \"maybe\"".to_owned(), 6, "\"first-use\" or"),
            (
                "other = \"refused\"".to_owned(),
                6,
                "allowed there: others, keys",
            ),
            ("keys = 3".to_owned(), 6, "has to be a table"),
            (keys("a = 3"), 7, "text in double quotes"),
            (keys("a = \"\""), 7, "has 0 digits"),
            (
                keys(&format!("a = \"{}\"", &hex(1)[1..])),
                7,
                "has 63 digits",
            ),
            (keys(&format!("a = \"{}0\"", hex(1))), 7, "has 65 digits"),
            (keys(&format!("a = \"g{}\"", &hex(1)[1..])), 7, "'g'"),
            (keys(&format!("a = \"é{}\"", &hex(1)[2..])), 7, "'é'"),
            (keys(&format!("a = \"{}\"", "0".repeat(64))), 7, "is none"),
            (keys(&format!("\"\" = \"{}\"", hex(1))), 7, "is empty"),
            (
                keys(&format!("\"{}\" = \"{}\"", "x".repeat(65), hex(1))),
                7,
                "65 bytes",
            ),
            (keys(&twice), 8, "the key of \"a\""),
        ];
        for (text, line, part) in cases {
            let said = read(&text).unwrap_err();
            assert!(
                said.contains(part),
                "no {part:?} in {said:?} about {text:?}"
            );
            assert!(
                said.starts_with(&format!("floor.toml line {line}: ")),
                "{said:?}"
            );
            assert!(!said.contains('\n') && !said.contains("  "), "{said:?}");
        }
    }
}
