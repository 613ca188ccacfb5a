//! Entity topics of any kind, `<kind>:<id>`: with uuids, integers or text as ids, live and in a replay.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{CLOSE_TIMEOUT, joined, with_orgs};
use crate::harness::{Client, TestGateway, eventually, token};

/// Kinds with every type of ids: `invoice` (integer), `document` (uuid) and `ticket` (text). Lines of
/// invoices have no topic of their own: their events reach the topic of their invoice.
const TABLES: &str = "
    create table invoices (id bigint primary key, org_id uuid not null, status text);
    create table invoice_lines (id bigint primary key, org_id uuid not null, invoice_id int);
    create table documents (id uuid primary key, org_id uuid not null);
    create table tickets (id text primary key, org_id uuid not null);
    select warden.watch('invoices', 'invoices', 'invoice', entity_topic => 'invoice');
    select warden.watch('invoice_lines', 'invoice_lines', 'invoice_line',
                        entity_topic => 'invoice', entity_topic_column => 'invoice_id');
    select warden.watch('documents', 'documents', 'document', entity_topic => 'document');
    select warden.watch('tickets', 'tickets', 'ticket', entity_topic => 'ticket');";

/// Publishes a final event and expects it next, because no other event may arrive before it.
async fn expect_no_more(t: &TestGateway, org: Uuid, client: &mut Client, topic: &str) {
    t.db.publish(org, topic, "test.end").await;
    client.expect_only(topic, "test.end").await;
}

