//! The run through the admin API.
//!
//! Pages are read from the last one, which has the newest users, to the first. A user who is deleted moves
//! later users to a smaller position, so they are read twice and never missed. A new user gets the last
//! position. Further passes read the users that were created during the pass before.

use std::collections::HashSet;

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::admin_api::{AdminApi, ApiError, ApiOptions};
use super::decision::{Decision, decide};
use super::memberships::{Memberships, describe};
use super::options::{RunMode, SyncOptions};
use super::passes::{CREATION_SLACK, LATE_PASSES_MAX, parse_time};
use super::progress::Progress;
use super::state::State;
use super::summary::{Summary, count_unwritten};
use super::user::AuthUser;

/// Attempts to read a page with fewer users than it should have.
const SHORT_PAGES_MAX: u32 = 3;

struct ApiRun<'a> {
    options: &'a SyncOptions,
    api: AdminApi<'a>,
    concurrency: usize,
    memberships: Memberships,
    connection: Mutex<PgConnection>,
    state: Mutex<State>,
}

/// Changes of the summary by one user.
#[derive(Default)]
struct UserOutcome {
    is_member_new: bool,
    is_revoked: bool,
    result: UserResult,
}

#[derive(Default)]
enum UserResult {
    #[default]
    AlreadyRight,
    Updated,
    Conflict,
    Skipped(&'static str),
    Failed(String),
    /// A run without writes made this decision.
    Unwritten(Decision),
}

impl From<UserResult> for UserOutcome {
    fn from(result: UserResult) -> Self {
        Self { result, ..Self::default() }
    }
}

impl UserResult {
    /// Result of a decision after which nothing is written.
    fn of(decision: &Decision) -> Self {
        match decision {
            Decision::Conflict(_) => Self::Conflict,
            Decision::Skip(reason) => Self::Skipped(reason),
            _ => Self::AlreadyRight,
        }
    }
}

impl UserOutcome {
    /// Adds the outcome to the summary. A user that is read again counts only if something was done.
    fn count(self, user: Uuid, is_read_again: bool, mode: RunMode, summary: &mut Summary) {
        summary.memberships += u64::from(self.is_member_new);
        summary.revoked += u64::from(self.is_revoked);
        summary.users += u64::from(!is_read_again);
        match self.result {
            UserResult::Updated => summary.updated += 1,
            UserResult::Failed(reason) => summary.fail(user, reason),
            _ if is_read_again => {}
            UserResult::AlreadyRight => summary.already_right += 1,
            UserResult::Conflict => summary.conflict(user),
            UserResult::Skipped(reason) => summary.skip(reason),
            UserResult::Unwritten(decision) => count_unwritten(summary, mode, user, &decision),
        }
    }
}

/// Users of a page and how they continue the page before.
struct Batch {
    users: Vec<AuthUser>,
    oldest: Option<OffsetDateTime>,
    newest: Option<OffsetDateTime>,
    ids: HashSet<Uuid>,
}

pub(super) async fn run(
    options: &SyncOptions,
    api: &ApiOptions,
    connection: PgConnection,
    memberships: Memberships,
    state: State,
) -> anyhow::Result<Summary> {
    let run = ApiRun {
        options,
        api: AdminApi::new(api)?,
        concurrency: api.concurrency,
        memberships,
        connection: Mutex::new(connection),
        state: Mutex::new(state),
    };
    run.revoke_pending().await?;
    let mut progress = Progress::to_stderr();
    while run.pass(&mut progress).await? {}
    progress.finish();
    run.state.into_inner().complete()
}

impl ApiRun<'_> {
    /// Reads all pages of a pass. Returns whether another pass is necessary.
    async fn pass(&self, progress: &mut Progress) -> anyhow::Result<bool> {
        let (start, page_size, since) = {
            let state = self.state.lock().await;
            let since = state.position.since.as_deref().and_then(parse_time);
            (state.position.page, state.position.page_size, since)
        };
        let mut page = match start {
            Some(page) => page,
            None => {
                let total = self.api.page(1, page_size).await.context("cannot list users")?.total;
                total.div_ceil(page_size.into())
            }
        };
        let mut before: Option<Batch> = None;
        while page >= 1 {
            let batch = self.read_page(page, page_size).await?;
            let is_last = since.is_some_and(|since| batch.oldest.is_none_or(|oldest| oldest < since));
            let known = since.map(|since| since + CREATION_SLACK);
            let is_unordered = before.as_ref().is_some_and(|before| {
                batch.newest > known
                    && batch.newest == before.oldest
                    // A user that moved to this page leaves no gap.
                    && batch.users.last().is_some_and(|last| !before.ids.contains(&last.id))
            });
            let is_new = |user: &&AuthUser| {
                before.as_ref().is_none_or(|before| !before.ids.contains(&user.id))
                    && since.is_none_or(|since| user.created_at().is_none_or(|at| at >= since))
            };
            let users: Vec<&AuthUser> = batch.users.iter().filter(is_new).collect();
            let outcomes = self.synchronise(&users).await?;
            let mut state = self.state.lock().await;
            let position = &mut state.position;
            for (user, outcome) in users.iter().zip(outcomes) {
                let is_read_again =
                    user.created_at().is_some_and(|at| known.is_some_and(|known| at <= known));
                outcome.count(user.id, is_read_again, self.options.mode, &mut position.summary);
            }
            position.summary.unordered_pages += u64::from(is_unordered);
            position.summary.requests += self.api.take_requests();
            let newest = position.newest.as_deref().and_then(parse_time).max(batch.newest);
            position.newest = newest.map(|newest| newest.format(&Rfc3339)).transpose()?;
            page = if is_last { 0 } else { page - 1 };
            position.page = Some(page);
            state.save()?;
            progress.add(users.len(), if since.is_some() { 0 } else { page * u64::from(page_size) });
            drop(state);
            before = Some(batch);
        }
        self.end_pass(since).await
    }

