//! The report as text: findings by table, each with its remedy.

use std::fmt::Write as _;

use super::remedy::{Remedy, RemedyKind};
use super::report::{Finding, Report};
use super::rules::{RULES, Severity};

/// Maximum number of lines shown of a remedy. The JSON document contains all lines.
const REMEDY_LINES_MAX: usize = 4;
/// Column in which the text of a finding begins.
const INDENT: usize = 11;

/// Renders a report, with colours for a terminal.
#[must_use]
pub fn render(report: &Report, is_coloured: bool) -> String {
    let paint = |code: &str, text: &str| {
        if is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let width = RULES.iter().map(|rule| rule.id.len()).max().unwrap_or(0);
    let mut text = String::new();
    let mut last = None;
    for alike in report.findings.chunk_by(are_alike) {
        let finding = &alike[0];
        if last != Some(&finding.table) {
            let title = finding.table.as_deref().unwrap_or("the database");
            let _ = writeln!(text, "{}", paint("1", title));
            last = Some(&finding.table);
        }
        let severity = format!("{:7}", finding.severity.name());
        let colour = match finding.severity {
            Severity::Finding => "31",
            Severity::Notice => "33",
        };
        let cause = with_objects(alike);
        let _ = writeln!(text, "  {}  {:width$}  {cause}", paint(colour, &severity), finding.rule);
        for line in remedy_lines(&finding.remedy) {
            let _ = writeln!(text, "{:INDENT$}{}", "", paint("2", &line));
        }
    }
    let _ = write!(text, "{}", summary(report, paint));
    text
}

/// The remedy, line by line. The answers to a question are indented below it.
fn remedy_lines(remedy: &Remedy) -> Vec<String> {
    let mut lines = step_lines("", remedy.kind, &remedy.text, remedy.then.as_deref());
    for choice in &remedy.choices {
        lines.push(format!("   {}:", choice.answer));
        lines.append(&mut step_lines("      ", choice.kind, &choice.text, choice.then.as_deref()));
    }
    lines
}

fn step_lines(indent: &str, kind: RemedyKind, text: &str, then: Option<&str>) -> Vec<String> {
    let prompt = match kind {
        RemedyKind::Sql => "sql> ",
        RemedyKind::Shell => "$ ",
        RemedyKind::Decide => "?  ",
        RemedyKind::Advice => "-> ",
    };
    let all: Vec<&str> = text.trim_end().lines().collect();
    let mut lines: Vec<String> = Vec::new();
    for (n, line) in all.iter().take(REMEDY_LINES_MAX).enumerate() {
        lines.push(format!("{indent}{}{line}", if n == 0 { prompt } else { "     " }));
    }
    if all.len() > REMEDY_LINES_MAX {
        lines.push(format!("{indent}     ... {} more lines: see --json", all.len() - REMEDY_LINES_MAX));
    }
    lines.extend(then.map(|command| format!("{indent}$ {command}")));
    lines
}

/// Whether two findings differ only in their object. Such findings share one line, for example all rules that
/// a role has no right to check.
fn are_alike(a: &Finding, b: &Finding) -> bool {
    (a.rule, a.severity, &a.table, &a.cause, &a.remedy) == (b.rule, b.severity, &b.table, &b.cause, &b.remedy)
}

/// The cause, preceded by the objects unless the cause or the table's name contains them.
fn with_objects(alike: &[Finding]) -> String {
    let first = &alike[0];
    let is_table = first.table.as_deref().is_some_and(|table| table.ends_with(&first.object));
    if alike.len() == 1 && (is_table || first.cause.contains(&first.object)) {
        return first.cause.clone();
    }
    let objects: Vec<&str> = alike.iter().map(|finding| finding.object.as_str()).collect();
    format!("{}: {}", objects.join(", "), first.cause)
}

fn summary(report: &Report, paint: impl Fn(&str, &str) -> String) -> String {
    let plural = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
    let (findings, notices) = (report.count(Severity::Finding), report.count(Severity::Notice));
    let verdict =
        if findings == 0 { paint("32", "clean") } else { paint("31", &plural(findings, "finding")) };
    let standby = if report.is_standby { ", a standby" } else { "" };
    format!(
        "{}, PostgreSQL {}{standby}: {} tables, {} of {} rules checked in {}.{} s: {verdict}, {}\n",
        report.database,
        report.server_version,
        report.tables,
        report.rules,
        RULES.len(),
        report.took_ms / 1000,
        report.took_ms % 1000 / 100,
        plural(notices, "notice"),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::remedy::{Choice, Remedy, RemedyKind};
    use super::*;

    fn report(findings: Vec<Finding>) -> Report {
        let report = Report {
            version: 1,
            database: "acme".into(),
            server_version: "15.1".into(),
            is_standby: false,
            tables: 47,
            rules: 2,
            took_ms: 0,
            findings,
        };
        report.finish(Duration::from_millis(1234))
    }

    #[test]
    fn findings_are_grouped_by_table_and_followed_by_their_remedy() {
        let guard = Remedy::sql("select warden.guard_org_id('public.calls');");
        let text = render(
            &report(vec![
                Finding::new(
                    "policy",
                    Some("public.calls"),
                    "warden_org",
                    "policy \"warden_org\" is missing".into(),
                    Remedy::sql("a\nb\nc\nd\ne"),
                ),
                Finding::new(
                    "immutability",
                    Some("public.calls"),
                    "warden_org_id_immutable",
                    "is disabled".into(),
                    guard,
                ),
                Finding::new(
                    "several-memberships",
                    None,
                    "somebody",
                    "none is primary".into(),
                    Remedy::decide(
                        "which one?",
                        vec![Choice::new("the first", RemedyKind::Sql, "select 1;\n$ warden migrate")],
                    ),
                ),
            ]),
            false,
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "the database");
        assert!(
            lines[1].starts_with("  notice   several-memberships ")
                && lines[1].ends_with("  somebody: none is primary"),
            "{text}"
        );
        assert_eq!(
            lines[2..7],
            [
                "           ?  which one?",
                "              the first:",
                "                 sql> select 1;",
                "                 $ warden migrate",
                "public.calls"
            ]
        );
        assert!(
            lines[7].contains("immutability") && lines[7].contains("warden_org_id_immutable: is disabled"),
            "{text}"
        );
        assert_eq!(lines[8], "           sql> select warden.guard_org_id('public.calls');");
        assert_eq!(lines[14], "                ... 1 more lines: see --json");
        assert!(text.ends_with(" in 1.2 s: 2 findings, 1 notice\n"), "{text}");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn rules_that_could_not_be_checked_for_one_reason_share_one_line() {
        let unchecked = |rule| {
            Finding::new(
                "not-checked",
                None,
                rule,
                "could not be checked: no rights".into(),
                Remedy::advice("ask"),
            )
        };
        let text = render(&report(vec![unchecked("policy"), unchecked("claims")]), false);
        assert!(
            text.contains("not-checked            claims, policy: could not be checked: no rights\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn a_clean_report_is_one_line() {
        let text = render(&report(Vec::new()), true);
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("\x1b[32mclean\x1b[0m, 0 notices"), "{text}");
    }
}
