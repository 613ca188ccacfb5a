//! The object store of the recordings: a local folder, S3 and compatible, Google Cloud Storage, or Azure.
//!
//! An object's key is made of an organisation and a recording, so no job and no request can name an object
//! outside its organisation's prefix. An object appears only when it is complete.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::Method;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    Attribute, Attributes, BackoffConfig, GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt as _,
    RetryConfig,
};
use url::Url;
use uuid::Uuid;

pub use super::upload::Upload;
use crate::org::OrgId;

/// Retries of one request to the store. A failed job is tried again later anyway.
const STORE_RETRIES: usize = 4;
/// Longest time of one request with its retries.
const STORE_TIME_MAX: Duration = Duration::from_secs(60);

/// Folder of an organisation's prefix.
const ROOT: &str = "org";
/// Folder of the recordings within it.
const FOLDER: &str = "recordings";

/// The store, and the prefix of all recordings in it.
#[derive(Clone, Debug)]
pub struct RecordingStore {
    store: Arc<dyn ObjectStore>,
    signer: Option<Arc<dyn Signer>>,
    prefix: Path,
}

/// An object of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// The recording; none if the key names no recording.
    pub recording: Option<Uuid>,
    /// Key below the prefix of all recordings.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
    /// When it was stored.
    pub modified: time::OffsetDateTime,
}

impl RecordingStore {
    /// Opens a store: a folder, or a URL such as `s3://bucket/prefix`, `gs://bucket` or `az://container`. The
    /// providers' environment variables hold the credentials (`AWS_ACCESS_KEY_ID` and so on).
    ///
    /// # Errors
    /// If the location is none of these, or lacks configuration.
    pub fn open(location: &str) -> anyhow::Result<Self> {
        let url = match Url::parse(location) {
            Ok(url) if url.scheme() != "file" => url,
            Ok(url) => {
                let path =
                    url.to_file_path().ok().context("a file: URL must name a folder of this machine")?;
                return Self::open_folder(&path);
            }
            Err(_) => return Self::open_folder(std::path::Path::new(location)),
        };
        let backoff = BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() };
        let retry = RetryConfig { backoff, max_retries: STORE_RETRIES, retry_timeout: STORE_TIME_MAX };
        let name = shown(&url);
        let (store, signer): (Arc<dyn ObjectStore>, Arc<dyn Signer>) = match url.scheme() {
            "s3" | "s3a" => {
                let store = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry).build();
                both(Arc::new(store.with_context(|| format!("cannot use {name}"))?))
            }
            "gs" => {
                let store =
                    GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retry).build();
                both(Arc::new(store.with_context(|| format!("cannot use {name}"))?))
            }
            "az" | "azure" | "abfs" | "abfss" => {
                let store =
                    MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retry).build();
                both(Arc::new(store.with_context(|| format!("cannot use {name}"))?))
            }
            scheme => {
                anyhow::bail!("a store of recordings is a folder, s3://, gs:// or az://, not {scheme}:")
            }
        };
        let prefix = Path::from_url_path(url.path()).with_context(|| format!("cannot use {name}"))?;
        Ok(Self { store, signer: Some(signer), prefix })
    }

    fn open_folder(folder: &std::path::Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let shown = folder.display();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("cannot create the folder {shown}"))?;
        // The row of a recording says that it is stored, so its file must survive a loss of power.
        let store = LocalFileSystem::new_with_prefix(folder)
            .with_context(|| format!("cannot use {shown}"))?
            .with_fsync(true);
        Ok(Self { store: Arc::new(store), signer: None, prefix: Path::default() })
    }

    /// The key of a recording, below the prefix of the store.
    #[must_use]
    pub fn key(org: OrgId, recording: Uuid) -> String {
        format!("{ROOT}/{org}/{FOLDER}/{recording}")
    }

    fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.prefix.clone(), Path::join)
    }

    /// Begins an object. It appears when [`Upload::complete`] has returned.
    #[must_use]
    pub fn begin(&self, org: OrgId, recording: Uuid, media_type: &'static str) -> Upload {
        // A folder keeps no attributes.
        let mut attributes = Attributes::new();
        if self.signer.is_some() {
            attributes.insert(Attribute::ContentType, media_type.into());
        }
        Upload::new(Arc::clone(&self.store), self.path(&Self::key(org, recording)), attributes)
    }

    /// Reads a range of an object, or all of it.
    ///
    /// # Errors
    /// If the object does not exist, or the store fails.
    pub async fn get(
        &self,
        org: OrgId,
        recording: Uuid,
        range: Option<Range<u64>>,
    ) -> object_store::Result<GetResult> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        self.store.get_opts(&self.path(&Self::key(org, recording)), options).await
    }

    /// Size of an object in bytes; none if it does not exist.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn size(&self, org: OrgId, recording: Uuid) -> object_store::Result<Option<u64>> {
        match self.store.head(&self.path(&Self::key(org, recording))).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A URL under which anybody reads an object for a time; none if the store cannot sign.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn signed_url(
        &self,
        org: OrgId,
        recording: Uuid,
        expires_in: Duration,
    ) -> object_store::Result<Option<Url>> {
        let Some(signer) = &self.signer else { return Ok(None) };
        let path = self.path(&Self::key(org, recording));
        signer.signed_url(Method::GET, &path, expires_in).await.map(Some)
    }

    /// Objects with an organisation's prefix.
    pub fn objects(&self, org: OrgId) -> BoxStream<'static, object_store::Result<StoredObject>> {
        self.objects_of_prefix(org.as_uuid())
    }

    /// Objects with the prefix of an organisation, which may have been deleted.
    pub(super) fn objects_of_prefix(
        &self,
        org: Uuid,
    ) -> BoxStream<'static, object_store::Result<StoredObject>> {
        let (prefix, of_all) = (self.path(&format!("{ROOT}/{org}")), self.prefix.clone());
        let folder = self.path(&format!("{ROOT}/{org}/{FOLDER}"));
        let objects = self.store.list(Some(&prefix)).map_ok(move |meta| {
            let recording = meta.location.prefix_match(&folder).and_then(|mut parts| {
                let name = parts.next()?;
                parts.next().is_none().then(|| Uuid::try_parse(name.as_ref()).ok()).flatten()
            });
            let key: Vec<String> = meta
                .location
                .prefix_match(&of_all)
                .map(|parts| parts.map(|part| part.as_ref().to_owned()).collect())
                .unwrap_or_default();
            let modified = time::OffsetDateTime::from_unix_timestamp(meta.last_modified.timestamp())
                .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
            StoredObject { recording, key: key.join("/"), bytes: meta.size, modified }
        });
        objects.boxed()
    }

    /// Names of the prefixes of organisations.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn organizations(&self) -> object_store::Result<Vec<String>> {
        let listed = self.store.list_with_delimiter(Some(&self.path(ROOT))).await?;
        Ok(listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// Deletes an object with this organisation's prefix.
    ///
    /// # Errors
    /// If the key has another prefix, or the store fails.
    pub(super) async fn delete(&self, org: Uuid, key: &str) -> anyhow::Result<()> {
        anyhow::ensure!(
            key.starts_with(&format!("{ROOT}/{org}/")),
            "{key} is not an object of organisation {org}"
        );
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn both<T: ObjectStore + Signer>(store: Arc<T>) -> (Arc<dyn ObjectStore>, Arc<dyn Signer>) {
    let signer: Arc<dyn Signer> = Arc::clone(&store) as _;
    (store, signer)
}

/// A location without what may be secret.
fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}