    /// Prepares the next pass, if users were created meanwhile.
    async fn end_pass(&self, since: Option<OffsetDateTime>) -> anyhow::Result<bool> {
        let mut state = self.state.lock().await;
        let position = &mut state.position;
        position.summary.requests += self.api.take_requests();
        let newest = position.newest.as_deref().and_then(parse_time);
        let next = newest.map(|newest| newest - CREATION_SLACK);
        let is_needed = next.is_some() && next != since && position.pass < LATE_PASSES_MAX;
        if is_needed {
            position.pass += 1;
            position.page = None;
            position.since = next.map(|next| next.format(&Rfc3339)).transpose()?;
        }
        state.save()?;
        Ok(is_needed)
    }

    /// Reads one page, and checks that the server divides and sorts the users as requested.
    async fn read_page(&self, page: u64, page_size: u32) -> anyhow::Result<Batch> {
        for _ in 0..SHORT_PAGES_MAX {
            let answer = self.api.page(page, page_size).await.context("cannot list users")?;
            let expected = answer.total.saturating_sub((page - 1) * u64::from(page_size));
            // Deleted users can leave an answer one short of its own total.
            if (answer.users.len() as u64) < expected.min(page_size.into()) {
                continue;
            }
            let times: Vec<OffsetDateTime> = answer.users.iter().filter_map(AuthUser::created_at).collect();
            ensure!(times.is_sorted(), "the server does not sort users by created_at: use --by sql");
            return Ok(Batch {
                oldest: times.first().copied(),
                newest: times.last().copied(),
                ids: answer.users.iter().map(|user| user.id).collect(),
                users: answer.users,
            });
        }
        bail!("the server returns fewer users per page than --page-size {page_size}: lower it")
    }

    async fn synchronise(&self, users: &[&AuthUser]) -> anyhow::Result<Vec<UserOutcome>> {
        let ids: Vec<Uuid> = users.iter().map(|user| user.id).collect();
        let orgs = {
            let mut connection = self.connection.lock().await;
            let orgs = self.memberships.organizations(&mut connection, &ids).await;
            orgs.map_err(|error| anyhow::anyhow!("cannot read memberships: {}", describe(&error)))?
        };
        let futures = users.iter().map(|user| self.user(user, orgs.get(&user.id).copied()));
        // Polled in order, so that outcomes have the order of the users.
        let futures: Vec<_> = futures.collect();
        stream::iter(futures).buffered(self.concurrency).try_collect().await
    }

