//! Keeps `PROTOCOL.md` and the code honest with each other: every rule is cited where it is obeyed, every citation
//! names a rule.
//!
//! A rule is a list item or a heading that begins with its id in bold, `- **R-NACK-3** A receiver ...`; the code cites
//! it in a comment, `(R-NACK-3)`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const PROTOCOL: &str = "PROTOCOL.md";

#[test]
fn rules_and_citations_agree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protocol =
        fs::read_to_string(root.join(PROTOCOL)).expect("PROTOCOL.md stands beside Cargo.toml");
    let mut sources = Vec::new();
    walk(&root.join("src"), "src", &mut sources);
    sources.sort();
    assert!(!sources.is_empty(), "no source found");
    let faults = faults(&protocol, &sources);
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// The path with `/` and the text of every `.rs` file under `dir`.
fn walk(dir: &Path, shown: &str, sources: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let entry = entry.expect("src is readable");
        let name = entry
            .file_name()
            .into_string()
            .expect("file names are UTF-8");
        let (path, shown) = (entry.path(), format!("{shown}/{name}"));
        if path.is_dir() {
            walk(&path, &shown, sources);
        } else if name.ends_with(".rs") {
            sources.push((shown, fs::read_to_string(path).expect("sources are UTF-8")));
        }
    }
}

/// Where the two disagree, each as `file:line: fault`.
fn faults(protocol: &str, sources: &[(String, String)]) -> Vec<String> {
    let mut faults = Vec::new();
    let rules = definitions(protocol, &mut faults);
    let mut cited = BTreeSet::new();
    for (path, text) in sources {
        for (number, line) in (1..).zip(text.lines()) {
            // A comment, and whatever stands behind `//` in a text, which never looks like an id.
            for id in line
                .split_once("//")
                .map_or(Vec::new(), |(_, comment)| ids(comment))
            {
                if !rules.contains_key(id) {
                    faults.push(format!(
                        "{path}:{number}: cites {id}, which {PROTOCOL} does not define"
                    ));
                }
                cited.insert(id);
            }
        }
    }
    for (number, line) in prose(protocol) {
        for id in ids(line).into_iter().filter(|id| !rules.contains_key(id)) {
            faults.push(format!(
                "{PROTOCOL}:{number}: names {id}, which it does not define"
            ));
        }
    }
    for (id, number) in rules.iter().filter(|(id, _)| !cited.contains(*id)) {
        faults.push(format!("{PROTOCOL}:{number}: {id} is cited nowhere in src"));
    }
    faults
}

/// The rules with the lines that define them.
fn definitions<'a>(protocol: &'a str, faults: &mut Vec<String>) -> BTreeMap<&'a str, usize> {
    let mut rules = BTreeMap::new();
    for (number, line) in prose(protocol) {
        let Some((bold, _)) = unmarked(line)
            .and_then(|item| item.strip_prefix("**R-"))
            .and_then(|it| it.split_once("**"))
        else {
            continue;
        };
        match ids(line).first() {
            Some(id) if id.strip_prefix("R-") == Some(bold) => {
                if let Some(earlier) = rules.insert(*id, number) {
                    faults.push(format!(
                        "{PROTOCOL}:{number}: defines {id} again, after line {earlier}"
                    ));
                }
            }
            _ => faults.push(format!(
                "{PROTOCOL}:{number}: **R-{bold}** is no rule id; write it as **R-NACK-3**"
            )),
        }
    }
    rules
}

/// The lines outside fenced code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// What follows the mark of a list item (`-`, `*`, `+`, `1.`) or of a heading; `None` for any other line.
fn unmarked(line: &str) -> Option<&str> {
    let (mark, rest) = line.trim_start().split_once(' ')?;
    let is_number = mark
        .strip_suffix(['.', ')'])
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let is_heading = !mark.is_empty() && mark.bytes().all(|b| b == b'#');
    (is_number || is_heading || matches!(mark, "-" | "*" | "+")).then(|| rest.trim_start())
}

