//! `warden worker jobs`: lists the jobs that are not done, and retries failed ones.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::json;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::{Database, worker_name};
use crate::config::DatabaseArgs;
use crate::org::OrgId;
use crate::recordings::{ListedRow, Queue, Terms};

/// Organisations that are read at once.
const ORGANIZATIONS_MAX: u32 = 1000;

#[derive(Args)]
#[command(after_help = "\
Lists the recordings that wait, are being copied, or failed, with the reason:

  warden worker jobs --failed

A failed job stays failed until somebody retries it:

  warden worker jobs --retry 3f0c...   # one
  warden worker jobs --retry all

Exit codes: 0: done. 1: the job to retry does not exist or has not failed, or the database failed.")]
pub(super) struct JobsArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Only jobs of this organisation
    #[arg(long, value_name = "UUID")]
    org: Option<String>,
    /// Only failed jobs
    #[arg(long, visible_alias = "dead")]
    failed: bool,
    /// Retry the failed job with this id, or all failed jobs
    #[arg(long, value_name = "ID|all")]
    retry: Option<String>,
    /// Most jobs of each organisation that are listed
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: JobsArgs) -> anyhow::Result<ExitCode> {
    let wanted = args.org.as_deref().map(|text| OrgId::from_operator(text).context("--org is not a UUID"));
    let wanted = wanted.transpose()?;
    let retried = match args.retry.as_deref() {
        None => None,
        Some("all") => Some(None),
        Some(id) => Some(Some(Uuid::try_parse(id).context("--retry is neither the id of a job nor `all`")?)),
    };
    let database = Database::connect(&args.database.database_url, 2).await?;
    // It holds no rows.
    let terms = Terms { lease: Duration::ZERO, attempts_max: 0 };
    let queue = Queue::open(database.pool.clone(), worker_name(), terms).await?;
    let (mut listed, mut revived) = (0, 0);
    let mut after = None;
    loop {
        let orgs = match wanted {
            Some(org) => vec![org],
            None => queue.organizations(after, ORGANIZATIONS_MAX).await?,
        };
        for org in &orgs {
            match retried {
                Some(id) => revived += queue.revive(*org, id).await?.len(),
                None => {
                    for row in queue.list(*org, args.failed, args.limit).await? {
                        print(&row, args.json, listed == 0)?;
                        listed += 1;
                    }
                }
            }
        }
        match orgs.last() {
            Some(last) if wanted.is_none() => after = Some(*last),
            _ => break,
        }
    }
    match retried {
        Some(Some(id)) => ensure!(revived > 0, "no failed job has the id {id}"),
        None if listed == 0 && !args.json => println!("no jobs"),
        _ => {}
    }
    if retried.is_some() {
        println!("{revived} {} will be tried again", if revived == 1 { "recording" } else { "recordings" });
    }
    Ok(ExitCode::SUCCESS)
}

fn print(row: &ListedRow, as_json: bool, is_first: bool) -> anyhow::Result<()> {
    let due = row.next_attempt_at.format(&Rfc3339)?;
    if as_json {
        println!(
            "{}",
            json!({ "id": row.id, "org_id": row.org_id.to_string(), "recording_id": row.recording_id, "state": row.state,
                    "attempts": row.attempts, "next_attempt_at": due, "last_error": row.last_error })
        );
        return Ok(());
    }
    if is_first {
        println!(
            "{:<36}  {:<36}  {:<9}  {:>8}  {:<20}  reason",
            "job", "organisation", "state", "attempts", "next attempt"
        );
    }
    let due = if row.state == "failed" { "-" } else { due.get(..19).unwrap_or(&due) };
    let error = row.last_error.as_deref().unwrap_or("");
    println!("{:<36}  {:<36}  {:<9}  {:>8}  {due:<20}  {error}", row.id, row.org_id, row.state, row.attempts);
    Ok(())
}
