//! Rows, recordings and accounts of another organisation than that of the job: refused, and reported.

use super::{Suite, log};

/// A row whose recording is another organisation's. Its table has lost the keys that reject such rows.
#[tokio::test]
async fn a_job_with_a_recording_of_another_organisation_fails_and_changes_nothing() {
    let suite = Suite::start(2).await;
    let theirs = suite.queue(suite.orgs[1], "gone", 1).await;
    suite
        .db
        .run(format!(
            "update recording_upload_queue set state = 'done', storage_key = 'k';
             alter table recording_upload_queue drop constraint recording_upload_queue_org_id_recording_id_fkey;
             insert into recording_upload_queue (org_id, recording_id, source_url)
               values ('{}', '{}', '{}')",
            suite.orgs[0],
            theirs.recording,
            suite.sources.url("good", 1),
        ))
        .await;
    let mut worker = suite.worker(&["--until-idle"]).await;
    assert!(worker.wait().await.success());
    let (state, error): (String, Option<String>) =
        sqlx::query_as("select state, last_error from recording_upload_queue where org_id = $1")
            .bind(suite.orgs[0])
            .fetch_one(&suite.db.pool)
            .await
            .expect("reads");
    assert_eq!(state, "failed", "{}", log(&suite.log()));
    let error = error.unwrap_or_default();
    assert!(error.contains("not one of this organisation"), "{error}");
    let status: String =
        sqlx::query_scalar("select status from recordings").fetch_one(&suite.db.pool).await.expect("reads");
    assert_eq!(status, "in-progress", "the other organisation's recording");
    assert_eq!(suite.folder.files(), Vec::<std::path::PathBuf>::new());
    assert_eq!(suite.sources.count("/good/1"), 0);
    assert!(log(&suite.log()).contains("not one of this organisation"), "{}", log(&suite.log()));
}

/// Without row-level security the worker would see the rows of all organisations, so it does not start.
#[tokio::test]
async fn a_worker_does_not_start_where_nothing_isolates_organisations() {
    let suite = Suite::start(1).await;
    suite.db.run("alter table recording_upload_queue no force row level security").await;
    let (is_up, said) = super::command(&suite, &["--until-idle"]).await;
    assert!(
        !is_up && said.contains("nothing isolates organisations in public.recording_upload_queue"),
        "{said}"
    );
}

/// Credentials are those of an account of the organisation; its own row can't name another one's.
#[tokio::test]
async fn a_row_cannot_use_the_account_of_another_organisation() {
    let suite = Suite::start(2).await;
    let accounts = suite.folder.0.join("accounts.toml");
    let secret = "0123456789abcdef0123456789abcdef";
    let text = format!(
        "[[account]]\nprovider = \"twilio\"\nid = \"AC1\"\norganization = \"{}\"\nsecret = \"{secret}\"\n",
        suite.orgs[0]
    );
    std::fs::write(&accounts, text).expect("writes");
    let (own, foreign) =
        (suite.queue(suite.orgs[0], "secret", 1).await, suite.queue(suite.orgs[1], "secret", 2).await);
    suite.db.run("update recording_upload_queue set provider = 'twilio', account = 'AC1'").await;
    let mut worker = suite.worker(&["--until-idle", "--accounts", accounts.to_str().expect("text")]).await;
    assert!(worker.wait().await.success(), "{}", log(&suite.log()));
    let states: Vec<(uuid::Uuid, String, Option<String>)> =
        sqlx::query_as("select recording_id, state, last_error from recording_upload_queue")
            .fetch_all(&suite.db.pool)
            .await
            .expect("reads");
    for (recording, state, error) in states {
        let expected = if recording == own.recording { "done" } else { "failed" };
        assert_eq!(state, expected, "{error:?}");
        assert!(
            recording != foreign.recording || error.is_some_and(|e| e.contains("AC1 is not one of this"))
        );
    }
    // The credentials go to the source's own origin, not where it redirects to.
    {
        let requests = suite.sources.requests.lock().expect("no panic");
        assert!(
            requests.authorizations["/secret/1"].as_ref().is_some_and(|value| value.starts_with("Basic "))
        );
        assert_eq!(requests.authorizations["/good/1"], None);
    }
    assert_eq!(suite.sources.count("/secret/2"), 0);
    assert!(!log(&suite.log()).contains(secret));
}