/// Every `R-XXX-N` in a text: capitals and digits, beginning with a capital, then a number; standing alone, so that
/// neither `FOR-A-1` nor `R-A-1b` is one.
fn ids(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
        .map(|word| word.trim_end_matches('-'))
        .filter(|word| is_id(word))
        .collect()
}

fn is_id(word: &str) -> bool {
    let Some((topic, number)) = word
        .strip_prefix("R-")
        .and_then(|rest| rest.split_once('-'))
    else {
        return false;
    };
    topic.starts_with(|c: char| c.is_ascii_uppercase())
        && topic
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit())
}

/// Goal: the checker sees each kind of fault. Method: a page and a source that agree, and one change to them each.
#[test]
fn planted_faults_are_found() {
    const PAGE: &str =
        "# R-rules\n\n### **R-HDR-1** Version\n- **R-HDR-2** as R-HDR-1\n1. **R-X2-10**: a\n";
    const CODE: &str = "/// One (R-HDR-1).\nfn f() {} // R-HDR-2, R-X2-10.\n";
    let found = |page: &str, code: &str| faults(page, &[("src/a.rs".to_owned(), code.to_owned())]);
    assert_eq!(found(PAGE, CODE), [""; 0]);

    let with = |text: &str, more: &str| {
        let mut text = text.to_owned();
        let _ = writeln!(text, "{more}");
        text
    };
    let planted: &[(&str, &str, &str)] = &[
        (
            "- **R-NACK-3** a",
            "",
            "PROTOCOL.md:6: R-NACK-3 is cited nowhere in src",
        ),
        (
            "  * **R-HDR-2** a",
            "",
            "PROTOCOL.md:6: defines R-HDR-2 again, after line 4",
        ),
        (
            "",
            "//! (R-NACK-3)",
            "src/a.rs:3: cites R-NACK-3, which PROTOCOL.md does not define",
        ),
        (
            "see R-NACK-3.",
            "",
            "PROTOCOL.md:6: names R-NACK-3, which it does not define",
        ),
        (
            "- **R-nack-3** a",
            "",
            "PROTOCOL.md:6: **R-nack-3** is no rule id; write it as **R-NACK-3**",
        ),
        (
            "- **R-HDR-1a** a",
            "",
            "PROTOCOL.md:6: **R-HDR-1a** is no rule id; write it as **R-NACK-3**",
        ),
        (
            "- **R-HDR-1:** a",
            "",
            "PROTOCOL.md:6: **R-HDR-1:** is no rule id; write it as **R-NACK-3**",
        ),
    ];
    for (page, code, expected) in planted {
        assert_eq!(
            found(&with(PAGE, page), &with(CODE, code)),
            [*expected],
            "{page:?} {code:?}"
        );
    }
}

/// Goal: the checker accuses nobody. Method: lines that look like rules or citations and are none.
#[test]
fn what_only_looks_like_a_rule_is_none() {
    let mut faults = Vec::new();
    let page = "**R-A-1** in a paragraph\n```\n- **R-A-2** in code\n```\n| **R-A-3** | in a table |\n- text **R-A-4**\n";
    assert_eq!(definitions(page, &mut faults), BTreeMap::new());
    assert_eq!(faults, [""; 0]);
    assert_eq!(
        ids("R-A-1, (R-B2-22) R-C-3. `R-D-4`- **R-E-5**"),
        ["R-A-1", "R-B2-22", "R-C-3", "R-D-4", "R-E-5"]
    );
    assert_eq!(
        ids("FOR-A-1 R-A-1b R-a-1 R-A R-A- R--1 R-2A-1 R-A-1-2 R-A-N r-A-1 XR-A-1 _R-A-1"),
        [""; 0]
    );
    let code = [(
        "src/a.rs".to_owned(),
        "let a = \"R-A-1\"; // R-A-x".to_owned(),
    )];
    assert_eq!(crate::faults("", &code), [""; 0]);
}
