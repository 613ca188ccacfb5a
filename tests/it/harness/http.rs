//! Hand-written upgrade requests. A client library would correct or reject the invalid ones.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::documented::expect_documented;
use super::within;

/// A valid upgrade request, which a test changes.
#[derive(Clone, Debug)]
pub struct Upgrade {
    method: &'static str,
    target: String,
    headers: Vec<(String, String)>,
}

impl Upgrade {
    /// A request without a credential.
    pub fn new() -> Self {
        let request =
            Self { method: "GET", target: "/socket/websocket?vsn=2.0.0".into(), headers: Vec::new() };
        request
            .with("Host", "localhost")
            .with("Connection", "Upgrade")
            .with("Upgrade", "websocket")
            .with("Sec-WebSocket-Version", "13")
            .with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    /// A GET request that is no upgrade, without a credential.
    pub fn plain(target: &str) -> Self {
        Self { method: "GET", target: target.to_owned(), headers: Vec::new() }.with("Host", "localhost")
    }

    /// A request with a token in the header.
    pub fn bearer(token: &str) -> Self {
        Self::new().with("Authorization", &format!("Bearer {token}"))
    }

    /// Sets path and query.
    pub fn to(mut self, target: &str) -> Self {
        target.clone_into(&mut self.target);
        self
    }

    /// Sets the method.
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// Adds a header, even if one of the same name exists.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a header.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(present, _)| !present.eq_ignore_ascii_case(name));
        self
    }

    /// Replaces a header.
    pub fn set(self, name: &str, value: &str) -> Self {
        self.without(name).with(name, value)
    }

    /// Text of the request.
    pub fn text(&self) -> String {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text
    }

    /// Sends the request on a connection of its own, and reads the answer.
    pub async fn send(&self, addr: SocketAddr) -> Answer {
        within("an answer", self.ask(addr)).await
    }

    /// Sends the request, with another deadline for the answer.
    pub async fn send_within(&self, addr: SocketAddr, deadline: Duration) -> Answer {
        tokio::time::timeout(deadline, self.ask(addr)).await.expect("an answer")
    }

    async fn ask(&self, addr: SocketAddr) -> Answer {
        let mut stream = TcpStream::connect(addr).await.expect("connects");
        stream.write_all(self.text().as_bytes()).await.expect("writes");
        let answer = Answer::read_of(self.method, &mut stream).await;
        expect_documented(self.method, &self.target, &answer);
        answer
    }
}

/// A valid POST request of a back end, which a test changes.
#[derive(Clone, Debug)]
pub struct Post {
    pub method: &'static str,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Post {
    /// A request with a token and a JSON body.
    pub fn json(path: &str, token: &str, body: &Value) -> Self {
        Self::bare(path, &body.to_string()).with("Authorization", &format!("Bearer {token}"))
    }

    /// A request without a credential.
    pub fn bare(path: &str, body: &str) -> Self {
        let post = Self { method: "POST", target: path.to_owned(), headers: Vec::new(), body: body.into() };
        post.with("Host", "gateway.example").with("Content-Type", "application/json")
    }

    /// Adds a header, even if one of the same name exists.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a header.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(present, _)| !present.eq_ignore_ascii_case(name));
        self
    }

    /// Replaces the body.
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// Sends the request on a connection of its own, and reads the answer.
    pub async fn send(self, addr: SocketAddr) -> Answer {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        within("an answer", async {
            let mut stream = TcpStream::connect(addr).await.expect("connects");
            // The gateway may answer before it has read the body, and close the connection.
            let _ = stream.write_all(&[head.into_bytes(), self.body].concat()).await;
            let answer = Answer::read(&mut stream).await;
            expect_documented(self.method, &self.target, &answer);
            answer
        })
        .await
    }
}

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Reads a response from a stream.
    pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Self {
        Self::read_of("GET", stream).await
    }

    /// Reads the response to a request with this method. The response to HEAD has no body.
    pub async fn read_of<S: AsyncRead + Unpin>(method: &str, stream: &mut S) -> Self {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            assert_ne!(stream.read_buf(&mut bytes).await.expect("reads"), 0, "the connection ended");
        };
        let head = String::from_utf8(bytes[..end].to_vec()).expect("a head is text");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let mut answer = Self { status, head, body: String::new() };
        let length = answer.headers("content-length").first().map_or(0, |l| l.parse().expect("a length"));
        while status != 101 && method != "HEAD" && bytes.len() < end + length {
            assert_ne!(stream.read_buf(&mut bytes).await.expect("reads"), 0, "the connection ended");
        }
        answer.body = String::from_utf8_lossy(&bytes[end..]).into_owned();
        answer
    }

    /// All values of a header.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(':'));
        pairs.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    /// A field of a problem document; empty if there is none.
    fn problem(&self, field: &str) -> String {
        if self.headers("content-type") != ["application/problem+json"] {
            return String::new();
        }
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body[field].as_str().unwrap_or_default().to_owned()
    }

    /// Code of the error; empty if there is none.
    pub fn code(&self) -> String {
        self.problem("code")
    }

    /// Message of the error; empty if there is none.
    pub fn message(&self) -> String {
        self.problem("detail")
    }
}

