//! The attackers: they send handshakes and frames from many addresses and check the answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use warden_testkit::frames::{CLOSE, PONG, TEXT, split};
use warden_testkit::phoenix::{PhoenixMessage, stream_from};

use crate::frames::{ANSWERED, ENDING, Expect, FLOODS, Kind, Sender};
use crate::handshakes::{self, Then};
use crate::tally::Tally;
use crate::tokens::token;
use crate::{Attack, MARK};

/// Number of addresses of insiders.
const ADDRESSES: u8 = 64;
/// Blocks of loopback addresses, one per kind of attacker.
const OF_STRANGERS: u8 = 2;
const OF_INSIDERS: u8 = 3;
/// Deadline for an answer or the end of a connection. The gateway's own deadlines are 10 s each, in sequence.
/// On a busy machine the kernel may retransmit only after up to a minute.
const ANSWER_DEADLINE: Duration = Duration::from_mins(3);
/// Interval between two bytes of a slow sender.
const DRIP_INTERVAL: Duration = Duration::from_millis(250);
/// One handshake in this number is of a kind that takes ten seconds.
const SLOW_ONE_IN: usize = 50;
/// One insider in this number sends a flood.
const FLOODS_ONE_IN: usize = 25;
/// Frames that an insider sends before the last one. They stay within the message limit of a socket.
const PROGRAM_FRAMES_MAX: usize = 120;
/// Bytes of a wrongly accepted request that the failure report shows.
const SHOWN_BYTES: usize = 400;
const BURST_PAUSE: Duration = Duration::from_millis(200);

/// Countdown of the requests or frames left to send, shared by all senders.
pub(crate) struct Countdown(AtomicU64);

impl Countdown {
    pub(crate) fn new(count: u64) -> Self {
        Self(AtomicU64::new(count))
    }

    fn take(&self, count: u64) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                (left > 0).then(|| left.saturating_sub(count))
            })
            .is_ok()
    }
}

/// Runs strangers one after the other until the countdown ends.
pub(crate) async fn strangers(attack: Arc<Attack>, left: Arc<Countdown>, tally: Arc<Tally>, mut rng: Rng) {
    let (slow, quick): (Vec<_>, Vec<_>) =
        handshakes::KINDS.iter().partition::<Vec<&handshakes::Kind>, _>(|kind| kind.then == Then::Drip);
    while left.take(1) {
        let from = if rng.usize(..SLOW_ONE_IN) == 0 { &slow } else { &quick };
        let kind = from[rng.usize(..from.len())];
        let bytes = (kind.make)(&mut rng, attack.insiders);
        tally.sent(kind.name, 1);
        let address = rng.u8(1..=attack.addresses);
        let sent = stranger(attack.addr, address, kind, &bytes);
        let answer = timeout(ANSWER_DEADLINE, sent).await.unwrap_or_else(|_| "neither answer nor end".into());
        tally.answered(kind.name, &answer);
        if answer == "101" || answer.starts_with("neither") || answer.starts_with("not connected") {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]).into_owned();
            tally.fault(format!("{}: {answer}: {shown}", kind.name));
        }
    }
}

/// Sends one handshake. Returns the status of its answer.
async fn stranger(addr: SocketAddr, address: u8, kind: &handshakes::Kind, bytes: &[u8]) -> String {
    let mut stream = loop {
        match stream_from(addr, OF_STRANGERS, address).await {
            Ok(stream) => break stream,
            // On a busy machine the kernel's queue may be full for two minutes, and the connect then fails.
            // The deadline for the answer detects a gateway that does not listen at all.
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {}
            Err(error) => return format!("not connected: {error}"),
        }
    };
    let mut answer = Vec::new();
    if kind.then == Then::Drip {
        for byte in bytes {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            match timeout(DRIP_INTERVAL, stream.read_buf(&mut answer)).await {
                Ok(Ok(1..)) | Err(_) if answer.is_empty() => {}
                _ => break,
            }
        }
    } else {
        // The gateway may close before everything is written.
        let _ = stream.write_all(bytes).await;
    }
    match kind.then {
        Then::HangUp => return "hung up".into(),
        Then::End => drop(stream.shutdown().await),
        Then::Wait | Then::Drip => {}
    }
    while answer.len() < 12 {
        match stream.read_buf(&mut answer).await {
            Ok(0) | Err(_) => return "ended".into(),
            Ok(_) => {}
        }
    }
    String::from_utf8_lossy(&answer)
        .split(' ')
        .nth(1)
        .map_or_else(|| "no HTTP".into(), |status| status.trim().into())
}

/// Frames of one insider, and the expected replies.
struct Program {
    bytes: Vec<Vec<u8>>,
    /// Expected replies by message reference.
    frames: Vec<&'static Kind>,
    last: &'static Kind,
    is_flood: bool,
}

