//! The servers of other projects: their configuration for this purpose, how sockets join a channel, and how
//! events are published. Each is configured as its documentation recommends for many sockets and no history.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use bench_support::handshake;
use tokio::process::Command;

use super::programs::Programs;
use crate::clients::Dial;

/// A server of another project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Nchan,
    Nats,
    Bun,
    Centrifugo,
}

/// Addresses on which a server listens.
pub(super) struct Addresses {
    /// For sockets and HTTP.
    pub(super) sockets: SocketAddr,
    /// For the protocol of nats-server.
    pub(super) native: SocketAddr,
}

const BUN_SERVER: &str = include_str!("bun.js");
const NGINX_CONF: &str = include_str!("nginx.conf");
/// Places of nginx's modules; `scripts/setup peers` unpacks the first, and distributions use the others.
const NCHAN_MODULES: [&str; 4] = [
    "tools/usr/lib/nginx/modules/ngx_nchan_module.so",
    "/usr/lib/nginx/modules/ngx_nchan_module.so",
    "/usr/lib64/nginx/modules/ngx_nchan_module.so",
    "/usr/share/nginx/modules/ngx_nchan_module.so",
];

impl Dialect {
    /// The program, if it is installed.
    pub(crate) fn find(self, programs: &Programs) -> Option<PathBuf> {
        match self {
            Self::Nchan => {
                nchan_module(programs)?;
                let names = ["tools/usr/sbin/nginx", "nginx", "/usr/sbin/nginx"];
                programs.find(programs.nginx.as_deref(), &names)
            }
            Self::Nats => {
                let names = ["tools/usr/sbin/nats-server", "nats-server", "/usr/sbin/nats-server"];
                programs.find(programs.nats_server.as_deref(), &names)
            }
            Self::Bun => {
                let names = [
                    "tools/node_modules/@oven/bun-linux-x64/bin/bun",
                    "tools/node_modules/@oven/bun-linux-aarch64/bin/bun",
                    "bun",
                ];
                programs.find(programs.bun.as_deref(), &names)
            }
            Self::Centrifugo => programs.centrifugo.clone().filter(|path| path.exists()),
        }
    }

    /// How to install it, for people.
    pub(crate) fn install_advice(self) -> &'static str {
        match self {
            Self::Nchan => "Run scripts/setup peers, or install nginx and libnginx-mod-nchan (Debian)",
            Self::Nats => "Run scripts/setup peers, or install nats-server (Debian)",
            Self::Bun => "Run scripts/setup peers, or pass --bun",
            Self::Centrifugo => "Pass its binary with --centrifugo",
        }
    }

    /// Name in tables and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nchan => "nchan",
            Self::Nats => "nats",
            Self::Bun => "bun",
            Self::Centrifugo => "centrifugo",
        }
    }

    /// The command that starts it, with its configuration written into `dir`.
    pub(super) fn command(
        self,
        programs: &Programs,
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
                let module = nchan_module(programs).context("the nginx module Nchan is not installed")?;
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

    /// How to open a socket that subscribes to one channel of its group, or to two.
    pub(super) fn dial(self, at: SocketAddr, group: usize, topics: usize) -> Dial {
        let channels: Vec<String> =
            ["g", "r"][..topics].iter().map(|topic| format!("{topic}{group}")).collect();
        let request = |path: &str| handshake::request(&at.to_string(), path, &[]);
        match self {
            Self::Nchan => {
                let request = request(&format!("/sub?id={}", channels.join(",")));
                Dial { request, hello: Vec::new(), ready: None }
            }
            Self::Bun => {
                let request = request(&format!("/?topics={}", channels.join(",")));
                Dial { request, hello: Vec::new(), ready: None }
            }
            Self::Nats => {
                let mut hello =
                    "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":0}\r\n".to_owned();
                for (n, channel) in channels.iter().enumerate() {
                    hello += &format!("SUB {channel} {}\r\n", n + 1);
                }
                hello += "PING\r\n";
                let ready = Some(("PONG".to_owned(), 1));
                Dial { request: request("/"), hello: vec![hello], ready }
            }
            Self::Centrifugo => {
                let mut hello = r#"{"id":1,"connect":{}}"#.to_owned();
                for (n, channel) in channels.iter().enumerate() {
                    hello += &format!("\n{{\"id\":{},\"subscribe\":{{\"channel\":\"{channel}\"}}}}", n + 2);
                }
                let ready = Some((format!(r#""id":{},"subscribe""#, channels.len() + 1), 1));
                Dial { request: request("/connection/websocket"), hello: vec![hello], ready }
            }
        }
    }

    /// The bytes that publish a burst of events with the same body.
    pub(super) fn burst(self, at: SocketAddr, channel: &str, body: &str, burst: u32) -> Vec<u8> {
        let post = |path: &str, body: &str| {
            let length = body.len();
            format!(
                "POST {path} HTTP/1.1\r\nHost: {at}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        };
        let times = usize::try_from(burst).unwrap_or(usize::MAX);
        let text = match self {
            // One event per request; the requests are pipelined.
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

    /// The address to which events are published.
    pub(super) fn publish_address(self, at: &Addresses) -> SocketAddr {
        if self == Self::Nats { at.native } else { at.sockets }
    }

    /// The bytes that a publisher sends first.
    pub(super) fn publisher_hello(self) -> &'static [u8] {
        match self {
            Self::Nats => b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n",
            Self::Nchan | Self::Bun | Self::Centrifugo => b"",
        }
    }
}

fn nchan_module(programs: &Programs) -> Option<PathBuf> {
    programs.find(None, &NCHAN_MODULES)
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
        // Recommended by its documentation for many idle connections.
        "websocket": {"read_buffer_size": 512, "use_write_buffer_pool": true},
        "log": {"level": "error"},
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8000);

    #[test]
    fn a_burst_contains_each_event_once() {
        for dialect in [Dialect::Nchan, Dialect::Nats, Dialect::Centrifugo] {
            for burst in [1, 50] {
                let bytes = dialect.burst(AT, "g7", "^!xx", burst);
                let marks = memchr::memmem::find_iter(&bytes, &crate::plan::MARK).count();
                assert_eq!(marks, burst as usize, "{dialect:?}");
            }
        }
        // bun.js repeats the event itself.
        let text = String::from_utf8(Dialect::Bun.burst(AT, "g7", "^!xx", 50)).unwrap();
        assert!(text.starts_with("POST /?topic=g7&times=50 ") && text.ends_with("\r\n\r\n^!xx"), "{text}");
    }

    #[test]
    fn sockets_subscribe_to_the_channels_of_their_group() {
        assert!(Dialect::Nchan.dial(AT, 3, 2).request.starts_with("GET /sub?id=g3,r3 HTTP/1.1\r\n"));
        assert!(Dialect::Nats.dial(AT, 3, 1).hello[0].contains("SUB g3 1\r\nPING"));
        let centrifugo = Dialect::Centrifugo.dial(AT, 3, 2);
        assert_eq!(centrifugo.ready.unwrap().0, r#""id":3,"subscribe""#);
    }
}
