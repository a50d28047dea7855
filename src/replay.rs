//! Does again what a capture says, and tells whether the same came out.

use std::fs::File;
use std::io::BufReader;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use serde::Serialize;

use crate::capture::{CORE_REVISION, Completeness, Output, Place, Replay, Summary};
use crate::output::{Ending, Failure, PrintError, Printer, for_eyes};
use crate::wire;

/// The end of a replay, in JSON.
#[derive(Serialize)]
struct SummaryLine<'a> {
    event: &'static str,
    same: bool,
    version: &'a str,
    core_revision: u32,
    core_revision_here: u32,
    stations: usize,
    records: u64,
    inputs: u64,
    datagrams_in: u64,
    datagrams_out: u64,
    events: u64,
    notices: u64,
    lost: u64,
    misplaced: u64,
    seconds: f64,
    whole: bool,
    missed: u64,
    torn_bytes: u64,
    differences: u64,
    first_difference: Option<DifferenceLine<'a>>,
}

#[derive(Serialize)]
struct DifferenceLine<'a> {
    record: u64,
    station: u32,
    name: &'a str,
    at_ns: u64,
    what: &'a str,
    captured: u64,
    replayed: u64,
}

/// An output, in JSON.
#[derive(Serialize)]
struct OutputLine<'a> {
    event: &'static str,
    record: u64,
    station: u32,
    name: &'a str,
    at_ns: u64,
    what: String,
}

/// Replays `path`, prints what comes out if asked to, and a summary. [`Ending::Failed`] when it is not the same.
///
/// # Errors
/// [`Failure`] when the file cannot be replayed, or the core panics.
pub fn run(path: &Path, prints: bool, is_json: bool) -> Result<Ending, Failure> {
    let shown = path.display();
    let refused = |error: &dyn std::fmt::Display| Failure::Usage(format!("{shown}: {error}"));
    let file = File::open(path).map_err(|error| refused(&error))?;
    let mut replay = Replay::open(BufReader::new(file)).map_err(|error| refused(&error))?;
    let mut printer = Printer::new(is_json);
    let mut printed = Ok(());
    // What the replay holds is not used again after a panic, but to say where it was.
    let ran = panic::catch_unwind(AssertUnwindSafe(|| {
        replay.run(&mut |place, output| {
            if prints && printed.is_ok() {
                printed = print(&mut printer, place, output);
            }
        })
    }));
    let printed = printed.and_then(|()| printer.flush());
    match ran {
        Ok(result) => result.map_err(|error| refused(&error))?,
        Err(_) => {
            let place = replay.place();
            return Err(Failure::Failed(format!(
                "{shown}: the core panics at {place}"
            )));
        }
    }
    let summary = replay.summary();
    let printed = printed.and_then(|()| {
        printer.print(&line(&summary), &in_words(&summary))?;
        printer.flush()
    });
    printed.or_else(PrintError::into_ending)?;
    Ok(if summary.differences == 0 {
        Ending::Done
    } else {
        Ending::Failed
    })
}

fn print(printer: &mut Printer, place: Place<'_>, output: Output<'_>) -> Result<(), PrintError> {
    let (event, what) = match output {
        Output::Datagram { to, datagram } => {
            let said = match wire::decode(datagram) {
                Ok(decoded) => format!("{:?}", decoded.messages().collect::<Vec<_>>()),
                Err(error) => error.to_string(),
            };
            (
                "datagram",
                format!("to {to:?}, {} bytes: {said}", datagram.len()),
            )
        }
        Output::Event(event) => ("event", format!("{event:?}")),
        Output::Answer(answer) => ("answer", answer.to_owned()),
    };
    if !printer.is_json() {
        return printer.print(&(), &for_eyes(&format!("{place}: {event}: {what}")));
    }
    let line = OutputLine {
        event,
        record: place.record,
        station: place.station,
        name: place.name,
        at_ns: place.at.as_nanos(),
        what,
    };
    printer.print(&line, "")
}

fn line(summary: &Summary) -> SummaryLine<'_> {
    let (missed, torn_bytes) = match summary.completeness {
        Completeness::Whole => (0, 0),
        Completeness::Cut { missed } => (missed, 0),
        Completeness::Torn { bytes } => (0, bytes),
    };
    SummaryLine {
        event: "summary",
        same: summary.differences == 0,
        version: &summary.version,
        core_revision: summary.revision,
        core_revision_here: CORE_REVISION,
        stations: summary.stations,
        records: summary.records,
        inputs: summary.inputs,
        datagrams_in: summary.datagrams_in,
        datagrams_out: summary.datagrams_out,
        events: summary.events,
        notices: summary.notices,
        lost: summary.lost,
        misplaced: summary.misplaced,
        seconds: summary.duration.as_secs_f64(),
        whole: summary.completeness == Completeness::Whole,
        missed,
        torn_bytes,
        differences: summary.differences,
        first_difference: summary
            .first_difference
            .as_ref()
            .map(|difference| DifferenceLine {
                record: difference.record,
                station: difference.station,
                name: &difference.name,
                at_ns: difference.at.as_nanos(),
                what: difference.what,
                captured: difference.captured,
                replayed: difference.replayed,
            }),
    }
}

fn in_words(summary: &Summary) -> String {
    let mut text = format!(
        "{} stations, {} inputs in {:.3} s, by floorcast {}: {} datagrams in, {} out, {} events, {} notices, {} numbers lost",
        summary.stations,
        summary.inputs,
        summary.duration.as_secs_f64(),
        for_eyes(&summary.version),
        summary.datagrams_in,
        summary.datagrams_out,
        summary.events,
        summary.notices,
        summary.lost,
    );
    match summary.completeness {
        Completeness::Whole => {}
        Completeness::Cut { missed } => text.push_str(&format!(
            "\nthe capture had reached its bound: {missed} later inputs are not in it"
        )),
        Completeness::Torn { bytes } => text.push_str(&format!(
            "\nthe capture has no end, so its program was killed or could not write any more; {bytes} bytes of a torn record are ignored"
        )),
    }
    if summary.misplaced > 0 {
        text.push_str(&format!(
            "\n{} notices or losses do not stand where the one before had ended",
            summary.misplaced
        ));
    }
    match &summary.first_difference {
        None => text.push_str("\nthe same comes out"),
        Some(first) => text.push_str(&format!(
            "\nsomething else comes out, {} times, first at {first}",
            summary.differences
        )),
    }
    if summary.revision != CORE_REVISION {
        text.push_str(&format!(
            "\nit was captured with revision {} of the core, and this is {CORE_REVISION}: differences are to be expected",
            summary.revision
        ));
    }
    text
}
