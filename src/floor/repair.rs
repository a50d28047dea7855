//! What a floor file says of rates, of repair and of the pace: `[rates]`, `[repair]` and `[flow]`.

use std::time::Duration;

use crate::proto::{Backoff, Fec, Flow, Percent, Tuning};
use toml::de::DeValue;

use super::{DATA_RATE_DEFAULT, Fault, Field, Rates, parse_duration, parse_rate, quoted};

/// Longest back-off that a floor may fix: what receivers heed at most.
const BACKOFF_MAX: Duration = Duration::from_millis(100);
/// Parity shards that may go out unasked behind each block: a quarter of it.
const SHARDS_MAX: u8 = 16;

/// How a source repairs, and whose pace it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairRules {
    /// Whose pace.
    pub flow: Flow,
    /// Whether its rate follows the loss that is reported.
    pub is_rate_adaptive: bool,
    /// How it repairs.
    pub tuning: Tuning,
}

impl Default for RepairRules {
    fn default() -> Self {
        Self {
            flow: Flow::Rate,
            is_rate_adaptive: false,
            tuning: Tuning::RECOMMENDED,
        }
    }
}

/// Reads both tables, where they stand.
pub(super) fn read(
    repair: Option<Field<'_>>,
    flow: Option<Field<'_>>,
) -> Result<RepairRules, Fault> {
    let mut rules = RepairRules::default();
    if let Some(repair) = repair {
        read_repair(&repair, &mut rules)?;
    }
    if let Some(flow) = flow {
        read_flow(&flow, &mut rules)?;
    }
    Ok(rules)
}

pub(super) fn read_rates(rates: &Field<'_>) -> Result<Rates, Fault> {
    let section = rates.section("a line [rates] and under it data = \"200 Mbit/s\"")?;
    section.allow(&["data", "repair"])?;
    let rate = |key: &str, otherwise| match section.get(key) {
        None => Ok(otherwise),
        Some(field) => parse_rate(field.text("\"100 Mbit/s\"")?)
            .map_err(|error| Fault::at(field.at, format!("in [rates], {key} = {error}"))),
    };
    let data_bytes_per_s = rate("data", DATA_RATE_DEFAULT)?;
    let repair_bytes_per_s = rate(
        "repair",
        Rates::with_data(data_bytes_per_s).repair_bytes_per_s,
    )?;
    Ok(Rates {
        data_bytes_per_s,
        repair_bytes_per_s,
    })
}

fn read_repair(repair: &Field<'_>, rules: &mut RepairRules) -> Result<(), Fault> {
    let section = repair.section("a line [repair] and under it parity = \"measured\"")?;
    section.allow(&["backoff", "copies", "parity"])?;
    if let Some(field) = section.get("backoff") {
        rules.tuning.backoff = read_backoff(&field)?;
    }
    if let Some(field) = section.get("copies") {
        rules.tuning.copies = field.truth()?;
    }
    if let Some(field) = section.get("parity") {
        rules.tuning.fec = read_parity(&field)?;
    }
    Ok(())
}

fn read_backoff(field: &Field<'_>) -> Result<Backoff, Fault> {
    let text = field.text("\"adaptive\", or a time such as \"5ms\"")?;
    if text == "adaptive" {
        return Ok(Backoff::Adaptive);
    }
    match parse_duration(text) {
        Ok(fixed) if fixed <= BACKOFF_MAX => Ok(Backoff::Fixed(fixed)),
        _ => {
            let what = format!(
                "in [repair], backoff = {} is neither \"adaptive\" nor a time up to 100ms; write \"adaptive\", or leave it out",
                quoted(text)
            );
            Err(Fault::at(field.at, what))
        }
    }
}

fn read_parity(field: &Field<'_>) -> Result<Fec, Fault> {
    if let DeValue::Integer(_) = field.value {
        let advice = "write how many shards go out behind each block of 64, or \"measured\"";
        return field.whole(0, SHARDS_MAX, advice).map(Fec::Proactive);
    }
    match field.text("\"measured\", \"off\", or a number of shards")? {
        "measured" => Ok(Fec::Measured),
        "off" => Ok(Fec::Off),
        text => {
            let what = format!(
                "in [repair], parity = {} is not known; write \"measured\", \"off\", or a whole number from 0 to {SHARDS_MAX}, without \
                 quotes",
                quoted(text)
            );
            Err(Fault::at(field.at, what))
        }
    }
}

