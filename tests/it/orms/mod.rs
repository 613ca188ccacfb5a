//! Real applications with an ORM, on a database that Warden adopts: the tool that manages the schema sees no
//! difference, and the application needs no change but its claims.
//!
//! Each directory of `tests/orms` is one application, written with the published packages. The suite runs two
//! of them; `make orms` runs all and prints a table.

mod docs;
mod lifecycle;
mod project;
mod tools;

use lifecycle::Report;
use project::Project;
use tools::Tool;

const HEADER: &str =
    "| tool | version | drift | inserts | isolation | later migration |\n|---|---|---|---|---|---|";

fn line(report: &Report) -> String {
    let Report { tool, versions, drift, .. } = report;
    let Tool { name, .. } = tool;
    format!("| {name} | {versions} | {drift} | work | holds | applies |")
}

async fn check(tool: &'static Tool) {
    println!("{HEADER}\n{}", line(&lifecycle::run(tool).await));
}

#[tokio::test]
async fn sqlalchemy_and_alembic_work_on_an_adopted_database() {
    check(&tools::SQLALCHEMY).await;
}

#[tokio::test]
async fn drizzle_works_on_an_adopted_database() {
    check(&tools::DRIZZLE).await;
}

#[tokio::test]
#[ignore = "needs `scripts/setup orms`, which takes a minute: `make orms`"]
async fn every_tool_works_on_an_adopted_database() {
    let mut table = vec![HEADER.to_owned()];
    for tool in tools::ALL {
        if tool.is_from_debian && !Project::is_installed(tool) {
            table.push(format!("| {} | needs packages of Debian 12 | | | | |", tool.name));
            continue;
        }
        table.push(line(&lifecycle::run(tool).await));
        println!("{}: passed", tool.name);
    }
    println!("\n{}", table.join("\n"));
}
