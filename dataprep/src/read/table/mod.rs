//! Tables in columns: Apache Parquet and Arrow's IPC formats. Each row is a document, and positions are numbers of
//! rows.
//!
//! The decoders of the `arrow` project trust what a file declares more than the rest of this crate does. So lengths are
//! checked against the file before anything is allocated for them, and a panic in a decoder is a bad stretch of rows.

mod arrow;
mod batches;
mod cells;
mod parquet;

use super::fields::{self, FieldNames};
use super::format::Format;
use super::record::{Context, Found, Record, Records};
use super::stream::Store;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Fields};
use batches::{Batches, Step};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The rows of a table in a range of its bytes, with the columns `names`, or with all.
fn batches(
    store: &Store,
    format: Format,
    bytes: Range<u64>,
    names: Option<Vec<String>>,
    read: Arc<AtomicU64>,
) -> Box<dyn Batches + Send> {
    match format {
        Format::Parquet => Box::new(parquet::Parquet::new(store, bytes, names, read)),
        _ => Box::new(arrow::Arrow::new(store.clone(), bytes, names, read)),
    }
}

/// Finds, for each of `cuts` (rising), where the first row group or record batch begins that does not begin before it.
pub(super) fn starts(store: &Store, format: Format, cuts: &[u64]) -> io::Result<Vec<u64>> {
    let all = match format {
        Format::Parquet => parquet::starts(store),
        _ => arrow::starts(store)?,
    };
    if !all.is_sorted() {
        return Ok(Vec::new());
    }
    let mut starts: Vec<u64> = cuts.iter().filter_map(|&cut| all.iter().copied().find(|&start| start >= cut)).collect();
    starts.dedup();
    Ok(starts)
}

/// Whether a table has rows, but no column for the text.
pub(super) fn lacks_text(store: &Store, format: Format, names: &FieldNames) -> io::Result<bool> {
    let wanted = Some(vec![names.text.clone()]);
    let mut batches = batches(store, format, 0..u64::MAX, wanted, super::record::uncounted());
    loop {
        match batches.next()? {
            Some(Step::Rows { batch, .. }) if batch.num_rows() == 0 => {}
            Some(Step::Rows { batch, .. }) => return Ok(columns(&batch, names)[0].is_none()),
            // What is damaged is for the reader to say.
            Some(Step::Bad { .. }) | None => return Ok(false),
        }
    }
}

/// The rows of a split as documents.
pub(super) struct Table {
    context: Context,
    batches: Box<dyn Batches + Send>,
    open: Option<Open>,
    row: u64,
}

/// A batch that is being handed out.
struct Open {
    columns: [Option<ArrayRef>; 3],
    first: u64,
    rows: usize,
    next: usize,
}

impl Table {
    pub(super) fn new(
        context: Context,
        store: &Store,
        format: Format,
        bytes: Range<u64>,
        read: Arc<AtomicU64>,
    ) -> Self {
        let names = &context.config.fields;
        let wanted = [Some(&names.text), names.id.as_ref(), names.url.as_ref()];
        let wanted = wanted.into_iter().flatten().cloned().collect();
        let batches = batches(store, format, bytes, Some(wanted), read);
        Self { context, batches, open: None, row: 0 }
    }

    fn record(&self, open: &Open, index: usize) -> Record {
        let (row, names) = (open.first + index as u64, &self.context.config.fields);
        let [text, id, url] = &open.columns;
        let range = row..row + 1;
        let optional = |column: &Option<ArrayRef>| match value(column.as_ref()?, index) {
            Value::Text(text) | Value::Number(text) => Some(text),
            _ => None,
        };
        let (id, url) = (optional(id), optional(url));
        let why = match text.as_ref().map_or(Value::Null, |text| value(text, index)) {
            Value::Text(text) => {
                let length = text.len() as u64;
                if length > self.context.config.max_document_bytes {
                    let found = Found { range, fields: fields::Fields { text: String::new(), id, url } };
                    return self.context.too_large(found, length);
                }
                return self.context.record(row, Ok(Found { range, fields: fields::Fields { text, id, url } }));
            }
            Value::Null => format!("field {:?} is null, not a string", names.text),
            Value::Number(_) => format!("field {:?} is a number, not a string", names.text),
            Value::Other(what) => format!("field {:?} is {what}, not a string", names.text),
        };
        self.context.site.bad(row, why)
    }
}

impl Records for Table {
    fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            if let Some(mut open) = self.open.take_if(|open| open.next < open.rows) {
                let record = self.record(&open, open.next);
                self.row = open.first + open.next as u64;
                open.next += 1;
                self.open = Some(open);
                return Ok(Some(record));
            }
            match self.batches.next()? {
                None => return Ok(None),
                Some(Step::Bad { row, why }) => return Ok(Some(self.context.site.bad(row, why))),
                Some(Step::Rows { batch, .. }) if batch.num_rows() == 0 => {}
                Some(Step::Rows { first, batch }) => {
                    let names = &self.context.config.fields;
                    let columns = columns(&batch, names);
                    if columns[0].is_none() {
                        // The same for every batch, so it is said once: by the split that has the first row.
                        let why = format!("no column {:?}", names.text);
                        self.batches = Box::new(NoRows);
                        return Ok((first == 0).then(|| self.context.site.bad(0, why)));
                    }
                    self.open = Some(Open { columns, first, rows: batch.num_rows(), next: 0 });
                }
            }
        }
    }

    fn position(&self) -> u64 {
        self.row
    }
}

