//! `warden worker cleanup`: what has no counterpart is removed, within its organisation, after the grace
//! period, up to the limit, and only if the operator says so.

use super::{Suite, command, log};

#[tokio::test]
async fn a_cleanup_removes_what_has_no_counterpart_and_nothing_else() {
    let suite = Suite::start(3).await;
    let mut queued = Vec::new();
    for (number, org) in [0, 0, 0, 1, 2].into_iter().enumerate() {
        queued.push(suite.queue(suite.orgs[org], "good", number).await);
    }
    let mut worker = suite.worker(&["--until-idle"]).await;
    assert!(worker.wait().await.success(), "{}", log(&suite.log()));
    let file =
        |n: usize| suite.store().join(format!("org/{}/recordings/{}", queued[n].org, queued[n].recording));
    // 0 stays; 1 loses its row, 2 its object, and 4 its organisation. 3 has the id of a lost row in another
    // organisation, whose object stays.
    suite
        .db
        .run(format!(
            "delete from recordings where id = '{}'; delete from organizations where id = '{}'",
            queued[1].recording, queued[4].org
        ))
        .await;
    std::fs::remove_file(file(2)).expect("removes");
    let twin = suite.store().join(format!("org/{}/recordings/{}", queued[0].org, queued[3].recording));
    std::fs::copy(file(3), &twin).expect("copies");
    let others = [
        suite.store().join(format!("org/{}/notes.txt", queued[0].org)),
        suite.store().join(format!("org/{}/recordings/notes.txt", queued[0].org)),
        suite.store().join("org/somebody/recordings/file"),
        suite.store().join("elsewhere/file"),
    ];
    for other in &others {
        std::fs::create_dir_all(other.parent().expect("a folder")).expect("creates");
        std::fs::write(other, "kept").expect("writes");
    }
    let before = suite.folder.files().len();
    let store = suite.store();
    let cleanup = async |more: &[&str]| {
        let mut args = vec!["cleanup", "--store", store.to_str().expect("text")];
        args.extend(more);
        let (is_done, said) = command(&suite, &args).await;
        assert!(is_done, "{said}");
        said
    };

    // Everything is younger than a day.
    let said = cleanup(&["--delete"]).await;
    assert!(
        said.contains("0 objects without a row") && said.contains("0 recordings without an object"),
        "{said}"
    );
    let said = cleanup(&["--grace-hours", "0"]).await;
    assert!(
        said.contains("3 objects without a row") && said.contains("1 recordings without an object"),
        "{said}"
    );
    assert!(said.contains("3 unknown") && said.contains("nothing was changed"), "{said}");
    assert_eq!(suite.folder.files().len(), before, "a dry run");

    let said = cleanup(&["--grace-hours", "0", "--delete", "--limit", "1"]).await;
    assert!(said.contains("--limit 1 was reached"), "{said}");
    cleanup(&["--grace-hours", "0", "--delete"]).await;
    let mut expected = [&others[..], &[file(0), file(3)]].concat();
    expected.sort();
    let mut files = suite.folder.files();
    files.sort();
    assert_eq!(files, expected);
    let absent = "select count(*) from recordings r join calls c on c.id = r.call_id
                  where r.id = $1 and r.status = 'absent' and r.storage_path is null and c.recording_count = 0";
    let absent: i64 =
        sqlx::query_scalar(absent).bind(queued[2].recording).fetch_one(&suite.db.pool).await.expect("reads");
    assert_eq!(absent, 1);
    let said = cleanup(&["--grace-hours", "0", "--delete"]).await;
    assert!(
        said.contains("0 objects without a row") && said.contains("0 recordings without an object"),
        "{said}"
    );
}

/// The wrong database would make every object an orphan.
#[tokio::test]
async fn a_database_without_organisations_is_refused() {
    let suite = Suite::start(0).await;
    suite.db.run("delete from organizations").await;
    let store = suite.store();
    let (is_done, said) =
        command(&suite, &["cleanup", "--delete", "--store", store.to_str().expect("text")]).await;
    assert!(!is_done && said.contains("is it the right database?"), "{said}");
}
