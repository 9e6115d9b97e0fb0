//! The suite of collectives: whether every rank receives the bytes that the others send, and nothing else changes.
//!
//! [`check`] runs on all ranks at the same time, whatever the engine:
//!
//! ```
//! use fathom_core::comm::Solo;
//! use fathom_core::device::Host;
//!
//! let outcome = fathom_conformance::comm::check(&Host::new(), &Solo).unwrap();
//! assert!(outcome.cases > 50);
//! ```
//!
//! Contents are pseudo-random bytes, so some are not numbers of their type: a collective moves them as they are.

use fathom_core::comm::{AllGather, AllToAll, Comm};
use fathom_core::device::Device;
use fathom_core::dtype::DType;
use fathom_core::rng;
use fathom_core::tensor::Tensor;

use crate::{Failure, Outcome};

/// Every type of elements.
const DTYPES: [DType; 9] = [
    DType::F64,
    DType::F32,
    DType::BF16,
    DType::F16,
    DType::E4M3,
    DType::E5M2,
    DType::E5M6Pair,
    DType::UE8M0,
    DType::U32,
];

/// Lengths of the pieces of a case.
#[derive(Clone, Copy, Debug)]
enum Lengths {
    /// The same from every rank to every rank.
    Equal(usize),
    /// Below a number; one in three is empty.
    Unequal(usize),
    /// One rank has something, and sends it to one.
    One(usize),
}

const LENGTHS: [Lengths; 7] = [
    Lengths::Equal(1),
    Lengths::Equal(6),
    Lengths::Equal(0),
    Lengths::Unequal(10),
    Lengths::Unequal(100),
    Lengths::Unequal(1),
    Lengths::One(33),
];

/// Runs every collective on deterministic contents, and compares with its definition: all types of elements; pieces
/// that are equal, unequal, empty, or large; views that start inside a buffer, whose rim must not change; calls whose
/// results the next one takes; words of the host.
///
/// All ranks call it at the same time, each on a separate device. A rank whose results are wrong goes on to the end, so
/// that the others do not wait for it; then every rank fails.
///
/// # Errors
/// The first case that was wrong on this rank, else on the first rank where one was; a call that failed.
pub fn check<D: Device, C: Comm<D>>(device: &D, comm: &C) -> Result<Outcome, Failure> {
    const NAME: &str = "comm";
    let mut suite = Suite { device, comm, cases: 0, problem: None };
    let failure = |problem| Failure { name: NAME, problem };
    let run = suite.run();
    run.map_err(|e| failure(format!("rank {}, after {} cases: {e}", comm.rank(), suite.cases)))?;
    // Every rank says what the first wrong one found: launchers end all ranks when one fails, often unheard.
    let told = comm.tell(&packed(suite.problem.as_deref())).map_err(|e| failure(e.to_string()))?;
    let others = told.chunks(WORDS).find_map(unpacked);
    if let Some(problem) = suite.problem.or(others) {
        return Err(failure(problem));
    }
    Ok(Outcome { name: NAME, cases: suite.cases, unsupported: 0 })
}

/// Words that a rank tells about its outcome.
const WORDS: usize = 40;

/// A message in words, cut off where it is too long; zeros where there is none.
fn packed(problem: Option<&str>) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(problem.unwrap_or_default().as_bytes().chunks(8)) {
        let mut all = [0; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(all);
    }
    words
}

/// The message in words.
fn unpacked(words: &[u64]) -> Option<String> {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let text = String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
    (!text.is_empty()).then_some(text)
}

struct Suite<'a, D, C> {
    device: &'a D,
    comm: &'a C,
    cases: u32,
    /// The first case that was wrong.
    problem: Option<String>,
}

/// A number that depends on the case and the ranks.
fn number(seed: u64, a: usize, b: usize) -> u64 {
    rng::bits(seed, a as u64, b as u64)
}

/// Contents of the piece from rank `a` to rank `b`.
fn contents(seed: u64, a: usize, b: usize, bytes: usize) -> Vec<u8> {
    let stream = number(seed, a, b);
    let words = (0..bytes.div_ceil(8) as u64).map(|i| rng::bits(!seed, stream, i));
    let mut all: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    all.truncate(bytes);
    all
}

impl Lengths {
    /// Elements that rank `a` sends to rank `b` of `n`.
    fn of(self, seed: u64, a: usize, b: usize, n: usize) -> usize {
        match self {
            Self::Equal(length) => length,
            Self::Unequal(limit) => {
                let x = number(!seed, a, b);
                if x.is_multiple_of(3) { 0 } else { (x >> 8) as usize % limit.max(1) + usize::from(limit == 1) }
            }
            Self::One(length) => {
                let x = number(seed, n, n);
                if (a, b) == (x as usize % n, (x >> 32) as usize % n) { length } else { 0 }
            }
        }
    }
}

