//! Statements that a check attempts, and their outcomes.

/// Rejected by row-level security or by missing privileges.
pub const NOT_ALLOWED: &str = "42501";
/// Not-null violation.
pub const NULL_VALUE: &str = "23502";
/// Foreign-key violation.
pub const NO_PARENT: &str = "23503";
/// Unique violation.
pub const DUPLICATE: &str = "23505";
/// Check violation, which the org_id guard raises as well.
pub const CHECK_FAILED: &str = "23514";
/// Claims that are not JSON (PostgreSQL below 16 only).
pub const NO_JSON: &str = "22P02";

/// Runs statements one by one as a role with claims, each in a subtransaction that is rolled back. The loop
/// runs in the database because there are tens of thousands of statements.
pub const ATTEMPTS: &str = "
    create function pg_temp.attempts(role text, claims text, before text, statements text[])
    returns table (rows bigint, code text, broken text, says text)
    language plpgsql as $$
    declare
      statement text;
    begin
      foreach statement in array statements loop
        begin
          if before <> '' then
            execute before;
          end if;
          if role is not null then
            perform set_config('request.jwt.claims', claims, true), set_config('role', role, true);
          end if;
          execute statement;
          get diagnostics rows = row_count;
          raise exception sqlstate 'WD000';
        exception when others then
          get stacked diagnostics code = returned_sqlstate, broken = constraint_name, says = message_text;
        end;
        if code <> 'WD000' then
          rows := null;
        end if;
        return next;
      end loop;
    end $$";

/// Result of one attempted statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Rows(u64),
    Rejected { code: String, constraint: String, message: String },
}

impl Outcome {
    pub fn is_rejected_with(&self, wanted: &str) -> bool {
        matches!(self, Self::Rejected { code, .. } if code == wanted)
    }
}
