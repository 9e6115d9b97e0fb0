//! Experts that transformers 5 stored together, as one tensor for each matrix of each expert.

use super::error::HfError;
use super::names::SCALES;
use super::safetensors::{ElementType, TensorEntry, TensorFile};
use fathom_core::config::Quantization;

/// Parts that the tensors of a file are divided into, at most, so that a small file cannot ask for a large table.
const MAX_PARTS: usize = 1 << 20;

/// Puts a tensor for each matrix of each expert in the place of `mlp.experts.gate_up_proj`, which is `[experts, 2 *
/// intermediate, hidden]` with the gate's rows first, and `mlp.experts.down_proj`, `[experts, hidden, intermediate]`;
/// the same of their scales. Tensors of other shapes stay, and experts with biases, which are another model's.
///
/// # Errors
/// [`HfError::WrongType`] of FP8 codes with blocks that reach over two matrices.
pub(super) fn separate(file: &mut TensorFile, quantization: Option<Quantization>) -> Result<(), HfError> {
    let mut left = MAX_PARTS;
    for entry in file.entries() {
        let Some(fused) = Fused::of(entry) else { continue };
        let block = quantization.map_or(1, |quantization| quantization.weight_block_size[0]);
        if entry.dtype == ElementType::E4M3 && fused.parts.len() > 1 && !fused.rows.is_multiple_of(block.max(1)) {
            let remedy = "blocks of its scales hold rows of both the gate's and the up projection: save it in BF16";
            let (path, tensor, dtype) = (file.path().into(), entry.name.clone(), entry.dtype.name().into());
            return Err(HfError::WrongType { path, tensor, dtype, remedy });
        }
        left = left.saturating_sub(fused.number());
    }
    if left == 0 {
        return Ok(());
    }
    let biased: Vec<String> =
        file.entries().iter().filter_map(|e| Some(e.name.strip_suffix("_bias")?.into())).collect();
    file.split(|entry| {
        let fused = Fused::of(entry).filter(|_| !biased.contains(&entry.name))?;
        Some(fused.entries(entry))
    });
    Ok(())
}

/// How a tensor of several experts is divided.
struct Fused<'a> {
    prefix: &'a str,
    /// Names of an expert's matrices, one below the other.
    parts: &'static [&'static str],
    suffix: &'static str,
    experts: usize,
    /// Rows and columns of one matrix.
    rows: usize,
    cols: usize,
}

impl<'a> Fused<'a> {
    fn of(entry: &'a TensorEntry) -> Option<Self> {
        let (prefix, name) = entry.name.rsplit_once(".mlp.experts.")?;
        let (name, suffix) = name.strip_suffix(SCALES).map_or((name, ""), |name| (name, SCALES));
        let parts: &[&str] = match name {
            "gate_up_proj" => &["gate_proj", "up_proj"],
            "down_proj" => &["down_proj"],
            _ => return None,
        };
        let &[experts, rows, cols] = entry.shape.as_slice() else { return None };
        let weights = !matches!(entry.dtype, ElementType::Other { .. }) && entry.end > entry.begin;
        let whole = rows.is_multiple_of(parts.len()) && weights;
        whole.then(|| Self { prefix, parts, suffix, experts, rows: rows / parts.len(), cols })
    }

    fn number(&self) -> usize {
        self.experts.saturating_mul(self.parts.len())
    }

    fn entries(&self, whole: &TensorEntry) -> Vec<TensorEntry> {
        // The shape's bytes were found to lie in the file, and they are some.
        let bytes = (whole.end - whole.begin) / self.number().max(1) as u64;
        let part = |number: usize| {
            let (expert, part) = (number / self.parts.len(), self.parts[number % self.parts.len()]);
            let (begin, Self { prefix, suffix, rows, cols, .. }) = (whole.begin + number as u64 * bytes, self);
            let name = format!("{prefix}.mlp.experts.{expert}.{part}.weight{suffix}");
            TensorEntry { name, dtype: whole.dtype, shape: vec![*rows, *cols], begin, end: begin + bytes }
        };
        (0..self.number()).map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::safetensors::{TensorSpec, header};
    use super::*;

    fn file(tensors: &[(&str, ElementType, &[usize])]) -> (tempfile::TempDir, TensorFile) {
        let spec = |&(name, dtype, shape): &(&str, ElementType, &[usize])| {
            let name = format!("model.layers.1.mlp.experts.{name}");
            TensorSpec { name, shape: shape.into(), dtype }
        };
        let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
        let mut bytes = header(&specs);
        let data = specs.iter().map(TensorSpec::bytes).sum::<u64>();
        bytes.extend((0..data).map(|i| i as u8));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("m.safetensors"), bytes).unwrap();
        let file = TensorFile::open(&folder.path().join("m.safetensors")).unwrap();
        (folder, file)
    }

