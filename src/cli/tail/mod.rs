//! `warden tail`: a client for the command line. After a disconnect it reconnects and resumes with its
//! cursors.

mod topics;

use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use self::topics::{ROW_PARAMETERS, Received, TailedTopics};
use crate::backoff::Backoff;
use crate::config::DEFAULT_URL;
use crate::shutdown;
use crate::wire::{CLOSE_CODES, Retry};

/// Longest handshake, from connecting to the answer 101.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// First and longest delay before a new connection. The delay doubles in between.
const RECONNECT_DELAYS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

#[derive(Args)]
#[command(after_help = "\
Prints each event as one JSON object with topic, event and payload. After a disconnect the command reconnects and \
prints the missed events first. If events were lost, it prints the event warden.resync. It ends with exit code 1 if \
the gateway rejects the token or a topic.

With --snapshot it first prints each row of the table as the event warden.snapshot, with the row in payload.data, and \
one more such line with payload.last after the last row:

  warden tail calls --snapshot --filter status=eq.queued --filter order=started_at.desc

With --filter it prints only the events of rows that the filter selects before or after the change. If an update \
changed that, payload.filter is entered or left.

If the connection ends before the last row, and after warden.resync, it prints all rows again.")]
pub(super) struct TailArgs {
    /// Topics: org for all events, a name such as calls, or one entity such as call:<uuid>
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Resume after this cursor, which is part of every printed event
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
    /// Print the rows of each topic's table before its events
    #[arg(long, conflicts_with = "since")]
    snapshot: bool,
    /// Parameter as in GET /v1/<topic>, such as status=eq.queued or select=id,status, for rows and events;
    /// order and limit need --snapshot
    #[arg(long = "filter", value_name = "NAME=VALUE", value_parser = parameter)]
    filters: Vec<(String, String)>,
    /// URL of the gateway's socket
    #[arg(long, env = "WARDEN_URL", value_name = "URL", default_value = DEFAULT_URL)]
    url: String,
    /// Interval of heartbeats, in seconds; if nothing arrives between two of them, the command reconnects
    #[arg(long, env = "WARDEN_HEARTBEAT_SECONDS", value_name = "SECONDS", default_value_t = 25,
          value_parser = clap::value_parser!(u64).range(1..=30))]
    heartbeat_seconds: u64,
    /// Token, for example from `warden token`; it is sent in a header, never in the URL
    #[arg(long, env = "WARDEN_TOKEN", hide_env_values = true, value_name = "WARDEN_TOKEN")]
    token: String,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// End of a connection.
enum End {
    /// The connection was lost. A new one may succeed.
    Lost(String),
    /// The gateway rejected the token or a topic. A new connection would not help.
    Rejected(String),
    /// The rows must be read again, on a new connection.
    StartOver(String),
    /// The reader of our output has ended, as with `| head -1`.
    OutputClosed,
}

