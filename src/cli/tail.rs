//! `warden tail`: a client on the command line. It reconnects, and hands back its cursor when it does.

use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::backoff::Backoff;
use crate::config::DEFAULT_URL;
use crate::shutdown;
use crate::wire::{CLOSE_CODES, Retry};

/// Longest handshake, from the connection to the 101.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Delays before a new connection: the first, doubling up to the second.
const RECONNECT_DELAYS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The event that a client is told when it must read its state anew.
const RESYNC: &str = "warden.resync";

#[derive(Args)]
pub(super) struct TailArgs {
    /// Topics: org, a name such as calls, or one entity such as call:<uuid>
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Resume after this cursor, from the output of an earlier run
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
    /// The gateway's socket
    #[arg(long, env = "WARDEN_URL", value_name = "URL", default_value = DEFAULT_URL)]
    url: String,
    /// Between heartbeats, in seconds; a gateway that says nothing from one to the next is given up
    #[arg(long, env = "WARDEN_HEARTBEAT_SECONDS", value_name = "SECONDS", default_value_t = 25,
          value_parser = clap::value_parser!(u64).range(1..=30))]
    heartbeat_seconds: u64,
    /// Token (see `warden token`); it is sent in a header, never in the URL
    #[arg(long, env = "WARDEN_TOKEN", hide_env_values = true, value_name = "WARDEN_TOKEN")]
    token: String,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How a connection ended.
enum Ended {
    /// Trying again may help.
    Lost(String),
    /// It won't.
    Refused(String),
    /// Nobody reads our output any more, as after `| head -1`.
    Unread,
}

