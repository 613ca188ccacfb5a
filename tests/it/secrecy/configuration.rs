//! No output of the binary contains a secret of its configuration, whichever flag or variable holds it, and
//! whether or not it belongs there.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::harness::{SECRET, within};

/// Part of every secret.
const MARKER: &str = "m4rk3r";

/// Forms in which a secret arrives: alone, in a URL, in a list, in a key file, with characters that end a
/// value, and as a TOML document.
const FORMS: [&str; 6] = [
    "m4rk3r",
    "https://user:m4rk3r@keys.example/m4rk3r?key=m4rk3r#m4rk3r",
    "a=http://user:m4rk3r@127.0.0.1:1/jwks,m4rk3r=https://m4rk3r@x/",
    "-----BEGIN PRIVATE KEY-----\nm4rk3r/m4rk3r==\n-----END PRIVATE KEY-----",
    "postgres://user:1/m4rk3r@m4rk3r%zz:m4rk3r/m4rk3r?m4rk3r&sslmode=m4rk3r",
    "[[issuer]]\nname = \"m4rk3r\"\nsecrets = \"m4rk3r\"",
];

/// Arguments and variables of one run.
type Run = (Vec<String>, Vec<(String, String)>);

/// Commands, each with the arguments and variables with which it ends by itself.
const COMMANDS: [&[&str]; 7] = [
    &["serve"],
    &["migrate", "--plan"],
    &["audit"],
    &["tail", "calls"],
    &["publish", "--topic=a", "--event=a.b", "--retry-seconds=0"],
    &["token"],
    &["dev"],
];

/// The binary with secrets in its environment, all of which are valid, but lead nowhere.
fn warden(args: &[&str], variables: &[(&str, &str)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_warden"))
        .args(args)
        .env_clear()
        .env("DATABASE_URL", "postgres://user:m4rk3r@/database?host=/nonexistent&connect_timeout=1")
        .env("WARDEN_JWT_SECRET", SECRET)
        .env("WARDEN_TLS_CERT", "/nonexistent/certificate")
        .env("WARDEN_TLS_KEY", "/nonexistent/key")
        .env("WARDEN_URL", "m4rk3r://user:m4rk3r@/socket?m4rk3r")
        .env("WARDEN_TOKEN", "m4rk3r")
        .env("WARDEN_LOG", "trace")
        .env("WARDEN_PG_BIN", "/nonexistent")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("starts")
}

/// Runs the binary to its end, and returns everything that it printed.
async fn output(args: &[&str], variables: &[(&str, &str)]) -> String {
    let child = warden(args, variables);
    match tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await {
        Ok(output) => {
            let output = output.expect("ends");
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        }
        Err(_) => panic!("{args:?} with {variables:?} does not end"),
    }
}

/// Flags and variables that the help of a command lists.
async fn names_of(command: &[&str]) -> (BTreeSet<String>, BTreeSet<String>) {
    let help = output(&[command, &["--help"]].concat(), &[]).await;
    let between = |begin: &str, end: &[char]| -> BTreeSet<String> {
        help.split(begin).skip(1).filter_map(|rest| rest.split(end).next()).map(str::to_owned).collect()
    };
    let flags = help.lines().filter_map(|line| line.split_whitespace().find(|w| w.starts_with("--")));
    let flags = flags
        .filter(|flag| !["--help", "--version"].contains(flag))
        .map(|flag| flag.trim_end_matches(',').to_owned());
    (flags.collect(), between("[env: ", &['=', ']']))
}

#[tokio::test]
async fn no_flag_and_no_variable_is_printed() {
    let mut runs: Vec<Run> = Vec::new();
    for command in COMMANDS {
        let (flags, variables) = names_of(command).await;
        assert!(flags.len() > 2 && variables.len() > 1, "{command:?}: {flags:?} {variables:?}");
        let args =
            |more: &[&str]| [command, more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
        // The errors of `publish` repeat its key, so that the operator can copy the flags.
        let flags = flags.iter().filter(|flag| *flag != "--idempotency-key");
        for (n, flag) in flags.enumerate() {
            let form = FORMS[n % FORMS.len()];
            runs.push((args(&[&format!("{flag}={form}")]), vec![]));
            runs.push((args(&[flag, form]), vec![]));
        }
        let all =
            |form: &str| variables.iter().map(|name| (name.clone(), form.to_owned())).collect::<Vec<_>>();
        for form in FORMS {
            runs.push((args(&["--help"]), all(form)));
            runs.push((args(&[form]), vec![]));
            runs.push((vec![form.to_owned()], vec![]));
            for name in &variables {
                runs.push((args(&[]), vec![(name.clone(), form.to_owned())]));
            }
        }
    }
    let count = runs.len();
    let checks = stream::iter(runs).map(|(args, variables)| async move {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let printed = output(&args, &variables).await;
        let line = printed.lines().find(|line| line.to_lowercase().contains(MARKER));
        line.map(|line| format!("{args:?} {variables:?}\n  {line}"))
    });
    let findings: Vec<_> = checks.buffer_unordered(4).filter_map(std::future::ready).collect().await;
    assert!(
        findings.is_empty(),
        "{} of {count} runs print a secret:\n{}",
        findings.len(),
        findings.join("\n")
    );
}

#[tokio::test]
async fn the_password_of_a_url_that_is_in_use_is_not_printed() {
    let mut tail =
        warden(&["tail", "calls"], &[("WARDEN_URL", "ws://user:m4rk3r@127.0.0.1:1/socket?m4rk3r")]);
    let mut lines = BufReader::new(tail.stderr.take().expect("is piped")).lines();
    within("the reason", async {
        loop {
            let line = lines.next_line().await.expect("reads").expect("goes on");
            assert!(!line.to_lowercase().contains(MARKER), "{line}");
            if line.contains("127.0.0.1:1 running?") {
                break;
            }
        }
    })
    .await;
}
