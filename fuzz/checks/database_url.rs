//! Connection strings, as an operator may mistype them: no error contains a part of one, and what is shown of
//! an address contains no password.

use sqlx::ConnectOptions as _;
use warden_connect::{ADDRESSES_MAX, Environment, parse};

/// The secret. Its characters mean nothing in any form of a connection string.
const MARKER: &str = "m4rker";

/// Beginnings of a connection string. The input follows, with the marker in it.
const STARTS: [&str; 6] = [
    "",
    "postgres://user:",
    "host=db.example password=",
    "postgres://db.example/app?password=",
    "postgres://user:password@db.example/app?",
    "host=db.example user=app ",
];

pub(crate) fn run(text: &str) {
    // With one marker in the string, a password with a marker means that nothing else has it.
    let text = text.replace(MARKER, "");
    // A parse opens local sockets, so each input has one beginning, which its length selects.
    let start = STARTS[text.len() % STARTS.len()];
    let middle = text.floor_char_boundary(text.len() / 2);
    for at in [0, middle, text.len()] {
        let (before, after) = text.split_at(at);
        check(&format!("{start}{before}{MARKER}{after}"));
    }
}

fn check(text: &str) {
    let addresses = match parse(text, &Environment::new(&[], None)) {
        Ok(addresses) => addresses,
        Err(error) => {
            // The debug output of the whole error would resolve its backtrace, which takes longer than a
            // parse.
            let shown: String = error.chain().map(|cause| format!("{cause} {cause:?} ")).collect();
            return assert!(!shown.contains(MARKER), "{shown}");
        }
    };
    assert!((1..=ADDRESSES_MAX).contains(&addresses.len()), "{} addresses", addresses.len());
    for address in addresses {
        let shown = format!("{address:?}");
        assert_eq!(shown, address.name());
        // sqlx writes user and host into the URL as they are, and panics if they are not valid there.
        let url = address.options().username("user").host("localhost").to_url_lossy();
        let has_marker = url.password().is_some_and(|password| password.contains(MARKER));
        assert!(!has_marker || !shown.contains(MARKER), "{shown}");
    }
}
