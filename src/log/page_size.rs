//! The size of a page of the log: rows, and bytes, because a row may have 64 KiB and more.

use futures_util::{Stream, TryStreamExt as _};

/// Bytes of a row in addition to its strings.
const ROW_BYTES: usize = 256;

/// Most rows and bytes of one page.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// Most rows, at least 1.
    pub rows_max: u32,
    /// Most bytes. A page has at least one row.
    pub bytes_max: usize,
}

/// Number of rows that the next statement requests.
///
/// The server sends all requested rows, and those beyond the page's bytes are discarded. So after such a page
/// the next statements request fewer rows, and then twice as many each time.
#[derive(Debug)]
pub(super) struct PageSize {
    limits: PageLimits,
    rows: u32,
}

impl PageSize {
    pub(super) fn new(limits: PageLimits) -> Self {
        Self { limits, rows: limits.rows_max.max(1) }
    }

    /// Rows that the next statement requests.
    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    /// Collects the rows of a statement until they exceed the bytes of a page. Returns whether rows were
    /// discarded.
    pub(super) async fn collect<R>(
        &mut self,
        mut rows: impl Stream<Item = Result<R, sqlx::Error>> + Unpin,
        string_bytes: impl Fn(&R) -> usize,
    ) -> Result<(Vec<R>, bool), sqlx::Error> {
        let (mut page, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            bytes += ROW_BYTES + string_bytes(&row);
            if bytes > self.limits.bytes_max && !page.is_empty() {
                self.rows = u32::try_from(page.len()).unwrap_or(u32::MAX);
                return Ok((page, true));
            }
            page.push(row);
        }
        self.rows = self.rows.saturating_mul(2).min(self.limits.rows_max.max(1));
        Ok((page, false))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    async fn collect(size: &mut PageSize, rows: &[usize]) -> (usize, bool) {
        let rows = stream::iter(rows.iter().map(|bytes| Ok(*bytes)).collect::<Vec<_>>());
        let (page, is_cut) = size.collect(rows, |bytes| *bytes).await.expect("no error");
        (page.len(), is_cut)
    }

    #[tokio::test]
    async fn a_page_ends_at_its_bytes_and_the_next_requests_fewer_rows() {
        let mut size = PageSize::new(PageLimits { rows_max: 100, bytes_max: 10_000 });
        assert_eq!((collect(&mut size, &[1000; 100]).await, size.rows()), ((7, true), 7));
        assert_eq!((collect(&mut size, &[1000; 7]).await, size.rows()), ((7, false), 14));
        assert_eq!((collect(&mut size, &[50_000; 3]).await, size.rows()), ((1, true), 1));
        for rows in [2, 4, 8, 16, 32, 64, 100, 100] {
            assert_eq!((collect(&mut size, &[10]).await, size.rows()), ((1, false), rows));
        }
    }
}