/// A table without rows.
struct NoRows;

impl Batches for NoRows {
    fn next(&mut self) -> io::Result<Option<Step>> {
        Ok(None)
    }
}

fn columns(batch: &RecordBatch, names: &FieldNames) -> [Option<ArrayRef>; 3] {
    let find = |name: Option<&String>| column(batch.schema_ref().fields(), batch.columns(), name?);
    [find(Some(&names.text)), find(names.id.as_ref()), find(names.url.as_ref())]
}

/// The column at a path of names with dots between, or of that very name.
fn column(fields: &Fields, arrays: &[ArrayRef], path: &str) -> Option<ArrayRef> {
    for (field, array) in fields.iter().zip(arrays) {
        match path.strip_prefix(field.name().as_str()) {
            Some("") => return Some(array.clone()),
            Some(rest) => {
                let (Some(rest), Some(inner)) = (rest.strip_prefix('.'), array.as_struct_opt()) else {
                    continue;
                };
                if let Some(found) = column(inner.fields(), inner.columns(), rest) {
                    return Some(found);
                }
            }
            None => {}
        }
    }
    None
}

/// What stands in a row of a column.
enum Value {
    Text(String),
    Number(String),
    Null,
    Other(String),
}

fn value(column: &ArrayRef, row: usize) -> Value {
    if row >= column.len() || column.is_null(row) {
        return Value::Null;
    }
    let bytes = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Value::Text(text.to_owned()),
        Err(_) => Value::Other("not UTF-8".into()),
    };
    match column.data_type() {
        DataType::Utf8 => Value::Text(column.as_string::<i32>().value(row).to_owned()),
        DataType::LargeUtf8 => Value::Text(column.as_string::<i64>().value(row).to_owned()),
        DataType::Utf8View => Value::Text(column.as_string_view().value(row).to_owned()),
        DataType::Binary => bytes(column.as_binary::<i32>().value(row)),
        DataType::LargeBinary => bytes(column.as_binary::<i64>().value(row)),
        DataType::Int8 => Value::Number(column.as_primitive::<Int8Type>().value(row).to_string()),
        DataType::Int16 => Value::Number(column.as_primitive::<Int16Type>().value(row).to_string()),
        DataType::Int32 => Value::Number(column.as_primitive::<Int32Type>().value(row).to_string()),
        DataType::Int64 => Value::Number(column.as_primitive::<Int64Type>().value(row).to_string()),
        DataType::UInt8 => Value::Number(column.as_primitive::<UInt8Type>().value(row).to_string()),
        DataType::UInt16 => Value::Number(column.as_primitive::<UInt16Type>().value(row).to_string()),
        DataType::UInt32 => Value::Number(column.as_primitive::<UInt32Type>().value(row).to_string()),
        DataType::UInt64 => Value::Number(column.as_primitive::<UInt64Type>().value(row).to_string()),
        DataType::Dictionary(..) => {
            let key =
                column.as_any_dictionary_opt().and_then(|it| Some((it.values(), *it.normalized_keys().get(row)?)));
            key.map_or(Value::Null, |(values, key)| value(values, key))
        }
        other => Value::Other(format!("of type {other}")),
    }
}

/// Gives every row of a table, or what is damaged, with its number to `take`, until that says no.
pub(super) fn rows(
    store: &Store,
    format: Format,
    take: &mut dyn FnMut(u64, Result<serde_json::Map<String, serde_json::Value>, String>) -> bool,
) -> io::Result<()> {
    let mut batches = batches(store, format, 0..u64::MAX, None, super::record::uncounted());
    while let Some(step) = batches.next()? {
        let (first, batch) = match step {
            Step::Rows { first, batch } => (first, batch),
            Step::Bad { row, why } => {
                take(row, Err(why));
                return Ok(());
            }
        };
        for index in 0..batch.num_rows() {
            let cell = |(field, column): (&Arc<arrow_schema::Field>, &ArrayRef)| {
                let value = cells::json(column, index).map_err(|why| format!("column {:?}: {why}", field.name()))?;
                Ok((field.name().clone(), value))
            };
            let columns = batch.schema_ref().fields().iter().zip(batch.columns());
            if !take(first + index as u64, columns.map(cell).collect()) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Row `row` once more: a JSON object of the columns that hold text or numbers. Nothing where there is no such row; an
/// error where it may lie in a stretch that is damaged.
pub(super) fn row_again(store: &Store, format: Format, row: u64) -> io::Result<Option<Vec<u8>>> {
    let mut batches = batches(store, format, 0..u64::MAX, None, super::record::uncounted());
    let mut damage = None;
    while let Some(step) = batches.next()? {
        let (first, batch) = match step {
            Step::Rows { first, batch } => (first, batch),
            Step::Bad { row, why } => {
                damage = Some(format!("row {row}: {why}"));
                continue;
            }
        };
        let Some(index) = row.checked_sub(first).and_then(|row| usize::try_from(row).ok()) else {
            continue;
        };
        if index < batch.num_rows() {
            let mut object = serde_json::Map::new();
            for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                if let Value::Text(text) | Value::Number(text) = value(column, index) {
                    object.insert(field.name().clone(), text.into());
                }
            }
            return serde_json::to_vec(&object).map(Some).map_err(io::Error::other);
        }
    }
    // A column that the first reading did not ask for can be damaged, and the row with it.
    damage.map_or(Ok(None), |why| Err(io::Error::new(io::ErrorKind::InvalidData, why)))
}
