//! The memory budget, and the table of its parts.

use std::fmt::Write as _;

use super::{Limit, Section, Value};
use crate::config::Limits;

pub(super) const TITLE: &str = "Memory";

pub(super) fn section(limits: &Limits) -> Section {
    let budget = Limit::new(
        "memory_bytes_max",
        Value::bytes(limits.memory_bytes_max),
        "Memory of everything that clients, back ends and writers can fill, except sessions. The table below divides \
         it.",
    );
    Section { title: TITLE, limits: vec![budget.set_by("WARDEN_MEMORY_MIB")] }
}

/// The parts of the budget as a table, in MiB rounded up.
pub(super) fn parts(limits: &Limits) -> String {
    const MIB: usize = 1024 * 1024;
    let mut table = String::from("\n| part of the memory | at most, MiB | bounded by |\n|---|---:|---|\n");
    let parts = limits.memory_parts();
    for part in &parts {
        let names: Vec<String> = part.limits.iter().map(|name| format!("`{name}`")).collect();
        // Writing to a String does not fail.
        let _ =
            writeln!(table, "| {} | {} | {} |", part.name, part.bytes_max.div_ceil(MIB), names.join(", "));
    }
    let sum: usize = parts.iter().map(|part| part.bytes_max).sum();
    let _ = writeln!(table, "| **sum** | **{}** | |", sum.div_ceil(MIB));
    table.push_str(
        "\nA session takes a few KiB in addition. The parts count what is stored. The allocator's own overhead comes in addition. A smaller or larger budget changes all parts except \
         the last five in proportion.\n",
    );
    table
}