pub(super) async fn run(args: TailArgs) -> anyhow::Result<()> {
    let requested = shutdown::requested()?;
    tokio::pin!(requested);
    if !args.snapshot
        && let Some((name, _)) = args.filters.iter().find(|(name, _)| ROW_PARAMETERS.contains(&name.as_str()))
    {
        bail!("--filter {name}=… is about the rows before the events: add --snapshot");
    }
    let mut topics = TailedTopics::new(&args.topics, args.since.as_ref(), args.snapshot, &args.filters);
    let mut backoff = Backoff::new(RECONNECT_DELAYS.0, RECONNECT_DELAYS.1);
    loop {
        let end = tokio::select! {
            () = &mut requested => return Ok(()),
            end = follow(&args, &mut topics, &mut backoff) => end?,
        };
        let (happened, next) = match end {
            End::Rejected(reason) => bail!("{reason}"),
            End::OutputClosed => return Ok(()),
            End::Lost(reason) => (format!("disconnected ({reason})"), "reconnecting"),
            End::StartOver(reason) => (reason, "reading the rows again"),
        };
        topics.disconnected();
        let delay = backoff.next();
        eprintln!("{happened}: {next} in {:.1} s", delay.as_secs_f64());
        tokio::select! {
            () = &mut requested => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

async fn follow(args: &TailArgs, topics: &mut TailedTopics, backoff: &mut Backoff) -> anyhow::Result<End> {
    let mut socket = match connect(args).await? {
        Ok(socket) => socket,
        Err(end) => return Ok(end),
    };
    if let Err(error) = send(&mut socket, topics.next_joins()).await {
        return Ok(End::Lost(error.to_string()));
    }
    // Heartbeats keep the session open, because the gateway closes a silent one after 60 s. Their replies
    // show that the gateway is alive: if its host vanished, no write fails.
    let mut heartbeat = tokio::time::interval(Duration::from_secs(args.heartbeat_seconds));
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_received = true;
    loop {
        tokio::select! {
            message = socket.next() => {
                has_received = true;
                if let Some(end) = on_frame(topics, backoff, message)? {
                    return Ok(end);
                }
                if let Err(error) = send(&mut socket, topics.next_joins()).await {
                    return Ok(End::Lost(error.to_string()));
                }
            }
            _ = heartbeat.tick() => {
                if !std::mem::take(&mut has_received) {
                    return Ok(End::Lost(format!("no reply to a heartbeat within {} s", args.heartbeat_seconds)));
                }
                let beat = json!([null, "hb", "phoenix", "heartbeat", {}]);
                if let Err(error) = send(&mut socket, vec![beat]).await {
                    return Ok(End::Lost(error.to_string()));
                }
            }
        }
    }
}

async fn send(socket: &mut Socket, messages: Vec<Value>) -> Result<(), WsError> {
    for message in messages {
        socket.send(Message::text(message.to_string())).await?;
    }
    Ok(())
}

/// Handles one received frame. Returns the end of the connection, if the frame ends it.
fn on_frame(
    topics: &mut TailedTopics,
    backoff: &mut Backoff,
    message: Option<Result<Message, WsError>>,
) -> anyhow::Result<Option<End>> {
    Ok(match message {
        Some(Ok(Message::Text(text))) => {
            let end = on_message(topics, &text)?;
            if end.is_none() {
                backoff.reset();
            }
            end
        }
        Some(Ok(Message::Close(frame))) => {
            Some(closed(frame.map(|f| (u16::from(f.code), f.reason.to_string()))))
        }
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(End::Lost(error.to_string())),
        None => Some(End::Lost("the gateway ended the connection without a Close frame".to_owned())),
    })
}

/// The address of a URL for messages, without a user, a password or a query.
fn host_and_port(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    authority.rsplit('@').next().unwrap_or_default().to_owned()
}

async fn connect(args: &TailArgs) -> anyhow::Result<Result<Socket, End>> {
    let url = format!("{}/websocket?vsn=2.0.0", args.url.trim_end_matches('/'));
    let mut request = url
        .as_str()
        .into_client_request()
        .ok()
        .filter(|request| matches!(request.uri().scheme_str(), Some("ws" | "wss")))
        .with_context(|| format!("WARDEN_URL is not a WebSocket URL: write e.g. {DEFAULT_URL}"))?;
    let address = host_and_port(request.uri());
    let value = format!("Bearer {}", args.token.trim())
        .parse()
        .context("WARDEN_TOKEN contains a character that a header cannot carry")?;
    request.headers_mut().insert("authorization", value);
    let Ok(connected) = tokio::time::timeout(CONNECT_TIMEOUT, connect_async(request)).await else {
        let reason = format!("no answer from {address} within {} s", CONNECT_TIMEOUT.as_secs());
        return Ok(Err(End::Lost(reason)));
    };
    Ok(match connected {
        Ok((socket, _)) => Ok(socket),
        Err(WsError::Http(response)) => {
            let body = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned();
            let message = serde_json::from_str::<Value>(&body)
                .ok()
                .and_then(|document| Some(document.get("detail")?.as_str()?.to_owned()))
                .unwrap_or(body);
            let reason = format!("{}: {message}", response.status());
            Err(if response.status().is_server_error() { End::Lost(reason) } else { End::Rejected(reason) })
        }
        Err(error @ (WsError::Url(_) | WsError::HttpFormat(_))) => Err(End::Rejected(error.to_string())),
        Err(error) => Err(End::Lost(format!("{error}; is the gateway at {address} running?"))),
    })
}

fn on_message(topics: &mut TailedTopics, text: &str) -> anyhow::Result<Option<End>> {
    let (_, _, topic, event, payload): (IgnoredAny, IgnoredAny, String, String, &RawValue) =
        serde_json::from_str(text).context(
            "the gateway sent a frame that is not a Phoenix message: is WARDEN_URL a Warden gateway?",
        )?;
    let (lines, end) = match topics.receive(&topic, &event, payload) {
        Received::Lines(lines) => (lines, None),
        Received::StartOver(lines, reason) => (lines, Some(End::StartOver(reason))),
        Received::NotNow(reason) => (Vec::new(), Some(End::Lost(reason))),
        Received::Rejected(reason) => (Vec::new(), Some(End::Rejected(reason))),
    };
    Ok(print(&lines)?.or(end))
}

/// Prints lines and flushes them, also into a pipe. `println!` would panic if the pipe is closed.
fn print(lines: &[String]) -> anyhow::Result<Option<End>> {
    let mut out = std::io::stdout().lock();
    let mut write = || {
        lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        out.flush()
    };
    match write() {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Some(End::OutputClosed)),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

fn closed(frame: Option<(u16, String)>) -> End {
    let Some((code, reason)) = frame else { return End::Lost("closed without a code".to_owned()) };
    let reason = format!("{code} {reason}");
    let stops = CLOSE_CODES.iter().any(|close| close.code == code && close.retry == Retry::Stop);
    // An expired token stays expired, because this command cannot get another one.
    if stops || code == crate::wire::CloseCode::TOKEN_EXPIRED.code {
        End::Rejected(reason)
    } else {
        End::Lost(reason)
    }
}

/// Parses a parameter of a snapshot.
fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected name=value, such as status=eq.queued")?;
    Ok((name.to_owned(), value.to_owned()))
}