    async fn user(&self, user: &AuthUser, org: Option<Uuid>) -> anyhow::Result<UserOutcome> {
        let now = OffsetDateTime::now_utc();
        let decision = decide(user, user.standing(now), org, self.options);
        if self.options.mode != RunMode::Write {
            return Ok(UserOutcome { result: UserResult::Unwritten(decision), ..UserOutcome::default() });
        }
        match decision {
            Decision::Join | Decision::Update { .. } => match self.write(user.id, org).await {
                Ok(outcome) => Ok(outcome),
                Err(error) => match error.downcast::<ApiError>() {
                    Ok(error @ ApiError::Unauthorized(_)) => Err(error.into()),
                    Ok(ApiError::NotFound) => Ok(UserResult::Skipped("deleted").into()),
                    Ok(error) => Ok(UserResult::Failed(error.to_string()).into()),
                    Err(error) => match error.downcast::<sqlx::Error>() {
                        Ok(error @ sqlx::Error::Database(_)) => {
                            Ok(UserResult::Failed(describe(&error)).into())
                        }
                        Ok(error) => bail!(describe(&error)),
                        Err(error) => Err(error),
                    },
                },
            },
            decision => Ok(UserResult::of(&decision).into()),
        }
    }

    /// Reads the user again, because the page may be old by now, and writes what is missing.
    async fn write(&self, id: Uuid, mut org: Option<Uuid>) -> anyhow::Result<UserOutcome> {
        let user = self.api.user(id).await?;
        let standing = user.standing(OffsetDateTime::now_utc());
        let mut outcome = UserOutcome::default();
        let mut decision = decide(&user, standing, org, self.options);
        if decision == Decision::Join {
            let mut connection = self.connection.lock().await;
            (org, outcome.is_member_new) = self.memberships.join_default(&mut connection, id).await?;
            decision = decide(&user, standing, org, self.options);
            ensure!(decision != Decision::Join, sqlx::Error::RowNotFound);
        }
        let Decision::Update { org, replaced } = decision else {
            outcome.result = UserResult::of(&decision);
            return Ok(outcome);
        };
        let revokes = self.options.revokes && replaced.is_some();
        if revokes {
            // Before the request, so that a run that continues ends the sessions.
            let mut state = self.state.lock().await;
            state.position.pending_revocations.insert(id);
            state.save()?;
        }
        let written = match self.api.set_organization(id, org).await {
            Ok(written) => written,
            Err(error @ ApiError::Unauthorized(_)) => return Err(error.into()),
            Err(error) => {
                outcome.result = match error {
                    ApiError::NotFound => UserResult::Skipped("deleted"),
                    error => UserResult::Failed(error.to_string()),
                };
                return Ok(outcome);
            }
        };
        if written.org_id() != &org.to_string() {
            outcome.result = UserResult::Failed("the server did not store org_id".to_owned());
            return Ok(outcome);
        }
        if revokes {
            let mut connection = self.connection.lock().await;
            let revoked = self.memberships.revoke(&mut connection, id, replaced.as_ref()).await;
            drop(connection);
            if let Err(error) = revoked {
                outcome.result = UserResult::Failed(format!("sessions not ended: {}", describe(&error)));
                return Ok(outcome);
            }
            outcome.is_revoked = true;
            self.state.lock().await.position.pending_revocations.remove(&id);
        }
        outcome.result = UserResult::Updated;
        Ok(outcome)
    }

    /// Ends the sessions that an earlier run did not end.
    async fn revoke_pending(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        if !self.options.revokes {
            return Ok(());
        }
        let mut connection = self.connection.lock().await;
        while let Some(user) = state.position.pending_revocations.first().copied() {
            let revoked = self.memberships.revoke(&mut connection, user, None).await;
            revoked.map_err(|error| anyhow::anyhow!("cannot end sessions: {}", describe(&error)))?;
            state.position.summary.revoked += 1;
            state.position.pending_revocations.remove(&user);
        }
        state.save()
    }
}
