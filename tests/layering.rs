//! Keeps the rooms of the source apart: which module may name which, and what text may stand where.
//!
//! It reads tokens, not meaning: comments, strings and characters are told from code and `use` trees are followed, but
//! a macro or a re-export can fool it. `cargo check --lib --no-default-features` and review catch the rest. Code in
//! `#[cfg(test)]` modules, in files called `tests.rs` and in folders called `tests` is exempt, and so is `lib.rs`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

/// Every module at the top of `src`, and the others it may name. A new module is a decision: give it a row.
const ROOMS: &[(&str, &str)] = &[
    ("time", ""),
    ("rng", ""),
    ("wire", "time"),
    ("proto", "time wire rng"),
    ("notice", "time wire rng"),
    ("keys", "wire"),
    ("guard", "time wire rng proto keys"),
    ("station", "time wire rng proto notice guard"),
    ("sim", "time wire rng proto notice keys guard station"),
    ("capture", "time wire proto notice guard station"),
    ("net", ""),
    ("floor", "wire keys proto net"),
    (
        "runtime",
        "time wire rng proto notice station capture net floor",
    ),
    ("output", "wire notice time proto station"),
    ("keyring", "wire keys proto guard floor runtime output"),
    ("proofs", "wire keys guard notice output"),
    (
        "agent",
        "time rng wire keys guard proto notice station capture net floor runtime output keyring",
    ),
    (
        "send",
        "time rng wire keys guard proto notice station capture net floor runtime output keyring proofs",
    ),
    (
        "demo",
        "keys guard time rng wire proto notice station capture net floor runtime output",
    ),
    (
        "check",
        "time rng wire proto notice station net floor runtime output",
    ),
    ("replay", "wire capture output"),
    (
        "bench",
        "keys guard time rng wire proto notice station capture net runtime output",
    ),
    (
        "cli",
        "time rng wire proto notice station sim capture net floor runtime output agent send demo check replay bench keys keyring proofs",
    ),
    ("main", "cli"),
];

/// Rooms that know no clock, no thread, no socket, no file and no chance: the same inputs give the same bytes.
const PURE: &str = "time rng wire proto notice keys guard station sim";
/// Words that a pure room may not contain. The hash tables are here because their order is random.
const IMPURE_WORDS: &[&str] = &[
    "Instant",
    "SystemTime",
    "UdpSocket",
    "HashMap",
    "HashSet",
    "getrandom",
    "mio",
    "socket2",
];
/// Modules of `std` that a pure room may not name.
const IMPURE_STD: &[&str] = &["thread", "io", "fs"];
/// Macros that stand for unfinished work.
const UNFINISHED: &[&str] = &["todo", "dbg", "unimplemented"];

const FILE_LINES_MAX: usize = 1_000;
const FUNCTION_LINES_MAX: usize = 70;

/// A rule broken at a line. Ordered by place, and once per line and rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Breach {
    path: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

#[test]
fn the_source_keeps_its_layers() {
    let mut breaches = BTreeSet::new();
    let files = sources();
    assert!(!files.is_empty(), "no source found");
    for (path, text) in &files {
        breaches.extend(check(path, text));
    }
    let list: Vec<_> = breaches.iter().map(ToString::to_string).collect();
    assert!(
        list.is_empty(),
        "{} breaches:\n{}",
        list.len(),
        list.join("\n")
    );
}

/// The path, from the package's root with `/`, and the text of every `.rs` file under `src`, in order.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    walk(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        "src",
        &mut files,
    );
    files.sort();
    files
}

fn walk(dir: &Path, shown: &str, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let entry = entry.expect("src is readable");
        let name = entry
            .file_name()
            .into_string()
            .expect("file names are UTF-8");
        let (path, shown) = (entry.path(), format!("{shown}/{name}"));
        if path.is_dir() {
            walk(&path, &shown, files);
        } else if name.ends_with(".rs") {
            files.push((shown, fs::read_to_string(path).expect("sources are UTF-8")));
        }
    }
}

