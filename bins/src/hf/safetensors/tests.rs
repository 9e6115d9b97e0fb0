//! Tests of the safetensors reader: every way in which a header can be wrong.

use super::*;
use std::io::Write;

/// A file of `json` and `data` bytes of tensors.
fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

fn open(bytes: &[u8]) -> Result<TensorFile, HfError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    TensorFile::open(file.path())
}

fn damage(bytes: &[u8]) -> String {
    match open(bytes) {
        Err(HfError::Damaged { problem, .. }) => problem.to_string(),
        Err(other) => panic!("another error: {other}"),
        Ok(file) => panic!("accepted: {:?}", file.entries()),
    }
}

fn one(entry: &str, data: usize) -> Vec<u8> {
    file(&format!(r#"{{"a":{entry}}}"#), data)
}

fn two(a: &str, b: &str, data: usize) -> Vec<u8> {
    file(&format!(r#"{{"a":{a},"b":{b}}}"#), data)
}

const GOOD: &str = r#"{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}"#;

#[test]
fn every_kind_of_damage_is_named_exactly() {
    let f32 = |shape: &str, begin: &str, end: &str| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let mut huge_length = 100_000_001u64.to_le_bytes().to_vec();
    huge_length.extend([b' '; 64]);
    let mut past_end = 65u64.to_le_bytes().to_vec();
    past_end.extend([b' '; 64]);
    let mut all_ones = u64::MAX.to_le_bytes().to_vec();
    all_ones.extend([b' '; 64]);
    let mut not_utf8 = file(r#"{"?":1}"#, 0);
    not_utf8[10] = 0xff;
    let good = one(GOOD, 24);
    let max = u64::MAX;
    let table: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "byte 0: 0 bytes are too few for the 8 bytes that state the header's length"),
        (vec![0; 7], "byte 0: 7 bytes are too few for the 8 bytes that state the header's length"),
        (huge_length, "byte 0: a header of 100000001 bytes, more than the 100000000 allowed"),
        (all_ones, "byte 0: a header of 18446744073709551615 bytes, more than the 100000000 allowed"),
        (past_end, "byte 0: a header of 65 bytes in a file of 72"),
        (vec![0; 8], "byte 8: header: EOF while parsing a value at line 1 column 0"),
        (file("", 4), "byte 8: header: EOF while parsing a value at line 1 column 0"),
        (file("{", 0), "byte 8: header: EOF while parsing an object at line 1 column 1"),
        (file("[]", 0), "byte 8: header: invalid type: sequence, expected an object of tensors at line 1 column 0"),
        (file("3", 0), "byte 8: header: invalid type: integer `3`, expected an object of tensors at line 1 column 1"),
        (file("null", 0), "byte 11: header: invalid type: null, expected an object of tensors at line 1 column 4"),
        (file("{} x", 0), "byte 11: header: trailing characters at line 1 column 4"),
        (not_utf8, "byte 10: header: invalid unicode code point at line 1 column 3"),
        (one("3", 0), "byte 13: header: invalid type: integer `3`, expected struct Stated at line 1 column 6"),
        (one("{}", 0), "byte 14: header: missing field `dtype` at line 1 column 7"),
        (
            one(r#"{"dtype":"F32","data_offsets":[0,0]}"#, 0),
            "byte 48: header: missing field `shape` at line 1 column 41",
        ),
        (one(r#"{"dtype":"F32","shape":[0]}"#, 0), "byte 39: header: missing field `data_offsets` at line 1 column 32"),
        (
            one(r#"{"dtype":"F32","shape":[0],"data_offsets":[0,0],"x":1}"#, 0),
            "byte 63: header: unknown field `x`, expected one of `dtype`, `shape`, `data_offsets` at line 1 column 56",
        ),
        (
            one(&f32("[-1]", "0", "4"), 4),
            "byte 38: header: invalid value: integer `-1`, expected u64 at line 1 column 31",
        ),
        (
            one(&f32("[1.5]", "0", "4"), 4),
            "byte 39: header: invalid type: floating point `1.5`, expected u64 at line 1 column 32",
        ),
        (
            one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0]}"#, 4),
            "byte 57: header: invalid length 1, expected an array of length 2 at line 1 column 50",
        ),
        (
            one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}"#, 4),
            "byte 60: header: trailing characters at line 1 column 53",
        ),
        (
            file(&format!(r#"{{"a":{GOOD},"a":{GOOD}}}"#), 24),
            "byte 67: header: tensor `a` appears twice at line 1 column 60",
        ),
        (
            file(r#"{"__metadata__":{"format":1}}"#, 0),
            "byte 34: header: invalid type: integer `1`, expected a string at line 1 column 27",
        ),
        (
            file(r#"{"__metadata__":[]}"#, 0),
            "byte 23: header: invalid type: sequence, expected a map at line 1 column 16",
        ),
        (one(r#"{"dtype":"F33","shape":[1],"data_offsets":[0,4]}"#, 4), "tensor `a`: unknown dtype `F33`"),
        (one(r#"{"dtype":"f32","shape":[1],"data_offsets":[0,4]}"#, 4), "tensor `a`: unknown dtype `f32`"),
        (
            one(&f32("[4294967296,4294967296]", "0", "0"), 0),
            "tensor `a`: shape [4294967296, 4294967296] has more bytes than can be counted",
        ),
        (
            one(&f32(&format!("[{max}]"), "0", "4"), 4),
            "tensor `a`: shape [18446744073709551615] has more bytes than can be counted",
        ),
        (
            one(&f32("[2,3]", "0", "20"), 24),
            "tensor `a`: data_offsets [0, 20] hold another number of bytes than the 24 its shape needs",
        ),
        (
            one(&f32("[2,3]", "24", "0"), 24),
            "tensor `a`: data_offsets [24, 0] hold another number of bytes than the 24 its shape needs",
        ),
        (
            one(&f32("[]", "0", "0"), 0),
            "tensor `a`: data_offsets [0, 0] hold another number of bytes than the 4 its shape needs",
        ),
        (
            one(&f32("[1]", &(max - 4).to_string(), &max.to_string()), 4),
            "tensor `a`: data_offsets [18446744073709551611, 18446744073709551615] hold another number of bytes than the 4 \
             its shape needs",
        ),
        (one(&f32("[1]", "4", "8"), 8), "byte 62: 4 bytes before tensor `a` belong to no tensor"),
        (
            two(&f32("[1]", "0", "4"), &f32("[1]", "8", "12"), 12),
            "byte 120: 4 bytes before tensor `b` belong to no tensor",
        ),
        (two(&f32("[2]", "0", "8"), &f32("[1]", "4", "8"), 8), "byte 119: tensor `b` begins before `a` ends"),
        (two(&f32("[1]", "0", "4"), &f32("[1]", "0", "4"), 4), "byte 115: tensor `b` begins before `a` ends"),
        (good[..good.len() - 1].to_vec(), "byte 89: the tensors end here, the file at byte 88"),
        (one(GOOD, 0), "byte 89: the tensors end here, the file at byte 65"),
        (one(GOOD, 25), "byte 89: the tensors end here, the file at byte 90"),
        (file("{}", 1), "byte 10: the tensors end here, the file at byte 11"),
    ];
    assert!(table.len() >= 40);
    for (number, (bytes, expected)) in table.iter().enumerate() {
        assert_eq!(damage(bytes), *expected, "case {number}: {}", String::from_utf8_lossy(bytes));
    }
    assert!(open(&good).is_ok(), "the file that the cases deform is sound");
}

#[test]
fn no_truncation_and_no_flipped_header_bit_goes_unnoticed_or_panics() {
    let good = two(GOOD, r#"{"dtype":"BF16","shape":[3],"data_offsets":[24,30]}"#, 30);
    let sound = open(&good).unwrap();
    for length in 0..good.len() {
        assert!(open(&good[..length]).is_err(), "cut to {length} bytes");
    }
    for bit in 0..8 * (good.len() - 30) {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        // A flip that leaves a sound header must have changed a name or a type of the same width, and nothing else.
        if let Ok(file) = open(&bytes) {
            let places = |f: &TensorFile| f.entries().iter().map(|e| (e.begin, e.end)).collect::<Vec<_>>();
            let mut found = places(&file);
            found.sort_unstable();
            assert_eq!(found, places(&sound), "bit {bit}");
        }
    }
}

#[test]
fn values_of_every_width_come_out_as_f32() {
    let json = r#"{"f":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]},
        "h":{"dtype":"F16","shape":[],"data_offsets":[12,14]},
        "e":{"dtype":"F16","shape":[0],"data_offsets":[14,14]},
        "q":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[14,16]}}"#;
    let mut bytes = file(json, 0);
    bytes.extend([1.5f32, -2.0e-40].iter().flat_map(|x| x.to_le_bytes()));
    bytes.extend([1.0f32, -3.0].iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()));
    bytes.extend(half::f16::from_f32(0.25).to_le_bytes());
    bytes.extend([0, 0]);
    let mut file = open(&bytes).unwrap();
    let mut read = |name: &str| {
        let mut values = vec![9.0];
        file.read_f32(name, &mut values).map(|()| values)
    };
    assert_eq!(read("f").unwrap(), [1.5, -2.0e-40]);
    assert_eq!(read("b").unwrap(), [1.0, -3.0]);
    assert_eq!(read("h").unwrap(), [0.25]);
    assert!(read("e").unwrap().is_empty());
    assert!(
        read("q")
            .unwrap_err()
            .to_string()
            .contains("tensor `q` is F8_E4M3; weights are read in F32, BF16, F16, or F8_E4M3 with scales")
    );
    assert!(read("x").unwrap_err().to_string().contains("tensor `x` is missing"));
}

#[test]
fn what_is_written_is_what_the_reference_implementation_reads() {
    let specs = [
        TensorSpec { name: "a".into(), shape: vec![2, 3], dtype: ElementType::F32 },
        TensorSpec { name: "z \"quoted\"".into(), shape: vec![1], dtype: ElementType::BF16 },
    ];
    let mut bytes = header(&specs);
    assert_eq!(bytes.len() % 8, 0);
    bytes.extend((0..6).flat_map(|x| (x as f32).to_le_bytes()));
    bytes.extend(half::bf16::from_f32(6.0).to_le_bytes());
    let mut file = open(&bytes).unwrap();
    let mut values = Vec::new();
    file.read_f32("z \"quoted\"", &mut values).unwrap();
    assert_eq!(values, [6.0]);
    let reference = safetensors::SafeTensors::deserialize(&bytes).expect("the reference reads it");
    assert_eq!(reference.tensor("a").unwrap().shape(), [2, 3]);
    assert_eq!(reference.tensor("a").unwrap().data()[4..8], 1.0f32.to_le_bytes());
}
