//! Apache Parquet, a row group at a time.

use super::batches::{Batches, Step, guarded, is_wanted};
use crate::read::stream::{Counted, Raw, Store};
use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::RowGroupMetaData;
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::Bytes;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::vec;

/// Rows decoded at a time: few, as each may be a long text.
const ROWS: usize = 128;

/// The file, for the decoder. Never reads past its end, whatever the decoder was told.
#[derive(Clone)]
struct Chunks {
    store: Store,
    length: u64,
    read: Arc<AtomicU64>,
}

impl Chunks {
    fn new(store: &Store, read: Arc<AtomicU64>) -> Self {
        Self { store: store.clone(), length: store.length().unwrap_or(0), read }
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<Counted<Raw>>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let mut raw = self.store.open()?;
        raw.seek(SeekFrom::Start(start.min(self.length)))?;
        Ok(BufReader::new(Counted::new(raw, self.read.clone())))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start}, and the file has {}", self.length)));
        }
        let mut bytes = vec![0; length];
        self.get_read(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

fn metadata(chunks: &Chunks) -> Result<ArrowReaderMetadata, String> {
    // Arrow's own schema in the metadata says nothing that is needed here, and is one thing more to trust.
    guarded(|| ArrowReaderMetadata::load(chunks, ArrowReaderOptions::new().with_skip_arrow_metadata(true)))
}

/// Where the first page of a row group lies.
fn start(group: &RowGroupMetaData) -> u64 {
    let first = |column: &::parquet::file::metadata::ColumnChunkMetaData| {
        let dictionary = column.dictionary_page_offset().filter(|&offset| offset > 0);
        u64::try_from(dictionary.unwrap_or(column.data_page_offset())).unwrap_or(0)
    };
    group.columns().iter().map(first).min().unwrap_or(0)
}

/// Where each row group begins; nothing for a file that cannot be read.
pub(super) fn starts(store: &Store) -> Vec<u64> {
    let metadata = metadata(&Chunks::new(store, Arc::default()));
    metadata.map(|it| it.metadata().row_groups().iter().map(start).collect()).unwrap_or_default()
}

/// The metadata with the groups to read, and the first row of each; or what is wrong with the file.
type Plan = Result<(ArrowReaderMetadata, vec::IntoIter<(usize, u64)>), String>;

/// The row groups that begin in a range of bytes.
pub(super) struct Parquet {
    chunks: Chunks,
    names: Option<Vec<String>>,
    plan: Option<Plan>,
    open: Option<ParquetRecordBatchReader>,
    row: u64,
}

impl Parquet {
    pub(super) fn new(store: &Store, bytes: Range<u64>, names: Option<Vec<String>>, read: Arc<AtomicU64>) -> Self {
        let chunks = Chunks::new(store, read);
        let plan = metadata(&chunks).map(|metadata| {
            let (mut groups, mut row) = (Vec::new(), 0_u64);
            let all = metadata.metadata().row_groups();
            // Groups that do not follow one another are not split.
            let sorted = all.iter().map(start).is_sorted();
            for (index, group) in all.iter().enumerate() {
                if !sorted || bytes.contains(&start(group)) {
                    groups.push((index, row));
                }
                row = row.saturating_add(u64::try_from(group.num_rows()).unwrap_or(0));
            }
            (metadata, groups.into_iter())
        });
        // What is wrong with the whole file is for the first split to say.
        let plan = if plan.is_err() && bytes.start > 0 { None } else { Some(plan) };
        Self { chunks, names, plan, open: None, row: 0 }
    }
}

impl Batches for Parquet {
    fn next(&mut self) -> io::Result<Option<Step>> {
        loop {
            if let Some(reader) = &mut self.open {
                match guarded(|| reader.next().transpose()) {
                    Ok(Some(batch)) => {
                        let first = self.row;
                        self.row = first.saturating_add(batch.num_rows() as u64);
                        return Ok(Some(Step::Rows { first, batch }));
                    }
                    Ok(None) => self.open = None,
                    Err(why) => {
                        self.open = None;
                        return Ok(Some(Step::Bad {
                            row: self.row,
                            why: format!("damaged from here to the next row group: {why}"),
                        }));
                    }
                }
            }
            let (metadata, groups) = match &mut self.plan {
                None => return Ok(None),
                Some(Ok(plan)) => (&plan.0, &mut plan.1),
                Some(Err(why)) => {
                    let why = format!("not a Parquet file: {why}");
                    self.plan = None;
                    return Ok(Some(Step::Bad { row: 0, why }));
                }
            };
            let Some((group, first)) = groups.next() else {
                return Ok(None);
            };
            self.row = first;
            let schema = metadata.parquet_schema();
            let leaves = schema.columns().iter().enumerate();
            let wanted = leaves.filter(|(_, leaf)| {
                let top = leaf.path().parts().first().map_or("", String::as_str);
                is_wanted(top, self.names.as_deref())
            });
            let mask = ProjectionMask::leaves(schema, wanted.map(|(index, _)| index));
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.chunks.clone(), metadata.clone());
            let builder = builder.with_row_groups(vec![group]).with_projection(mask).with_batch_size(ROWS);
            match guarded(|| builder.build()) {
                Ok(reader) => self.open = Some(reader),
                Err(why) => return Ok(Some(Step::Bad { row: first, why: format!("damaged row group: {why}") })),
            }
        }
    }
}
