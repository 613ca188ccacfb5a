//! Limits of questions: of waiting ones, and of answers that are queued.

use std::sync::Arc;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};

use super::subscriber::OUTBOX;
use super::*;
use crate::cursor::Transaction;
use crate::hub::questions::{ORG_QUESTIONS_MAX, QUESTION_TIMEOUT, Question, SESSION_QUESTIONS_MAX};
use crate::hub::{Coverage, CoverageTarget, Outbox, TooManyQuestions, Transport};

/// A transaction that the position of [`new_hub`] covers, and one that it does not.
const COVERED: u64 = 5;
const LATER: u64 = 100;

async fn socket() -> (Arc<Outbox>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("bound");
    let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    let (server, _) = accepted.expect("accepts");
    server.writable().await.expect("writable");
    (Arc::new(Outbox::new(Transport::plain(server), OUTBOX)), client.expect("connects"))
}

/// Asks whether a transaction was dispatched. The answer is the name of the result.
fn ask(
    questions: &CoverageQuestions,
    org: u128,
    outbox: &Arc<Outbox>,
    xid: u64,
) -> Result<(), TooManyQuestions> {
    let target = CoverageTarget::Transaction(Transaction { epoch: Epoch::default(), xid });
    let frame = |result: Coverage| Bytes::from(format!("{result:?}"));
    questions.ask(Question::new(OrgId::for_tests(org), Arc::clone(outbox), target, frame))
}

#[tokio::test]
async fn closed_sessions_free_the_places_of_their_questions() {
    let (sender, _worker, _) = new_fanout(&new_hub(), LIMITS);
    let questions = sender.questions();
    let mut sockets = Vec::new();
    for _ in 0..ORG_QUESTIONS_MAX / SESSION_QUESTIONS_MAX {
        sockets.push(socket().await);
    }
    let ask_all = |sockets: &[(Arc<Outbox>, TcpStream)]| {
        let each = sockets.iter().flat_map(|(outbox, _)| [outbox; SESSION_QUESTIONS_MAX]);
        each.filter(|outbox| ask(&questions, 1, outbox, LATER).is_ok()).count()
    };
    let asked = ask_all(&sockets);
    assert!((100..=ORG_QUESTIONS_MAX).contains(&asked), "{asked}");
    let (another, _client) = socket().await;
    assert_eq!(ask(&questions, 1, &another, LATER), Err(TooManyQuestions), "the organisation has its share");
    for n in 0..=SESSION_QUESTIONS_MAX {
        let result = ask(&questions, 2, &another, LATER);
        assert_eq!(result.is_ok(), n < SESSION_QUESTIONS_MAX, "question {n} of one session");
    }
    for (outbox, _) in &sockets {
        outbox.close(CloseCode::NORMAL);
    }
    assert_eq!(ask(&questions, 1, &another, LATER), Ok(()));
}

#[tokio::test]
async fn answers_that_are_queued_are_limited_for_each_organisation() {
    let (mut sender, worker, _) = new_fanout(&new_hub(), LIMITS);
    sender.answer_questions();
    let questions = sender.questions();
    let (outbox, _client) = socket().await;
    for _ in 0..ORG_QUESTIONS_MAX {
        ask(&questions, 1, &outbox, COVERED).expect("a place");
    }
    assert_eq!(ask(&questions, 1, &outbox, COVERED), Err(TooManyQuestions));
    ask(&questions, 2, &outbox, COVERED).expect("another organisation has places of its own");
    worker.drain();
    ask(&questions, 1, &outbox, COVERED).expect("a place is free again");
}

#[tokio::test]
async fn a_question_is_answered_in_time_even_if_the_tailer_does_not_poll() {
    let (sender, worker, _) = new_fanout(&new_hub(), LIMITS);
    let questions = sender.questions();
    let (outbox, client) = socket().await;
    ask(&questions, 1, &outbox, LATER).expect("a place");
    tokio::time::pause();
    let service = tokio::spawn(questions.run());
    // On the paused clock, a sleep ends as soon as no task has anything else to do.
    tokio::time::sleep(QUESTION_TIMEOUT / 2).await;
    worker.drain();
    assert!(client.try_read(&mut [0; 32]).is_err(), "it is not answered yet");
    tokio::time::sleep(QUESTION_TIMEOUT).await;
    tokio::time::resume();
    worker.drain();
    tokio::time::timeout(DEADLINE, client.readable()).await.expect("is answered").expect("readable");
    let mut bytes = [0; 32];
    let n = client.try_read(&mut bytes).expect("an answer");
    assert_eq!(&bytes[..n], b"NotCovered");
    service.abort();
}
