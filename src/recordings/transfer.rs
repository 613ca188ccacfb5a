//! Copies a recording from its source into the store: checks, hashes and stores it while it arrives.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::accounts::Accounts;
use super::failure::Failure;
use super::media::{SNIFFED_BYTES, announced_bytes, media_type};
use super::queue::{Claimed, StoredFile};
use super::source::{Body, Fetcher};
use super::store::{RecordingStore, Upload};
use crate::org::OrgId;

/// Longest wait for the store to remove the parts of a failed upload.
const ABORT_TIME_MAX: Duration = Duration::from_secs(10);

/// Copies recordings.
#[derive(Debug)]
pub struct Transfer {
    fetcher: Fetcher,
    store: RecordingStore,
    accounts: Accounts,
}

impl Transfer {
    /// From what the fetcher may reach, with the accounts' credentials, into the store.
    #[must_use]
    pub fn new(fetcher: Fetcher, store: RecordingStore, accounts: Accounts) -> Self {
        Self { fetcher, store, accounts }
    }

    /// Copies the recording of a claimed row.
    ///
    /// # Errors
    /// If the source, the recording or the store is at fault. Nothing has been stored then.
    pub async fn copy(&self, org: OrgId, row: &Claimed) -> Result<StoredFile, Failure> {
        match timeout(self.fetcher.time_max(), self.copy_in_time(org, row)).await {
            Ok(copied) => copied,
            Err(_) => Err(Failure::temporary("the recording was not copied in time")),
        }
    }

    async fn copy_in_time(&self, org: OrgId, row: &Claimed) -> Result<StoredFile, Failure> {
        let credentials = self.accounts.credentials(org, row.provider.as_deref(), row.account.as_deref())?;
        let mut body = self.fetcher.fetch(&row.source_url, credentials).await?;
        let mut start = Vec::new();
        while start.len() < SNIFFED_BYTES {
            let Some(chunk) = body.next().await? else { break };
            start.extend_from_slice(&chunk);
        }
        if start.is_empty() {
            return Err(Failure::temporary("the recording is empty"));
        }
        let Some(media_type) = media_type(&start) else {
            return Err(Failure::permanent("the source sends no audio of a known type"));
        };
        let mut upload = self.store.begin(org, row.recording_id, media_type);
        match receive(&mut body, start, &mut upload).await {
            Ok((bytes, sha256)) => Ok(StoredFile {
                key: RecordingStore::key(org, row.recording_id),
                bytes,
                media_type: media_type.to_owned(),
                sha256,
            }),
            Err(failure) => {
                // The failure of the recording is what counts.
                let _ = timeout(ABORT_TIME_MAX, upload.abort()).await;
                Err(failure)
            }
        }
    }
}

/// Receives the rest, and completes the object if the recording is whole. Returns its size and hash.
async fn receive(body: &mut Body, start: Vec<u8>, upload: &mut Upload) -> Result<(u64, String), Failure> {
    let announced = announced_bytes(&start);
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut next = Some(bytes::Bytes::from(start));
    while let Some(chunk) = next {
        hash.update(&chunk);
        bytes += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        upload.write(chunk).await.map_err(|error| of_store(&error))?;
        next = body.next().await?;
    }
    if announced.is_some_and(|announced| bytes < announced) {
        return Err(Failure::temporary("the recording is shorter than its header says"));
    }
    upload.complete().await.map_err(|error| of_store(&error))?;
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((bytes, digest))
}

/// An error of the store, without its request, which may contain credentials.
fn of_store(error: &object_store::Error) -> Failure {
    let reason = match error {
        object_store::Error::NotFound { .. } => "not found",
        object_store::Error::PermissionDenied { .. } => "permission denied",
        object_store::Error::Unauthenticated { .. } => "its credentials are not accepted",
        _ => "it failed",
    };
    tracing::debug!(%error, "the store failed");
    Failure::temporary(format!("the object store: {reason}"))
}