/// Every breach in one file.
fn check(path: &str, text: &str) -> Vec<Breach> {
    let parts: Vec<_> = path
        .strip_prefix("src/")
        .unwrap_or(path)
        .split('/')
        .collect();
    if path == "src/lib.rs" || parts.contains(&"tests") || parts.last() == Some(&"tests.rs") {
        return Vec::new();
    }
    let room = parts[0].strip_suffix(".rs").unwrap_or(parts[0]);
    let mut breaches = BTreeSet::new();
    let mut found = |line, rule: String| {
        breaches.insert(Breach {
            path: path.to_owned(),
            line,
            rule,
        });
    };
    let (tokens, lines) = without_tests(tokens(text), text.lines().count());
    match ROOMS.iter().find(|(name, _)| *name == room) {
        None => found(
            1,
            format!("module `{room}` has no row in tests/layering.rs"),
        ),
        Some((_, allowed)) => {
            for (line, path) in absolute_paths(&tokens, module_depth(&parts)) {
                if let Some(rule) = forbidden_room(room, allowed, &path) {
                    found(line, rule);
                }
            }
        }
    }
    if PURE.split(' ').any(|pure| pure == room) {
        impurities(&tokens, &mut |line, name| {
            found(line, format!("`{room}` is pure: no `{name}`"))
        });
    }
    unwanted(room, &tokens, &mut found);
    for (line, name, len) in functions(&tokens) {
        if len > FUNCTION_LINES_MAX {
            found(
                line,
                format!("function `{name}` has {len} lines, more than {FUNCTION_LINES_MAX}"),
            );
        }
    }
    if lines > FILE_LINES_MAX {
        let rule = format!("{lines} lines before the tests, more than {FILE_LINES_MAX}");
        found(FILE_LINES_MAX + 1, rule);
    }
    breaches.into_iter().collect()
}

/// How many modules deep a file lies: 0 is the crate's root, which `main.rs` is.
fn module_depth(parts: &[&str]) -> usize {
    match parts {
        ["main.rs"] => 0,
        [folders @ .., "mod.rs"] => folders.len(),
        _ => parts.len(),
    }
}

fn forbidden_room(room: &str, allowed: &str, path: &[String]) -> Option<String> {
    let [root, named, ..] = path else { return None };
    if !matches!(root.as_str(), "crate" | "floorcast") || named == room {
        return None;
    }
    if !ROOMS.iter().any(|(name, _)| name == named) {
        return Some(format!(
            "`crate::{named}` is no room: name the module that has it"
        ));
    }
    let is_allowed = allowed.split(' ').any(|name| name == named);
    (!is_allowed).then(|| format!("`{room}` may not name `{named}`"))
}

fn impurities(tokens: &[Token], found: &mut impl FnMut(usize, &str)) {
    for token in tokens {
        if let Kind::Word(word) = &token.kind
            && IMPURE_WORDS.contains(&word.as_str())
        {
            found(token.line, word);
        }
    }
    for (line, path) in paths(tokens) {
        if let [root, module, ..] = path.as_slice()
            && matches!(root.as_str(), "std" | "core" | "alloc")
            && IMPURE_STD.contains(&module.as_str())
        {
            found(line, &format!("std::{module}"));
        }
    }
}

/// What no room may contain, and `unsafe`, which only `net` may.
fn unwanted(room: &str, tokens: &[Token], found: &mut impl FnMut(usize, String)) {
    for (i, token) in tokens.iter().enumerate() {
        match &token.kind {
            Kind::Word(word) if word == "unsafe" && room != "net" => {
                found(token.line, "`unsafe` belongs in `net` only".to_owned());
            }
            Kind::Word(word) if UNFINISHED.contains(&word.as_str()) => {
                if is_mark(tokens, i + 1, '!') && !is_mark(tokens, i + 2, '=') {
                    found(token.line, format!("`{word}!` is unfinished work"));
                }
            }
            Kind::Fixme => found(token.line, "a FIXME is unfinished work".to_owned()),
            Kind::Word(_) | Kind::Mark(_) | Kind::Literal => {}
        }
    }
}