pub(super) async fn run(args: TailArgs) -> anyhow::Result<()> {
    let requested = shutdown::requested()?;
    tokio::pin!(requested);
    let mut cursors: Vec<Option<String>> = vec![args.since.clone(); args.topics.len()];
    let mut backoff = Backoff::new(RECONNECT_DELAYS.0, RECONNECT_DELAYS.1);
    loop {
        let ended = tokio::select! {
            () = &mut requested => return Ok(()),
            ended = follow(&args, &mut cursors, &mut backoff) => ended?,
        };
        let why = match ended {
            Ended::Refused(why) => bail!("{why}"),
            Ended::Unread => return Ok(()),
            Ended::Lost(why) => why,
        };
        let delay = backoff.next();
        eprintln!("disconnected ({why}); trying again in {:.1} s", delay.as_secs_f64());
        tokio::select! {
            () = &mut requested => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

async fn follow(
    args: &TailArgs,
    cursors: &mut [Option<String>],
    backoff: &mut Backoff,
) -> anyhow::Result<Ended> {
    let mut socket = match connect(args).await? {
        Ok(socket) => socket,
        Err(ended) => return Ok(ended),
    };
    for (n, topic) in args.topics.iter().enumerate() {
        let reference = (n + 1).to_string();
        let payload = cursors[n].as_ref().map_or_else(|| json!({}), |since| json!({"since": since}));
        let join = json!([reference, reference, topic, "phx_join", payload]);
        if let Err(error) = socket.send(Message::text(join.to_string())).await {
            return Ok(Ended::Lost(error.to_string()));
        }
    }
    // They keep the session (the gateway ends one that is silent for 60 s), and their replies tell that the
    // gateway is there: a connection whose other end vanished says nothing, and fails at no write.
    let mut heartbeat = tokio::time::interval(Duration::from_secs(args.heartbeat_seconds));
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_heard = true;
    loop {
        tokio::select! {
            message = socket.next() => {
                was_heard = true;
                if let Some(ended) = on_frame(args, cursors, backoff, message)? {
                    return Ok(ended);
                }
            }
            _ = heartbeat.tick() => {
                if !std::mem::take(&mut was_heard) {
                    return Ok(Ended::Lost(format!("no reply to a heartbeat within {} s", args.heartbeat_seconds)));
                }
                let beat = json!([null, "hb", "phoenix", "heartbeat", {}]);
                if let Err(error) = socket.send(Message::text(beat.to_string())).await {
                    return Ok(Ended::Lost(error.to_string()));
                }
            }
        }
    }
}

/// What came from the socket, and whether that ends the connection.
fn on_frame(
    args: &TailArgs,
    cursors: &mut [Option<String>],
    backoff: &mut Backoff,
    message: Option<Result<Message, WsError>>,
) -> anyhow::Result<Option<Ended>> {
    Ok(match message {
        Some(Ok(Message::Text(text))) => {
            let ended = on_message(args, cursors, &text)?;
            if ended.is_none() {
                backoff.reset();
            }
            ended
        }
        Some(Ok(Message::Close(frame))) => {
            Some(closed(frame.map(|f| (u16::from(f.code), f.reason.to_string()))))
        }
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(Ended::Lost(error.to_string())),
        None => Some(Ended::Lost("the connection ended".to_owned())),
    })
}

async fn connect(args: &TailArgs) -> anyhow::Result<Result<Socket, Ended>> {
    let url = format!("{}/websocket?vsn=2.0.0", args.url.trim_end_matches('/'));
    let mut request =
        url.as_str().into_client_request().with_context(|| format!("WARDEN_URL {:?}", args.url))?;
    let value = format!("Bearer {}", args.token.trim()).parse().context("the token is no header value")?;
    request.headers_mut().insert("authorization", value);
    let Ok(connected) = tokio::time::timeout(CONNECT_TIMEOUT, connect_async(request)).await else {
        let why = format!("no answer from {} within {} s", args.url, CONNECT_TIMEOUT.as_secs());
        return Ok(Err(Ended::Lost(why)));
    };
    Ok(match connected {
        Ok((socket, _)) => Ok(socket),
        Err(WsError::Http(response)) => {
            let body = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned();
            let message = serde_json::from_str::<Value>(&body)
                .ok()
                .and_then(|v| Some(v.pointer("/error/message")?.as_str()?.to_owned()))
                .unwrap_or(body);
            let why = format!("{}: {message}", response.status());
            Err(if response.status().is_server_error() { Ended::Lost(why) } else { Ended::Refused(why) })
        }
        Err(error @ (WsError::Url(_) | WsError::HttpFormat(_))) => Err(Ended::Refused(error.to_string())),
        Err(error) => Err(Ended::Lost(format!("{error}; is the gateway at {} running?", args.url))),
    })
}

fn on_message(args: &TailArgs, cursors: &mut [Option<String>], text: &str) -> anyhow::Result<Option<Ended>> {
    let (_, _, topic, event, payload): (Value, Value, String, String, Value) =
        serde_json::from_str(text).context("the gateway sent what is no Phoenix message")?;
    let cursor =
        payload.get("cursor").or_else(|| payload.pointer("/response/cursor")).and_then(Value::as_str);
    if let (Some(cursor), Some(n)) = (cursor, args.topics.iter().position(|t| *t == topic)) {
        cursors[n] = Some(cursor.to_owned());
    }
    match event.as_str() {
        "phx_reply" if payload["status"] == "error" => {
            let response = &payload["response"];
            return Ok(Some(Ended::Refused(format!(
                "{topic}: {} ({})",
                response["reason"].as_str().unwrap_or_default(),
                response["message"].as_str().unwrap_or_default()
            ))));
        }
        "phx_reply" if payload.pointer("/response/resync") == Some(&Value::Bool(true)) => {
            return print(&json!({"topic": topic, "event": RESYNC, "payload": payload["response"]}));
        }
        "phx_reply" | "phx_close" | "warden.cursor" => {}
        _ => return print(&json!({"topic": topic, "event": event, "payload": payload})),
    }
    Ok(None)
}

/// Prints a line at once, also into a pipe. `println!` would panic where the pipe is closed.
fn print(line: &Value) -> anyhow::Result<Option<Ended>> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Some(Ended::Unread)),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

fn closed(frame: Option<(u16, String)>) -> Ended {
    let Some((code, reason)) = frame else { return Ended::Lost("closed without a code".to_owned()) };
    let why = format!("{code} {reason}");
    let stops = CLOSE_CODES.iter().any(|close| close.code == code && close.retry == Retry::Stop);
    // A token that was given on the command line does not become fresh by trying again.
    if stops || code == crate::wire::CloseCode::TOKEN_EXPIRED.code {
        Ended::Refused(why)
    } else {
        Ended::Lost(why)
    }
}
