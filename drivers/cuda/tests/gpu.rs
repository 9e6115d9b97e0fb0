//! A GPU, or its absence.

use fathom_core::device::Device as _;
use fathom_core::error::DeviceError as _;
use fathom_cuda::Cuda;

#[test]
fn no_gpu_is_an_error_that_says_what_to_do() {
    let count = Cuda::count();
    let Err(error) = Cuda::new(count) else { panic!("there is no GPU {count}") };
    let message = error.to_string();
    assert!(message.contains("driver") || message.contains("counted from 0"), "{message}");
    assert_eq!(error.kind(), fathom_core::error::ErrorKind::Other);
}

#[test]
fn bytes_come_back() {
    if Cuda::count() == 0 {
        eprintln!("not tested: no GPU");
        return;
    }
    for graphs in [true, false] {
        let options = fathom_cuda::Options::default().with_graphs(graphs);
        let cuda = Cuda::with_options(0, options).unwrap_or_else(|e| panic!("{e}"));
        eprintln!("{}", cuda.description());
        // One that is part of a list of commands, one that takes several pieces, and one with a ragged end.
        for size in [1, 4096, 100_000, 20 << 20, (16 << 20) + 13] {
            let sent: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            let mut buffer = cuda.alloc(size + 64).unwrap_or_else(|e| panic!("{e}"));
            cuda.upload(&mut buffer, 64, &sent).unwrap_or_else(|e| panic!("{e}"));
            let mut received = vec![0; size];
            cuda.download(&buffer, 64, &mut received).unwrap_or_else(|e| panic!("{e}"));
            assert!(sent == received, "{size} bytes, graphs {graphs}");
        }
    }
}
