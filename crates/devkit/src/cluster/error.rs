//! What can go wrong with a private cluster. Each message names the cause and the next step.
//! Nothing here may carry a secret; the log tails come from a server that has no passwords.

use std::io;
use std::path::{Path, PathBuf};

/// The oldest major version of PostgreSQL that Warden's migrations run on.
pub(super) const VERSION_MIN: u32 = 14;

/// Why a private cluster could not be found, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No usable server binaries on this machine.
    #[error(
        "no PostgreSQL server, version {min} or later, was found.\n\
         Install it:\n\
         \x20 Debian, Ubuntu:  apt-get install postgresql\n\
         \x20 Fedora:          dnf install postgresql-server\n\
         \x20 Alpine:          apk add postgresql\n\
         \x20 macOS:           brew install postgresql@17\n\
         or name the folder that holds `postgres` and `initdb` in WARDEN_PG_BIN.\n\
         Looked at:\n{looked_at}",
        min = VERSION_MIN
    )]
    NotFound {
        /// One indented line for each place, with what was wrong there.
        looked_at: String,
    },

    /// The folder named by the user holds no usable server binaries.
    #[error(
        "WARDEN_PG_BIN names {}, but {problem}. Point it at a folder that holds `postgres` and \
         `initdb` of PostgreSQL {} or later, or unset it to search the usual places",
        dir.display(), VERSION_MIN
    )]
    Hint {
        /// The folder that was named.
        dir: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// Another process uses the data directory.
    #[error(
        "another `warden dev` (process {by}) runs on {}. Stop it, or choose another data directory",
        dir.display()
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// The process that holds the lock, as far as it told.
        by: String,
    },

    /// The data was made by another major version of PostgreSQL.
    #[error(
        "the data in {} was made by PostgreSQL {data}, but the server found is {server}. Point \
         WARDEN_PG_BIN at the binaries of PostgreSQL {data}, or remove the directory to start afresh",
        dir.display()
    )]
    Version {
        /// The data directory.
        dir: PathBuf,
        /// The version in its PG_VERSION.
        data: String,
        /// The major version of the binaries.
        server: u32,
    },

    /// As root, PostgreSQL runs as another user, and that one may not go there.
    #[error(
        "PostgreSQL refuses to run as root, so it runs as user {user}, who may not enter {}. \
         Choose a directory that {user} can reach (below /var/lib or /srv, say), run this command \
         as another user, or allow it: chmod o+x {}",
        path.display(), path.display()
    )]
    Unreachable {
        /// The first directory on the way that cannot be entered.
        path: PathBuf,
        /// The user that the server runs as.
        user: String,
    },

    /// Root, and nobody to hand the server to.
    #[error(
        "PostgreSQL refuses to run as root, and this system has neither a user `postgres` nor \
         `nobody`. Run this command as another user, or create one: useradd --system postgres"
    )]
    NoAccount,

    /// `initdb` failed.
    #[error("initdb could not create the database in {}. It said:\n{log}", dir.display())]
    Init {
        /// The data directory.
        dir: PathBuf,
        /// The end of what it wrote.
        log: String,
    },

    /// The server ended, or did not accept connections in time.
    #[error("PostgreSQL did not start: {what}\nIts log ends with:\n{log}")]
    Start {
        /// What was seen.
        what: String,
        /// The end of the server's log since this start.
        log: String,
    },

    /// A server did not end in time.
    #[error(
        "PostgreSQL (process {pid}) on {} does not stop. See its log there; as a last resort: \
         kill -QUIT {pid}",
        dir.display()
    )]
    Stuck {
        /// The data directory.
        dir: PathBuf,
        /// The postmaster.
        pid: i32,
    },

    /// The operating system refused something.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Gives an I/O error its context: `fs::write(..).map_err(at("write", path))?`.
pub(super) fn at<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ClusterError + 'a {
    move |source| ClusterError::Io { doing, path: path.to_path_buf(), source }
}
