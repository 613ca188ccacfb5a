//! Migration files can be applied again: after a change of a file, and to what an earlier version left.

use std::collections::BTreeMap;

use warden::postgres::{SchemaSet, migrate};

use super::{count, texts};
use crate::harness::{TestDb, pg_dump};

/// Removes the records of all migrations, so that the next run applies every file again.
pub(super) const FORGET: &str =
    "delete from warden._sqlx_migrations; delete from warden._platform_migrations";

#[tokio::test]
async fn applying_every_file_again_changes_nothing() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.insert_call(org).await;
    db.run(
        "create table invoices (id uuid primary key default gen_random_uuid());
         select warden.adopt_table('invoices');
         select warden.watch('invoices', 'invoices', 'invoice');
         delete from warden.tenant_tables where table_name = 'call_lists';
         revoke insert on credential_tokens from authenticated;
         select warden.unprotect('calls')",
    )
    .await;
    let before = pg_dump(&db, &["--schema-only"]);
    let registry = "select t::text from warden.tenant_tables t order by 1";
    let registered = texts(&db, registry).await;
    db.run(FORGET).await;
    let migrated = migrate(db.url()).await.expect("migrates");
    assert_eq!(migrated.applied.len(), migrated.total);
    assert_eq!(pg_dump(&db, &["--schema-only"]), before);
    assert_eq!(texts(&db, registry).await, registered);
    assert_eq!(count(&db, "select count(*) from calls").await, 1);
    assert_eq!(migrate(db.url()).await.expect("migrates").applied, []);
}

/// The objects that the statements remove, and the functions that they replace, stand for an older version.
#[tokio::test]
async fn an_earlier_version_is_completed_with_its_data() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(format!(
        "create table invoices (id uuid primary key default gen_random_uuid());
         select warden.adopt_table('invoices');
         select warden.watch('invoices', 'invoices', 'invoice');
         insert into invoices (org_id) values ('{org}');
         select warden.revoke(user_id => 'ann')"
    ))
    .await;
    let before = pg_dump(&db, &["--schema-only"]);
    let data = "select w.topic from warden.watches w union all select t.name from warden.topics t
                union all select r.user_id from warden.revocations r where r.user_id is not null
                union all select e.event from warden.events e where e.event = 'invoice.created' order by 1";
    let kept = texts(&db, data).await;
    db.run(
        "drop function warden.publish(uuid, text, text, jsonb), warden.is_truncated(xid8), warden.forget_revocations();
         do $$
         declare
           fn text := (select tgfoid::regprocedure from pg_trigger
                       where tgname = 'warden_log_insert' and tgrelid = 'invoices'::regclass);
         begin
           execute 'create or replace function ' || fn
             || ' returns trigger language plpgsql as ''begin return null; end''';
         end $$;
         drop trigger ring on warden.events;
         drop index warden.events_org;
         drop trigger topics_changed on warden.topics;
         drop policy warden_exists on organizations;
         alter table warden.events alter column slot set default pg_sequence_last_value('warden.events_slot')::smallint;
         update warden._sqlx_migrations set checksum = '\\x00' where version = 2;
         delete from warden._sqlx_migrations where version > 11",
    )
    .await;
    let migrated = migrate(db.url()).await.expect("migrates");
    let again: Vec<i64> = migrated.applied.iter().filter(|m| m.is_renewed).map(|m| m.version).collect();
    assert_eq!(again, (2..=11).collect::<Vec<i64>>(), "the changed file, and later ones");
    // The order of objects in a dump depends on when they were created.
    assert_eq!(sorted(&pg_dump(&db, &["--schema-only"])), sorted(&before));
    assert_eq!(texts(&db, data).await, kept);
}

fn sorted(dump: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = dump.lines().collect();
    lines.sort_unstable();
    lines
}

/// An object that two files define would have the form of the file that was applied last.
#[test]
fn each_object_is_defined_in_one_file() {
    let mut definitions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for set in [SchemaSet::Core, SchemaSet::Platform] {
        for file in set.migrator().iter() {
            let mut found: Vec<String> = file.sql.as_str().lines().filter_map(defined).collect();
            found.sort_unstable();
            found.dedup();
            let name = format!("{} {}", set.name(), file.version);
            found.into_iter().for_each(|object| definitions.entry(object).or_default().push(name.clone()));
        }
    }
    assert!(definitions.len() > 100, "{definitions:?}");
    definitions.retain(|_, files| files.len() > 1);
    assert!(definitions.is_empty(), "{definitions:?}");
}

/// The object that a line creates, such as `function warden.publish`. Generated names do not count.
fn defined(line: &str) -> Option<String> {
    let mut words = line.split(|c: char| c.is_whitespace() || c == '(').filter(|word| !word.is_empty());
    if words.next()? != "create" {
        return None;
    }
    let kind = words.find(|word| !["or", "replace", "unique"].contains(word))?;
    if !["function", "table", "view", "index", "policy", "sequence"].contains(&kind) {
        return None;
    }
    let name = words.find(|word| !["if", "not", "exists"].contains(word))?;
    (!name.contains('%')).then(|| format!("{kind} {name}"))
}
