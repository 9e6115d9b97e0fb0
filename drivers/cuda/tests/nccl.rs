//! Tests of the collectives on a machine without a GPU, against libraries that replace NCCL and the NVIDIA driver.
//!
//! The library that replaces NCCL is for ranks in threads of one process and aborts the program where it is misused. It
//! cannot show what NCCL does with these calls.
#![cfg(target_os = "linux")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::time::{Duration, Instant};

use fathom_core::comm::{AllGather, AllToAll, Comm as _};
use fathom_core::device::Device as _;
use fathom_core::dtype::DType;
use fathom_core::error::{DeviceError as _, ErrorKind};
use fathom_core::tensor::Tensor;
use fathom_cuda::{Cuda, CudaError, Nccl};

#[path = "common/libraries.rs"]
mod libraries;
#[path = "common/ranks.rs"]
mod ranks;

/// Builds the libraries and runs the tests below, which are ignored otherwise, in processes that find them.
#[test]
fn collectives_by_a_library_that_stands_in() {
    let folder = std::env::temp_dir().join(format!("fathom-nccl-{}", std::process::id()));
    let outcome = children(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    outcome.unwrap_or_else(|e| panic!("{e}"));
}

fn children(folder: &Path) -> Result<(), String> {
    let wheel = folder.join("python/lib/python3.12/site-packages/nvidia/nccl/lib");
    std::fs::create_dir_all(&wheel).map_err(|e| e.to_string())?;
    let python = wheel.join("libnccl.so.2");
    let sources = [
        ("cuda.c", "libcuda.so", &[][..]),
        ("nvrtc.c", "libnvrtc.so.13", &[]),
        ("nccl.c", "libnccl.so.2", &[]),
        ("nccl.c", "libold.so", &["-DVERSION=21805", "-DncclCommInitRankConfig=none"]),
        ("nccl.c", "libpart.so", &["-DncclCommAbort=none"]),
        ("nccl.c", python.to_str().unwrap_or_default(), &["-DVERSION=23203"]),
    ];
    if !libraries::build(folder, &sources)? {
        return Ok(());
    }
    libraries::run(libraries::program(folder, "ranks_")?)?;
    // Every launch and collective is waited for.
    let mut checked = libraries::program(folder, "ranks_in_threads")?;
    checked.env("FATHOM_CUDA_CHECK", "1");
    libraries::run(checked)?;
    for (test, file) in [("found_old", "libold.so"), ("found_part", "libpart.so"), ("found_none", "libnowhere.so")] {
        let mut child = libraries::program(folder, test)?;
        child.env("FATHOM_CUDA_NCCL", folder.join(file));
        libraries::run(child)?;
    }
    for (test, python) in [("found_in_python", "python"), ("found_nowhere", "nothing")] {
        let mut child = libraries::program(folder, test)?;
        for variable in ["LD_LIBRARY_PATH", "FATHOM_CUDA_LIBRARIES", "CUDA_HOME", "CUDA_PATH", "HOME"] {
            child.env_remove(variable);
        }
        child.env("VIRTUAL_ENV", folder.join(python)).env("PATH", "");
        libraries::run(child)?;
    }
    Ok(())
}

/// The library that replaces NCCL, as this process has loaded it.
struct StandIn(libloading::Library);

impl StandIn {
    fn new() -> Self {
        let path = Path::new(&std::env::var_os("LD_LIBRARY_PATH").expect("a folder")).join("libnccl.so.2");
        // SAFETY: the library has no code that runs when it is loaded.
        let own = Self(unsafe { libloading::Library::new(path) }.unwrap_or_else(|e| panic!("{e}")));
        own.reset();
        own
    }

    /// Forgets all calls, and fails no more.
    fn reset(&self) {
        // SAFETY: the types are those of nccl.c, here and below.
        unsafe { self.0.get::<extern "C" fn()>(b"stand_in_reset").expect("a function")() };
    }

    /// The calls of a rank so far, one a line.
    fn calls(&self, rank: usize) -> String {
        // SAFETY: as above; the text is the library's.
        unsafe {
            let calls = self.0.get::<extern "C" fn(c_int) -> *const c_char>(b"stand_in_calls").expect("a function");
            CStr::from_ptr(calls(rank as c_int)).to_string_lossy().into_owned()
        }
    }

    fn fail(&self, rank: usize, code: c_int, text: &str) {
        let text = CString::new(text).expect("no zero byte");
        // SAFETY: as above.
        unsafe {
            let fail = self.0.get::<extern "C" fn(c_int, c_int, *const c_char)>(b"stand_in_fail").expect("a function");
            fail(rank as c_int, code, text.as_ptr());
        }
    }

    fn fail_start(&self, code: c_int, text: &str) {
        let text = CString::new(text).expect("no zero byte");
        // SAFETY: as above.
        unsafe {
            let fail = self.0.get::<extern "C" fn(c_int, *const c_char)>(b"stand_in_fail_start").expect("a function");
            fail(code, text.as_ptr());
        }
    }

    fn set(&self, what: &[u8], value: c_int) {
        // SAFETY: as above.
        unsafe { self.0.get::<extern "C" fn(c_int)>(what).expect("a function")(value) };
    }
}

/// The value, without an error.
#[track_caller]
fn good<T>(result: Result<T, CudaError>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

/// The error of a result that must be one, of kind `kind`, with `texts` in its message.
#[track_caller]
fn bad<T>(result: Result<T, CudaError>, kind: ErrorKind, texts: &[&str]) -> CudaError {
    let Err(error) = result else { panic!("it should be an error with {texts:?}") };
    let message = error.to_string();
    assert!(error.kind() == kind && texts.iter().all(|t| message.contains(t)), "{:?}: {message}", error.kind());
    error
}

fn device() -> Cuda {
    good(Cuda::new(0))
}

/// A group of one rank.
fn alone(cuda: &Cuda) -> Nccl {
    good(Nccl::start(cuda, good(Nccl::unique_id()), 0, 1))
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn ranks_alone() {
    let library = StandIn::new();
    let cuda = device();
    let nccl = alone(&cuda);
    assert_eq!((nccl.rank(), nccl.world()), (0, 1));
    good(ranks::collectives(&cuda, &nccl));
    good(ranks::between_kernels(&cuda, &nccl));
    // Copies in pieces, whose events are waited for while a group exists.
    let large: Vec<u32> = (0..10 << 20).collect();
    let tensor = good(Tensor::<Cuda>::from_slice(&cuda, &[1, large.len()], DType::U32, &large));
    assert!(tensor.elements(&cuda) == large);
    let calls = library.calls(0);
    assert!(!calls.contains("send") && !calls.contains("broadcast"), "{calls}");
    let handle = nccl.abort_handle();
    drop(nccl);
    // A handle outlives its group, and does nothing then.
    good(cuda.flush());
    good(handle.abort());
    good(cuda.flush());
    assert!(library.calls(0).ends_with("finalize\ndestroy\n"), "{}", library.calls(0));
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn ranks_in_threads() {
    for world in [2, 3, 4, 7] {
        let library = StandIn::new();
        ranks::together(&vec![0; world], |cuda, nccl| {
            good(ranks::collectives(cuda, &nccl));
            good(ranks::between_kernels(cuda, &nccl));
            let speed = good(ranks::bandwidth(cuda, &nccl, 1 << 16));
            assert!(speed.iter().all(|s| *s > 0.0));
            drop(nccl);
            // The device goes on without its group.
            assert_eq!(good(Tensor::<Cuda>::from_slice(cuda, &[1, 2], DType::U32, &[3u32, 4])).elements(cuda), [3, 4]);
        });
        for rank in 0..world {
            let calls = library.calls(rank);
            let start = format!("start {rank} of {world}, blocking 0, version 21900, 48 bytes\n");
            assert!(calls.starts_with(&start) && calls.ends_with("finalize\ndestroy\n"), "{calls}");
        }
    }
}

/// The elements of a tensor.
trait Elements {
    fn elements(&self, cuda: &Cuda) -> Vec<u32>;
}

impl Elements for Tensor<Cuda> {
    fn elements(&self, cuda: &Cuda) -> Vec<u32> {
        good(self.download(cuda))
    }
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn ranks_call_in_groups() {
    let library = StandIn::new();
    ranks::together(&[0; 4], |cuda, nccl| {
        let (sent, received) = (
            [[1, 2, 0, 3], [0, 5, 6, 0], [7, 0, 0, 0], [0, 0, 0, 9]][nccl.rank()],
            [[1, 0, 7, 0], [2, 5, 0, 0], [0, 6, 0, 0], [3, 0, 0, 9]][nccl.rank()],
        );
        let from = good(Tensor::<Cuda>::empty(cuda, &[1, sent.iter().sum()], DType::BF16));
        let mut to = good(Tensor::<Cuda>::empty(cuda, &[1, received.iter().sum()], DType::BF16));
        let call = AllToAll::new(from.view(), &sent, to.view_mut(), &received).expect("they fit");
        good(nccl.all_to_all(cuda, call));
        for parts in [[2, 2, 2, 2], [1, 0, 4, 3], [0, 0, 0, 0]] {
            let mut whole = good(Tensor::<Cuda>::empty(cuda, &[1, parts.iter().sum()], DType::F32));
            good(nccl.all_gather(cuda, AllGather::new(whole.view_mut(), &parts).expect("they fit")));
        }
        good(nccl.tell(&[1, 2, 3]));
    });
    let own = [
        "group: send 4 to 1, send 6 to 3, receive 14 from 2",
        "group: send 12 to 2, receive 4 from 0",
        "group: send 14 to 0, receive 12 from 1",
        "group: receive 6 from 0",
    ];
    for (rank, own) in own.iter().enumerate() {
        let calls = library.calls(rank);
        let lines: Vec<&str> = calls.lines().skip(1).collect();
        let unequal = "group: broadcast 4 of 0, broadcast 16 of 2, broadcast 12 of 3";
        assert_eq!(lines, [own, "group: gather 8", unequal, "group: gather 24", "finalize", "destroy"]);
    }
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn ranks_refuse_what_does_not_fit() {
    let cuda = device();
    let nccl = alone(&cuda);
    let id = good(Nccl::unique_id());
    bad(Nccl::start(&cuda, id, 3, 3), ErrorKind::Shape, &["rank 3 is not below the number of ranks 3"]);
    bad(Nccl::start(&cuda, id, 0, 1 << 31), ErrorKind::Shape, &["number of ranks 2147483648"]);
    let from = good(Tensor::<Cuda>::empty(&cuda, &[1, 5], DType::F32));
    let mut to = good(Tensor::<Cuda>::empty(&cuda, &[1, 5], DType::F32));
    let call = AllToAll::new(from.view(), &[2, 3], to.view_mut(), &[2, 3]).expect("they fit");
    bad(nccl.all_to_all(&cuda, call), ErrorKind::Shape, &["all_to_all", "number of ranks (expected 1, found 2)"]);
    let call = AllGather::new(to.view_mut(), &[2, 3]).expect("they fit");
    bad(nccl.all_gather(&cuda, call), ErrorKind::Shape, &["all_gather", "number of ranks"]);
    let mut less = good(Tensor::<Cuda>::empty(&cuda, &[1, 4], DType::F32));
    let call = AllToAll::new(from.view(), &[5], less.view_mut(), &[4]).expect("they fit");
    bad(nccl.all_to_all(&cuda, call), ErrorKind::Shape, &["to itself (expected 5, found 4)"]);
    let call = AllToAll::new(from.view(), &[5], to.view_mut(), &[5]).expect("they fit");
    bad(nccl.all_to_all(&device(), call), ErrorKind::Shape, &["all_to_all", "device"]);
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn ranks_that_are_lost_have_a_name() {
    let library = StandIn::new();
    for code in [2, 6] {
        let seen = ranks::together(&[0; 2], |cuda, nccl| {
            good(nccl.tell(&[1]));
            if nccl.rank() == 1 {
                std::thread::sleep(Duration::from_millis(500));
                return String::new();
            }
            // The error comes while the host waits.
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(100));
                    library.fail(0, code, "socket closed\n  by 10.0.0.7");
                });
                let texts = ["all_gather: another rank died", "socket closed by 10.0.0.7"];
                let mut whole = good(Tensor::<Cuda>::empty(cuda, &[1, 4], DType::BF16));
                good(nccl.all_gather(cuda, AllGather::new(whole.view_mut(), &[2, 2]).expect("they fit")));
                let error = bad(cuda.flush(), ErrorKind::PeerLost, &texts);
                // Everything after it gives the same.
                assert_eq!(bad(nccl.tell(&[3]), ErrorKind::PeerLost, &[]), error);
                assert_eq!(bad(cuda.flush(), ErrorKind::PeerLost, &[]), error);
                error.to_string()
            })
        });
        assert!(seen[0].contains(if code == 6 { "remote process exited" } else { "system error" }), "{}", seen[0]);
        assert!(library.calls(0).ends_with("group: gather 4\nabort\n"), "{}", library.calls(0));
        library.reset();
    }
    // An error of this rank's GPU, and one of its calls, are no other rank's.
    for (code, kind) in [(1, ErrorKind::DeviceLost), (4, ErrorKind::Other)] {
        let cuda = device();
        let nccl = alone(&cuda);
        library.fail(0, code, "");
        bad(nccl.tell(&[1]), kind, &["tell: NCCL says: "]);
        library.fail(0, 0, "");
        bad(nccl.tell(&[1]), kind, &[]);
    }
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn ranks_end_a_group_in_which_a_call_fails() {
    let library = StandIn::new();
    let failures = ranks::together(&[0; 2], |cuda, nccl| {
        good(nccl.tell(&[1]));
        library.set(b"stand_in_fail_send", 4);
        let from = good(Tensor::<Cuda>::empty(cuda, &[1, 2], DType::F32));
        let mut to = good(Tensor::<Cuda>::empty(cuda, &[1, 2], DType::F32));
        let call = AllToAll::new(from.view(), &[1, 1], to.view_mut(), &[1, 1]).expect("they fit");
        bad(nccl.all_to_all(cuda, call), ErrorKind::Other, &["all_to_all: NCCL says: an error of the stand-in"])
    });
    assert_eq!(failures.len(), 2);
    // The group ended, without the receipts.
    assert!(library.calls(0).ends_with("group: send 4 to 1\nabort\n"), "{}", library.calls(0));
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn ranks_are_ended_by_another_thread() {
    let library = StandIn::new();
    ranks::abort_ends_a_wait(&[0; 2]);
    assert!(library.calls(0).ends_with("group: gather 8\nabort\n"), "{}", library.calls(0));
    assert!(library.calls(1).ends_with("group: gather 8\nfinalize\ndestroy\n"), "{}", library.calls(1));
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn ranks_end_in_time_if_nccl_does_not() {
    let library = StandIn::new();
    let cuda = device();
    let nccl = alone(&cuda);
    library.set(b"stand_in_slow_abort", 20);
    let begin = Instant::now();
    bad(nccl.abort(), ErrorKind::Other, &["ncclCommAbort did not end within 5 s"]);
    good(nccl.abort_handle().abort());
    bad(nccl.tell(&[1]), ErrorKind::PeerLost, &["a collective: another rank", "this rank ended"]);
    drop(nccl);
    assert!((5.0..15.0).contains(&begin.elapsed().as_secs_f64()), "{:?}", begin.elapsed());
    assert_eq!(library.calls(0).matches("abort").count(), 1);
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn ranks_start_in_time_or_not_at_all() {
    let library = StandIn::new();
    let cuda = device();
    let limit = Duration::from_millis(200);
    let id = good(Nccl::unique_id());
    let texts = ["the start of NCCL: another rank", "not all 2 ranks came within 0.2 s"];
    bad(Nccl::start_within(&cuda, id, 0, 2, limit), ErrorKind::PeerLost, &texts);
    assert!(library.calls(0).ends_with("48 bytes\nabort\n"), "{}", library.calls(0));
    for (code, kind) in [(1, ErrorKind::Other), (2, ErrorKind::Other), (6, ErrorKind::PeerLost)] {
        library.reset();
        library.fail_start(code, "the driver is too old");
        let texts = ["the start of NCCL: ", "its last error: the driver is too old"];
        bad(Nccl::start(&cuda, good(Nccl::unique_id()), 0, 1), kind, &texts);
        // What did not begin is not ended.
        assert_eq!(library.calls(0).contains("abort"), code != 1, "{}", library.calls(0));
    }
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn ranks_in_a_panic_are_aborted() {
    let library = StandIn::new();
    let panicked = std::thread::spawn(|| {
        let cuda = device();
        let _nccl = alone(&cuda);
        panic!("planted");
    });
    assert!(panicked.join().is_err());
    assert!(library.calls(0).ends_with("abort\n"), "{}", library.calls(0));
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn found_old() {
    bad(
        Nccl::version(),
        ErrorKind::Unsupported,
        &["NCCL 2.18.5 is too old", "2.19", "pip install", "FATHOM_CUDA_NCCL"],
    );
    bad(Nccl::unique_id(), ErrorKind::Unsupported, &["too old"]);
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn found_part() {
    bad(Nccl::version(), ErrorKind::Other, &["no function ncclCommAbort"]);
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn found_none() {
    bad(Nccl::version(), ErrorKind::Other, &["cannot load NCCL", "FATHOM_CUDA_NCCL=", "libnowhere.so"]);
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn found_in_python() {
    assert_eq!(good(Nccl::version()), "NCCL 2.32.3");
}

#[test]
#[ignore = "needs the libraries that stand in"]
fn found_nowhere() {
    match Nccl::version() {
        Ok(version) => eprintln!("not tested: {version} is installed for all programs"),
        result => drop(bad(result, ErrorKind::Other, &["cannot load NCCL", "pip install", "libnccl.so.2"])),
    }
}

/// By hand, with the real library and the driver that stands in: `FATHOM_CUDA_NCCL=FILE cargo test --release -p
/// fathom-cuda --test nccl real -- --ignored --nocapture`, with the folder of a `libcuda.so` of `cuda.c` in
/// `LD_LIBRARY_PATH`.
#[test]
#[ignore = "needs NCCL"]
fn real_library_without_a_gpu() {
    eprintln!("{}", good(Nccl::version()));
    let [one, other] = [good(Nccl::unique_id()), good(Nccl::unique_id())];
    assert_ne!(one, other);
    match Cuda::new(0) {
        Ok(cuda) => eprintln!("{}", bad(Nccl::start(&cuda, one, 0, 1), ErrorKind::Other, &["cuda"])),
        Err(error) => eprintln!("not tested: {error}"),
    }
}
