//! Cases of rotary position embedding.

use fathom_core::device::Rope;
use proptest::prelude::*;

use crate::case::{Magnitude, Operand, case, kernel};
use crate::values::size;

case!(RopeCase, "rope", { rows: usize, heads: usize, start: usize, pairs: usize, tail: usize, inverse: bool }, |self| 1,
    operands {
        let positions = 12;
        let (head, r) = (self.start + 2 * self.pairs + self.tail, 2 * self.pairs);
        let cols = self.heads * head;
        let mut rng = self.d.rng(1);
        let table = (0..positions * self.pairs)
            .flat_map(|_| {
                let angle = 6.3 * rng.uniform();
                [angle.cos(), angle.sin()]
            })
            .collect();
        let x = Operand::floats(self.d.dtype, self.rows, cols, self.d.floats(0, self.rows * cols)).gaps(self.d.gaps);
        // Both columns of a pair enter either result.
        let values = x.values();
        let size = (0..values.len()).map(|i| match (i % cols % head).checked_sub(self.start) {
            Some(c) if c < r => values[i].abs() + values[i + 1 - 2 * (c % 2)].abs(),
            _ => 0.0,
        });
        let size = Magnitude::Given(size.collect());
        vec![
            x.near(size),
            Operand::floats(self.d.wide(), positions, r, table),
            Operand::indices(self.rows, 1, self.d.indices(2, self.rows, positions)),
        ]
    }
    call |device, x, table, positions| {
        let head = self.start + 2 * self.pairs + self.tail;
        device.rope(Rope::new(x.view_mut(), head, self.start, table.view(), positions.view(), self.inverse)?)
    }
);
kernel!(
    /// [`Rope`], both ways round.
    rope, rows: size(40), heads: 1usize..4, start: 0usize..5, pairs: 1usize..9, tail: 0usize..3,
        inverse: any::<bool>() =>
    |(d, rows, heads, start, pairs, tail, inverse)| RopeCase { d, rows, heads, start, pairs, tail, inverse }
);
