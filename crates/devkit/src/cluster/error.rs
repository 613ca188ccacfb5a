//! Errors of private clusters. Each message gives the cause and the next step. None contains a secret: the
//! log excerpts are from a server without passwords.

use std::io;
use std::path::{Path, PathBuf};

/// The oldest major version of PostgreSQL that Warden's migrations run on.
pub(super) const VERSION_MIN: u32 = 14;

/// Reason why a private cluster cannot be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// This machine has no usable server binaries.
    #[error(
        "no PostgreSQL server, version {min} or later, was found.\n\
         Install it:\n\
         \x20 Debian, Ubuntu:  apt-get install postgresql\n\
         \x20 Fedora:          dnf install postgresql-server\n\
         \x20 Alpine:          apk add postgresql\n\
         \x20 macOS:           brew install postgresql@17\n\
         or set WARDEN_PG_BIN to the directory of `postgres` and `initdb`.\n\
         Searched:\n{searched}",
        min = VERSION_MIN
    )]
    NotFound {
        /// One indented line per place, with the problem found there.
        searched: String,
    },

    /// The directory in WARDEN_PG_BIN has no usable server binaries.
    #[error(
        "WARDEN_PG_BIN is {}, but {problem}. Set it to a directory that contains `postgres` and `initdb` of \
         PostgreSQL {} or later, or unset it to search the usual places",
        shown(dir),
        VERSION_MIN
    )]
    Hint {
        /// The directory.
        dir: PathBuf,
        /// Problem with it.
        problem: String,
    },

    /// Another process uses the data directory.
    #[error(
        "another `warden dev` (process {by}) uses the data directory {}. Stop it, or choose another directory with \
         --data-dir",
        dir.display()
    )]
    InUse {
        /// Data directory.
        dir: PathBuf,
        /// Process id of the owner of the lock, or `unknown`.
        by: String,
    },

    /// Another major version of PostgreSQL created the data.
    #[error(
        "PostgreSQL {data} created the data in {}, but the server found is version {server}. Set WARDEN_PG_BIN to the \
         binaries of PostgreSQL {data}, or remove the directory to create a new database",
        dir.display()
    )]
    Version {
        /// Data directory.
        dir: PathBuf,
        /// The version in its PG_VERSION.
        data: String,
        /// The major version of the binaries.
        server: u32,
    },

    /// Another user could have placed or could replace a file or directory.
    #[error(
        "`warden dev` does not use {}: {problem}. If you do not know where it comes from, look at it \
         first; then remove it, or choose another directory with --data-dir",
        path.display()
    )]
    Untrusted {
        /// File or directory.
        path: PathBuf,
        /// Reason.
        problem: String,
    },

    /// The account of the server may not enter a directory. Only root uses another account.
    #[error(
        "PostgreSQL cannot run as root, so it runs as user {user}, who may not enter {}. Choose a directory that \
         {user} can enter (for example below /var/lib or /srv), run this command as another user, or run: chmod o+x {}",
        path.display(), path.display()
    )]
    Unreachable {
        /// First directory of the path that the user may not enter.
        path: PathBuf,
        /// Account of the server.
        user: String,
    },

    /// Root found no account to run the server as.
    #[error(
        "PostgreSQL cannot run as root, and this system has neither a user `postgres` nor `nobody`. Run this command \
         as another user, or create one: useradd --system postgres"
    )]
    NoAccount,

    /// `initdb` failed.
    #[error("initdb could not create the database in {}. Its output:\n{log}", dir.display())]
    Init {
        /// Data directory.
        dir: PathBuf,
        /// Last lines of the command's output.
        log: String,
    },

    /// The server ended at startup, or did not accept connections in time.
    #[error("PostgreSQL did not start: {problem}\nIts log ends with:\n{log}")]
    Start {
        /// Actual outcome.
        problem: String,
        /// End of the server's log since this start.
        log: String,
    },

    /// The server did not end in time.
    #[error(
        "PostgreSQL (process {pid}) in {} does not stop. Read server.log there. As a last resort: kill -QUIT {pid}",
        dir.display()
    )]
    Stuck {
        /// Data directory.
        dir: PathBuf,
        /// Process id of the postmaster.
        pid: i32,
    },

    /// A call of the operating system failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb phrase.
        doing: &'static str,
        /// File or directory of the failed operation.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
}

/// Adds the operation and the path to an I/O error: `fs::write(..).map_err(at("write", path))?`.
pub(super) fn at<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ClusterError + 'a {
    move |source| ClusterError::Io { doing, path: path.to_path_buf(), source }
}

/// A configured directory, for messages. A value that is no directory could be a secret in the wrong
/// variable.
fn shown(dir: &Path) -> String {
    if dir.is_dir() {
        dir.display().to_string()
    } else {
        "not a directory (its value is not shown)".to_owned()
    }
}
