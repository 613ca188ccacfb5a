//! Watches that no longer fit their table: the gateway warns, and stays ready.

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::{Answer, TestDb, TestGateway, Upgrade, eventually};

const DISABLE: &str = "alter event trigger warden_refresh_watches disable;
                       alter event trigger warden_protect_members disable";

#[tokio::test]
async fn readyz_warns_of_watches_that_do_not_fit_their_table_and_stays_ready() {
    let db = TestDb::create().await;
    db.run(DISABLE).await;
    db.run(
        "create table notes (id int primary key, org_id uuid);
         create table visits (id int primary key, org_id uuid) partition by range (id);
         select warden.watch('notes', 'notes', 'note'); select warden.watch('visits', 'visits', 'visit')",
    )
    .await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.watch_check.interval = Duration::from_millis(20);
    })
    .await;
    let readyz = async || {
        let answer = readyz_of(gateway.admin_addr()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    };
    for (change, names) in [
        ("alter table notes add text text", "public.notes"),
        ("create table visits_1 partition of visits for values from (1) to (10)", "public.visits"),
        ("drop table notes", "a dropped table (topic notes)"),
    ] {
        assert_eq!(readyz().await, "ok\n");
        db.run(change).await;
        eventually("readyz warns", async || readyz().await.contains(names)).await;
        assert_eq!(gateway.metrics().unfit_watches.get(), 1);
        // Neither the public listener nor a page that was pointed at the admin listener learns the names.
        let rebound = request().without("Host").with("Host", "evil.example");
        let rebound = rebound.send(gateway.admin_addr()).await;
        for answer in [readyz_of(gateway.public_addr()).await, rebound] {
            let body = answer.body;
            assert!(body.contains("warning: 1 watched tables") && !body.contains(names), "{body}");
        }
        db.run("select warden.refresh_watches()").await;
        eventually("readyz no longer warns", async || readyz().await == "ok\n").await;
    }
    gateway.stop().await;
}

fn request() -> Upgrade {
    Upgrade::new().to("/readyz").without("Upgrade").without("Connection")
}

async fn readyz_of(listener: SocketAddr) -> Answer {
    request().send(listener).await
}
