//! Servers of others: what each needs to be configured for this job, how sockets join a channel, and what a
//! publisher writes. Each is configured as its documentation advises for many sockets and no history.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::process::{Meter, Process, free_address};
use super::{Kind, Published, upgrade};
use crate::compare::args::CompareArgs;
use crate::compare::clients::Dial;
use crate::floor::Plan;

/// Which peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Nchan,
    Nats,
    Bun,
    Centrifugo,
}

const BUN_SERVER: &str = include_str!("bun.js");
const NGINX_CONF: &str = include_str!("nginx.conf");
/// Where distributions put nginx's modules; the first is what `scripts/setup peers` unpacks.
const NCHAN_MODULES: [&str; 4] = [
    "tools/usr/lib/nginx/modules/ngx_nchan_module.so",
    "/usr/lib/nginx/modules/ngx_nchan_module.so",
    "/usr/lib64/nginx/modules/ngx_nchan_module.so",
    "/usr/share/nginx/modules/ngx_nchan_module.so",
];

impl Dialect {
    /// The program, where it is installed.
    pub(crate) fn find(self, args: &CompareArgs) -> Option<PathBuf> {
        match self {
            Self::Nchan => {
                nchan_module(args)?;
                args.program(args.nginx.as_deref(), &["tools/usr/sbin/nginx", "nginx", "/usr/sbin/nginx"])
            }
            Self::Nats => {
                let names = ["tools/usr/sbin/nats-server", "nats-server", "/usr/sbin/nats-server"];
                args.program(args.nats_server.as_deref(), &names)
            }
            Self::Bun => {
                let names = [
                    "tools/node_modules/@oven/bun-linux-x64/bin/bun",
                    "tools/node_modules/@oven/bun-linux-aarch64/bin/bun",
                    "bun",
                ];
                args.program(args.bun.as_deref(), &names)
            }
            Self::Centrifugo => args.centrifugo.clone().filter(|path| path.exists()),
        }
    }

