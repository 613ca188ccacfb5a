//! `warden dev`: everything at once, for development, and how to go on from there.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warden_devkit::cluster::Binaries;

use super::watch;
use crate::dev::{DevEnvironment, DevOptions};
use crate::shutdown;

#[derive(Args)]
pub(super) struct DevArgs {
    /// Keep nothing: a fresh database that goes when the command ends
    #[arg(long)]
    ephemeral: bool,
    /// Simulated call changes per second; 0: none
    #[arg(long, value_name = "N", default_value_t = 2.0, value_parser = rate)]
    rate: f64,
    /// Print one JSON line when everything is ready, and nothing else on standard output
    #[arg(long)]
    json: bool,
    /// Print the events of all demo organisations as they come
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Where the database is kept
    #[arg(long, env = "WARDEN_DATA_DIR", value_name = "DIR", default_value = ".warden")]
    data_dir: PathBuf,
    /// Folder of PostgreSQL's server binaries [default: PATH, pg_config, the usual folders]
    #[arg(long, env = "WARDEN_PG_BIN", value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// Address of the public listener; port 0 takes a free one
    #[arg(long, env = "WARDEN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:4000")]
    listen: SocketAddr,
    /// Address of the admin listener
    #[arg(long, env = "WARDEN_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:4001")]
    admin_listen: SocketAddr,
    /// More origins of pages that may connect
    #[arg(long, env = "WARDEN_ALLOWED_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    allowed_origins: Vec<String>,
    #[arg(long, env = "PATH", hide = true)]
    path: Option<OsString>,
}

pub(super) async fn run(args: DevArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.listen.ip().is_loopback() && args.admin_listen.ip().is_loopback(),
        "warden dev listens on loopback addresses only: its secret and its database are for development. \
         For others to connect, run `warden serve`"
    );
    let requested = shutdown::requested()?;
    tokio::pin!(requested);
    let options = DevOptions {
        data_dir: if args.ephemeral { None } else { Some(std::path::absolute(&args.data_dir)?) },
        binaries: Binaries::find(args.pg_bin.as_deref(), args.path.as_deref())?,
        rate: args.rate,
        listen: args.listen,
        admin_listen: args.admin_listen,
        allowed_origins: args.allowed_origins.clone(),
    };
    let data_dir = options.data_dir.clone();
    let progress = |what: &str, took: Duration| {
        if std::io::stderr().is_terminal() {
            eprintln!("  \x1b[32m✓\x1b[0m {what} \x1b[2m({:.1} s)\x1b[0m", took.as_secs_f64());
        } else {
            eprintln!("  done: {what} ({:.1} s)", took.as_secs_f64());
        }
    };
    eprintln!("starting (the first time PostgreSQL's data directory is made, which takes a few seconds)");
    // A Ctrl-C now drops what was started: the private PostgreSQL ends with its owner.
    let environment = tokio::select! {
        () = &mut requested => {
            eprintln!("interrupted");
            return Ok(());
        }
        environment = DevEnvironment::start(options, progress) => environment?,
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
    eprintln!("\nending: gateway, simulation, PostgreSQL");
    watching.cancel();
    watchers.close();
    watchers.wait().await;
    environment.stop().await
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

fn guide(environment: &DevEnvironment, data_dir: Option<&std::path::Path>) -> String {
    let url = socket_url(environment);
    // As it was called, so that the lines below can be copied as they are.
    let warden = std::env::args().next().unwrap_or_else(|| "warden".to_owned());
    let mut text = format!(
        "\nWarden is running.\n\n  socket    {url}\n  metrics   http://{}/metrics\n  database  {}\n",
        environment.gateway().admin_addr(),
        environment.database_url,
    );
    match data_dir {
        Some(dir) => text += &format!("  data      {} (kept; remove it to start anew)\n", dir.display()),
        None => text += "  data      kept nowhere\n",
    }
    text += "\nWatch the calls of one organisation, and of the other, each in a terminal of its own:\n";
    for org in &environment.orgs {
        text += &format!(
            "\n  # {}, {}\n  WARDEN_URL={url} WARDEN_TOKEN={} {warden} tail calls recordings\n",
            org.name, org.id, org.token
        );
    }
    let org = &environment.orgs[0];
    text += &format!(
        "\nFrom a page (npm install phoenix; pages on localhost:3000, :5173 and :8080 may connect):\n\n\
         \x20 import {{ Socket }} from \"phoenix\";\n\
         \x20 const socket = new Socket(\"{url}\", {{ authToken: \"{}\" }});\n\
         \x20 socket.connect();\n\
         \x20 const calls = socket.channel(\"calls\");\n\
         \x20 calls.on(\"call.created\", ({{ data }}) => console.log(\"new\", data.id, data.status));\n\
         \x20 calls.on(\"call.updated\", ({{ data, old }}) => console.log(old.status, \"->\", data.status));\n\
         \x20 calls.join();\n",
        org.token
    );
    text += &format!(
        "\nMake a change yourself, and see it come:\n\n  psql '{}' \\\n    -c \"insert into calls (org_id, from_number) values ('{}', '+15550100')\"\n\nCtrl-C ends everything.\n",
        environment.database_url, org.id
    );
    text
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=10_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number from 0 to 10000".to_owned()),
    }
}
