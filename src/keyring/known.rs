//! The workstations that a sender has met: each is known by its first key from then on, over every run (R-ENROL-2).
//!
//! The file is text, a line for each, so that the line of a workstation that was set up anew can be taken out by hand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::keys::PublicKey;
use crate::output::Failure;
use crate::wire::{NAME_BYTES_MAX, SourceId, is_station_name};

use super::files;
use super::trust::Place;

/// Most workstations that are remembered: twice the largest floor. A further one is refused, and has to be listed.
const KNOWN_MAX: usize = 10_000;
/// The longest file of so many: an id, a key, the longest name.
const FILE_BYTES_MAX: u64 = KNOWN_MAX as u64 * (16 + 1 + 64 + 1 + NAME_BYTES_MAX as u64 + 1);

/// The workstations of one floor that were met, and their file.
#[derive(Debug)]
pub struct Known {
    place: Place,
    met: Met,
    is_changed: bool,
}

/// By id: the name that it went by, and its key.
type Met = BTreeMap<SourceId, (String, PublicKey)>;

impl Known {
    /// What was remembered of the floor of `place`.
    ///
    /// # Errors
    /// [`Failure::Usage`] when the file is damaged.
    pub fn load(place: &Place) -> Result<Self, Failure> {
        Ok(Self {
            met: read(&path_in(place))?,
            place: place.clone(),
            is_changed: false,
        })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (SourceId, PublicKey)> {
        self.met.iter().map(|(&id, &(_, key))| (id, key))
    }

    /// A workstation was met: `name` is what it calls itself, if it has said so. [`save`](Self::save) writes it down.
    ///
    /// # Errors
    /// [`Failure::Failed`] when it was met before with another key, or too many were: it is not remembered.
    pub fn remember(&mut self, id: SourceId, name: &str, key: PublicKey) -> Result<(), Failure> {
        if let Some((_, before)) = self.met.get(&id) {
            if *before == key {
                return Ok(());
            }
            return Err(Failure::Failed(format!(
                "{name:?} had the key {} when it was first met, and has {} now; if it was set up anew, take its line out of {}",
                before.fingerprint(),
                key.fingerprint(),
                path_in(&self.place).display()
            )));
        }
        if self.met.len() >= KNOWN_MAX {
            return Err(self.full(&format!("{name:?} is")));
        }
        let name = if is_station_name(name) { name } else { "" };
        self.met.insert(id, (name.to_owned(), key));
        self.is_changed = true;
        Ok(())
    }

    /// Writes down who was met, and learns whom other programs have met in the meantime: who was first stays.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be written, after which it can be tried again, or when others have filled the file.
    pub fn save(&mut self) -> Result<(), Failure> {
        if !self.is_changed {
            return Ok(());
        }
        let _lock = self.place.lock()?;
        let path = path_in(&self.place);
        let mut all = read(&path)?;
        let mut left_out = 0;
        for (id, met) in &self.met {
            if all.len() < KNOWN_MAX || all.contains_key(id) {
                all.entry(*id).or_insert_with(|| met.clone());
            } else {
                left_out += 1;
            }
        }
        files::replace_bytes(&path, written(&all).as_bytes())?;
        self.met = all;
        self.is_changed = false;
        if left_out > 0 {
            return Err(self.full(&format!("{left_out} that were met are")));
        }
        Ok(())
    }

    fn full(&self, who: &str) -> Failure {
        Failure::Failed(format!(
            "{who} not remembered: {KNOWN_MAX} workstations are already; list those of the floor under [enrolment.keys], or \
             take lines out of {}",
            path_in(&self.place).display()
        ))
    }
}

fn path_in(place: &Place) -> PathBuf {
    place.file("known.keys")
}

fn written(met: &Met) -> String {
    let line = |(id, (name, key)): (&SourceId, &(String, PublicKey))| {
        format!("{:016x} {} {name}\n", id.0, key.to_hex())
    };
    met.iter().map(line).collect()
}

fn read(path: &std::path::Path) -> Result<Met, Failure> {
    let bytes = files::read_bytes(path, FILE_BYTES_MAX)?.unwrap_or_default();
    let mut met = Met::new();
    let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let lines = lines.split(|&byte| byte == b'\n');
    for (number, line) in (1..).zip(lines).filter(|_| !bytes.is_empty()) {
        let line = std::str::from_utf8(line).ok();
        let is_new = line
            .and_then(parse)
            .is_some_and(|(id, of)| met.insert(id, of).is_none());
        if !is_new || met.len() > KNOWN_MAX {
            return Err(Failure::Usage(format!(
                "{} line {number} is damaged, one too many, or there twice; a line is an id, a key and a name, as floorcast \
                 send wrote it: take the line out, and that workstation is met anew",
                path.display()
            )));
        }
    }
    Ok(met)
}

fn parse(line: &str) -> Option<(SourceId, (String, PublicKey))> {
    let (id, rest) = line.split_once(' ')?;
    let (key, name) = rest.split_once(' ')?;
    let is_id = id.len() == 16 && id.chars().all(|c| c.is_ascii_hexdigit());
    let id = is_id.then(|| u64::from_str_radix(id, 16).ok())??;
    let is_name = name.is_empty() || is_station_name(name);
    is_name.then_some((SourceId(id), (name.to_owned(), PublicKey::from_hex(key)?)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::keys::{KEY_BYTES, PrivateKey};
    use crate::wire::FloorId;

    fn key(seed: u64) -> PublicKey {
        let mut bytes = [0; KEY_BYTES];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        PrivateKey::from_seed(&bytes).public()
    }

    #[test]
    fn who_was_met_first_stays() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path(), FloorId(7));
        let mut known = Known::load(&place).unwrap();
        let mut other = Known::load(&place).unwrap();
        known.save().unwrap();
        assert!(!path_in(&place).exists(), "nothing was met");
        known.remember(SourceId(1), "ws 1", key(1)).unwrap();
        known.remember(SourceId(2), "", key(2)).unwrap();
        known.remember(SourceId(1), "ws 1", key(1)).unwrap();
        assert!(known.remember(SourceId(1), "ws 1", key(3)).is_err());
        known.save().unwrap();
        // Another send, which ran at the same time, met one of them with another key, and one more.
        other.remember(SourceId(1), "ws 1", key(4)).unwrap();
        other.remember(SourceId(3), "bad\nname", key(5)).unwrap();
        other.save().unwrap();
        let all = [
            (SourceId(1), key(1)),
            (SourceId(2), key(2)),
            (SourceId(3), key(5)),
        ];
        assert!(other.iter().eq(all));
        assert!(Known::load(&place).unwrap().iter().eq(all));
    }

    #[test]
    fn a_damaged_line_is_refused_with_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path(), FloorId(7));
        let mut known = Known::load(&place).unwrap();
        known.remember(SourceId(1), "ws-1", key(1)).unwrap();
        known.save().unwrap();
        let good = fs::read_to_string(path_in(&place)).unwrap();
        let id_and_key = 16 + 1 + 64;
        for bad in [
            format!("{good}\n"),
            format!("{good}{good}"),
            format!("{good}0{good}"),
            format!("{good}{}", &good[1..]),
            format!("{good}{}", &good[..id_and_key]),
            format!("{good}+{}", &good[1..]),
            format!("{good}{}\u{1}\n", good.trim_end()),
        ] {
            fs::write(path_in(&place), &bad).unwrap();
            let Err(Failure::Usage(sentence)) = Known::load(&place) else {
                panic!("taken: {bad:?}");
            };
            assert!(sentence.contains("known.keys line 2"), "{sentence}");
        }
    }

    #[test]
    fn a_full_file_takes_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path(), FloorId(7));
        let mut known = Known::load(&place).unwrap();
        let name = "x".repeat(NAME_BYTES_MAX);
        let one = key(0);
        for id in 0..KNOWN_MAX as u64 {
            known.remember(SourceId(id), &name, one).unwrap();
        }
        let Err(Failure::Failed(sentence)) = known.remember(SourceId(u64::MAX), "late", one) else {
            panic!("one too many is taken");
        };
        assert!(
            sentence.contains("late") && sentence.contains("10000"),
            "{sentence}"
        );
        known.save().unwrap();
        // One that began before the file was full.
        let other = Place::new(&directory.path().join("other"), FloorId(7));
        let mut late = Known::load(&other).unwrap();
        late.place = place.clone();
        late.remember(SourceId(u64::MAX), "late", one).unwrap();
        let Err(Failure::Failed(sentence)) = late.save() else {
            panic!("one too many is saved");
        };
        assert!(sentence.contains("1 that were met"), "{sentence}");
        let bytes = fs::metadata(path_in(&place)).unwrap().len();
        assert_eq!(bytes, FILE_BYTES_MAX);
        let line = format!("{:016x} {} late\n", u64::MAX, one.to_hex());
        let text = fs::read_to_string(path_in(&place)).unwrap();
        fs::write(path_in(&place), text + &line).unwrap();
        assert!(Known::load(&place).is_err());
    }
}