    /// How to install it, for people.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Nchan => "scripts/setup peers unpacks it; or install nginx and libnginx-mod-nchan (Debian)",
            Self::Nats => "scripts/setup peers unpacks it; or install nats-server (Debian)",
            Self::Bun => "scripts/setup peers installs it from npm; or give --bun",
            Self::Centrifugo => "give its binary with --centrifugo",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nchan => Kind::Nchan.name(),
            Self::Nats => Kind::Nats.name(),
            Self::Bun => Kind::Bun.name(),
            Self::Centrifugo => Kind::Centrifugo.name(),
        }
    }

    fn command(
        self,
        args: &CompareArgs,
        program: &Path,
        dir: &Path,
        at: &Addresses,
    ) -> anyhow::Result<Command> {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir(dir);
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).map(|()| path)
        };
        match self {
            Self::Nchan => {
                let module = nchan_module(args).context("the module Nchan is not installed")?;
                let conf = write("nginx.conf", nginx_conf(&module, dir, at.sockets))?;
                command.arg("-p").arg(dir).arg("-c").arg(conf).arg("-e").arg(dir.join("error.log"));
            }
            Self::Nats => {
                command.arg("-c").arg(write("nats.conf", nats_conf(at))?);
            }
            Self::Bun => {
                command.arg(write("server.js", BUN_SERVER.to_owned())?).arg(at.sockets.port().to_string());
            }
            Self::Centrifugo => {
                command.arg("-c").arg(write("config.json", centrifugo_conf(at.sockets))?);
            }
        }
        Ok(command)
    }

    fn dial(self, at: SocketAddr, group: usize, topics: usize) -> Dial {
        let channels: Vec<String> =
            ["g", "r"][..topics].iter().map(|topic| format!("{topic}{group}")).collect();
        match self {
            Self::Nchan => {
                let path = format!("/sub?id={}", channels.join(","));
                Dial { request: upgrade(at, &path, ""), hello: Vec::new(), ready: None }
            }
            Self::Bun => {
                let path = format!("/?topics={}", channels.join(","));
                Dial { request: upgrade(at, &path, ""), hello: Vec::new(), ready: None }
            }
            Self::Nats => {
                let mut hello =
                    "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":0}\r\n".to_owned();
                for (n, channel) in channels.iter().enumerate() {
                    hello += &format!("SUB {channel} {}\r\n", n + 1);
                }
                hello += "PING\r\n";
                let ready = Some(("PONG".to_owned(), 1));
                Dial { request: upgrade(at, "/", ""), hello: vec![hello], ready }
            }
            Self::Centrifugo => {
                let mut hello = r#"{"id":1,"connect":{}}"#.to_owned();
                for (n, channel) in channels.iter().enumerate() {
                    hello += &format!("\n{{\"id\":{},\"subscribe\":{{\"channel\":\"{channel}\"}}}}", n + 2);
                }
                let ready = Some((format!(r#""id":{},"subscribe""#, channels.len() + 1), 1));
                Dial { request: upgrade(at, "/connection/websocket", ""), hello: vec![hello], ready }
            }
        }
    }

    /// What the publisher writes for a burst of events of one body.
    fn burst(self, at: SocketAddr, channel: &str, body: &str, burst: u32) -> Vec<u8> {
        let post = |path: &str, body: &str| {
            let length = body.len();
            format!(
                "POST {path} HTTP/1.1\r\nHost: {at}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        };
        let times = usize::try_from(burst).unwrap_or(usize::MAX);
        let text = match self {
            // One message a request; requests may be pipelined.
            Self::Nchan => post(&format!("/pub?id={channel}"), body).repeat(times),
            Self::Bun => post(&format!("/?topic={channel}&times={burst}"), body),
            Self::Nats => format!("PUB {channel} {}\r\n{body}\r\n", body.len()).repeat(times),
            Self::Centrifugo => {
                let publish = format!(r#"{{"channel":"{channel}","data":{{"x":"{body}"}}}}"#);
                if times == 1 {
                    post("/api/publish", &publish)
                } else {
                    let all = vec![format!(r#"{{"publish":{publish}}}"#); times].join(",");
                    post("/api/batch", &format!(r#"{{"commands":[{all}]}}"#))
                }
            }
        };
        text.into_bytes()
    }
}

/// Where a peer listens: for sockets and HTTP, and for its own protocol where it has one.
struct Addresses {
    sockets: SocketAddr,
    native: SocketAddr,
}

fn nchan_module(args: &CompareArgs) -> Option<PathBuf> {
    args.program(None, &NCHAN_MODULES)
}

fn nginx_conf(module: &Path, dir: &Path, at: SocketAddr) -> String {
    NGINX_CONF
        .replace("{module}", &module.to_string_lossy())
        .replace("{dir}", &dir.to_string_lossy())
        .replace("{at}", &at.to_string())
}

fn nats_conf(at: &Addresses) -> String {
    let (native, sockets) = (at.native, at.sockets);
    format!(
        "listen: \"{native}\"\nmax_connections: 100000\nping_interval: \"1h\"\n\
         websocket {{ listen: \"{sockets}\", no_tls: true, compression: false }}\n"
    )
}

fn centrifugo_conf(at: SocketAddr) -> String {
    serde_json::json!({
        "http_server": {"address": at.ip().to_string(), "port": at.port().to_string()},
        "http_api": {"insecure": true},
        "client": {"insecure": true, "allowed_origins": ["*"], "ping_interval": "1h", "pong_timeout": "10m"},
        "channel": {"without_namespace": {"allow_subscribe_for_client": true}},
        // As its documentation advises for many idle connections.
        "websocket": {"read_buffer_size": 512, "use_write_buffer_pool": true},
        "log": {"level": "error"},
    })
    .to_string()
}

pub(crate) struct Peer {
    dialect: Dialect,
    process: Process,
    at: Addresses,
    publisher: OwnedWriteHalf,
    answers: JoinHandle<()>,
}

impl Peer {
    pub(super) async fn start(dialect: Dialect, args: &CompareArgs) -> anyhow::Result<Self> {
        let program = dialect
            .find(args)
            .with_context(|| format!("{} is not installed ({})", dialect.name(), dialect.advice()))?;
        let program = program.canonicalize().unwrap_or(program);
        let at = Addresses { sockets: free_address()?, native: free_address()? };
        let mut process = Process::start(dialect.name(), |dir| dialect.command(args, &program, dir, &at))?;
        process.listens(at.sockets).await?;
        let publish_to = if dialect == Dialect::Nats { at.native } else { at.sockets };
        process.listens(publish_to).await?;
        let (mut reader, mut publisher) = TcpStream::connect(publish_to).await?.into_split();
        if dialect == Dialect::Nats {
            publisher.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n").await?;
        }
        // What arrives is counted at the sockets; answers are only taken off the line.
        let answers = tokio::spawn(async move {
            let mut scratch = vec![0; 16 * 1024];
            while reader.read(&mut scratch).await.is_ok_and(|read| read > 0) {}
        });
        Ok(Self { dialect, process, at, publisher, answers })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.at.sockets
    }

    pub(super) fn dial(&self, group: usize, topics: usize) -> Dial {
        self.dialect.dial(self.at.sockets, group, topics)
    }

    pub(super) fn meter(&mut self) -> &mut Meter {
        self.process.meter()
    }

    pub(super) async fn publish(&mut self, plan: &Plan) -> anyhow::Result<Published> {
        let began = Instant::now();
        let body = plan.body();
        let mut lag = Duration::ZERO;
        for n in 0..plan.bursts {
            let channel = plan.group(n).map_or_else(|| "nobody".to_owned(), |group| format!("g{group}"));
            let bytes = self.dialect.burst(self.at.sockets, &channel, &body, plan.burst);
            let due = plan.due(n);
            sleep(due.saturating_sub(began.elapsed())).await;
            lag = began.elapsed().saturating_sub(due);
            self.publisher.write_all(&bytes).await.context("the server takes no more events")?;
        }
        Ok(Published { lag_ms: lag.as_secs_f64() * 1e3 })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8000);

    #[test]
    fn a_burst_holds_each_event_once() {
        for dialect in [Dialect::Nchan, Dialect::Nats, Dialect::Centrifugo] {
            for burst in [1, 50] {
                let bytes = dialect.burst(AT, "g7", "^!xx", burst);
                let marks = memchr::memmem::find_iter(&bytes, &crate::floor::MARK).count();
                assert_eq!(marks, burst as usize, "{dialect:?}");
            }
        }
        // Bun's server repeats it.
        let text = String::from_utf8(Dialect::Bun.burst(AT, "g7", "^!xx", 50)).unwrap();
        assert!(text.starts_with("POST /?topic=g7&times=50 ") && text.ends_with("\r\n\r\n^!xx"), "{text}");
    }

    #[test]
    fn sockets_join_the_channel_of_their_group() {
        assert!(Dialect::Nchan.dial(AT, 3, 2).request.starts_with("GET /sub?id=g3,r3 HTTP/1.1\r\n"));
        assert!(Dialect::Nats.dial(AT, 3, 1).hello[0].contains("SUB g3 1\r\nPING"));
        let centrifugo = Dialect::Centrifugo.dial(AT, 3, 2);
        assert_eq!(centrifugo.ready.unwrap().0, r#""id":3,"subscribe""#);
    }
}