/// Elements before and after a view in its buffer, which differ from rank to rank.
fn rim(seed: u64, rank: usize, side: usize) -> usize {
    number(seed ^ 0x5151, rank, side) as usize % 6
}

/// A buffer with a view inside it: elements before it, the view's, and after it.
struct Framed {
    before: usize,
    inside: usize,
    after: usize,
    size: usize,
    /// All bytes.
    bytes: Vec<u8>,
}

impl Framed {
    fn new(seed: u64, rank: usize, side: usize, inside: &[u8], dtype: DType) -> Self {
        let size = dtype.size();
        let (before, after) = (rim(seed, rank, side), rim(seed, rank, side + 1));
        let rim = contents(seed ^ 0xf00d, rank, side, (before + after) * size);
        let (head, tail) = rim.split_at(before * size);
        Self { before, inside: inside.len() / size, after, size, bytes: [head, inside, tail].concat() }
    }

    /// The same with other contents of the view.
    fn with(&self, inside: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[self.before * self.size..][..self.inside * self.size].copy_from_slice(inside);
        bytes
    }

    fn tensor<D: Device>(&self, device: &D, dtype: DType) -> Result<Tensor<D>, D::Error> {
        let mut tensor = Tensor::<D>::empty(device, &[self.before + self.inside + self.after], dtype)?;
        device.upload(tensor.view_mut().buffer_mut(), 0, &self.bytes)?;
        Ok(tensor)
    }

    /// Rows and columns of the view: two rows where that fits.
    fn rows(&self) -> (usize, usize) {
        if self.inside.is_multiple_of(2) { (2, self.inside / 2) } else { (1, self.inside) }
    }
}

