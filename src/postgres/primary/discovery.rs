//! Discovery of the primary: connects to all addresses at once and chooses the latest timeline.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sqlx::Connection as _;

use warden_connect::Address;

use super::super::address::Addresses;
use super::super::backend_mode::{BackendMode, begin_pooled, commit_pooled, open};
use super::{PrimaryConnection, PrimaryLocation};

/// Longest wait for one address, from connecting to its answer. An address that swallows packets therefore
/// delays nothing for longer.
pub(crate) const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// After a first primary has answered, time for the other addresses to answer with a later timeline.
pub(crate) const RIVAL_WAIT: Duration = Duration::from_millis(250);

/// No address leads to a primary. The message gives the reason for each address.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoPrimary(String);

impl Addresses {
    /// Connects to all addresses at once and returns the primary of the latest timeline.
    ///
    /// The known cluster is preferred if it answers. Among equal timelines, the known address wins, otherwise
    /// the first in the list. A primary with an earlier timeline than the known one is never chosen: it
    /// should have been shut down, and what it commits will be lost.
    pub(crate) async fn connect(
        &self,
        known: Option<&PrimaryLocation>,
    ) -> Result<PrimaryConnection, NoPrimary> {
        let mut answers: FuturesUnordered<_> =
            self.0.iter().enumerate().map(|(n, address)| probe(n, address, known)).collect();
        let mut best: Option<PrimaryConnection> = None;
        let mut problems: Vec<(usize, String)> = Vec::new();
        let rank = |primary: &PrimaryConnection| {
            let is_known = known.is_some_and(|known| known.address == primary.address);
            let is_same_cluster = known.is_some_and(|known| known.system == primary.system);
            (is_same_cluster, primary.timeline, is_known, Reverse(primary.address))
        };
        let deadline = tokio::time::sleep(ADDRESS_TIMEOUT * 2);
        tokio::pin!(deadline);
        loop {
            let answer = tokio::select! {
                answer = answers.next() => answer,
                () = &mut deadline => None,
            };
            match answer {
                Some(Ok(primary)) => {
                    if best.is_none() {
                        deadline.as_mut().reset(tokio::time::Instant::now() + RIVAL_WAIT);
                    }
                    best = match best {
                        Some(best) if rank(&best) >= rank(&primary) => Some(best),
                        _ => Some(primary),
                    };
                }
                Some(Err(problem)) => problems.push(problem),
                None => break,
            }
        }
        best.ok_or_else(|| self.no_primary(problems))
    }

    fn no_primary(&self, mut problems: Vec<(usize, String)>) -> NoPrimary {
        problems.sort_unstable();
        let mut text = String::new();
        for (n, problem) in problems {
            let separator = if text.is_empty() { "" } else { "; " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{}: {problem}", self.0[n].name());
        }
        NoPrimary(text)
    }
}

/// Connects to one address. The error is the address's index and the reason why it is not the primary.
async fn probe(
    n: usize,
    address: &Address,
    known: Option<&PrimaryLocation>,
) -> Result<PrimaryConnection, (usize, String)> {
    match tokio::time::timeout(ADDRESS_TIMEOUT, connect(n, address)).await {
        Ok(Ok(Some(primary))) => match known {
            Some(known) if primary.system == known.system && primary.timeline < known.timeline => Err((
                n,
                format!(
                    "is a former primary that still runs (its timeline is {}, the latest known is {}): shut it \
                     down, or, if it was restored on purpose, restart Warden",
                    primary.timeline, known.timeline
                ),
            )),
            _ => Ok(primary),
        },
        Ok(Ok(None)) => Err((n, "is a standby, whose snapshots omit transactions in progress".to_owned())),
        Ok(Err(error)) => Err((n, describe(&error))),
        Err(_) => Err((n, no_answer())),
    }
}

/// Connects to a server; `None` if it is a standby.
async fn connect(n: usize, address: &Address) -> Result<Option<PrimaryConnection>, sqlx::Error> {
    let link = address.link().await?;
    let (mut connection, mode) = open(&link).await?;
    if mode == BackendMode::Pooled {
        begin_pooled(&mut connection).await?;
    }
    let is_standby =
        sqlx::query_scalar!(r#"select pg_is_in_recovery() as "standby!""#).fetch_one(&mut connection).await?;
    if is_standby {
        connection.close().await?;
        return Ok(None);
    }
    let row = sqlx::query!(
        r#"select (select system_identifier::text from pg_control_system()) as "system!",
                  ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint as "timeline!",
                  current_setting('server_encoding') as "encoding!""#
    )
    .fetch_one(&mut connection)
    .await?;
    if row.encoding != "UTF8" {
        return Err(unsupported_encoding(&row.encoding));
    }
    if mode == BackendMode::Pooled {
        commit_pooled(&mut connection).await?;
    }
    Ok(Some(PrimaryConnection {
        connection,
        mode,
        link: link.with(|options| mode.adapt(options)),
        address: n,
        name: address.name().to_owned(),
        system: row.system,
        timeline: row.timeline,
    }))
}

/// Events are JSON in UTF-8. In a database with another encoding some strings have no such form, and a single
/// one would stop the log for every organisation.
fn unsupported_encoding(encoding: &str) -> sqlx::Error {
    sqlx::Error::Configuration(
        format!(
            "the database has the encoding {encoding}, and Warden needs UTF8: dump it, and restore it into a database \
             that was created with `create database NAME encoding 'UTF8' template template0`"
        )
        .into(),
    )
}

/// Message for an address that did not answer in time.
pub(crate) fn no_answer() -> String {
    format!("no answer within {} s", ADDRESS_TIMEOUT.as_secs())
}

/// Message of the server or of the network, without sqlx's own words around it.
pub(crate) fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "connection refused".to_owned()
        }
        // Only a connection to a Unix socket opens a file.
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            "no server has created this socket: check its directory and the port".to_owned()
        }
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    }
}
