//! `warden publish`: publishes one event, or the lines of standard input, through a gateway's HTTP interface.
//!
//! Every request has an idempotency key and is repeated under this key until it is answered. So an event is
//! published once, although the answer to an earlier attempt may have been lost.

mod client;
mod input;

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use self::client::{Answer, EventsClient, Failure, TokenSource};
use self::input::{Batch, Lines};
use crate::config::DEFAULT_URL;
use crate::shutdown;

/// Interval between updates of the progress on a terminal.
const TICK: Duration = Duration::from_millis(120);

#[derive(Args)]
#[command(after_help = "\
Publishes one event:

  warden publish --topic invoices --event invoice.paid --data '{\"id\": 42}'

or, without --topic, one event for each line of standard input:

  printf '%s\\n' '{\"topic\": \"invoices\", \"event\": \"invoice.paid\", \"data\": {\"id\": 43}}' | warden publish

The topic must be declared: select warden.declare_topic('invoices'). The events go to the organisation of the token, \
which must be one of a back end (role service_role). Prints the gateway's answer, or for lines the numbers of events.

If the gateway is busy or cannot be reached, the command repeats the request under the same idempotency key, so no \
event is published twice. All lines of one request are published, or none of them. If the command itself is \
interrupted, run it again with the same --idempotency-key and the same input: it publishes what is missing.

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
    #[arg(long, value_name = "KEY", value_parser = key)]
    idempotency_key: Option<String>,
    /// Lines of standard input in one request
    #[arg(long, value_name = "LINES", default_value_t = 100, conflicts_with = "topic",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
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
    org: Option<Uuid>,
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
        let key = args.idempotency_key.clone().unwrap_or_else(random_key);
        return tokio::select! {
            published = publish_one(&client, body, &key) => published,
            () = requested => bail!("interrupted: the event may have been published; repeat the command with --idempotency-key {key}"),
        };
    }
    ensure!(
        !std::io::stdin().is_terminal(),
        "standard input is a terminal: pass --topic and --event, or pipe one JSON object per line"
    );
    let mut run = LinesRun::new(&args);
    tokio::select! {
        published = run.publish(&client) => published?,
        () = requested => bail!("interrupted {}", run.progress_text()),
    }
    run.print_summary()
}

async fn publish_one(client: &EventsClient, body: String, key: &str) -> anyhow::Result<()> {
    match client.publish(body, key).await {
        Ok(answer) => print(&answer.json),
        Err(failure) => {
            let problems: Vec<String> = failure.problems.iter().map(|(_, problem)| problem.clone()).collect();
            let reason = if problems.is_empty() { failure.text } else { problems.join("; ") };
            ensure!(
                !failure.may_be_published,
                "gave up: {reason}; the event may have been published: repeat the command with --idempotency-key {key}"
            );
            bail!("{reason}")
        }
    }
}

/// A run over the lines of standard input.
struct LinesRun {
    lines: Lines,
    batch_lines: usize,
    key: String,
    /// Whether the operator gave the key, so that a repeated run must divide the lines in the same way.
    is_given_key: bool,
    events: usize,
    duplicates: usize,
    last_line: usize,
    last: Option<Value>,
    bar: Option<ProgressBar>,
}

impl LinesRun {
    fn new(args: &PublishArgs) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {human_pos} events published, {per_sec}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            lines: Lines::of_stdin(),
            batch_lines: usize::from(args.batch),
            key: args.idempotency_key.clone().unwrap_or_else(random_key),
            is_given_key: args.idempotency_key.is_some(),
            events: 0,
            duplicates: 0,
            last_line: 0,
            last: None,
            bar,
        }
    }

    async fn publish(&mut self, client: &EventsClient) -> anyhow::Result<()> {
        loop {
            let next = self.lines.next_batch(self.batch_lines, !self.is_given_key).await;
            let next = next.map_err(|error| anyhow::anyhow!("{error:#}; {}", self.progress_text()))?;
            let Some(batch) = next else { return Ok(()) };
            let key = format!("{}:{}", self.key, batch.first_line());
            match client.publish(batch.body(), &key).await {
                Ok(answer) => self.count(&batch, answer),
                Err(failure) if failure.may_be_published => bail!(
                    "gave up: {}; {}; {} may have been published. Repeat the command with the same input and --idempotency-key {}: it publishes what is missing",
                    failed_lines(&batch, &failure),
                    self.progress_text(),
                    batch.text(),
                    self.key
                ),
                Err(failure) => bail!(
                    "{} (nothing of {} was published); {}",
                    failed_lines(&batch, &failure),
                    batch.text(),
                    self.progress_text()
                ),
            }
        }
    }

    fn count(&mut self, batch: &Batch, answer: Answer) {
        self.events += batch.len();
        self.duplicates += answer.duplicates;
        self.last_line = batch.last_line();
        self.last = Some(answer.json);
        if let Some(bar) = &self.bar {
            bar.set_position(self.events as u64);
        }
    }

    /// Number of the events that were published so far, for an error.
    fn progress_text(&self) -> String {
        match self.last_line {
            0 => "nothing was published before".to_owned(),
            line => format!("{} events up to line {line} were published before", self.events),
        }
    }

    fn print_summary(self) -> anyhow::Result<()> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let last = self.last.unwrap_or_default();
        print(&json!({
            "events": self.events, "duplicates": self.duplicates, "tx": last["tx"], "cursor": last["cursor"],
        }))
    }
}

/// Why a request failed, with the numbers of the lines that are not valid.
fn failed_lines(batch: &Batch, failure: &Failure) -> String {
    if failure.problems.is_empty() {
        return format!("{}: {}", batch.text(), failure.text);
    }
    let problem = |(index, problem): &(usize, String)| format!("line {}: {problem}", batch.line(*index));
    failure.problems.iter().map(problem).collect::<Vec<_>>().join("; ")
}

fn print(line: &Value) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}

fn random_key() -> String {
    Uuid::new_v4().to_string()
}

fn json(text: &str) -> Result<Box<RawValue>, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

fn key(text: &str) -> Result<String, String> {
    // The number of a line is added.
    let is_valid = (1..=200).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    is_valid.then(|| text.to_owned()).ok_or_else(|| "expected 1 to 200 printable ASCII characters".to_owned())
}