#[tokio::test]
async fn an_entity_topic_carries_the_events_of_one_entity() {
    let (t, [org]) = with_orgs(TABLES).await;
    let (call, document) = (Uuid::new_v4(), Uuid::new_v4());
    let document_topic = format!("document:{document}");
    let mut client =
        joined(&t, org, &["invoice:17", &document_topic, "ticket:EU-17", &format!("call:{call}")]).await;
    t.db.run(format!(
        "insert into invoices values (17, '{org}', 'draft'), (18, '{org}', 'draft');
         insert into invoice_lines values (1, '{org}', 17), (2, '{org}', 18), (3, '{org}', null);
         insert into documents values ('{document}', '{org}'), (gen_random_uuid(), '{org}');
         insert into tickets values ('EU-17', '{org}'), ('EU-18', '{org}');
         insert into calls (id, org_id) values ('{call}', '{org}'), (gen_random_uuid(), '{org}');
         update invoices set status = 'sent';
         delete from invoice_lines"
    ))
    .await;
    for topic in ["invoice:17", document_topic.as_str(), "ticket:EU-17"] {
        t.db.publish(org, topic, "test.end").await;
    }
    let mut received = Vec::new();
    while received.iter().filter(|(_, name)| name == "test.end").count() < 3 {
        let event = client.next_event().await;
        received.push((event.topic, event.name));
    }
    let on = |topic: &str| -> Vec<&str> {
        received.iter().filter(|(t, _)| t == topic).map(|(_, name)| name.as_str()).collect()
    };
    let of_invoice =
        ["invoice.created", "invoice_line.created", "invoice.updated", "invoice_line.deleted", "test.end"];
    assert_eq!(on("invoice:17"), of_invoice);
    assert_eq!(on(&document_topic), ["document.created", "test.end"]);
    assert_eq!(on("ticket:EU-17"), ["ticket.created", "test.end"]);
    assert_eq!(on(&format!("call:{call}")), ["call.created"]);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_client_resumes_an_entity_topic_from_memory_and_from_the_log() {
    let (t, [org, other]) = with_orgs(TABLES).await;
    let document = Uuid::new_v4();
    let topics = ["invoice:17".to_owned(), format!("document:{document}")];
    let mut cursors = Vec::new();
    for topic in &topics {
        cursors.push(joined(&t, org, &[topic]).await.push(topic, "phx_join", json!({})).await.response);
    }
    t.db.run(format!(
        "insert into invoices values (17, '{org}', 'draft'), (18, '{org}', 'draft'), (19, '{other}', 'draft');
         insert into invoice_lines values (1, '{org}', 17), (2, '{other}', 17), (3, '{org}', 18);
         insert into documents values ('{document}', '{org}')"
    ))
    .await;
    for topic in &topics {
        t.db.publish(org, topic, "test.end").await;
    }
    // This gateway keeps no events in memory, so every replay reads the log.
    let forgetful = TestGateway::gateway(&t.db, |config| {
        config.limits.recent.bytes_max = 0;
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await;
    for gateway in [&t.gateway, &forgetful] {
        let mut client = Client::connect(gateway.public_addr(), &token(org, &json!({}))).await;
        for (topic, cursor) in topics.iter().zip(&cursors) {
            client.join_with(topic, json!({"since": cursor["cursor"]})).await;
            let expected: &[&str] = if topic == "invoice:17" {
                &["invoice.created", "invoice_line.created", "test.end"]
            } else {
                &["document.created", "test.end"]
            };
            for name in expected {
                client.expect_event(topic, name).await;
            }
        }
    }
    assert!(t.gateway.metrics().replays_from_log.get() == 0, "served from memory");
    assert!(forgetful.metrics().replays_from_log.get() > 0, "served from the log");
    forgetful.stop().await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn an_undeclared_kind_or_misspelled_id_is_rejected_like_an_unknown_topic() {
    let (t, [org]) = with_orgs(TABLES).await;
    let mut client = t.connect(org).await;
    let unknown = client.push("no_such_topic", "phx_join", json!({})).await;
    assert_eq!((unknown.status.as_str(), &unknown.response["reason"]), ("error", &json!("unmatched topic")));
    let hint = unknown.response["message"].as_str().expect("a message");
    assert!(hint.contains("call:<uuid>, document:<uuid>, invoice:<integer>, ticket:<text>"), "{hint}");
    let uuid = Uuid::new_v4();
    for topic in [
        "order:1".to_owned(),
        "invoices:1".to_owned(),
        format!("org:{org}"),
        "invoice:".to_owned(),
        "invoice:*".to_owned(),
        "invoice:007".to_owned(),
        "invoice:+7".to_owned(),
        "invoice:-0".to_owned(),
        "invoice:7.0".to_owned(),
        "invoice:9223372036854775808".to_owned(),
        format!("invoice:{uuid}"),
        "document:7".to_owned(),
        format!("document:{}", uuid.to_string().to_uppercase()),
        format!("document:{}", uuid.simple()),
        "ticket:EU 17".to_owned(),
        "ticket:EU:17".to_owned(),
        "ticket:é".to_owned(),
    ] {
        let reply = client.push(&topic, "phx_join", json!({})).await;
        assert_eq!((reply.status, &reply.response), ("error".to_owned(), &unknown.response), "{topic}");
    }
    for topic in ["invoice:0", "invoice:-7", "invoice:9223372036854775807", "ticket:a.B_c~d-9"] {
        client.join(topic).await;
    }
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_kind_declared_while_the_gateway_runs_can_be_joined() {
    let (t, [org]) = with_orgs("create table parcels (id int primary key, org_id uuid not null)").await;
    let mut client = t.connect(org).await;
    assert_eq!(client.push("parcel:1", "phx_join", json!({})).await.status, "error");
    assert_eq!(client.push("order:1", "phx_join", json!({})).await.status, "error");
    t.db.run(
        "select warden.watch('parcels', 'parcels', 'parcel', entity_topic => 'parcel');
         select warden.declare_entity_topic('order', 'integer'); select warden.declare_entity_topic('order', 'integer')",
    )
    .await;
    for topic in ["parcel:1", "order:1"] {
        eventually("the kind is known", async || {
            client.push(topic, "phx_join", json!({})).await.status == "ok"
        })
        .await;
    }
    t.db.run(format!("insert into parcels values (1, '{org}'), (2, '{org}')")).await;
    client.expect_event("parcel:1", "parcel.created").await;
    t.db.publish(org, "order:1", "order.paid").await;
    client.expect_event("order:1", "order.paid").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn the_same_id_in_two_organisations_is_two_topics() {
    let (t, [org, other]) = with_orgs(
        "create table invoices (id int not null, org_id uuid not null, primary key (id, org_id)) partition by hash (org_id);
         create table invoices_all partition of invoices for values with (modulus 1, remainder 0);
         select warden.watch('invoices', 'invoices', 'invoice', entity_topic => 'invoice')",
    )
    .await;
    let mut ours = joined(&t, org, &["invoice:17"]).await;
    let mut theirs = joined(&t, other, &["invoice:17"]).await;
    t.db.run(format!("insert into invoices values (17, '{other}')")).await;
    t.db.publish(other, "invoice:17", "test.theirs").await;
    t.db.run(format!("insert into invoices values (17, '{org}')")).await;
    let event = ours.expect_only("invoice:17", "invoice.created").await;
    assert_eq!(event.data("org_id"), &json!(org));
    let event = theirs.expect_event("invoice:17", "invoice.created").await;
    assert_eq!(event.data("org_id"), &json!(other));
    theirs.expect_event("invoice:17", "test.theirs").await;
    expect_no_more(&t, other, &mut theirs, "invoice:17").await;
    expect_no_more(&t, org, &mut ours, "invoice:17").await;
    t.gateway.stop().await;
}

/// The write succeeds for any text and collation. If the text is not a valid id, the event reaches no entity
/// topic.
#[tokio::test]
async fn a_text_that_is_no_id_fails_no_write() {
    let (t, [org]) = with_orgs(
        "create collation no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create table notes (id int primary key, org_id uuid not null, topic text collate no_case);
         select warden.watch('notes', 'notes', 'note', entity_topic => 'subject', entity_topic_column => 'topic',
                             omit_columns => '{topic}')",
    )
    .await;
    let mut client = joined(&t, org, &["notes", "subject:a", "subject:A"]).await;
    let texts: [Value; 10] = [
        json!("a"),
        json!("A"),
        json!("b"),
        json!(null),
        json!(""),
        json!("a b"),
        json!("a:b"),
        json!("a\n"),
        json!("é"),
        json!("a".repeat(65)),
    ];
    for (id, text) in texts.iter().enumerate() {
        sqlx::query("insert into notes values ($1, $2, $3)")
            .bind(i32::try_from(id).expect("small"))
            .bind(org)
            .bind(text.as_str())
            .execute(&t.db.pool)
            .await
            .expect("inserts");
    }
    t.db.run(format!("insert into notes values (99, '{org}', repeat('a', 10000000))")).await;
    let mut on_entities = Vec::new();
    let mut count = 0;
    while count <= texts.len() {
        let event = client.next_event().await;
        match event.topic.as_str() {
            "notes" => count += 1,
            topic => on_entities.push((topic.to_owned(), event.data("id").clone())),
        }
    }
    assert_eq!(on_entities, [("subject:a".to_owned(), json!(0)), ("subject:A".to_owned(), json!(1))]);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_truncate_resyncs_entity_topics_of_every_kind() {
    let (t, [org, other]) = with_orgs(TABLES).await;
    let call = format!("call:{}", Uuid::new_v4());
    for org in [org, other] {
        let mut client = joined(&t, org, &["invoice:17", "ticket:x", &call, "documents"]).await;
        t.db.run("truncate tickets").await;
        let mut topics = Vec::new();
        for _ in 0..3 {
            let event = client.next_event().await;
            assert_eq!(
                (event.name.as_str(), &event.payload["reason"]),
                ("warden.resync", &json!("truncated"))
            );
            topics.push(event.topic);
        }
        topics.sort();
        assert_eq!(topics, [call.as_str(), "invoice:17", "ticket:x"]);
        expect_no_more(&t, org, &mut client, "documents").await;
    }
    t.gateway.stop().await;
}
