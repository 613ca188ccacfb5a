//! The state file: position and counts of a run, so that a run that was killed continues.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::summary::Summary;

/// Version of the file's format.
const VERSION: u32 = 1;

/// Position of a run. Without a file it is kept in memory only.
#[derive(Debug)]
pub(super) struct State {
    path: Option<PathBuf>,
    pub(super) position: Position,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Position {
    version: u32,
    database: String,
    source: String,
    pub(super) page_size: u32,
    /// Number of the pass. Later passes are for users that were created meanwhile.
    pub(super) pass: u32,
    /// Next page of the admin API. None at the beginning of a pass.
    pub(super) page: Option<u64>,
    /// Last user of the previous batch by SQL.
    pub(super) last_user: Option<Uuid>,
    /// The pass ends at users that were created before this time.
    pub(super) since: Option<String>,
    /// Latest `created_at` so far.
    pub(super) newest: Option<String>,
    /// Whether all users were read.
    pub(super) is_complete: bool,
    pub(super) summary: Summary,
    /// Users whose organisation may have changed and whose sessions were not ended yet.
    pub(super) pending_revocations: BTreeSet<Uuid>,
}

impl State {
    /// Reads the file if it exists.
    pub(super) fn open(
        path: Option<PathBuf>,
        database: &str,
        source: &str,
        page_size: u32,
    ) -> anyhow::Result<Self> {
        let fresh = Position {
            version: VERSION,
            database: database.to_owned(),
            source: source.to_owned(),
            page_size,
            pass: 0,
            page: None,
            last_user: None,
            since: None,
            newest: None,
            is_complete: false,
            summary: Summary::default(),
            pending_revocations: BTreeSet::new(),
        };
        let Some(file) = &path else { return Ok(Self { path, position: fresh }) };
        let name = file.display();
        let text = match fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let this = Self { path, position: fresh };
                this.save()?;
                return Ok(this);
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read the state file {name}")),
        };
        let mut position: Position = serde_json::from_slice(&text)
            .with_context(|| format!("{name} is not a state file of warden claims sync"))?;
        ensure!(
            position.version == VERSION,
            "the state file {name} has version {}, and this command writes version {VERSION}: delete it to begin again",
            position.version
        );
        ensure!(
            position.database == database,
            "the state file {name} belongs to the database {}, and DATABASE_URL leads to {database}: use another file",
            position.database
        );
        ensure!(
            position.source == source,
            "the state file {name} belongs to the users at {}, and this run is for {source}: use another file",
            position.source
        );
        if position.is_complete {
            position = Position { pending_revocations: position.pending_revocations, ..fresh };
        }
        Ok(Self { path, position })
    }

    /// Replaces the file atomically. Only its owner can read it.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        write(path, &serde_json::to_vec(&self.position)?)
            .with_context(|| format!("cannot write the state file {}", path.display()))
    }

    /// Marks the run as complete. The file is deleted, unless sessions are still to be ended.
    pub(super) fn complete(mut self) -> anyhow::Result<Summary> {
        self.position.is_complete = true;
        match &self.path {
            Some(path) if self.position.pending_revocations.is_empty() => fs::remove_file(path)
                .with_context(|| format!("cannot delete the state file {}", path.display()))?,
            _ => self.save()?,
        }
        Ok(self.position.summary)
    }
}

fn write(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    // A file of a killed run could have other permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
