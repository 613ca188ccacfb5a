//! The SQL of a page. Names come from the list of visible columns alone, and every value of the request is a
//! bound parameter that is cast to the type of its column.

use std::fmt::Write as _;

use super::error::QueryError;
use super::position::Position;
use super::request::{OrderTerm, RowRequest};
use super::table::ReadableTable;
use crate::filter::{Column, Condition, SqlBuilder};

/// Text of a query, with the values of its parameters. `$1` is the organisation.
#[derive(Debug)]
pub(super) struct PageQuery {
    /// Conditions behind `where`.
    conditions: String,
    /// Condition of the position, and the order.
    after: String,
    order: String,
    /// Expression of the row's position.
    position: String,
    from: String,
    document: String,
    key_document: String,
    partial_document: String,
    /// Values from `$2` on, with their types.
    values: Vec<(String, String)>,
    /// Number of the first values, which stem from the token.
    signed_values: usize,
    /// The first of these values that belongs to the position.
    first_of_position: usize,
}

impl PageQuery {
    /// Builds the query of a page.
    pub(super) fn new(table: &ReadableTable, request: &RowRequest) -> Result<Self, QueryError> {
        Self::build(table, request, &[])
    }

    /// Builds the query of one row from the values of its key.
    pub(super) fn row(
        table: &ReadableTable,
        request: &RowRequest,
        id: &[String],
    ) -> Result<Self, QueryError> {
        Self::build(table, request, id)
    }

    /// The conditions of the token come first, whatever is requested.
    fn build(table: &ReadableTable, request: &RowRequest, id: &[String]) -> Result<Self, QueryError> {
        for name in request.select.iter().flatten() {
            table.columns.find(name)?;
        }
        let terms = complete_order(table, &request.order)?;
        let org = format!("n.{} = $1::pg_catalog.uuid", table.org_column);
        let mut builder = SqlBuilder::new(&table.columns, org);
        let own = builder.sql.len();
        append_conditions(&mut builder, &request.signed)?;
        let signed = builder.sql.get(own..).unwrap_or_default().trim_start_matches(" and ").to_owned();
        let signed_values = builder.values.len();
        append_asked(&mut builder, &request.conditions, &signed)?;
        for (column, value) in table.key.iter().zip(id) {
            let parameter = builder.bind(column, value);
            let _ = write!(builder.sql, " and {} = {parameter}", column.of_row());
        }
        let conditions = std::mem::take(&mut builder.sql);
        let first_of_position = builder.values.len();
        if let Some(position) = &request.after {
            append_after(&mut builder, &terms, position)?;
        }
        Ok(Self {
            conditions,
            after: builder.sql,
            order: terms.iter().map(Term::sql).collect::<Vec<_>>().join(", "),
            position: position_expression(table, &terms),
            from: format!("from {} n", table.relation),
            document: table.document.clone(),
            key_document: table.key_document.clone(),
            partial_document: table.partial_document.clone(),
            values: builder.values,
            signed_values,
            first_of_position,
        })
    }

    /// Values of the parameters from `$2` on.
    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(|(value, _)| value.as_str())
    }

    /// A query that fails if a value does not have the type of its column. Values are `$1` and so on. None if
    /// there are no values.
    pub(super) fn check(&self) -> Option<String> {
        self.check_first(self.values.len())
    }

    /// A query that checks only the values that stem from the token.
    pub(super) fn check_signed(&self) -> Option<String> {
        self.check_first(self.signed_values)
    }

    /// Values that stem from the token.
    pub(super) fn signed_values(&self) -> impl Iterator<Item = &str> {
        self.values().take(self.signed_values)
    }

    fn check_first(&self, count: usize) -> Option<String> {
        let casts = self
            .values
            .iter()
            .take(count)
            .enumerate()
            .map(|(n, (_, kind))| format!("(${}::{kind}) is null", n + 1));
        let casts: Vec<String> = casts.collect();
        (!casts.is_empty()).then(|| format!("select {}", casts.join(" or ")))
    }

    /// The query of the rows: document, key, position. A document above `bytes_max` is null, and so is a
    /// position that is too long for a URL.
    pub(super) fn rows(&self, limit: usize, bytes_max: usize) -> String {
        let Self { conditions, after, order, position, from, document, key_document, .. } = self;
        let and = if after.is_empty() { "" } else { " and " };
        let document = limited_document(document, bytes_max);
        format!(
            "select {document}, ({key_document})::pg_catalog.text, {position} \
             {from} where {conditions}{and}{after} order by {order} limit {limit}"
        )
    }

    /// The query of one row's document without the columns whose values `jsonb` cannot represent. It is null
    /// if it has more than `bytes_max` bytes.
    pub(super) fn partial_row(&self, bytes_max: usize) -> String {
        let Self { conditions, from, partial_document, .. } = self;
        format!("select {} {from} where {conditions}", limited_document(partial_document, bytes_max))
    }

    /// The query of the number of rows, up to `count_max` of them. It ignores the position, so it binds fewer
    /// values.
    pub(super) fn count(&self, count_max: usize) -> String {
        let Self { conditions, from, .. } = self;
        format!("select count(*) from (select 1 {from} where {conditions} limit {count_max}) rows")
    }

    /// Values of [`Self::count`] from `$2` on.
    pub(super) fn count_values(&self) -> impl Iterator<Item = &str> {
        self.values().take(self.first_of_position)
    }
}

