//! Attention of shapes that the kernel suite does not draw, on any device.

use fathom_core::device::{Attention, AttentionGrad, Heads, Host, Kernels};
use fathom_core::dtype::DType;
use fathom_core::tensor::{Tensor, View, ViewMut};
use half::bf16;

/// Heads, and how their operands lie.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Columns of a query or key without and with position, and of a value.
    pub widths: [usize; 3],
    pub heads: usize,
    pub sequence: usize,
    pub sequences: usize,
    /// Rows of a document.
    pub document: usize,
    /// Columns before those of every operand: with a multiple of eight, rows begin on 16 bytes.
    pub offset: usize,
    pub dtype: DType,
}

impl Case {
    fn heads(&self) -> Heads {
        let [nope, rope, value] = self.widths;
        let scale = 1.0 / ((nope + rope) as f64).sqrt();
        Heads { heads: self.heads, nope, rope, value, scale, sequence: self.sequence }
    }

    fn rows(&self) -> usize {
        self.sequence * self.sequences
    }

    /// Columns of queries, of keys and values, of keys with position, of outputs, and of statistics.
    fn columns(&self) -> [usize; 5] {
        let [nope, rope, value] = self.widths;
        [self.heads * (nope + rope), self.heads * (nope + value), rope, self.heads * value, self.heads]
    }

    fn starts<D: Kernels>(&self, device: &D) -> Tensor<D> {
        let start = |t: usize| (t - t % self.sequence + t % self.sequence / self.document * self.document) as u32;
        let starts: Vec<u32> = (0..self.rows()).map(start).collect();
        Tensor::<D>::from_slice(device, &[self.rows(), 1], DType::U32, &starts).unwrap()
    }