impl<D: Device, C: Comm<D>> Suite<'_, D, C> {
    fn run(&mut self) -> Result<(), D::Error> {
        let mut seed = 1;
        for dtype in DTYPES {
            for lengths in LENGTHS {
                self.all_to_all(seed, dtype, lengths)?;
                self.all_gather(seed, dtype, lengths)?;
                seed += 1;
            }
        }
        for dtype in [DType::F32, DType::E5M6Pair] {
            self.all_to_all(seed, dtype, Lengths::Unequal(60_000))?;
            self.all_gather(seed, dtype, Lengths::Unequal(60_000))?;
            seed += 1;
        }
        self.in_a_row(seed)?;
        for words in [1, 0, 3, 1000, 1] {
            self.tell(seed, words)?;
            seed += 1;
        }
        Ok(())
    }

    /// Counts a case, and keeps the first that is wrong.
    fn compare(&mut self, what: impl Fn() -> String, got: &[u8], want: &[u8]) {
        self.cases += 1;
        if got == want || self.problem.is_some() {
            return;
        }
        let at = got.iter().zip(want).position(|(a, b)| a != b);
        let at = at.map_or_else(|| format!("{} bytes for {}", got.len(), want.len()), |i| format!("first at byte {i}"));
        let (rank, world) = (self.comm.rank(), self.comm.world());
        self.problem = Some(format!("rank {rank} of {world}: {}: bytes differ, {at}", what()));
    }

    fn download(&self, tensor: &Tensor<D>) -> Result<Vec<u8>, D::Error> {
        let mut bytes = vec![0; tensor.bytes()];
        self.device.download(tensor.view().buffer(), 0, &mut bytes)?;
        Ok(bytes)
    }

    fn all_to_all(&mut self, seed: u64, dtype: DType, lengths: Lengths) -> Result<(), D::Error> {
        let (rank, n, size) = (self.comm.rank(), self.comm.world(), dtype.size());
        let length = |a, b| lengths.of(seed, a, b, n);
        let piece = |a, b| contents(seed, a, b, length(a, b) * size);
        let sent: Vec<usize> = (0..n).map(|r| length(rank, r)).collect();
        let received: Vec<usize> = (0..n).map(|r| length(r, rank)).collect();
        let outgoing: Vec<u8> = (0..n).flat_map(|r| piece(rank, r)).collect();
        let incoming: Vec<u8> = (0..n).flat_map(|r| piece(r, rank)).collect();
        let from = Framed::new(seed, rank, 0, &outgoing, dtype);
        let stale = contents(seed ^ 0xdead, rank, n, incoming.len());
        let to = Framed::new(seed, rank, 2, &stale, dtype);
        let (source, mut target) = (from.tensor(self.device, dtype)?, to.tensor(self.device, dtype)?);
        let ((rows, cols), (to_rows, to_cols)) = (from.rows(), to.rows());
        let view = source.part(from.before, rows, cols)?;
        let target_view = target.part_mut(to.before, to_rows, to_cols)?;
        self.comm.all_to_all(self.device, AllToAll::new(view, &sent, target_view, &received)?)?;
        let got = self.download(&target)?;
        self.compare(|| format!("all_to_all of {dtype}, {lengths:?}: received"), &got, &to.with(&incoming));
        let got = self.download(&source)?;
        self.compare(|| format!("all_to_all of {dtype}, {lengths:?}: what was sent"), &got, &from.bytes);
        Ok(())
    }

    fn all_gather(&mut self, seed: u64, dtype: DType, lengths: Lengths) -> Result<(), D::Error> {
        let (rank, n, size) = (self.comm.rank(), self.comm.world(), dtype.size());
        // The one part of `One` is the part of the rank that sends.
        let length = |r| (0..n).map(|b| lengths.of(seed, r, b, n)).max().unwrap_or(0);
        let parts: Vec<usize> = (0..n).map(length).collect();
        let of = |r: usize| contents(seed, r, r, parts[r] * size);
        let complete: Vec<u8> = (0..n).flat_map(of).collect();
        let stale = |r: usize| contents(seed ^ 0xdead, rank, r, parts[r] * size);
        let before: Vec<u8> = (0..n).flat_map(|r| if r == rank { of(r) } else { stale(r) }).collect();
        let whole = Framed::new(seed, rank, 4, &before, dtype);
        let mut tensor = whole.tensor(self.device, dtype)?;
        let (rows, cols) = whole.rows();
        let view = tensor.part_mut(whole.before, rows, cols)?;
        self.comm.all_gather(self.device, AllGather::new(view, &parts)?)?;
        let got = self.download(&tensor)?;
        self.compare(|| format!("all_gather of {dtype}, {lengths:?}"), &got, &whole.with(&complete));
        Ok(())
    }

    /// Calls that take each other's results, with nothing read between them.
    fn in_a_row(&mut self, seed: u64) -> Result<(), D::Error> {
        const LENGTH: usize = 50;
        let (rank, n, dtype) = (self.comm.rank(), self.comm.world(), DType::F32);
        let bytes = LENGTH * dtype.size();
        let pieces: Vec<usize> = vec![LENGTH; n];
        let tensor = || Tensor::<D>::empty(self.device, &[n * LENGTH], dtype);
        let (mut a, mut b) = (tensor()?, tensor()?);
        let row = |a: usize| (0..n).flat_map(|b| contents(seed, a, b, bytes)).collect::<Vec<u8>>();
        let column = |b: usize| (0..n).flat_map(|a| contents(seed, a, b, bytes)).collect::<Vec<u8>>();
        self.device.upload(a.view_mut().buffer_mut(), 0, &row(rank))?;
        // Equal pieces are a transposition: twice is nothing.
        for _ in 0..5 {
            self.comm.all_to_all(self.device, AllToAll::new(a.view(), &pieces, b.view_mut(), &pieces)?)?;
            std::mem::swap(&mut a, &mut b);
        }
        self.comm.all_to_all(self.device, AllToAll::new(a.view(), &pieces, b.view_mut(), &pieces)?)?;
        self.comm.all_gather(self.device, AllGather::new(b.view_mut(), &pieces)?)?;
        let told = self.comm.tell(&[7 * rank as u64])?;
        let got = self.download(&a)?;
        self.compare(|| "five calls of all_to_all".into(), &got, &column(rank));
        let got = self.download(&b)?;
        let diagonal: Vec<u8> = (0..n).flat_map(|r| contents(seed, r, r, bytes)).collect();
        self.compare(|| "all_gather after all_to_all".into(), &got, &diagonal);
        let (told, want) = (words(&told), words(&(0..n as u64).map(|r| 7 * r).collect::<Vec<_>>()));
        self.compare(|| "tell after other calls".into(), &told, &want);
        Ok(())
    }

    fn tell(&mut self, seed: u64, length: usize) -> Result<(), D::Error> {
        let of = |rank: usize| (0..length).map(move |i| number(seed, rank, i));
        let told = self.comm.tell(&of(self.comm.rank()).collect::<Vec<_>>())?;
        let want: Vec<u64> = (0..self.comm.world()).flat_map(of).collect();
        self.compare(|| format!("tell of {length} words"), &words(&told), &words(&want));
        Ok(())
    }
}

/// Words as bytes.
fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}