/// An expression for the text of a document. A text above `bytes_max` is null.
fn limited_document(document: &str, bytes_max: usize) -> String {
    format!(
        "(select case when pg_catalog.octet_length(j.doc) <= {bytes_max} then j.doc end \
         from (select ({document})::pg_catalog.text as doc offset 0) j)"
    )
}

/// An expression for the position of a row. Values are measured before they are converted, because text may
/// be compressed, and a number such as 1e131000 is far longer as text.
fn position_expression(table: &ReadableTable, terms: &[Term<'_>]) -> String {
    let values: Vec<String> =
        terms.iter().map(|term| format!("{}::pg_catalog.text", term.column.of_row())).collect();
    let position = format!("array[{}]", values.join(", "));
    let conditions: Vec<&str> = terms
        .iter()
        .filter_map(|term| table.position_conditions.get(&term.column.name).map(String::as_str))
        .collect();
    if conditions.is_empty() {
        return position;
    }
    // A subquery is expensive enough to be evaluated after the sort, so for the rows of the page alone.
    format!("(select case when {} then {position} end)", conditions.join(" and "))
}

fn append_conditions(builder: &mut SqlBuilder<'_>, conditions: &[Condition]) -> Result<(), QueryError> {
    for condition in conditions {
        builder.sql.push_str(" and ");
        builder.condition(condition)?;
    }
    Ok(())
}

/// Appends the conditions of a request. The time of a pattern depends on the text that it reads, so patterns
/// read the rows alone that the token's conditions select. PostgreSQL evaluates conditions of a row in the
/// order of their cost, except within `case`. Other conditions stay plain, because indexes serve them.
fn append_asked(builder: &mut SqlBuilder<'_>, asked: &[Condition], signed: &str) -> Result<(), QueryError> {
    for condition in asked {
        let is_guarded = !signed.is_empty() && condition.has_pattern();
        builder.sql.push_str(" and ");
        if is_guarded {
            let _ = write!(builder.sql, "case when {signed} then ");
        }
        builder.condition(condition)?;
        if is_guarded {
            builder.sql.push_str(" else false end");
        }
    }
    Ok(())
}

/// One column of the complete order.
struct Term<'a> {
    column: &'a Column,
    is_descending: bool,
    nulls_first: bool,
}

impl Term<'_> {
    fn sql(&self) -> String {
        let direction = if self.is_descending { "desc" } else { "asc" };
        let nulls = match (self.column.is_nullable, self.nulls_first) {
            // A null does not occur, and an index is used in its own order.
            (false, _) => "",
            (true, true) => " nulls first",
            (true, false) => " nulls last",
        };
        format!("{} {direction}{nulls}", self.column.of_row())
    }
}

/// The order of a request, completed by the columns of the key, so that no two rows are equal in it.
fn complete_order<'a>(table: &'a ReadableTable, order: &[OrderTerm]) -> Result<Vec<Term<'a>>, QueryError> {
    let mut terms = Vec::new();
    for OrderTerm { column, is_descending, nulls_first } in order {
        let column = table.columns.find(column)?;
        column.expect(column.is_ordered, "order")?;
        terms.push(Term { column, is_descending: *is_descending, nulls_first: *nulls_first });
    }
    // In the direction of the last column, so that an index on all of them serves.
    let is_descending = terms.last().is_some_and(|term| term.is_descending);
    for column in &table.key {
        if terms.iter().all(|term| term.column.name != column.name) {
            terms.push(Term { column, is_descending, nulls_first: false });
        }
    }
    Ok(terms)
}