fn read_flow(flow: &Field<'_>, rules: &mut RepairRules) -> Result<(), Fault> {
    let section = flow.section("a line [flow] and under it pace = \"rate\"")?;
    section.allow(&["pace", "share", "follow_loss"])?;
    let share = section.get("share").map(|field| {
        let advice = "write share = 95 for the pace of the slowest of 95 in 100 workstations";
        field.whole(1, 100, advice)
    });
    let share: Option<u64> = share.transpose()?;
    if let Some(field) = section.get("pace") {
        let quorum = share.and_then(|share| Percent::try_from(share).ok());
        rules.flow = match field.text("\"rate\", \"quorum\" or \"none\"")? {
            "rate" => Flow::Rate,
            "quorum" => Flow::Quorum(quorum.unwrap_or(Percent::RECOMMENDED)),
            "none" => Flow::None,
            text => {
                let what = format!(
                    "in [flow], pace = {} is not known; write \"rate\", \"quorum\" or \"none\"",
                    quoted(text)
                );
                return Err(Fault::at(field.at, what));
            }
        };
    }
    if let (Some(field), false) = (section.get("share"), matches!(rules.flow, Flow::Quorum(_))) {
        let what = "in [flow], share says whose pace a quorum keeps, but pace is not \"quorum\"; write pace = \"quorum\" \
                    beside it, or take share out";
        return Err(Fault::at(field.at, what.to_owned()));
    }
    if let Some(field) = section.get("follow_loss") {
        rules.is_rate_adaptive = field.truth()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floor::Floor;

    fn rules(more: &str) -> Result<RepairRules, String> {
        let text = format!(
            "[floor]\nname = \"acme\"\n[groups.all]\naddress = \"239.255.77.1:7700\"\n{more}"
        );
        let floor = Floor::parse(&text, "floor.toml");
        floor
            .map(|floor| floor.repair)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_said_is_recommended() {
        assert_eq!(rules(""), Ok(RepairRules::default()));
        assert_eq!(rules("[flow]\n[repair]"), Ok(RepairRules::default()));
    }

    #[test]
    fn everything_said() {
        let said = rules(
            "[repair]\nbackoff = \"5ms\"\ncopies = false\nparity = 4\n\
             [flow]\npace = \"quorum\"\nshare = 90\nfollow_loss = true",
        );
        let said = said.unwrap();
        assert_eq!(said.flow, Flow::Quorum(Percent::try_from(90).unwrap()));
        assert!(said.is_rate_adaptive && !said.tuning.copies);
        assert_eq!(
            said.tuning.backoff,
            Backoff::Fixed(Duration::from_millis(5))
        );
        assert_eq!(said.tuning.fec, Fec::Proactive(4));
        assert_eq!(
            rules("[repair]\nparity = \"off\"").unwrap().tuning.fec,
            Fec::Off
        );
        assert_eq!(rules("[flow]\npace = \"none\"").unwrap().flow, Flow::None);
    }

    #[test]
    fn what_cannot_be_is_told_in_a_sentence() {
        for (more, words) in [
            (
                "[repair]\nbackoff = \"soon\"",
                "line 6: in [repair], backoff = \"soon\" is neither",
            ),
            ("[repair]\nbackoff = \"101ms\"", "up to 100ms"),
            ("[repair]\nparity = 17", "0 to 16"),
            (
                "[repair]\nparity = \"much\"",
                "parity = \"much\" is not known",
            ),
            (
                "[repair]\ncopies = \"yes\"",
                "copies in [repair] is text, but has to be true or false",
            ),
            ("[repair]\nfec = 1", "unknown key \"fec\" in [repair]"),
            ("[flow]\npace = \"fast\"", "pace = \"fast\" is not known"),
            ("[flow]\nshare = 95", "pace is not \"quorum\""),
            ("[flow]\npace = \"quorum\"\nshare = 0", "1 to 100"),
            ("[flow]\nfollow_loss = 1", "has to be true or false"),
        ] {
            let told = rules(more).unwrap_err();
            assert!(told.contains(words), "{more}: {told}");
        }
    }
}
