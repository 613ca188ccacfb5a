//! Addresses and answers of sources that must be refused. Each is tried with a fetcher; a listener on this
//! machine counts connections, and none arrives.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use warden::recordings::{AddressPolicy, Failure, Fetcher, Resolve, SourceLimits};

use super::source::Sources;

const LIMITS: SourceLimits = SourceLimits {
    connect: Duration::from_secs(5),
    silence: Duration::from_secs(5),
    total: Duration::from_secs(30),
    bytes_max: 1024 * 1024,
};

/// URLs of private addresses, and tricks to hide them. `PORT` is the port of a listener on this machine.
const REFUSED: [&str; 62] = [
    "http://127.0.0.1:PORT/",
    "http://127.1:PORT/",
    "http://127.0.1:PORT/",
    "http://2130706433:PORT/",
    "http://0x7f000001:PORT/",
    "http://0x7f.0.0.1:PORT/",
    "http://0177.0.0.1:PORT/",
    "http://017700000001:PORT/",
    "http://127.0.0.1.:PORT/",
    "http://0:PORT/",
    "http://0.0.0.0:PORT/",
    "http://localhost:PORT/",
    "http://LOCALHOST:PORT/",
    "http://localhost.:PORT/",
    "http://%6cocalhost:PORT/",
    "http://127.0.0.%31:PORT/",
    "http://１２７.０.０.１:PORT/",
    "http://127。0。0。1:PORT/",
    "http://①②⑦.⓪.⓪.①:PORT/",
    "http://[::1]:PORT/",
    "http://[0:0:0:0:0:0:0:1]:PORT/",
    "http://[::]:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://[::ffff:7f00:1]:PORT/",
    "http://[::127.0.0.1]:PORT/",
    "http://[::ffff:0:127.0.0.1]:PORT/",
    "http://[64:ff9b::127.0.0.1]:PORT/",
    "http://[2002:7f00:1::]:PORT/",
    "http://[2001:0:7f00:1::]:PORT/",
    "http://[fe80::1]:PORT/",
    "http://[fe80::1%25lo]:PORT/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[ff02::1]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://0xa9fea9fe/latest/meta-data/",
    "http://2852039166/",
    "http://[::ffff:169.254.169.254]/",
    "http://169.254.170.2/v2/credentials",
    "http://100.100.100.200/latest/meta-data/",
    "http://192.0.0.192/opc/v2/instance/",
    "http://10.0.0.1/",
    "http://012.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://user@127.0.0.1:PORT/",
    "http://user:secret@example.com/",
    "http://example.com@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT\\@example.com/",
    "file:///etc/passwd",
    "ftp://127.0.0.1:PORT/",
    "gopher://127.0.0.1:PORT/_GET",
    "data:audio/wav;base64,UklGRg==",
    "unix:///var/run/docker.sock",
    "http:///nothing",
    "//127.0.0.1:PORT/",
    "http://127.0.0.1:25/",
    "http://private.example:PORT/",
];

/// Answers each question with the next of its lists of addresses.
#[derive(Debug)]
struct Changing {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl Changing {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parsed =
            |list: &&[&str]| list.iter().map(|address| address.parse().expect("an address")).collect();
        Arc::new(Self { answers: answers.iter().map(parsed).collect(), asked: AtomicUsize::new(0) })
    }
}

impl Resolve for Changing {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        if host.starts_with("localhost") {
            return Box::pin(async { Ok(vec![[127, 0, 0, 1].into()]) });
        }
        let n = self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.answers.get(n).or(self.answers.last()).cloned().unwrap_or_default();
        Box::pin(async move { Ok(answer) })
    }
}

fn fetcher(policy: AddressPolicy, resolver: Arc<dyn Resolve>) -> Fetcher {
    Fetcher::new(policy, true, LIMITS).expect("authorities").with_network(resolver, None)
}

/// The source's listener, as allowed network.
fn local() -> AddressPolicy {
    AddressPolicy::new(vec!["127.0.0.1/32".parse().expect("a network")])
}

#[tokio::test]
async fn private_addresses_are_refused_in_every_form() {
    let sources = Sources::start().await;
    let fetcher = fetcher(AddressPolicy::default(), Changing::new(&[&["10.1.2.3"]]));
    for url in REFUSED {
        let url = url.replace("PORT", &sources.addr.port().to_string());
        match fetcher.fetch(&url, None).await {
            Err(Failure::Permanent(reason)) => {
                assert!(!reason.contains("secret") && !reason.contains("/latest"), "{url}: {reason}");
            }
            other => panic!("{url}: {other:?}"),
        }
    }
    assert!(sources.requests.lock().expect("no panic").authorizations.is_empty(), "a request has arrived");
}

/// A name with a public and a private address, and one whose second answer would be private.
#[tokio::test]
async fn a_name_that_changes_its_answer_does_not_lead_inward() {
    let sources = Sources::start().await;
    let url = format!("http://rebinding.example:{}/good/1", sources.addr.port());
    let both = fetcher(AddressPolicy::default(), Changing::new(&[&["1.1.1.1", "127.0.0.1"]]));
    assert!(matches!(both.fetch(&url, None).await, Err(Failure::Permanent(_))));
    // The allowed network stands for a public address here. The connection goes to the address of the first
    // answer, which was checked.
    let resolver = Changing::new(&[&["127.0.0.1"], &["10.0.0.1"]]);
    let changing = fetcher(local(), Arc::clone(&resolver) as Arc<dyn Resolve>);
    changing.fetch(&url, None).await.expect("the first answer");
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 1, "one question for each request");
    assert!(matches!(changing.fetch(&url, None).await, Err(Failure::Permanent(_))), "the second answer");
    // A redirect is a request of its own.
    let resolver = Changing::new(&[&["127.0.0.1"], &["169.254.169.254"]]);
    let moved = format!("http://rebinding.example:{}/moved/1", sources.addr.port());
    let refused = fetcher(local(), resolver).fetch(&moved, None).await;
    assert!(matches!(refused, Err(Failure::Permanent(_))), "{refused:?}");
    assert_eq!(sources.count("/good/1"), 1);
}

#[tokio::test]
async fn http_is_refused_unless_it_is_allowed() {
    let sources = Sources::start().await;
    let url = sources.url("good", 1);
    let secure = Fetcher::new(local(), false, LIMITS).expect("authorities");
    match secure.fetch(&url, None).await {
        Err(Failure::Permanent(reason)) => assert!(reason.contains("http is not allowed"), "{reason}"),
        other => panic!("{other:?}"),
    }
    fetcher(local(), Changing::new(&[])).fetch(&url, None).await.expect("allowed");
}