/// Line, name and number of lines of every function that has a body.
fn functions(tokens: &[Token]) -> Vec<(usize, String, usize)> {
    let mut functions = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        if let Some(name) = word(tokens, i + 1)
            && word(tokens, i) == Some("fn")
            && let Some(end) = end_of_body(tokens, i + 2)
        {
            functions.push((token.line, name.to_owned(), end + 1 - token.line));
        }
    }
    functions
}

/// The line of the brace that closes the body of a function whose signature goes on at token `i`; `None` for one that
/// has no body.
fn end_of_body(tokens: &[Token], i: usize) -> Option<usize> {
    let (mut brackets, mut braces) = (0_usize, 0_usize);
    for token in tokens.get(i..)? {
        match token.kind {
            Kind::Mark('(' | '[') => brackets += 1,
            Kind::Mark(')' | ']') => brackets = brackets.saturating_sub(1),
            Kind::Mark(';') if brackets == 0 && braces == 0 => return None,
            Kind::Mark('{') if braces > 0 || brackets == 0 => braces += 1,
            Kind::Mark('}') if braces > 0 => {
                braces -= 1;
                if braces == 0 {
                    return Some(token.line);
                }
            }
            Kind::Mark(_) | Kind::Word(_) | Kind::Literal | Kind::Fixme => {}
        }
    }
    None
}

/// Drops test modules: one with a body ends the file (they stand last), one in another file is its own line. With the
/// number of lines that are left.
fn without_tests(mut tokens: Vec<Token>, lines: usize) -> (Vec<Token>, usize) {
    let mut i = 0;
    while i < tokens.len() {
        match test_module(&tokens, i) {
            Some(end) if is_mark(&tokens, end, '{') => {
                let before = tokens[i].line - 1;
                tokens.truncate(i);
                return (tokens, before);
            }
            Some(end) => drop(tokens.drain(i..=end)),
            None => i += 1,
        }
    }
    (tokens, lines)
}

/// Where `#[cfg(test)] mod name` begins at token `i`: the place of the `{` or `;` behind the name.
fn test_module(tokens: &[Token], i: usize) -> Option<usize> {
    let is_cfg_test = is_mark(tokens, i, '#')
        && is_mark(tokens, i + 1, '[')
        && word(tokens, i + 2) == Some("cfg")
        && is_mark(tokens, i + 3, '(')
        && word(tokens, i + 4) == Some("test")
        && is_mark(tokens, i + 5, ')');
    if !is_cfg_test {
        return None;
    }
    let mut at = i;
    while is_mark(tokens, at, '#') {
        at += 1 + tokens
            .get(at..)?
            .iter()
            .position(|token| matches!(token.kind, Kind::Mark(']')))?;
    }
    if word(tokens, at) == Some("pub") {
        at += 1;
        if is_mark(tokens, at, '(') {
            at += 1 + tokens
                .get(at..)?
                .iter()
                .position(|token| matches!(token.kind, Kind::Mark(')')))?;
        }
    }
    (word(tokens, at) == Some("mod")).then_some(at + 2)
}

/// All paths, those that climb to the crate's root by `super` written as `crate::..`.
fn absolute_paths(tokens: &[Token], depth: usize) -> Vec<(usize, Vec<String>)> {
    let mut absolute = Vec::new();
    // The braces open at this point; true for those of a module.
    let mut open: Vec<bool> = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        match tokens[i].kind {
            Kind::Mark('{') => open.push(i >= 2 && word(tokens, i - 2) == Some("mod")),
            Kind::Mark('}') => drop(open.pop()),
            Kind::Mark(_) | Kind::Word(_) | Kind::Literal | Kind::Fixme => {}
        }
        let mut here = Vec::new();
        i = path_at(tokens, i, &mut here);
        let depth = depth + open.iter().filter(|is_module| **is_module).count();
        for (line, path) in here {
            let from = usize::from(path.first().is_some_and(|first| first == "self"));
            let climbs = path
                .iter()
                .skip(from)
                .take_while(|part| *part == "super")
                .count();
            if climbs > 0 && climbs == depth {
                let rest = path.into_iter().skip(from + climbs);
                absolute.push((
                    line,
                    std::iter::once("crate".to_owned()).chain(rest).collect(),
                ));
            } else {
                absolute.push((line, path));
            }
        }
    }
    absolute
}