    fn named(file: &TensorFile) -> Vec<(&str, &[usize])> {
        let short =
            |entry: &'_ TensorEntry| entry.name.len() - entry.name.rsplit(".mlp.experts.").next().unwrap().len();
        file.entries().iter().map(|entry| (&entry.name[short(entry)..], &entry.shape[..])).collect()
    }

    #[test]
    fn codes_and_scales_are_divided_alike() {
        let (code, scale) = (ElementType::E4M3, ElementType::F32);
        let (_folder, mut fused) = file(&[
            ("gate_up_proj", code, &[2, 8, 3]),
            ("gate_up_proj_scale_inv", scale, &[2, 4, 1]),
            ("down_proj", code, &[2, 3, 4]),
            ("down_proj_scale_inv", scale, &[2, 2, 1]),
        ]);
        let quantization = Quantization { weight_block_size: [2, 4], power_of_two_scales: false };
        separate(&mut fused, Some(quantization)).unwrap();
        let expert = |expert: usize| {
            [("down_proj", [3, 4], [2, 1]), ("gate_proj", [4, 3], [2, 1]), ("up_proj", [4, 3], [2, 1])]
                .map(|(part, codes, scales)| (format!("{expert}.{part}.weight"), codes, scales))
        };
        let mut want = Vec::new();
        for (name, codes, scales) in [expert(0), expert(1)].concat() {
            want.push((name.clone(), codes));
            want.push((name + "_scale_inv", scales));
        }
        let want: Vec<(&str, &[usize])> = want.iter().map(|(name, shape)| (name.as_str(), &shape[..])).collect();
        assert_eq!(named(&fused), want);
        // The gate of the second expert begins after both matrices of the first.
        let entry = |name: &str| fused.entry(&format!("model.layers.1.mlp.experts.{name}")).unwrap();
        assert_eq!(entry("1.gate_proj.weight").begin, entry("0.gate_proj.weight").begin + 24);
        assert_eq!(entry("1.up_proj.weight_scale_inv").begin, entry("0.gate_proj.weight_scale_inv").begin + 24);
        assert_eq!(entry("0.gate_proj.weight_scale_inv").end, entry("0.up_proj.weight_scale_inv").begin);
    }

    #[test]
    fn blocks_over_two_matrices_are_refused_and_other_tensors_stay() {
        let (_folder, mut ragged) = file(&[("gate_up_proj", ElementType::E4M3, &[2, 6, 4])]);
        let quantization = Quantization { weight_block_size: [2, 4], power_of_two_scales: false };
        let error = separate(&mut ragged, Some(quantization)).unwrap_err().to_string();
        assert!(error.contains("mlp.experts.gate_up_proj") && error.contains("save it in BF16"), "{error}");
        let others: [(&str, ElementType, &[usize]); 4] = [
            ("gate_up_proj", ElementType::F32, &[2, 3, 4]),
            ("down_proj", ElementType::F32, &[2, 3, 0]),
            ("0.down_proj.weight", ElementType::F32, &[2, 3]),
            ("gate_up_proj_scale", ElementType::F32, &[2, 4, 1]),
        ];
        let (_folder, mut file_of_others) = file(&others);
        separate(&mut file_of_others, None).unwrap();
        assert_eq!(file_of_others.entries().len(), 4);
        let biased: [(&str, ElementType, &[usize]); 2] =
            [("gate_up_proj", ElementType::F32, &[2, 4, 4]), ("gate_up_proj_bias", ElementType::F32, &[2, 4])];
        let (_folder, mut biased) = file(&biased);
        separate(&mut biased, None).unwrap();
        assert_eq!(named(&biased)[0].0, "gate_up_proj");
    }
}