/// URLs that contain a JWT or an opaque credential, in all the usual places.
pub fn urls_with(jwt: &str, opaque: &str) -> Vec<String> {
    let mut urls: Vec<String> = [
        "token",
        "access_token",
        "ACCESS_TOKEN",
        "access-token",
        "accessToken",
        "id_token",
        "refresh_token",
        "jwt",
        "apikey",
        "api_key",
        "x-api-key",
        "auth",
        "Authorization",
        "auth_token",
        "bearer",
        "password",
        "secret",
        "client_secret",
        "key",
        "sid",
        "session_id",
        "%74oken",
        "%2574oken",
        "params[token]",
        "params%5Btoken%5D",
        "user.token",
        "token%00",
    ]
    .iter()
    .map(|name| format!("/socket/websocket?vsn=2.0.0&{name}={opaque}"))
    .collect();
    let wrapped = STANDARD_NO_PAD.encode(jwt);
    let parts: Vec<_> = jwt.split('.').skip(1).collect();
    let spaced = URL_SAFE_NO_PAD.encode(format!("{} {{\"alg\":\"HS256\"}}", " ".repeat(40)));
    urls.extend([
        // The HTTP library drops what follows `#`.
        format!("/socket/websocket?vsn=2.0.0#token={opaque}"),
        format!("/socket/websocket?vsn=2.0.0#{jwt}"),
        format!("/#{opaque}"),
        format!("/socket/websocket?vsn=2.0.0&x={spaced}.{}", parts.join(".")),
        format!("/socket/websocket?vsn=2.0.0&x={}", jwt.replace('.', "%2525252525252525252E")),
        format!("/socket/websocket?vsn=2.0.0&back=https%3A%2F%2Fx%2F%3Faccess_token%3D{opaque}"),
        format!("/socket;token={opaque}/websocket?vsn=2.0.0"),
        format!("/socket/websocket?vsn=2.0.0&p_a_s_s_w_o_r_d={opaque}"),
        format!("/socket/websocket?{opaque}[token]=1"),
        "/socket/websocket?vsn=2.0.0&token".to_owned(),
        format!("/socket/websocket?vsn=2.0.0;token={opaque}"),
        format!("/socket/websocket?vsn=2.0.0&x={jwt}"),
        format!("/socket/websocket?x=Bearer%20{jwt}&vsn=2.0.0"),
        format!("/socket/websocket?vsn=2.0.0&x={}", jwt.replace('.', "%2E")),
        format!("/socket/websocket?vsn=2.0.0&x=%7B%22t%22:%22{jwt}%22%7D"),
        format!("/socket/websocket?{jwt}"),
        format!("/socket/websocket?{jwt}=1"),
        format!("/socket/websocket?vsn={jwt}"),
        format!("/socket/websocket?vsn=2.0.0&x=base64url.bearer.phx.{wrapped}"),
        format!("/socket/{jwt}/websocket?vsn=2.0.0"),
        format!("/socket/websocket/{jwt}"),
        format!("/nowhere?token={opaque}"),
        format!("http://user:{opaque}@gateway.example/socket/websocket?vsn=2.0.0"),
    ]);
    urls
}