/// All paths with their lines, `use` trees taken apart: `std::{fmt, io::{self, Read}}` is three.
fn paths(tokens: &[Token]) -> Vec<(usize, Vec<String>)> {
    let mut paths = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        i = path_at(tokens, i, &mut paths);
    }
    paths
}

/// Takes the path that begins at token `i`, if one does; where to go on.
fn path_at(tokens: &[Token], i: usize, paths: &mut Vec<(usize, Vec<String>)>) -> usize {
    // What follows `Vec::<u8>` or `<T as Trait>` goes on from there and names nothing by itself.
    let goes_on = i >= 3 && is_separator(tokens, i - 2) && is_mark(tokens, i - 3, '>');
    if word(tokens, i).is_none() || goes_on {
        i + 1
    } else {
        tree_at(tokens, i, &[], paths)
    }
}

fn tree_at(
    tokens: &[Token],
    mut i: usize,
    prefix: &[String],
    paths: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        let Some(token) = tokens.get(i) else { return i };
        match &token.kind {
            Kind::Word(word) => path.push(word.clone()),
            Kind::Mark('*') => path.push("*".to_owned()),
            Kind::Mark('{') => return trees_at(tokens, i + 1, &path, paths),
            // The `<` of a turbofish: the path ends before it.
            Kind::Mark(_) | Kind::Literal | Kind::Fixme => {
                paths.push((token.line, path));
                return i;
            }
        }
        if !is_separator(tokens, i + 1) {
            paths.push((token.line, path));
            return i + 1;
        }
        i += 3;
    }
}

/// The entries of a `use` tree's braces, up to the one that closes them.
fn trees_at(
    tokens: &[Token],
    mut i: usize,
    prefix: &[String],
    paths: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    while let Some(token) = tokens.get(i) {
        match &token.kind {
            Kind::Mark('}') => return i + 1,
            // The new name behind `as` is no path of this tree.
            Kind::Word(word) if word == "as" => i += 2,
            Kind::Word(_) | Kind::Mark('*') => i = tree_at(tokens, i, prefix, paths),
            Kind::Mark(_) | Kind::Literal | Kind::Fixme => i += 1,
        }
    }
    i
}

fn word(tokens: &[Token], i: usize) -> Option<&str> {
    match &tokens.get(i)?.kind {
        Kind::Word(word) => Some(word),
        Kind::Mark(_) | Kind::Literal | Kind::Fixme => None,
    }
}

fn is_mark(tokens: &[Token], i: usize, mark: char) -> bool {
    matches!(tokens.get(i), Some(Token { kind: Kind::Mark(found), .. }) if *found == mark)
}

fn is_separator(tokens: &[Token], i: usize) -> bool {
    is_mark(tokens, i, ':') && is_mark(tokens, i + 1, ':')
}

#[derive(Clone, Debug)]
struct Token {
    line: usize,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// A name or a keyword.
    Word(String),
    /// One character of punctuation; `::` is two.
    Mark(char),
    /// A number, a text, a character or a lifetime: whatever stands in it is not code.
    Literal,
    /// A comment that says FIXME; other comments vanish.
    Fixme,
}

/// The code of a file, in pieces.
fn tokens(text: &str) -> Vec<Token> {
    let mut scanner = Scanner {
        chars: text.chars().collect(),
        at: 0,
        line: 1,
    };
    let mut tokens = Vec::new();
    while let Some(c) = scanner.peek(0) {
        let line = scanner.line;
        if let Some(kind) = scanner.token(c) {
            tokens.push(Token { line, kind });
        }
    }
    tokens
}

struct Scanner {
    chars: Vec<char>,
    at: usize,
    line: usize,
}

impl Scanner {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn skip(&mut self, len: usize) {
        for _ in 0..len {
            self.line += usize::from(self.peek(0) == Some('\n'));
            self.at += 1;
        }
    }

