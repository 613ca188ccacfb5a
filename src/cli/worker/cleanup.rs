//! `warden worker cleanup`: finds objects without a row and rows whose object is gone, and removes them.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::json;

use super::{Database, worker_name};
use crate::config::DatabaseArgs;
use crate::recordings::{Cleanup, CleanupFinding, CleanupOptions, Queue, RecordingStore, Terms};

#[derive(Args)]
#[command(after_help = "\
Prints what it would change, and changes nothing:

  warden worker cleanup --store s3://bucket/recordings

With --delete it deletes objects without a row, also those of deleted organisations, and gives recordings whose object \
is gone the status absent. It touches nothing outside of org/<organisation>/, and nothing that is younger than \
--grace-hours. Objects that no recording can have are listed and stay.

Exit codes: 0: done. 1: the database or the store failed; repeat the command.")]
pub(super) struct CleanupArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Store of the recordings, as in `warden worker`
    #[arg(long, env = "WARDEN_RECORDINGS_STORE", value_name = "STORE")]
    store: String,
    /// Make the changes. Without it, only print them
    #[arg(long)]
    delete: bool,
    /// Hours for which objects and rows are left alone after their last change
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    grace_hours: u32,
    /// Most objects and rows of one run
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u64,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: CleanupArgs) -> anyhow::Result<ExitCode> {
    let store = RecordingStore::open(&args.store)?;
    let database = Database::connect(&args.database.database_url, 2).await?;
    let terms = Terms { lease: Duration::ZERO, attempts_max: 0 };
    let queue = Queue::open(database.pool.clone(), worker_name(), terms).await?;
    let options = CleanupOptions {
        changes: args.delete,
        grace: Duration::from_secs(u64::from(args.grace_hours) * 3600),
        changes_max: args.limit,
    };
    let cleanup = Cleanup::new(&queue, &store, options, |finding| print(finding, args.json));
    let report = cleanup.run().await?;
    if args.json {
        println!(
            "{}",
            json!({ "kind": "summary", "objects": report.objects, "rows": report.rows, "orphans": report.orphans,
                    "orphan_bytes": report.orphan_bytes, "missing": report.missing, "unknown": report.unknown,
                    "limited": report.is_limited, "changed": args.delete })
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{} objects and {} recordings compared: {} objects without a row ({}), {} recordings without an object, \
         {} unknown",
        report.objects,
        report.rows,
        report.orphans,
        HumanBytes(report.orphan_bytes),
        report.missing,
        report.unknown
    );
    if report.is_limited {
        println!("more are left: --limit {} was reached", args.limit);
    }
    if !args.delete && report.orphans + report.missing > 0 {
        println!("nothing was changed: add --delete to make these changes");
    }
    Ok(ExitCode::SUCCESS)
}

fn print(finding: &CleanupFinding, as_json: bool) {
    let (text, object) = match finding {
        CleanupFinding::Orphan { org, key, bytes, is_of_deleted } => {
            let why =
                if *is_of_deleted { "its organisation was deleted" } else { "no recording has this id" };
            let object = json!({ "kind": "orphan", "org_id": org, "key": key, "bytes": bytes, "deleted_organization": is_of_deleted });
            (format!("orphan   {key} ({}): {why}", HumanBytes(*bytes)), object)
        }
        CleanupFinding::Missing { org, recording } => (
            format!(
                "missing  org/{org}/recordings/{recording}: the recording is completed, and its object is gone"
            ),
            json!({ "kind": "missing", "org_id": org, "recording_id": recording }),
        ),
        CleanupFinding::Unknown { key } => {
            (format!("unknown  {key}: stays"), json!({ "kind": "unknown", "key": key }))
        }
    };
    if as_json {
        println!("{object}");
    } else {
        println!("{text}");
    }
}
