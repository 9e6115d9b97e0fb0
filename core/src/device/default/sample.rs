//! Choosing tokens by rows of logits.

use alloc::vec;
use alloc::vec::Vec;

use crate::device::call::{NO_TOKEN, Sample};
use crate::device::primitives::Primitives;
use crate::device::view::MatRef;
use crate::sampling::Rule;

/// Reads the logits, and chooses on the host: row after row where the host cannot read them in place.
pub fn sample<D: Primitives>(device: &D, mut call: Sample<'_, D::Buffer>) -> Result<(), D::Error> {
    let mut words = vec![0u32; Rule::WORDS];
    let mut logits: Vec<f32> = Vec::new();
    for r in 0..call.logits.rows() {
        read_row(device, &call.rules, r, &mut words)?;
        let rule = words.first_chunk().map_or(Rule::GREEDY, |words| Rule::from_words(*words));
        let at = place(&call.logits, r);
        let bytes = device.host_bytes(call.logits.buffer()).and_then(|b| b.get(at..at + 4 * call.logits.cols()));
        let token = match bytes.and_then(|bytes| bytemuck::try_cast_slice(bytes).ok()) {
            Some(row) => rule.choose(row),
            None => {
                logits.resize(call.logits.cols(), 0.0);
                read_row(device, &call.logits, r, &mut logits)?;
                rule.choose(&logits)
            }
        };
        let at = place(&call.tokens.as_ref(), r);
        device.upload(call.tokens.buffer_mut(), at, &token.unwrap_or(NO_TOKEN).to_ne_bytes())?;
    }
    Ok(())
}

/// The byte of its buffer at which row `r` of a matrix of four-byte elements begins.
fn place<B>(m: &MatRef<'_, B>, r: usize) -> usize {
    4 * (m.offset() + r * m.stride())
}

fn read_row<D: Primitives, T: bytemuck::Pod>(
    device: &D,
    m: &MatRef<'_, D::Buffer>,
    r: usize,
    row: &mut [T],
) -> Result<(), D::Error> {
    device.download(m.buffer(), place(m, r), bytemuck::cast_slice_mut(row))
}
