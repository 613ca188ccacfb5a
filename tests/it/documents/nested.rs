//! Deeply nested column types: to generate the log function takes a time that grows with their size alone.

use super::strings;
use crate::harness::TestDb;

/// Levels of types in each other. If each level doubled the work, this would take minutes.
const LEVELS: usize = 12;

#[tokio::test]
async fn a_deeply_nested_type_is_watched_and_sent() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut types = "create type level_1 as (a int, j json);".to_owned();
    let mut value = r#"row(1, '{"b": 2}')::level_1"#.to_owned();
    for level in 2..=LEVELS {
        let is_array = level % 4 == 0;
        let suffix = if is_array { "[]" } else { "" };
        types += &format!("create type level_{level} as (a level_{}{suffix});", level - 1);
        value = if is_array { format!("row(array[{value}])") } else { format!("row({value})") };
        value += &format!("::level_{level}");
    }
    db.run(format!(
        "{types} create table nests (id int primary key, org_id uuid not null, v level_{LEVELS});
         set statement_timeout = '30s'; select warden.watch('nests', 'nests', 'nest'); reset statement_timeout;
         insert into nests values (1, '{org}', {value})"
    ))
    .await;
    let sent = "select concat(truncated, ' ', data -> 'v' #>> '{}') from warden.events where topic = 'nests'";
    let stored = "select concat('f ', to_jsonb(n) -> 'v' #>> '{}') from nests n";
    assert_eq!(strings(&db, sent).await, strings(&db, stored).await);
}