    fn take_while(&mut self, is_wanted: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(c) = self.peek(0).filter(|c| is_wanted(*c)) {
            taken.push(c);
            self.skip(1);
        }
        taken
    }

    fn token(&mut self, c: char) -> Option<Kind> {
        match c {
            '/' if self.peek(1) == Some('/') => {
                let comment = self.take_while(|c| c != '\n');
                comment.contains("FIXME").then_some(Kind::Fixme)
            }
            '/' if self.peek(1) == Some('*') => self
                .block_comment()
                .contains("FIXME")
                .then_some(Kind::Fixme),
            '"' => Some(self.text()),
            '\'' => Some(self.character_or_lifetime()),
            c if c.is_ascii_digit() => {
                self.take_while(is_word_char);
                Some(Kind::Literal)
            }
            c if is_word_char(c) => Some(self.word_or_prefixed()),
            c => {
                self.skip(1);
                (!c.is_whitespace()).then_some(Kind::Mark(c))
            }
        }
    }

    fn block_comment(&mut self) -> String {
        let mut comment = String::new();
        let mut depth = 0_usize;
        while let Some(c) = self.peek(0) {
            match (c, self.peek(1)) {
                ('/', Some('*')) => {
                    depth += 1;
                    self.skip(1);
                }
                ('*', Some('/')) => {
                    depth -= 1;
                    self.skip(1);
                }
                _ => comment.push(c),
            }
            self.skip(1);
            if depth == 0 {
                break;
            }
        }
        comment
    }

    /// A text in quotes, from its opening quote.
    fn text(&mut self) -> Kind {
        self.skip(1);
        while let Some(c) = self.peek(0) {
            self.skip(if c == '\\' { 2 } else { 1 });
            if c == '"' {
                break;
            }
        }
        Kind::Literal
    }

    /// `r"..."` or `r##"..."##`, from behind the `r`; the raw name `r#type`.
    fn raw(&mut self) -> Kind {
        let hashes = self.take_while(|c| c == '#').len();
        if self.peek(0) != Some('"') {
            return Kind::Word(self.take_while(is_word_char));
        }
        self.skip(1);
        while self.peek(0).is_some() {
            let is_end =
                self.peek(0) == Some('"') && (1..=hashes).all(|i| self.peek(i) == Some('#'));
            self.skip(if is_end { 1 + hashes } else { 1 });
            if is_end {
                break;
            }
        }
        Kind::Literal
    }

    fn character_or_lifetime(&mut self) -> Kind {
        if self.peek(1) == Some('\\') {
            // The escaped character may itself be a quote.
            self.skip(3);
            self.take_while(|c| c != '\'');
            self.skip(1);
        } else if self.peek(2) == Some('\'') {
            self.skip(3);
        } else {
            self.skip(1);
            self.take_while(is_word_char);
        }
        Kind::Literal
    }

