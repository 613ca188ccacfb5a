//! Ways to break isolation, each with the findings that the audit must report.

mod database;
mod foundation;
mod objects;
mod surroundings;

/// One way to break a database.
pub struct Break {
    /// Breaks with the same place are not combined in one round.
    pub place: &'static str,
    /// SQL that breaks the database.
    pub sql: &'static str,
    /// Exact findings: the rule, and the table or else the object.
    pub finds: &'static [(&'static str, &'static str)],
}

const fn broken(
    place: &'static str,
    sql: &'static str,
    finds: &'static [(&'static str, &'static str)],
) -> Break {
    Break { place, sql, finds }
}

/// All breaks.
pub fn breaks() -> impl Iterator<Item = &'static Break> {
    objects::BREAKS.iter().chain(database::BREAKS).chain(surroundings::BREAKS).chain(foundation::BREAKS)
}
