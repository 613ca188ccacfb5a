//! `warden dev`: runs everything for development, and prints how to continue.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warden_devkit::cluster::Binaries;

use super::watch;
use crate::config::parse_origins;
use crate::dev::{DevEnvironment, DevOptions};
use crate::shutdown;

/// Highest rate that the simulation accepts, in changes per second.
const RATE_MAX: f64 = 10_000.0;

#[derive(Args)]
#[command(after_help = "\
The command needs no running database. It creates a private PostgreSQL in --data-dir, installs the schema with the \
tables of a voice-call platform, creates two demo organisations, simulates their calls, and starts the gateway. It \
listens on loopback addresses only. Ctrl-C stops all of it.")]
pub(super) struct DevArgs {
    /// Use a temporary database, which is removed when the command ends
    #[arg(long)]
    ephemeral: bool,
    /// Simulated changes per second; 0 disables the simulation
    #[arg(long, value_name = "N", default_value_t = 2.0, value_parser = rate)]
    rate: f64,
    /// Print one line of JSON when everything is ready, and nothing else to standard output
    #[arg(long)]
    json: bool,
    /// Print the events of all demo organisations
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Directory of the database
    #[arg(long, env = "WARDEN_DATA_DIR", value_name = "DIR", default_value = ".warden")]
    data_dir: PathBuf,
    /// Directory of the PostgreSQL server binaries [default: PATH, pg_config, the usual directories]
    #[arg(long, env = "WARDEN_PG_BIN", value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// Address of the public listener; port 0 chooses a free port
    #[arg(long, env = "WARDEN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:4000")]
    listen: SocketAddr,
    /// Address of the admin listener; port 0 chooses a free port
    #[arg(long, env = "WARDEN_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:4001")]
    admin_listen: SocketAddr,
    /// Further origins whose pages may connect
    #[arg(long, env = "WARDEN_ALLOWED_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    allowed_origins: Vec<String>,
    #[arg(long, env = "PATH", hide = true)]
    path: Option<OsString>,
}

pub(super) async fn run(args: DevArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.listen.ip().is_loopback() && args.admin_listen.ip().is_loopback(),
        "warden dev listens on loopback addresses only, because its database has no password. To accept other \
         machines, run `warden serve`"
    );
    let requested = shutdown::requested()?;
    tokio::pin!(requested);
    let options = DevOptions {
        data_dir: if args.ephemeral { None } else { Some(std::path::absolute(&args.data_dir)?) },
        binaries: Binaries::find(args.pg_bin.as_deref(), args.path.as_deref())?,
        rate: args.rate,
        listen: args.listen,
        admin_listen: args.admin_listen,
        allowed_origins: parse_origins(args.allowed_origins.clone())?,
    };
    let data_dir = options.data_dir.clone();
    eprintln!("starting (the first start creates the database and takes a few seconds)");
    // If Ctrl-C drops the start, the private PostgreSQL stops as well.
    let environment = tokio::select! {
        () = &mut requested => {
            eprintln!("interrupted");
            return Ok(());
        }
        environment = DevEnvironment::start(options, print_step) => environment?,
    };
    if args.json {
        println!("{}", ready_line(&environment));
    } else {
        print!("{}", guide(&environment, data_dir.as_deref()));
    }
    let watching = CancellationToken::new();
    let watchers = TaskTracker::new();
    if args.watch {
        let url = socket_url(&environment);
        for org in environment.orgs.clone() {
            watchers.spawn(watch::run(url.clone(), org.name, org.token, watching.clone()));
        }
    }
    requested.await;
    eprintln!("\nstopping the simulation, the gateway and PostgreSQL");
    watching.cancel();
    watchers.close();
    watchers.wait().await;
    environment.stop().await
}

fn print_step(step: &str, took: Duration) {
    let seconds = took.as_secs_f64();
    if std::io::stderr().is_terminal() {
        eprintln!("  \x1b[32m✓\x1b[0m {step} \x1b[2m({seconds:.1} s)\x1b[0m");
    } else {
        eprintln!("  {step} ({seconds:.1} s)");
    }
}

fn socket_url(environment: &DevEnvironment) -> String {
    format!("ws://{}/socket", environment.gateway().public_addr())
}

fn ready_line(environment: &DevEnvironment) -> serde_json::Value {
    let orgs: Vec<_> = environment
        .orgs
        .iter()
        .map(|org| json!({"id": org.id, "name": org.name, "token": org.token}))
        .collect();
    json!({
        "url": socket_url(environment),
        "http_url": format!("http://{}", environment.gateway().public_addr()),
        "admin_url": format!("http://{}", environment.gateway().admin_addr()),
        "database_url": environment.database_url,
        "jwt_secret": environment.jwt_secret,
        "pid": std::process::id(),
        "orgs": orgs,
    })
}

/// Instructions for a new user. Every command can be copied as it is.
fn guide(environment: &DevEnvironment, data_dir: Option<&Path>) -> String {
    let url = socket_url(environment);
    // The program as the user called it, because it may not be in PATH.
    let warden = std::env::args().next().unwrap_or_else(|| "warden".to_owned());
    let data = data_dir.map_or_else(
        || "temporary, removed when this command ends".to_owned(),
        |dir| format!("{} (remove it to begin with an empty database)", dir.display()),
    );
    let (metrics, database) = (environment.gateway().admin_addr(), &environment.database_url);
    let org = &environment.orgs[0];
    let mut text = format!(
        "\nWarden is running. Press Ctrl-C to stop it.\n\n\
         \x20 socket    {url}\n\
         \x20 metrics   http://{metrics}/metrics\n\
         \x20 database  {database}\n\
         \x20 data      {data}\n\n\
         1. Watch an organisation's calls and recordings in another terminal:\n"
    );
    for org in &environment.orgs {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n\x20 # {} ({})\n\x20 WARDEN_URL={url} WARDEN_TOKEN={} {warden} tail calls recordings\n",
            org.name, org.id, org.token
        );
    }
    let _ = write!(
        text,
        "\n2. Insert a call for {name}. The event reaches {name} and no other organisation:\n\n\
         \x20 psql '{database}' \\\n\
         \x20   -c \"insert into calls (org_id, from_number) values ('{id}', '+15550100')\"\n\n\
         3. Watch from a page on localhost:3000, :5173 or :8080 (npm install phoenix):\n\n\
         \x20 import {{ Socket }} from \"phoenix\";\n\
         \x20 const socket = new Socket(\"{url}\", {{ authToken: \"{token}\" }});\n\
         \x20 socket.connect();\n\
         \x20 const calls = socket.channel(\"calls\");\n\
         \x20 calls.on(\"call.created\", ({{ data }}) => console.log(\"new\", data.id, data.status));\n\
         \x20 calls.on(\"call.updated\", ({{ data, old }}) => console.log(old.status, \"->\", data.status));\n\
         \x20 calls.join();\n\n",
        name = org.name,
        id = org.id,
        token = org.token,
    );
    text
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=RATE_MAX).contains(&rate) => Ok(rate),
        _ => Err(format!("expected a number from 0 to {RATE_MAX}")),
    }
}