impl Program {
    fn draw(rng: &mut Rng, sender: &Sender) -> Self {
        let is_flood = rng.usize(..FLOODS_ONE_IN) == 0;
        let count = if is_flood { 0 } else { rng.usize(1..PROGRAM_FRAMES_MAX / 2) };
        let (mut bytes, mut frames) = (Vec::new(), Vec::<&'static Kind>::new());
        let mut messages = 0;
        for n in 0..count {
            let kind = &ANSWERED[rng.usize(..ANSWERED.len())];
            let message = (kind.make)(rng, sender, &n.to_string());
            messages += message.len();
            if messages > PROGRAM_FRAMES_MAX {
                break;
            }
            bytes.extend(message);
            frames.push(kind);
        }
        let endings = if is_flood { FLOODS } else { ENDING };
        let last = &endings[rng.usize(..endings.len())];
        bytes.extend((last.make)(rng, sender, "last"));
        Self { bytes, frames, last, is_flood }
    }
}

/// Runs insiders one after the other until the countdown of frames ends.
pub(crate) async fn insiders(attack: Arc<Attack>, left: Arc<Countdown>, tally: Arc<Tally>, mut rng: Rng) {
    let sender = Sender { org: attack.insiders, victim: attack.victim };
    loop {
        let program = Program::draw(&mut rng, &sender);
        if !left.take(program.bytes.len() as u64) {
            return;
        }
        let run = insider(&attack, &program, &tally, &mut rng);
        if timeout(ANSWER_DEADLINE, run).await.is_err() {
            tally.fault(format!("{}: neither answer nor end", program.last.name));
        }
    }
}

/// Opens a socket with a valid token. Limits may reject it for a while, so it retries.
async fn open(attack: &Attack, rng: &mut Rng) -> Option<(TcpStream, Vec<u8>)> {
    let request = format!(
        "GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: Bearer {}\r\n\r\n",
        token(attack.insiders)
    );
    loop {
        let mut stream = stream_from(attack.addr, OF_INSIDERS, rng.u8(1..=ADDRESSES)).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        let end = loop {
            if let Some(at) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut answer).await.ok()? == 0 {
                return None;
            }
        };
        if answer.starts_with(b"HTTP/1.1 101") {
            return Some((stream, answer.split_off(end)));
        }
        if !answer.starts_with(b"HTTP/1.1 429") {
            return None;
        }
        tokio::time::sleep(BURST_PAUSE).await;
    }
}

async fn insider(attack: &Attack, program: &Program, tally: &Tally, rng: &mut Rng) {
    let Some((stream, mut received)) = open(attack, rng).await else {
        return tally.fault("an insider with a valid token was rejected".into());
    };
    attack.opened.fetch_add(1, Ordering::Relaxed);
    let (mut read, mut write) = stream.into_split();
    let writes = async {
        for piece in &program.bytes {
            // A closed session reads no more.
            if write.write_all(piece).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    let reads = async {
        while matches!(read.read_buf(&mut received).await, Ok(1..)) {}
        received
    };
    let ((), received) = tokio::join!(writes, reads);
    judge(attack, program, &received, tally);
}

/// Compares the received frames with the expected ones.
fn judge(attack: &Attack, program: &Program, received: &[u8], tally: &Tally) {
    let mut errors = vec![false; program.frames.len()];
    let (mut pongs, mut close, mut extra) = (0_u64, None, 0_u64);
    for (opcode, payload) in split(received) {
        match opcode {
            TEXT => match reply(payload) {
                Some((reference, status)) if status == "error" => match reference.parse::<usize>() {
                    Ok(n) if n < errors.len() => errors[n] = true,
                    _ => extra += 1,
                },
                _ => tally.fault(format!("an insider received {}", String::from_utf8_lossy(payload))),
            },
            CLOSE => close = payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]])),
            PONG => pongs += 1,
            other => tally.fault(format!("a frame of opcode {other}")),
        }
    }
    for (kind, has_error) in program.frames.iter().zip(&errors) {
        let answer = match (kind.expect, has_error) {
            (Expect::Error, true) => "error reply",
            (Expect::Error, false) => "unanswered",
            _ => "ignored or pong",
        };
        tally.answered(kind.name, answer);
        if answer == "unanswered" {
            tally.fault(format!("{}: no error reply; the session ended with {close:?}", kind.name));
        }
    }
    let code = close.map_or_else(|| "ended".to_owned(), |code| code.to_string());
    tally.answered(program.last.name, &code);
    // Without limits a flood is answered to its last frame.
    let allowed: &[u16] = match program.last.expect {
        _ if program.is_flood && !attack.has_limits => &[1000],
        Expect::Close(codes) => codes,
        _ => &[],
    };
    if !close.is_some_and(|code| allowed.contains(&code)) {
        tally.fault(format!("{} ended with {code} instead of {allowed:?}", program.last.name));
    }
    attack
        .replies
        .fetch_add(errors.iter().filter(|has| **has).count() as u64 + extra + pongs, Ordering::Relaxed);
    for kind in &program.frames {
        tally.sent(kind.name, 1);
    }
    // Fragments are frames too. Above, a fragmented message counts once.
    tally.sent(program.last.name, 1);
    attack.frames.fetch_add(program.bytes.len() as u64, Ordering::Relaxed);
}

/// Reference and status of a reply. None if it is not a reply or carries another organisation's data.
fn reply(payload: &[u8]) -> Option<(String, String)> {
    let message = PhoenixMessage::parse(std::str::from_utf8(payload).ok()?).ok()?;
    let is_reply = message.event == "phx_reply" && !message.payload.to_string().contains(MARK);
    is_reply.then(|| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&message.reference), text(&message.payload["status"]))
    })
}

/// Rate since `since`, for messages.
pub(crate) fn per_second(count: u64, since: Instant) -> u64 {
    count * 1000 / u64::try_from(since.elapsed().as_millis().max(1)).unwrap_or(u64::MAX)
}