/// Appends the condition of the rows after a position.
///
/// If no column is null and all have one direction, this is a comparison of rows, which an index serves.
/// Otherwise it is: the first column is after its value, or it is equal and the second one is after its
/// value, and so on.
fn append_after(
    builder: &mut SqlBuilder<'_>,
    terms: &[Term<'_>],
    position: &Position,
) -> Result<(), QueryError> {
    if position.0.len() != terms.len() {
        return Err(QueryError::After);
    }
    let is_uniform = terms.windows(2).all(|pair| pair[0].is_descending == pair[1].is_descending);
    let is_never_null = terms.iter().all(|term| !term.column.is_nullable);
    let mut parameters = Vec::new();
    for (term, value) in terms.iter().zip(&position.0) {
        match value {
            Some(value) => parameters.push(Some(builder.bind(term.column, value))),
            None if term.column.is_nullable => parameters.push(None),
            None => return Err(QueryError::After),
        }
    }
    if is_uniform && is_never_null {
        let columns: Vec<String> = terms.iter().map(|term| term.column.of_row()).collect();
        let parameters: Vec<String> = parameters.into_iter().flatten().collect();
        let operator = if terms[0].is_descending { "<" } else { ">" };
        let _ = write!(builder.sql, "({}) {operator} ({})", columns.join(", "), parameters.join(", "));
        return Ok(());
    }
    let mut alternatives = Vec::new();
    let mut equal = String::new();
    for (term, parameter) in terms.iter().zip(&parameters) {
        if let Some(after) = term.after(parameter.as_deref()) {
            alternatives.push(format!("({equal}{after})"));
        }
        let column = term.column.of_row();
        let _ = match parameter {
            Some(parameter) => write!(equal, "{column} = {parameter} and "),
            None => write!(equal, "{column} is not distinct from null and "),
        };
    }
    let _ = write!(builder.sql, "({})", alternatives.join(" or "));
    Ok(())
}

impl Term<'_> {
    /// The condition that the column comes after this value, or after null. None if nothing does.
    fn after(&self, parameter: Option<&str>) -> Option<String> {
        let column = self.column.of_row();
        let operator = if self.is_descending { "<" } else { ">" };
        match parameter {
            Some(parameter) if self.column.is_nullable && !self.nulls_first => {
                Some(format!("({column} {operator} {parameter} or {column} is not distinct from null)"))
            }
            Some(parameter) => Some(format!("{column} {operator} {parameter}")),
            None => self.nulls_first.then(|| format!("{column} is distinct from null")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[(&str, &str)] =
        &[("id", "bigint"), ("a\"b", "text"), ("n", "integer"), ("ok", "boolean"), ("doc", "json")];

    fn query(text: &str) -> Result<PageQuery, QueryError> {
        PageQuery::new(&ReadableTable::for_tests(COLUMNS), &RowRequest::parse(text)?)
    }

    /// Each condition of a request, and whether it is evaluated on the rows of the token's filter alone.
    #[test]
    fn patterns_of_a_request_read_the_rows_of_the_token_alone() {
        for (asked, is_guarded) in [
            ("a\"b=like.x*", true),
            ("a\"b=not.ilike.x*", true),
            (r#"or=(n.eq.1,and("a\"b".like.x*,n.gt.2))"#, true),
            ("a\"b=eq.x", false),
            ("n=in.(1,2)", false),
        ] {
            let mut request = RowRequest::parse(asked).expect(asked);
            request.signed = RowRequest::parse("n=gt.5&ok=is.true").expect("parses").conditions;
            let table = ReadableTable::for_tests(COLUMNS);
            let query = PageQuery::new(&table, &request).expect("builds");
            let guarded = query.conditions.contains(" and case when (n.\"n\" > $2");
            assert_eq!(guarded, is_guarded, "{asked}: {}", query.conditions);
            request.signed.clear();
            let query = PageQuery::new(&table, &request).expect("builds");
            assert!(!query.conditions.contains("case"), "{asked}: {}", query.conditions);
        }
    }

    #[test]
    fn values_are_parameters_and_names_are_quoted() {
        let built = query("a%22b=eq.x'%3B--&or=(n.gt.1,n.is.null)&n=in.(1,2)&order=n.desc").expect("builds");
        assert_eq!(
            built.conditions,
            r#"n.org_id = $1::pg_catalog.uuid and (n."a""b" = $2::text) and ((n."n" > $3::integer) or (n."n" is not distinct from null)) and (n."n" = any (array[$4::integer, $5::integer]::integer[]))"#
        );
        assert_eq!(built.values().collect::<Vec<_>>(), ["x';--", "1", "1", "2"]);
        assert_eq!(built.order, r#"n."n" desc nulls first, n."id" desc"#);
    }

    #[test]
    fn only_visible_columns_and_applicable_operators_are_accepted() {
        for text in [
            "ssn=eq.1",
            "select=ssn",
            "order=ssn",
            "or=(ssn.is.null)",
            "select=id,",
            "select=id,count()",
            "doc=eq.1",
            "doc=in.(1)",
            "order=doc",
            "n=like.1",
            "n=is.true",
            "id=is.unknown",
        ] {
            assert!(query(text).is_err(), "{text}");
        }
        for text in ["doc=is.null", "ok=is.true", "n=is.null", "a%22b=ilike.*x*"] {
            assert!(query(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_page_begins_after_its_position() {
        let after = |order: &str, values: &[Option<&str>]| {
            let position = Position(values.iter().map(|value| value.map(str::to_owned)).collect());
            query(&format!("order={order}&after={}", position.encode().expect("encodes")))
                .map(|built| built.after)
        };
        assert_eq!(after("id", &[Some("7")]).as_deref(), Ok(r#"(n."id") > ($2::bigint)"#));
        assert_eq!(
            after("n.asc", &[Some("7"), Some("1")]).as_deref(),
            Ok(concat!(
                r#"(((n."n" > $2::integer or n."n" is not distinct from null)) or "#,
                r#"(n."n" = $2::integer and n."id" > $3::bigint))"#
            ))
        );
        assert_eq!(
            after("n.desc.nullslast", &[None, Some("1")]).as_deref(),
            Ok(r#"((n."n" is not distinct from null and n."id" < $2::bigint))"#)
        );
        assert_eq!(after("n", &[Some("1")]), Err(QueryError::After));
        assert_eq!(after("n", &[Some("1"), None]), Err(QueryError::After));
    }
}
