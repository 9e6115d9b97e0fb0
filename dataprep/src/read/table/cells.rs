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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{BooleanArray, Int64Array, ListArray, StringArray, StructArray};
    use arrow_schema::Field;
    use std::sync::Arc;

    #[test]
    fn lists_and_structures_become_json() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
        let offsets = arrow_buffer::OffsetBuffer::new(vec![0, 2, 3].into());
        let field = Arc::new(Field::new("item", DataType::Utf8, true));
        let list: ArrayRef = Arc::new(ListArray::new(field, offsets, texts, None));
        let structure: ArrayRef = Arc::new(StructArray::from(vec![
            (Arc::new(Field::new("text", list.data_type().clone(), true)), list),
            (Arc::new(Field::new("n", DataType::Int64, true)), Arc::new(Int64Array::from(vec![Some(-4), None]))),
            (Arc::new(Field::new("b", DataType::Boolean, true)), Arc::new(BooleanArray::from(vec![true, false]))),
        ]));
        assert_eq!(json(&structure, 0).unwrap(), serde_json::json!({"text": ["a", "b"], "n": -4, "b": true}));
        assert_eq!(json(&structure, 1).unwrap(), serde_json::json!({"text": ["c"], "n": null, "b": false}));
        assert_eq!(json(&structure, 2).unwrap(), Json::Null);
    }
}
