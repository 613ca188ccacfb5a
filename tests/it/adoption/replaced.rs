//! Functions of Warden that the application replaces. CREATE OR REPLACE keeps the comment that says who
//! created a function, so the text decides whose it is.

use sqlx::PgConnection;

use super::{RUN_DEADLINE, Run, audit, bare_db, connect, ended, warden};

const FUNCTIONS: [&str; 3] =
    ["public.auth_org_id", "public.prevent_org_id_change", "public.custom_access_token_hook"];

async fn plain(url: &str, args: &[&str]) -> Run {
    let mut command = warden(url, "migrate");
    command.args(args);
    ended(RUN_DEADLINE, command).await
}

async fn texts(admin: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "select prosrc from pg_proc where pronamespace = 'public'::regnamespace and proname <> 'auth_user_id' order by proname",
    )
    .fetch_all(admin)
    .await
    .expect("reads")
}

/// Objects on `notes` that call a function of schema `public`.
async fn callers(admin: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "select what from (
           select format('policy %s', policyname), qual || with_check from pg_policies where tablename = 'notes'
           union all select format('trigger %s', tgname), pg_get_triggerdef(oid) from pg_trigger where tgrelid = 'notes'::regclass
           union all select 'default', pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = 'notes'::regclass) o (what, text)
         where text ~ '(^|[ (])(public\\.)?(auth_org_id|prevent_org_id_change)\\(' order by 1",
    )
    .fetch_all(admin)
    .await
    .expect("reads")
}

#[tokio::test]
async fn functions_that_the_application_replaces_are_the_applications() {
    let db =
        bare_db("create table notes (id int primary key, user_id uuid); insert into notes values (1, null)")
            .await;
    plain(db.url(), &["--tables", "notes", "--default-organization", "--enforce", "--yes"]).await.must(0);
    let mut admin = connect(&db).await;
    assert_eq!(
        callers(&mut admin).await,
        ["default", "policy warden_org", "trigger warden_org_id_immutable"]
    );
    db.run(
        "create or replace function public.auth_org_id() returns uuid language sql stable as
           $$ select 'a0000000-0000-0000-0000-000000000001'::uuid $$;
         create or replace function public.prevent_org_id_change() returns trigger language plpgsql as 'begin return new; end';
         create or replace function public.custom_access_token_hook(event jsonb) returns jsonb language sql stable as
           $$ select jsonb_set(event, '{claims,theirs}', '1') $$",
    )
    .await;
    let theirs = texts(&mut admin).await;
    let found = audit(db.url()).await.must(1);
    for function in FUNCTIONS {
        let keep = format!("warden migrate --keep {function}");
        assert!(found.stdout.contains(&keep), "{keep}: {}", found.stdout);
    }
    for args in [[].as_slice(), &["--plan"], &["--enforce", "--yes"], &["--relax", "--yes"]] {
        let run = plain(db.url(), args).await.must(1);
        for function in FUNCTIONS {
            assert!(run.stdout.contains(&format!("--keep {function} ")), "{args:?}: {}", run.stdout);
        }
        assert_eq!(texts(&mut admin).await, theirs, "{args:?}");
    }
    plain(db.url(), &["--keep", &FUNCTIONS.join(",")]).await.must(0);
    assert_eq!(texts(&mut admin).await, theirs);
    assert_eq!(callers(&mut admin).await, Vec::<String>::new(), "they call those of schema warden");
    audit(db.url()).await.must(0);
    plain(db.url(), &[]).await.must(0);
    plain(db.url(), &["--replace", &FUNCTIONS.join(",")]).await.must(0);
    let former: i64 = sqlx::query_scalar("select count(*) from warden.replaced_objects")
        .fetch_one(&mut admin)
        .await
        .expect("counts");
    assert_eq!(former, 3);
    plain(db.url(), &[]).await.must(0);
    audit(db.url()).await.must(0);
}
