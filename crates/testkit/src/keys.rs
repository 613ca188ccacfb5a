//! Private keys of token issuers, and a JWKS server that misbehaves on demand.
//!
//! Tokens are assembled and signed here by hand, with `aws-lc-rs`. The library that verifies them refuses to
//! sign half of the tokens that the tests need.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A private key of an issuer.
#[derive(Clone, Debug)]
pub enum IssuerKey {
    /// RSA, 2048 bits.
    Rs256(Arc<RsaKeyPair>),
    /// ECDSA on P-256.
    Es256(Arc<EcdsaKeyPair>),
    /// Ed25519.
    EdDsa(Arc<Ed25519KeyPair>),
}

impl IssuerKey {
    /// The RSA key of this process. Generating one takes long enough to notice.
    ///
    /// # Panics
    /// If no key can be generated.
    #[must_use]
    pub fn rs256() -> Self {
        static KEY: OnceLock<Arc<RsaKeyPair>> = OnceLock::new();
        Self::Rs256(Arc::clone(
            KEY.get_or_init(|| Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"))),
        ))
    }

    /// A new ECDSA key.
    ///
    /// # Panics
    /// If no key can be generated.
    #[must_use]
    pub fn es256() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self::Es256(Arc::new(key))
    }

    /// A new Ed25519 key.
    ///
    /// # Panics
    /// If no key can be generated.
    #[must_use]
    pub fn eddsa() -> Self {
        Self::EdDsa(Arc::new(Ed25519KeyPair::generate().expect("a key")))
    }

    /// Name of the algorithm in a token header.
    #[must_use]
    pub fn alg(&self) -> &'static str {
        match self {
            Self::Rs256(_) => "RS256",
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    /// Public key as the issuer publishes it.
    #[must_use]
    pub fn jwk(&self, kid: &str) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match self {
            Self::Rs256(key) => {
                let public = key.public_key();
                json!({
                    "kty": "RSA",
                    "n": encode(public.modulus().big_endian_without_leading_zero()),
                    "e": encode(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Self::Es256(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])})
            }
            Self::EdDsa(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key().as_ref())})
            }
        };
        jwk["kid"] = kid.into();
        jwk["use"] = "sig".into();
        jwk["alg"] = self.alg().into();
        jwk
    }

    /// Public key in the forms in which attackers use it as an HMAC secret.
    ///
    /// # Panics
    /// Never: the JWK is valid base64.
    #[must_use]
    pub fn public_forms(&self) -> Vec<Vec<u8>> {
        let mut forms = vec![self.jwk("1").to_string().into_bytes()];
        for field in ["n", "x"] {
            if let Some(text) = self.jwk("1")[field].as_str() {
                forms.push(text.as_bytes().to_vec());
                forms.push(URL_SAFE_NO_PAD.decode(text).expect("base64"));
            }
        }
        if let Self::Rs256(key) = self {
            let der: &[u8] = key.public_key().as_ref();
            forms.push(der.to_vec());
            let base64 = base64::engine::general_purpose::STANDARD.encode(der);
            for end in ["", "\n"] {
                let pem =
                    format!("-----BEGIN RSA PUBLIC KEY-----\n{base64}\n-----END RSA PUBLIC KEY-----{end}");
                forms.push(pem.into_bytes());
            }
        }
        forms
    }

    /// Signs claims with a correct header.
    #[must_use]
    pub fn sign(&self, kid: &str, claims: &Value) -> String {
        self.sign_with(&json!({"alg": self.alg(), "typ": "JWT", "kid": kid}), claims)
    }

    /// Signs claims with any header.
    ///
    /// # Panics
    /// If the key cannot sign.
    #[must_use]
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).expect("signs");
                signature
            }
            Self::Es256(key) => key.sign(&random, message.as_bytes()).expect("signs").as_ref().to_vec(),
            Self::EdDsa(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Behaviour of a key server when a request arrives.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Answers 200 with this body.
    Body(String),
    /// Answers with another status.
    Status(u16),
    /// Redirects to this address with 302.
    Redirect(String),
    /// Sends a body far beyond every limit, and then nothing.
    Huge,
    /// Waits until the test sets another answer, and gives that one.
    Held,
    /// Never answers.
    Silence,
    /// Sends a head and the first byte of the body, and then nothing.
    TornBody,
    /// Closes the connection.
    HangUp,
    /// Sends this text, which need not be HTTP.
    Raw(String),
}

#[derive(Debug)]
struct Shared {
    answer: watch::Sender<Answer>,
    requests: AtomicU64,
}

/// A JWKS server on loopback. It ends when it is dropped.
#[derive(Debug)]
pub struct TestKeyServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl TestKeyServer {
    /// Starts a server that publishes these keys.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(keys: &[Value]) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), keys).await
    }

    /// Starts a server on an address, perhaps that of an earlier one.
    ///
    /// # Panics
    /// If the address is in use.
    pub async fn start_at(addr: SocketAddr, keys: &[Value]) -> Self {
        let listener = TcpListener::bind(addr).await.expect("binds");
        let addr = listener.local_addr().expect("an address");
        let shared =
            Arc::new(Shared { answer: watch::Sender::new(published(keys)), requests: AtomicU64::new(0) });
        let of_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&of_task)));
            }
        });
        Self { addr, shared, task }
    }

    /// Publishes these keys from now on.
    pub fn publish(&self, keys: &[Value]) {
        self.answers(published(keys));
    }

    /// Answers in this way from now on.
    pub fn answers(&self, answer: Answer) {
        self.shared.answer.send_replace(answer);
    }

    /// Number of requests so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Address of the server.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// URL of the key set.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/.well-known/jwks.json", self.addr)
    }
}

impl Drop for TestKeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn published(keys: &[Value]) -> Answer {
    Answer::Body(json!({"keys": keys}).to_string())
}

/// Serves one request. Writing fails if the client has hung up, which some tests want.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let mut answers = shared.answer.subscribe();
    let held = |answer: &Answer| matches!(answer, Answer::Held);
    let Ok(answer) = answers.wait_for(|answer| !held(answer)).await.map(|answer| answer.clone()) else {
        return;
    };
    let text = match &answer {
        Answer::Body(body) => {
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        }
        Answer::Status(status) => format!("HTTP/1.1 {status} Whatever\r\ncontent-length: 0\r\n\r\n"),
        Answer::Redirect(to) => {
            format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
        }
        Answer::TornBody => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(),
        Answer::Raw(text) => text.clone(),
        Answer::Held | Answer::Silence | Answer::HangUp => String::new(),
        Answer::Huge => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
    };
    let _ = stream.write_all(text.as_bytes()).await;
    match answer {
        Answer::Huge => {
            // Far beyond every limit, but harmless to the machine if a client has none.
            let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, " ".repeat(64 * 1024));
            for _ in 0..512 {
                if stream.write_all(chunk.as_bytes()).await.is_err() {
                    return;
                }
            }
            until_the_client_gives_up(&mut stream).await;
        }
        Answer::Silence | Answer::TornBody => until_the_client_gives_up(&mut stream).await,
        _ => {}
    }
}

async fn until_the_client_gives_up(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_buf(&mut rest)).await;
}