    /// About normally distributed numbers, the same on every device.
    fn operand<D: Kernels>(&self, device: &D, columns: usize, seed: u64) -> Tensor<D> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        };
        let n = self.rows() * (columns + self.offset);
        let values: Vec<f32> = (0..n).map(|_| 2.0 * (uniform() + uniform() + uniform())).collect();
        self.upload(device, columns, &values)
    }

    fn upload<D: Kernels>(&self, device: &D, columns: usize, values: &[f32]) -> Tensor<D> {
        let shape = [self.rows(), columns + self.offset];
        if self.dtype == DType::F32 {
            return Tensor::<D>::from_slice(device, &shape, DType::F32, values).unwrap();
        }
        let values: Vec<u16> = values.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
        Tensor::<D>::from_slice(device, &shape, DType::BF16, &values).unwrap()
    }

    /// All numbers of a tensor, with those before each row.
    fn download<D: Kernels>(device: &D, tensor: &Tensor<D>) -> Vec<f32> {
        if tensor.dtype() == DType::F32 {
            return tensor.download(device).unwrap();
        }
        tensor.download::<D, u16>(device).unwrap().into_iter().map(|b| bf16::from_bits(b).to_f32()).collect()
    }

    fn view<'a, D: Kernels>(&self, tensor: &'a Tensor<D>) -> View<'a, D> {
        tensor.view().columns(self.offset..tensor.shape().cols()).unwrap()
    }

    fn view_mut<'a, D: Kernels>(&self, tensor: &'a mut Tensor<D>) -> ViewMut<'a, D> {
        let columns = self.offset..tensor.shape().cols();
        tensor.view_mut().columns(columns).unwrap()
    }

    /// `o` and `lse`.
    pub fn forward<D: Kernels>(&self, device: &D) -> [Vec<f32>; 2] {
        let [q, kv, k_pe, o, lse] = self.columns();
        let [q, kv, k_pe] = [(q, 1), (kv, 2), (k_pe, 3)].map(|(columns, seed)| self.operand(device, columns, seed));
        let mut o = self.upload(device, o, &vec![0.0; self.rows() * (o + self.offset)]);
        let mut lse =
            Tensor::<D>::from_slice(device, &[self.rows(), lse], DType::F32, &vec![0f32; self.rows() * lse]).unwrap();
        let starts = self.starts(device);
        let call = Attention::new(
            self.heads(),
            self.view::<D>(&q),
            self.view::<D>(&kv),
            self.view::<D>(&k_pe),
            starts.view(),
            self.view_mut::<D>(&mut o),
            lse.view_mut(),
        );
        device.attention(call.unwrap()).unwrap_or_else(|e| panic!("{self:?}: {e}"));
        [Self::download(device, &o), Self::download(device, &lse)]
    }

    /// `dq`, `dkv` and `dk_pe`, from the host's forward results.
    pub fn backward<D: Kernels>(&self, device: &D) -> [Vec<f32>; 3] {
        let [q_cols, kv_cols, pe_cols, o_cols, heads] = self.columns();
        let [o, lse] = self.forward(&Host::new());
        let o = self.upload(device, o_cols, &o);
        let lse = Tensor::<D>::from_slice(device, &[self.rows(), heads], DType::F32, &lse).unwrap();
        let inputs = [(q_cols, 1), (kv_cols, 2), (pe_cols, 3), (o_cols, 4)];
        let [q, kv, k_pe, d_o] = inputs.map(|(columns, seed)| self.operand(device, columns, seed));
        // What was there before is replaced.
        let [mut dq, mut dkv, mut dk_pe] =
            [q_cols, kv_cols, pe_cols].map(|n| self.upload(device, n, &vec![3.0; self.rows() * (n + self.offset)]));
        let starts = self.starts(device);
        let call = AttentionGrad::new(
            self.heads(),
            self.view::<D>(&q),
            self.view::<D>(&kv),
            self.view::<D>(&k_pe),
            starts.view(),
            self.view::<D>(&o),
            lse.view(),
            self.view::<D>(&d_o),
            self.view_mut::<D>(&mut dq),
            self.view_mut::<D>(&mut dkv),
            self.view_mut::<D>(&mut dk_pe),
        );
        device.attention_grad(call.unwrap()).unwrap_or_else(|e| panic!("{self:?}: {e}"));
        [dq, dkv, dk_pe].map(|x| Self::download(device, &x))
    }

    /// Compares one result with the host's: the root mean square of the error, and its maximum, against those of the
    /// result itself. A wrong row of a few hundred would be far beyond the first.
    pub fn compare(&self, name: &str, got: &[f32], want: &[f32]) {
        let (rms, most) = if self.dtype == DType::F32 { (1e-6, 1e-5) } else { (4e-3, 1.5e-2) };
        let size = |x: &mut dyn Iterator<Item = f32>| {
            let (mut squares, mut most) = (0f64, 0f64);
            x.for_each(|x| (squares, most) = (squares + f64::from(x).powi(2), most.max(f64::from(x).abs())));
            (squares.sqrt(), most)
        };
        let of = size(&mut want.iter().copied());
        let off = size(&mut got.iter().zip(want).map(|(g, w)| g - w));
        assert!(got.iter().all(|x| x.is_finite()), "{name} of {self:?} is not finite");
        assert!(off.0 <= rms * of.0, "{name} of {self:?}: rms error {:e} of {:e}", off.0, of.0);
        assert!(off.1 <= most * of.1, "{name} of {self:?}: error {:e} of up to {:e}", off.1, of.1);
    }
}

/// Every width there is a kernel for, aligned and not, rows in several blocks, documents within and across tiles.
pub fn cases() -> Vec<Case> {
    let case = |widths, heads, sequence, sequences, document, offset| Case {
        widths,
        heads,
        sequence,
        sequences,
        document,
        offset,
        dtype: DType::BF16,
    };
    let exact = |case: Case| Case { dtype: DType::F32, ..case };
    vec![
        case([128, 64, 128], 1, 160, 2, 90, 8),
        case([128, 64, 128], 2, 70, 1, 70, 0),
        case([128, 64, 128], 1, 70, 1, 33, 1),
        case([120, 8, 128], 1, 140, 1, 50, 0),
        case([64, 32, 64], 2, 150, 1, 70, 0),
        case([60, 31, 63], 1, 75, 1, 75, 0),
        case([32, 16, 32], 3, 130, 1, 65, 16),
        case([48, 16, 64], 1, 64, 2, 3, 0),
        case([32, 0, 32], 2, 129, 1, 128, 0),
        case([200, 16, 40], 1, 40, 1, 40, 0),
        exact(case([128, 64, 128], 1, 50, 1, 30, 0)),
        exact(case([32, 16, 32], 2, 70, 2, 41, 3)),
    ]
}
