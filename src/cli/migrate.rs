//! `warden migrate`: brings the schema up to date.

use clap::Args;

use crate::config::DatabaseArgs;
use crate::postgres;

#[derive(Args)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn run(args: MigrateArgs) -> anyhow::Result<()> {
    let done = postgres::migrate(&args.database.database_url).await?;
    for (version, description) in &done.applied {
        println!("applied {version:04} {description}");
    }
    match done.applied.len() {
        0 => println!("the schema is up to date ({} migrations)", done.total),
        n => println!("{n} of {} migrations applied; the schema is up to date", done.total),
    }
    Ok(())
}
