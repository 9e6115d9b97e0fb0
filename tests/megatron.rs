//! Token shards are read by Megatron, and Megatron's shards here.
//!
//! Runs if `python3` (or `FATHOM_PYTHON`) has megatron-core; else says so and passes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use fathom_dataprep::shard::{Dtype, ShardFile, ShardWriter};
use serde_json::{Value, json};

/// The script's exit code where megatron-core is not installed.
const NO_MEGATRON: i32 = 3;
const END: u32 = 7;

/// Runs `megatron_reads.py MODE PREFIX` on `input`; what it printed, or `None` where it cannot run.
fn megatron(mode: &str, prefix: &Path, input: &Value) -> Option<String> {
    let python = std::env::var("FATHOM_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/megatron_reads.py");
    let mut command = Command::new(&python);
    command.arg(script).arg(mode).arg(prefix).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            println!("skipped: {python} does not run ({error})");
            return None;
        }
    };
    // A program that ends without reading closes the pipe; that alone is no error.
    let _ = child.stdin.take().expect("a pipe").write_all(input.to_string().as_bytes());
    let output = child.wait_with_output().expect("the program ends");
    if output.status.code() == Some(NO_MEGATRON) {
        println!("skipped: {python} has no megatron-core");
        return None;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("JSON is UTF-8"))
}

fn documents(largest: u32) -> Vec<Vec<u32>> {
    let token = |i: u32| (i.wrapping_mul(2_654_435_761) >> 3) % largest;
    let mut documents: Vec<Vec<u32>> = (0..40).map(|n| (0..n * n % 23).map(|i| token(n * 100 + i)).collect()).collect();
    documents.push(vec![0, largest - 1]);
    documents
}

#[test]
fn megatron_reads_what_is_written_here() {
    for (dtype, name, largest) in [(Dtype::U16, "uint16", 1 << 16), (Dtype::I32, "int32", (1 << 31) - 1)] {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::new(folder.path(), "train", dtype, END, 1 << 20);
        let mut expected = documents(largest);
        for document in &mut expected {
            writer.push(document, 0).unwrap();
            document.push(END);
        }
        writer.finish().unwrap().commit().unwrap();
        let Some(seen) = megatron("read", &folder.path().join("train-00000"), &Value::Null) else { return };
        let seen: Value = serde_json::from_str(&seen).unwrap();
        let firsts: Vec<usize> = (0..=expected.len()).collect();
        assert_eq!(seen, json!({ "dtype": name, "sequences": expected, "documents": firsts }));
    }
}

#[test]
fn what_megatron_writes_is_read_here() {
    for (dtype, name, largest) in [(Dtype::U16, "uint16", 1 << 16), (Dtype::I32, "int32", (1 << 31) - 1)] {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("theirs");
        // Documents of one, two or three sequences.
        let sequences: Vec<Vec<u32>> = documents(largest).into_iter().filter(|sequence| !sequence.is_empty()).collect();
        let (mut given, mut rest) = (Vec::new(), sequences.as_slice());
        while !rest.is_empty() {
            let (document, more) = rest.split_at((given.len() % 3 + 1).min(rest.len()));
            given.push(document.to_vec());
            rest = more;
        }
        let Some(_) = megatron("write", &prefix, &json!({ "dtype": name, "documents": given })) else { return };
        let shard = ShardFile::open(&prefix).unwrap();
        assert_eq!((shard.dtype(), shard.documents()), (dtype, given.len() as u64));
        let mut tokens = vec![0; shard.tokens() as usize];
        shard.read(0, 1 << 31, &mut tokens).unwrap();
        assert_eq!(tokens, sequences.concat());
        let mut start = 0;
        for (number, document) in (0..).zip(&given) {
            assert_eq!(shard.document_start(number).unwrap(), start);
            start += document.iter().map(|sequence| sequence.len() as u64).sum::<u64>();
        }
    }
}
