//! Values of filters in the form of events, kept for other joins. After a reconnection, most clients ask for
//! their former filters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::value::RawValue;

use crate::filter::TableChecks;
use crate::sync::lock;

/// Converted values in memory. Beyond it the memory is cleared.
pub(crate) const CONVERTED_VALUES_MAX: usize = 8192;

/// Bytes of converted values in memory, and of their spellings. Beyond it the memory is cleared.
pub(crate) const CONVERTED_BYTES_MAX: usize = 1024 * 1024;

/// Values by type and spelling. A change of a table may be one of a type, so it clears them.
#[derive(Debug)]
pub(super) struct ConvertedValues {
    known: Mutex<Known>,
    checks: Arc<TableChecks>,
}

#[derive(Debug, Default)]
struct Known {
    values: HashMap<(String, String), Arc<RawValue>>,
    bytes: usize,
    /// Number of checks of tables when the first value was converted.
    checks: u64,
}

impl ConvertedValues {
    pub(super) fn new(checks: Arc<TableChecks>) -> Self {
        Self { known: Mutex::default(), checks }
    }

    /// Number of checks of tables that have begun.
    pub(super) fn checks(&self) -> u64 {
        self.checks.count()
    }

    /// The known values of these types and spellings.
    pub(super) fn get(&self, literals: &[(String, String)]) -> Vec<Option<Arc<RawValue>>> {
        let known = lock(&self.known);
        let is_current = known.checks == self.checks.count();
        let get = |literal| known.values.get(literal).filter(|_| is_current).map(Arc::clone);
        literals.iter().map(get).collect()
    }

    /// Keeps a value that was converted after this number of checks.
    pub(super) fn insert(&self, literal: (String, String), value: Arc<RawValue>, checks: u64) {
        let mut known = lock(&self.known);
        let bytes = literal.0.len() + literal.1.len() + value.get().len();
        let is_full = known.values.len() >= CONVERTED_VALUES_MAX || known.bytes + bytes > CONVERTED_BYTES_MAX;
        if is_full || known.checks < checks {
            *known = Known { checks, ..Known::default() };
        }
        if known.checks == checks && known.values.insert(literal, value).is_none() {
            known.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Arc<RawValue> {
        RawValue::from_string(json.to_owned()).expect("JSON").into()
    }

    #[test]
    fn values_are_kept_until_a_check_of_tables_begins() {
        let checks = Arc::<TableChecks>::default();
        let values = ConvertedValues::new(Arc::clone(&checks));
        let literal = |text: &str| ("numeric".to_owned(), text.to_owned());
        let known = |text: &str| values.get(&[literal(text)])[0].as_ref().map(|json| json.get().to_owned());
        values.insert(literal("1e1"), value("10"), 0);
        assert_eq!((known("1e1"), known("1e2")), (Some("10".into()), None));
        checks.begin();
        assert_eq!(known("1e1"), None);
        values.insert(literal("1e2"), value("100"), 0);
        assert_eq!(known("1e2"), None, "it was converted before the check");
        values.insert(literal("1e2"), value("100"), 1);
        assert_eq!((known("1e1"), known("1e2")), (None, Some("100".into())));
        for n in 0..2 * CONVERTED_VALUES_MAX {
            values.insert(literal(&n.to_string()), value("1"), 1);
        }
        assert!(lock(&values.known).values.len() <= CONVERTED_VALUES_MAX);
        for n in 0..1000 {
            values.insert(literal(&format!("{n:04096}")), value("1"), 1);
        }
        assert!(lock(&values.known).bytes <= CONVERTED_BYTES_MAX);
    }
}