    fn word_or_prefixed(&mut self) -> Kind {
        let word = self.take_while(is_word_char);
        match (word.as_str(), self.peek(0)) {
            ("r" | "br" | "cr", Some('"' | '#')) => self.raw(),
            ("b" | "c", Some('"')) => self.text(),
            ("b", Some('\'')) => self.character_or_lifetime(),
            _ => Kind::Word(word),
        }
    }
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Goal: the checker sees each kind of breach. Method: one file each with one breach, found once, at its line.
#[test]
fn planted_breaches_are_found() {
    let long_function = format!(
        "fn short() {{}}\nfn long() {{\n{}}}\n",
        "    step('}');\n".repeat(69)
    );
    let long_file = "const A: u8 = 1;\n".repeat(1_001);
    let planted: &[(&str, &str, &str)] = &[
        (
            "src/wire/ids.rs",
            "use crate::time::T;\n\nuse crate::proto::P;",
            "3: `wire` may not name `proto`",
        ),
        (
            "src/proto/mod.rs",
            "use crate::notice::Notice;",
            "1: `proto` may not name `notice`",
        ),
        (
            "src/notice.rs",
            "fn f() -> crate::proto::P {}",
            "1: `notice` may not name `proto`",
        ),
        (
            "src/net/mod.rs",
            "use crate::time;",
            "1: `net` may not name `time`",
        ),
        (
            "src/agent.rs",
            "use crate::{\n    wire::A,\n    send::{B, C},\n};",
            "3: `agent` may not name `send`",
        ),
        (
            "src/demo.rs",
            "use crate::cli::Args;",
            "1: `demo` may not name `cli`",
        ),
        (
            "src/check.rs",
            "use crate::sim;",
            "1: `check` may not name `sim`",
        ),
        (
            "src/output.rs",
            "use crate::floor::Floor;",
            "1: `output` may not name `floor`",
        ),
        (
            "src/floor.rs",
            "use crate::time::Timestamp;",
            "1: `floor` may not name `time`",
        ),
        (
            "src/main.rs",
            "//! It.\nuse floorcast::runtime::run;",
            "2: `main` may not name `runtime`",
        ),
        (
            "src/time.rs",
            "use super::wire::A;",
            "1: `time` may not name `wire`",
        ),
        (
            "src/wire/ids.rs",
            "mod a {\n  use super::super::super::net::A;\n}",
            "2: `wire` may not name `net`",
        ),
        (
            "src/proto/a.rs",
            "use crate::Facade;",
            "1: `crate::Facade` is no room: name the module that has it",
        ),
        (
            "src/proto/a.rs",
            "use crate::*;",
            "1: `crate::*` is no room: name the module that has it",
        ),
        (
            "src/hall.rs",
            "",
            "1: module `hall` has no row in tests/layering.rs",
        ),
        (
            "src/hall/door.rs",
            "",
            "1: module `hall` has no row in tests/layering.rs",
        ),
        (
            "src/proto/a.rs",
            "\nuse std::time::Instant;",
            "2: `proto` is pure: no `Instant`",
        ),
        (
            "src/sim/a.rs",
            "type A = std::time::SystemTime;",
            "1: `sim` is pure: no `SystemTime`",
        ),
        (
            "src/station.rs",
            "use std::{fmt, thread};",
            "1: `station` is pure: no `std::thread`",
        ),
        (
            "src/station.rs",
            "use std::net::{IpAddr, UdpSocket};",
            "1: `station` is pure: no `UdpSocket`",
        ),
        (
            "src/notice.rs",
            "use std::io::{self, Read};",
            "1: `notice` is pure: no `std::io`",
        ),
        (
            "src/notice.rs",
            "use std::{\n  fmt,\n  io::{self, Read},\n};",
            "3: `notice` is pure: no `std::io`",
        ),
        (
            "src/time.rs",
            "fn f() { ::std::fs::read(\"a\"); }",
            "1: `time` is pure: no `std::fs`",
        ),
        (
            "src/wire.rs",
            "use std::collections::HashMap as Map;",
            "1: `wire` is pure: no `HashMap`",
        ),
        (
            "src/wire.rs",
            "let a: HashSet<u8>;",
            "1: `wire` is pure: no `HashSet`",
        ),
        (
            "src/wire.rs",
            "getrandom::fill(&mut b);",
            "1: `wire` is pure: no `getrandom`",
        ),
        (
            "src/wire.rs",
            "use mio::Poll;",
            "1: `wire` is pure: no `mio`",
        ),
        (
            "src/wire.rs",
            "use socket2::Socket;",
            "1: `wire` is pure: no `socket2`",
        ),
        (
            "src/runtime.rs",
            "/* a */\nfn f() { unsafe { g() } }",
            "2: `unsafe` belongs in `net` only",
        ),
        (
            "src/cli.rs",
            "fn f() {\n    todo!()\n}",
            "2: `todo!` is unfinished work",
        ),
        (
            "src/cli.rs",
            "fn f() { dbg!(1) }",
            "1: `dbg!` is unfinished work",
        ),
        (
            "src/net.rs",
            "fn f() { unimplemented!(\"x\") }",
            "1: `unimplemented!` is unfinished work",
        ),
        (
            "src/cli.rs",
            "let a = 1; // FIXME later",
            "1: a FIXME is unfinished work",
        ),
        (
            "src/cli.rs",
            &long_function,
            "2: function `long` has 71 lines, more than 70",
        ),
        (
            "src/cli.rs",
            &long_file,
            "1001: 1001 lines before the tests, more than 1000",
        ),
        (
            "src/cli.rs",
            "#[cfg(test)]\nmod tests;\nfn f() { dbg!(1) }",
            "3: `dbg!` is unfinished work",
        ),
    ];
    for (path, text, expected) in planted {
        let found: Vec<_> = check(path, text).iter().map(ToString::to_string).collect();
        assert_eq!(found, [format!("{path}:{expected}")], "in {text:?}");
    }
}

/// Goal: the checker accuses nobody. Method: files that look like breaches and are none.
#[test]
fn what_is_allowed_is_not_found() {
    let longest_function = format!(
        "fn long() -> [u8; 2] {{\n{}}}\n",
        "    step(\"}\");\n".repeat(68)
    );
    let tests = format!(
        "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
        "fn f() {}\n".repeat(1_000),
        "dbg!(1);\n".repeat(100)
    );
    let clean: &[(&str, &str)] = &[
        ("src/lib.rs", "pub use crate::net::A; // FIXME"),
        ("src/wire/tests.rs", "use crate::net::A; use std::io;"),
        ("src/sim/tests/pair.rs", "use std::thread;"),
        (
            "src/wire/ids.rs",
            "use crate::wire::A; use super::B; pub(in crate::wire) fn f() {} pub(crate) fn g() {}",
        ),
        (
            "src/wire/mod.rs",
            "mod a { use super::B; }\npub(super) struct A;",
        ),
        (
            "src/proto/a.rs",
            "// use crate::net; Instant\n/* std::io /* HashMap */ unsafe */\n/// `std::thread`, todo!()",
        ),
        (
            "src/proto/a.rs",
            "const A: &str = \"crate::net // unsafe \\\" Instant\"; const B: char = '\"'; type C = u8;",
        ),
        (
            "src/proto/a.rs",
            "const A: &str = r#\"unsafe \" HashMap\"#; const B: &[u8] = b\"\\\\\"; const C: u8 = b'\\''; ",
        ),
        (
            "src/proto/a.rs",
            "fn f<'a>(a: &'a str) -> &'static str { match c { '{' | '\\'' | '\\u{7d}' => r#type, } }",
        ),
        (
            "src/proto/a.rs",
            "use std::net::{IpAddr, SocketAddr}; use std::sync::Arc; use std::time::Duration;",
        ),
        (
            "src/proto/a.rs",
            "fn instant(io: Io) { io::<u8>::fs(std::iter::once(1)); let mio_like = 1; }",
        ),
        (
            "src/net/a.rs",
            "use std::io; use std::thread; fn f() { unsafe { g() } }",
        ),
        (
            "src/agent.rs",
            "use crate::runtime::A; use crate::output; use std::time::Instant;",
        ),
        (
            "src/cli.rs",
            "use crate::{agent, check, demo, send, sim::Lab}; fn f() { if todo != 1 {} }",
        ),
        ("src/main.rs", "fn main() { floorcast::cli::main() }"),
        (
            "src/cli.rs",
            "trait A { fn f(&self) -> [u8; 2]; }\nstruct B { f: fn(u8) -> u8 }",
        ),
        ("src/cli.rs", &longest_function),
        ("src/cli.rs", &tests),
        (
            "src/cli.rs",
            "#[cfg(test)]\n#[expect(a, reason = \"b\")]\npub(crate) mod lab {\n    use std::io;\n    dbg!(1);\n}",
        ),
    ];
    for (path, text) in clean {
        assert_eq!(check(path, text), [], "in {path}: {text:?}");
    }
}

/// Every name in the table's right column has a row of its own, above its user: the table itself cannot make a circle.
#[test]
fn the_table_has_no_circle() {
    for (i, (room, allowed)) in ROOMS.iter().enumerate() {
        for named in allowed.split_whitespace() {
            assert!(
                ROOMS[..i].iter().any(|(name, _)| *name == named),
                "{room} names {named}, which has no row above"
            );
        }
    }
}
