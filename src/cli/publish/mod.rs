//! `warden publish`: publishes one event, or the lines of standard input, through a gateway's HTTP interface.
//!
//! Every request has an idempotency key and is repeated under this key until it is answered. So an event is
//! published once, although the answer to an earlier attempt may have been lost.

mod client;
mod input;
mod key;
mod lines;

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use self::client::{EventsClient, TokenSource};
use self::lines::LinesRun;
use crate::config::DEFAULT_URL;
use crate::shutdown;

#[derive(Args)]
#[command(after_help = "\
Publishes one event:

  warden publish --topic invoices --event invoice.paid --data '{\"id\": 42}'

or, without --topic, one event for each line of standard input:

  printf '%s\\n' '{\"topic\": \"invoices\", \"event\": \"invoice.paid\", \"data\": {\"id\": 43}}' | warden publish

The topic must be declared: select warden.declare_topic('invoices'). The events go to the organisation of the token, \
which must be one of a back end (role service_role). Prints the gateway's answer, or for lines the numbers of events.

If the gateway is busy or cannot be reached, the command repeats the request under the same idempotency key, so no \
event is published twice. All lines of one request are published, or none of them. An error states which lines are \
published, and the flags that publish the rest of the same input.

With --idempotency-key, the command can also be repeated as it was, with the same --batch and input: it publishes \
what is missing. Without this flag it does not wait for a full request if the input pauses, so only the flags in \
the error divide the lines in the same way.

Exit codes: 0: published. 1: rejected, or not published in time; the error names the line. 2: wrong usage.")]
pub(super) struct PublishArgs {
    /// Topic of the event
    #[arg(long, requires = "event")]
    topic: Option<String>,
    /// Name of the event, such as invoice.paid
    #[arg(long, requires = "topic")]
    event: Option<String>,
    /// Data of the event
    #[arg(long, value_name = "JSON", requires = "topic", default_value = "{}", value_parser = json)]
    data: Box<RawValue>,
    /// Key under which a repeated command publishes nothing twice, for 24 hours [default: a random one]
    #[arg(long, value_name = "KEY", value_parser = key::parse)]
    idempotency_key: Option<String>,
    /// Lines of standard input in one request
    #[arg(long, value_name = "LINES", default_value_t = 100, conflicts_with = "topic",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// First line of standard input to publish, after an error
    #[arg(long, value_name = "LINE", default_value_t = 1, conflicts_with = "topic", value_parser = line_number)]
    from_line: usize,
    /// Time for which a request is repeated, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    retry_seconds: u64,
    /// URL of the gateway
    #[arg(long, env = "WARDEN_URL", value_name = "URL", default_value = DEFAULT_URL)]
    url: String,
    /// Token of a back end; it is sent in a header, never in the URL
    #[arg(long, env = "WARDEN_TOKEN", hide_env_values = true, value_name = "WARDEN_TOKEN")]
    #[cfg_attr(feature = "dev", arg(required_unless_present = "org"))]
    #[cfg_attr(not(feature = "dev"), arg(required = true))]
    token: Option<String>,
    #[cfg(feature = "dev")]
    #[command(flatten)]
    signing: SigningArgs,
}

/// Flags that sign a token, instead of `--token`.
#[cfg(feature = "dev")]
#[derive(Args)]
struct SigningArgs {
    /// Organisation, for a token that the command signs itself
    #[arg(long, value_name = "UUID", requires = "backend_secret")]
    org: Option<uuid::Uuid>,
    /// HS256 secret of back ends, to sign a token with --org
    #[arg(long, env = "WARDEN_BACKEND_SECRET", hide_env_values = true, value_name = "WARDEN_BACKEND_SECRET")]
    backend_secret: Option<String>,
}

impl PublishArgs {
    fn token_source(&self) -> anyhow::Result<TokenSource> {
        #[cfg(feature = "dev")]
        if let (Some(org), Some(secret)) = (self.signing.org, &self.signing.backend_secret) {
            crate::config::check_backend_secret(secret)?;
            return Ok(TokenSource::Signed { org, secret: secret.clone() });
        }
        let token = self.token.as_deref().unwrap_or_default().trim();
        ensure!(!token.is_empty(), "WARDEN_TOKEN is empty: set it to a token of a back end");
        Ok(TokenSource::Fixed(token.to_owned()))
    }
}

pub(super) async fn run(args: PublishArgs) -> anyhow::Result<()> {
    let requested = shutdown::requested()?;
    let client = EventsClient::new(&args.url, args.token_source()?, Duration::from_secs(args.retry_seconds))?;
    if let (Some(topic), Some(event)) = (&args.topic, &args.event) {
        let body = json!({"topic": topic, "event": event}).to_string();
        // The data keeps its digits.
        let body = format!("{},\"data\":{}}}", &body[..body.len() - 1], args.data.get());
        let key = args.idempotency_key.clone().unwrap_or_else(key::random);
        return tokio::select! {
            published = publish_one(&client, body, &key) => published,
            () = requested => bail!("interrupted: the event may have been published; repeat the command with {}", key::flag(&key)),
        };
    }
    ensure!(
        !std::io::stdin().is_terminal(),
        "standard input is a terminal: pass --topic and --event, or pipe one JSON object per line"
    );
    let mut run = LinesRun::new(args.from_line, usize::from(args.batch), args.idempotency_key.as_deref());
    tokio::select! {
        published = run.publish(&client) => published?,
        () = requested => return Err(run.error("interrupted")),
    }
    print(&run.summary())
}

async fn publish_one(client: &EventsClient, body: String, key: &str) -> anyhow::Result<()> {
    match client.publish(body, key).await {
        Ok(answer) => print(&answer.json),
        Err(failure) => {
            let problems: Vec<String> = failure.problems.iter().map(|(_, problem)| problem.clone()).collect();
            let reason = if problems.is_empty() { failure.text } else { problems.join("; ") };
            ensure!(
                !failure.may_be_published,
                "gave up: {reason}; the event may have been published: repeat the command with {}",
                key::flag(key)
            );
            bail!("{reason}")
        }
    }
}

fn print(line: &Value) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}

fn line_number(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a number from 1 on".to_owned())
}

fn json(text: &str) -> Result<Box<RawValue>, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}
