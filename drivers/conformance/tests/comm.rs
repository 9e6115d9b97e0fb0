//! The suite of collectives finds faults of a rank that is alone; those among several are planted in the engines'
//! tests.

use fathom_conformance::comm::check;
use fathom_core::comm::{AllGather, AllToAll, Comm, Solo};
use fathom_core::device::{Device, Host};
use fathom_core::error::DeviceError;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// None.
    None,
    /// Nothing is received.
    Stale,
    /// The element after the view is written too.
    Rim,
    /// The last byte is not received.
    Short,
    /// A gather overwrites the rank's own part.
    Overwritten,
    /// A word is another one.
    Word,
    /// A word is missing.
    Missing,
    /// A call fails.
    Refuses,
}

struct Planted(Fault);

/// Writes `value` into the byte at `offset` of a buffer, or flips it.
fn flip<D: Device>(device: &D, buffer: &mut D::Buffer, offset: usize) -> Result<(), D::Error> {
    let mut byte = [0];
    device.download(buffer, offset, &mut byte)?;
    device.upload(buffer, offset, &[!byte[0]])
}

impl<D: Device> Comm<D> for Planted {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_to_all(&self, device: &D, call: AllToAll<'_, D>) -> Result<(), D::Error> {
        let AllToAll { from, sent, mut to, received } = call;
        let (size, start, end) = (to.dtype().size(), to.offset(), to.offset() + to.elements());
        match self.0 {
            Fault::Stale => return Ok(()),
            Fault::Refuses => return Err(D::Error::peer_lost("all_to_all")),
            _ => Solo.all_to_all(device, AllToAll::new(from, sent, to.reborrow(), received)?)?,
        }
        match self.0 {
            // A buffer that ends with its view has no element after it.
            Fault::Rim => flip(device, to.buffer_mut(), end * size).or(Ok(())),
            Fault::Short if end > start => flip(device, to.buffer_mut(), end * size - 1),
            _ => Ok(()),
        }
    }

    fn all_gather(&self, device: &D, mut call: AllGather<'_, D>) -> Result<(), D::Error> {
        let start = call.whole.offset() * call.whole.dtype().size();
        match self.0 {
            Fault::Overwritten if call.whole.elements() > 0 => flip(device, call.whole.buffer_mut(), start),
            _ => Solo.all_gather(device, call),
        }
    }

    fn tell(&self, words: &[u64]) -> Result<Vec<u64>, D::Error> {
        Ok(match self.0 {
            Fault::Word => words.iter().map(|w| w | 1).collect(),
            Fault::Missing => words.iter().copied().take(999).collect(),
            _ => words.to_vec(),
        })
    }
}

#[test]
fn faults_are_found_and_named() {
    let run = |fault| check(&Host::new(), &Planted(fault));
    assert!(run(Fault::None).is_ok());
    for (fault, text) in [
        (Fault::Stale, "all_to_all"),
        (Fault::Rim, "all_to_all"),
        (Fault::Short, "all_to_all"),
        (Fault::Overwritten, "all_gather"),
        (Fault::Word, "tell"),
        (Fault::Missing, "tell of 1000 words: bytes differ, 7992 bytes for 8000"),
        (Fault::Refuses, "another rank"),
    ] {
        let problem = run(fault).expect_err(&format!("{fault:?} is not found")).to_string();
        assert!(problem.contains(text), "{fault:?}: {problem}");
    }
}
