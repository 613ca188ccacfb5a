//! Output of `warden dev --watch`: one line per event of an organisation, received over a socket like that of
//! any client.

use std::io::Write as _;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_util::sync::CancellationToken;

/// Interval of heartbeats. The gateway closes silent sessions.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(25);

/// Prints events of the topic `org` until cancelled.
pub(super) async fn run(url: String, name: String, token: String, cancel: CancellationToken) {
    let result = tokio::select! {
        () = cancel.cancelled() => return,
        result = follow(&url, &name, &token) => result,
    };
    if let Err(error) = result {
        eprintln!("the events of {name} are no longer printed: {error:#}");
    }
}

async fn follow(url: &str, name: &str, token: &str) -> anyhow::Result<()> {
    let mut request = format!("{url}/websocket?vsn=2.0.0").into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let (mut socket, _) = connect_async(request).await?;
    socket.send(Message::text(json!(["1", "1", "org", "phx_join", {}]).to_string())).await?;
    let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
    loop {
        tokio::select! {
            _ = heartbeat.tick() => {
                let message = json!([null, "h", "phoenix", "heartbeat", {}]);
                socket.send(Message::text(message.to_string())).await?;
            }
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    let (_, _, _, event, payload): (Value, Value, String, String, Value) =
                        serde_json::from_str(&text)?;
                    if !event.starts_with("phx_") {
                        // Not println!, which panics if the reader of the pipe has ended, as `head` does.
                        writeln!(std::io::stdout(), "{}", line(name, &event, &payload))?;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
        }
    }
}

/// Formats time, organisation, event, the beginning of the row's id, and its status.
fn line(name: &str, event: &str, payload: &Value) -> String {
    let data = &payload["data"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let id: String = text(&data["id"]).chars().take(8).collect();
    let time: String = text(&payload["at"]).chars().skip(11).take(12).collect();
    let status = match (payload["old"]["status"].as_str(), data["status"].as_str()) {
        (Some(old), Some(new)) => format!("{old} -> {new}"),
        (None, Some(status)) => status.to_owned(),
        _ => String::new(),
    };
    format!("{time}  {name:<20}{event:<20}{id}  {status}").trim_end().to_owned()
}
