//! Cells of a table as JSON values, lists and structures included.

use super::{Value, value};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use serde_json::Value as Json;

/// The value in a row of a column, or why it has none in JSON.
pub(super) fn json(column: &ArrayRef, row: usize) -> Result<Json, String> {
    if row >= column.len() || column.is_null(row) {
        return Ok(Json::Null);
    }
    let list = |items: ArrayRef| (0..items.len()).map(|i| json(&items, i)).collect::<Result<_, _>>().map(Json::Array);
    match column.data_type() {
        DataType::Boolean => Ok(column.as_boolean().value(row).into()),
        DataType::Float32 => Ok(column.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => Ok(column.as_primitive::<Float64Type>().value(row).into()),
        DataType::List(_) => list(column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => list(column.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => list(column.as_fixed_size_list().value(row)),
        DataType::Struct(fields) => {
            let inner = fields.iter().zip(column.as_struct().columns());
            let pair = |(field, column): (&std::sync::Arc<arrow_schema::Field>, &ArrayRef)| {
                Ok((field.name().clone(), json(column, row)?))
            };
            inner.map(pair).collect::<Result<_, String>>().map(Json::Object)
        }
        _ => match value(column, row) {
            Value::Text(text) => Ok(text.into()),
            Value::Number(text) => text.parse().map(Json::Number).map_err(|_| format!("the number {text}")),
            Value::Null => Ok(Json::Null),
            Value::Other(what) => Err(what),
        },
    }
}
