//! The house stands: imports point down only, and no file has grown out of its noun.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 500;

const FLOORS: &[&[&str]] = &[
    &["pg"],
    &["error"],
    &["wire", "pgoutput", "telemetry"],
    &["replication", "catalog"],
    &["schema", "bulk", "apply", "precheck", "verify", "demo", "spool"],
    &["migrate"],
    &["cli"],
];

/// Files that belong to no room: the map, the program, and the doors that fuzz targets use.
const OUTSIDE: &[&str] = &["lib", "main", "fuzzing"];

#[test]
fn imports_point_down() {
    let mut broken = Vec::new();
    for file in sources() {
        let room = room_of(&file);
        if OUTSIDE.contains(&room.as_str()) {
            continue;
        }
        let floor = floor_of(&room).unwrap_or_else(|| panic!("{} is on no floor", file.display()));
        for used in rooms_used(&product_code(&fs::read_to_string(&file).unwrap())) {
            let below = floor_of(&used).is_some_and(|other| other < floor);
            if used != room && !below {
                broken.push(format!("{} uses {used}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "imports that do not point down:\n{}", broken.join("\n"));
}

#[test]
fn every_room_is_on_the_map() {
    let rooms: BTreeSet<String> = sources().iter().map(|file| room_of(file)).collect();
    for room in rooms.iter().filter(|room| !OUTSIDE.contains(&room.as_str())) {
        assert!(floor_of(room).is_some(), "{room} is on no floor");
    }
}

#[test]
fn no_file_has_outgrown_its_noun() {
    let long: Vec<String> = sources()
        .iter()
        .map(|file| (file, fs::read_to_string(file).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| format!("{}: {lines}", file.display()))
        .collect();
    assert!(long.is_empty(), "files over {LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    for file in sources() {
        assert!(fs::read_to_string(&file).unwrap().starts_with("//!"), "{} lacks its `//!`", file.display());
    }
}

#[test]
fn the_reader_sees_every_form_of_import() {
    let text = "use crate::pg::Lsn;\nuse crate::{error::Error, wire};\nlet x = crate::bulk::copy();\n\
                // crate::cli is not here\nuse crate::{\n    apply::{Lane, Group},\n    demo,\n};\n";
    let used: Vec<String> = rooms_used(&product_code(text)).into_iter().collect();
    assert_eq!(used, ["apply", "bulk", "demo", "error", "pg", "wire"]);
}

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

fn room_of(file: &Path) -> String {
    let inside = file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The text without comments and without unit tests, which may use the demo's clusters.
fn product_code(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    product
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |code, line| code + line + "\n")
}

fn rooms_used(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    // Within the library `pgstream::` is no path: it stands in texts, such as a hint about logging.
    let start = "crate::";
    for (at, _) in code.match_indices(start) {
        let path = &code[at + start.len()..];
        let firsts = match path.strip_prefix('{') {
            Some(group) => first_segments(group),
            None => vec![word(path)],
        };
        // `crate::describe!` and the like are no rooms; every room's name is in lower case.
        rooms.extend(firsts.into_iter().filter(|first| !first.is_empty()));
    }
    rooms
}

/// The first segment of each path in `a::b, c, d::{e, f}}`.
fn first_segments(group: &str) -> Vec<String> {
    let (mut depth, mut fresh, mut firsts) = (1, true, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            _ if fresh && depth == 1 && !character.is_whitespace() => {
                firsts.push(word(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    firsts
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_' || c.is_ascii_digit()).collect()
}
