//! Writes one object, in parts if it is large. It appears when it is complete. An upload that ends in any
//! other way removes its parts.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{Attributes, MultipartUpload, ObjectStore, PutMultipartOptions, PutOptions};
use tokio::runtime::Handle;

/// Size of the parts of an upload, in bytes. S3 takes 10,000 parts of at least 5 MiB. A job holds one part.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// An object that is being written.
#[derive(Debug)]
pub struct Upload {
    store: Arc<dyn ObjectStore>,
    path: Path,
    attributes: Attributes,
    /// None while the object fits into one part.
    parts: Option<Box<dyn MultipartUpload>>,
    buffer: BytesMut,
}

impl Upload {
    /// Writes nothing yet.
    pub(super) fn new(store: Arc<dyn ObjectStore>, path: Path, attributes: Attributes) -> Self {
        Self { store, path, attributes, parts: None, buffer: BytesMut::new() }
    }

    /// Adds bytes. At most one part is held in memory.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn write(&mut self, mut chunk: Bytes) -> object_store::Result<()> {
        while !chunk.is_empty() {
            let room = PART_BYTES - self.buffer.len();
            self.buffer.extend_from_slice(&chunk.split_to(room.min(chunk.len())));
            if self.buffer.len() == PART_BYTES {
                self.write_part().await?;
            }
        }
        Ok(())
    }

    async fn write_part(&mut self) -> object_store::Result<()> {
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => {
                let options = PutMultipartOptions {
                    attributes: self.attributes.clone(),
                    ..PutMultipartOptions::default()
                };
                none.insert(self.store.put_multipart_opts(&self.path, options).await?)
            }
        };
        parts.put_part(self.buffer.split().freeze().into()).await
    }

    /// Makes the object appear.
    ///
    /// # Errors
    /// If the store fails. Then the caller aborts the upload.
    pub async fn complete(&mut self) -> object_store::Result<()> {
        if self.parts.is_none() {
            let options = PutOptions { attributes: self.attributes.clone(), ..PutOptions::default() };
            self.store.put_opts(&self.path, self.buffer.split().freeze().into(), options).await?;
            return Ok(());
        }
        if !self.buffer.is_empty() {
            self.write_part().await?;
        }
        if let Some(parts) = &mut self.parts {
            parts.complete().await?;
            self.parts = None;
        }
        Ok(())
    }

    /// Removes what was written. A store removes the parts of an upload that nobody aborts by its own rules.
    pub async fn abort(mut self) {
        if let Some(parts) = self.parts.take() {
            remove(parts).await;
        }
    }
}

/// Removes the parts in the background. A job that is cancelled or runs out of time drops its upload.
impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(parts), Ok(runtime)) = (self.parts.take(), Handle::try_current()) {
            runtime.spawn(remove(parts));
        }
    }
}

async fn remove(mut parts: Box<dyn MultipartUpload>) {
    if let Err(error) = parts.abort().await {
        tracing::warn!(%error, "the parts of an upload were not removed");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;
    use object_store::{PutPayload, PutResult, UploadPart};
    use tokio::sync::mpsc;

    use super::*;

    /// Reports the calls that end an upload.
    #[derive(Debug)]
    struct Parts(mpsc::UnboundedSender<&'static str>);

    impl MultipartUpload for Parts {
        fn put_part(&mut self, _data: PutPayload) -> UploadPart {
            Box::pin(async { Ok(()) })
        }

        fn complete<'a, 'b>(&'a mut self) -> BoxFuture<'b, object_store::Result<PutResult>>
        where
            'a: 'b,
            Self: 'b,
        {
            let _ = self.0.send("completed");
            let result = PutResult { e_tag: None, version: None, extensions: Default::default() };
            Box::pin(async { Ok(result) })
        }

        fn abort<'a, 'b>(&'a mut self) -> BoxFuture<'b, object_store::Result<()>>
        where
            'a: 'b,
            Self: 'b,
        {
            let _ = self.0.send("aborted");
            Box::pin(async { Ok(()) })
        }
    }

    fn upload() -> (Upload, mpsc::UnboundedReceiver<&'static str>) {
        let (sender, calls) = mpsc::unbounded_channel();
        let store = Arc::new(object_store::memory::InMemory::new());
        let mut upload = Upload::new(store, Path::default(), Attributes::new());
        upload.parts = Some(Box::new(Parts(sender)));
        (upload, calls)
    }

    /// Everything that was called until the upload was gone.
    async fn all(mut calls: mpsc::UnboundedReceiver<&'static str>) -> Vec<&'static str> {
        let mut all = Vec::new();
        while let Some(call) = calls.recv().await {
            all.push(call);
        }
        all
    }

    #[tokio::test]
    async fn an_upload_that_is_dropped_is_aborted() {
        let (dropped, calls) = upload();
        drop(dropped);
        assert_eq!(all(calls).await, ["aborted"]);
    }

    #[tokio::test]
    async fn an_upload_is_ended_once() {
        let (mut completed, calls) = upload();
        completed.complete().await.expect("completes");
        drop(completed);
        assert_eq!(all(calls).await, ["completed"]);
        let (aborted, calls) = upload();
        aborted.abort().await;
        assert_eq!(all(calls).await, ["aborted"]);
    }
}
