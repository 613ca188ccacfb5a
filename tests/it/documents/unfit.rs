//! Watches that no longer fit their table: the gateway warns, and stays ready.

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::{Answer, TestDb, TestGateway, Upgrade, eventually};

const DISABLE: &str = "alter event trigger warden_refresh_watches disable;
                       alter event trigger warden_protect_members disable";

const REFRESH: &str = "select warden.refresh_watches()";

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
    let again = "select warden.watch('notes', 'notes', 'note', filter_columns => '{id}')";
    for (change, names, mend) in [
        ("alter table notes add text text", "public.notes", REFRESH),
        ("create table visits_1 partition of visits for values from (1) to (10)", "public.visits", REFRESH),
        (
            "alter table notes disable trigger warden_log_update",
            "public.notes",
            "alter table notes enable trigger warden_log_update",
        ),
        ("drop trigger warden_log_truncate on notes", "public.notes", again),
        (
            "alter table visits_1 disable trigger warden_log_delete",
            "public.visits",
            "alter table visits_1 enable trigger warden_log_delete",
        ),
        (
            "select warden.watch('notes', 'notes', 'note', filter_columns => '{text}');
             alter table notes drop text; select warden.refresh_watches()",
            "public.notes",
            again,
        ),
        (
            "alter table notes drop constraint notes_pkey",
            "public.notes",
            "alter table notes add primary key (id)",
        ),
        ("drop table notes", "a dropped table (topic notes)", REFRESH),
    ] {
        assert_eq!(readyz().await, "ok\n");
        db.run(change).await;
        eventually("readyz warns", async || readyz().await.contains(names)).await;
        assert_eq!(gateway.metrics().unfit_watches.get(), 1, "{change}");
        // Neither the public listener nor a page that was pointed at the admin listener learns the names.
        let rebound = request().without("Host").with("Host", "evil.example");
        let rebound = rebound.send(gateway.admin_addr()).await;
        for answer in [readyz_of(gateway.public_addr()).await, rebound] {
            let body = answer.body;
            assert!(body.contains("warning: 1 watched tables") && !body.contains(names), "{body}");
        }
        db.run(mend).await;
        eventually("readyz no longer warns", async || readyz().await == "ok\n").await;
    }
    // All of them are named.
    db.run(
        "insert into warden.watches (relation, topic, event_prefix, key_columns, omit_columns, org_column)
         select n::oid, 'org', 'x', '{id}', '{}', 'id' from generate_series(1, 11) n",
    )
    .await;
    let dropped = "warning: the watch does not fit a dropped table (topic org)";
    eventually("readyz names them", async || readyz().await.matches(dropped).count() == 11).await;
    gateway.stop().await;
}

fn request() -> Upgrade {
    Upgrade::new().to("/readyz").without("Upgrade").without("Connection")
}

async fn readyz_of(listener: SocketAddr) -> Answer {
    request().send(listener).await
}
