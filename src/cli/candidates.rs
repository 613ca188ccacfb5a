//! Tables that look like an organisation's: the list for the operator of `warden migrate`, and the question
//! on a terminal.

use std::fmt::Write as _;

use super::terminal;
use crate::tenancy::preflight::{Candidate, TableChoice, parse_tables};

/// The candidates with their reasons, and the command that adopts them; empty if there are none.
pub(super) fn list(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "{}:\n",
        match candidates.len() {
            1 => "1 table looks like an organisation's, and is not adopted".to_owned(),
            n => format!("{n} tables look like an organisation's, and are not adopted"),
        }
    );
    text.push_str(&numbered(candidates));
    let names: Vec<&str> = candidates.iter().map(|candidate| candidate.name.as_str()).collect();
    let _ = writeln!(
        text,
        "To adopt them, or some of them: warden migrate --tables '{}'\n\
         If the application has a single organisation, add --default-organization.",
        names.join(",")
    );
    text
}

fn numbered(candidates: &[Candidate]) -> String {
    let width = candidates.iter().map(|candidate| candidate.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (n, candidate) in candidates.iter().enumerate() {
        let note = if candidate.is_derivable() {
            ""
        } else {
            " (does not say to which organisation a row belongs: needs an option)"
        };
        let _ = writeln!(text, "{:>4}  {:width$}  {}{note}", n + 1, candidate.name, candidate.reason);
    }
    text
}

/// Asks the operator on the terminal which candidates to adopt.
pub(super) async fn ask(candidates: &[Candidate]) -> anyhow::Result<Vec<TableChoice>> {
    eprint!("These tables look like an organisation's:\n{}", numbered(candidates));
    loop {
        let answer = terminal::answer("Adopt which? Numbers or names, `all`, or nothing: ").await?;
        match chosen(&answer, candidates) {
            Ok(choices) => return Ok(choices),
            Err(error) => eprintln!("{error}"),
        }
    }
}

fn chosen(answer: &str, candidates: &[Candidate]) -> Result<Vec<TableChoice>, String> {
    let answer = answer.trim();
    let list = match answer {
        "" | "nothing" | "none" => return Ok(Vec::new()),
        "all" => candidates.iter().map(|candidate| candidate.name.clone()).collect::<Vec<_>>().join(","),
        _ if answer.chars().all(|c| c.is_ascii_digit() || c == ',' || c == ' ') => {
            let numbers = answer.split([',', ' ']).filter(|number| !number.is_empty());
            let names = numbers.map(|number| {
                let candidate = number.parse::<usize>().ok().and_then(|n| candidates.get(n.checked_sub(1)?));
                candidate.map(|c| c.name.clone()).ok_or_else(|| format!("there is no number {number}"))
            });
            names.collect::<Result<Vec<_>, _>>()?.join(",")
        }
        _ => answer.to_owned(),
    };
    parse_tables(&list).map_err(|errors| errors.join("; "))
}
