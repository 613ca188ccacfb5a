//! The rows themselves: that each has an organisation, one that exists, and that of its parent. Where a
//! constraint that is valid and awake vouches for that, they are looked at only by a deep audit.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::report::{Finding, Mend};
use super::{Audit, COUNTED_ROWS_MAX};

/// A table, and what vouches for its rows.
#[derive(sqlx::FromRow)]
struct Subject {
    full_name: String,
    is_not_null: bool,
    has_org_key: bool,
    parent: Option<String>,
    parent_column: Option<String>,
    parent_key: Option<String>,
    has_parent: bool,
    has_parent_key: bool,
}

const RULES: &[&str] = &["null-rows", "unknown-organizations", "parent-rows"];

impl Audit<'_> {
    pub(super) async fn judge_rows(&mut self) -> anyhow::Result<()> {
        let mut subjects: Vec<Subject> = Vec::new();
        self.judge(RULES, None, async |connection: &mut PgConnection| {
            subjects = sqlx::query_as(include_str!("sql/rows.sql")).fetch_all(connection).await?;
            Ok(Vec::new())
        })
        .await?;
        for subject in &subjects {
            for (rule, question) in subject.questions(self.options.is_deep) {
                self.judge(&[rule], Some(&subject.full_name), async |connection: &mut PgConnection| {
                    question.ask(connection, rule, &subject.full_name).await
                })
                .await?;
            }
        }
        Ok(())
    }
}

/// Rows that there must be none of.
struct Question {
    /// What follows `select count(*)`, rows named `c`.
    from: String,
    cause: &'static str,
    mend: Mend,
}

impl Subject {
    fn questions(&self, is_deep: bool) -> Vec<(&'static str, Question)> {
        let table = &self.full_name;
        let mut questions = Vec::new();
        if is_deep || !self.is_not_null {
            questions.push((
                "null-rows",
                Question {
                    from: format!("{table} c where c.org_id is null"),
                    cause: "no organisation (org_id is null)",
                    mend: Mend::shell("warden migrate"),
                },
            ));
        }
        if is_deep || !self.has_org_key {
            let from = format!(
                "{table} c where c.org_id is not null and not exists (select from public.organizations o where o.id = c.org_id)"
            );
            questions.push((
                "unknown-organizations",
                Question {
                    mend: Mend::decide(format!(
                        "find them, and give them one that exists, or delete them: select c.* from {from};"
                    )),
                    from,
                    cause: "an organisation that does not exist",
                },
            ));
        }
        if let (Some(parent), Some(column), Some(key), true) =
            (&self.parent, &self.parent_column, &self.parent_key, self.has_parent)
            && (is_deep || !self.has_parent_key)
        {
            questions.extend(parent_questions(table, parent, column, key));
        }
        questions
    }
}

fn parent_questions(table: &str, parent: &str, column: &str, key: &str) -> [(&'static str, Question); 2] {
    let elsewhere = format!("{table} c join {parent} p on p.{key} = c.{column} where c.org_id <> p.org_id");
    let orphans = format!(
        "{table} c where c.{column} is not null and not exists (select from {parent} p where p.{key} = c.{column})"
    );
    [
        (
            "parent-rows",
            Question {
                mend: Mend::decide(format!(
                    "say which organisation is right: select c.*, p.org_id as parents_org_id from {elsewhere};"
                )),
                from: elsewhere,
                cause: "another organisation than their parent's",
            },
        ),
        (
            "parent-rows",
            Question {
                mend: Mend::decide(format!(
                    "delete them, or let them go: update {table} c set {column} = null where c.{column} is not null and not exists (select from {parent} p where p.{key} = c.{column});"
                )),
                from: orphans,
                cause: "a parent that does not exist",
            },
        ),
    ]
}

impl Question {
    async fn ask(
        &self,
        connection: &mut PgConnection,
        rule: &'static str,
        table: &str,
    ) -> Result<Vec<Finding>, sqlx::Error> {
        let limit = COUNTED_ROWS_MAX + 1;
        let sql = format!("select count(*) from (select from {} limit {limit}) r", self.from);
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let rows = match rows {
            1 => "1 row has".to_owned(),
            n if n > COUNTED_ROWS_MAX => format!("more than {COUNTED_ROWS_MAX} rows have"),
            n => format!("{n} rows have"),
        };
        let cause = format!("{rows} {}", self.cause);
        Ok(vec![Finding::new(rule, Some(table), "org_id", cause, self.mend.clone())])
    }
}
