//! Elements of weights that are no finite numbers, found as they are stored.

use super::safetensors::ElementType;

/// What is wrong with a weight that is no number.
pub(super) const NOT_FINITE: &str =
    "the weight is NaN or infinite: the model has diverged or the file is damaged; take another one";

/// Elements that are looked at together.
const PIECE: usize = 1024;

/// The place of the first stored element that is NaN or infinite; none in types that are not read as weights.
pub(super) fn first_not_finite(dtype: ElementType, bytes: &[u8]) -> Option<usize> {
    let (pairs, fours) = (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0);
    match dtype {
        ElementType::F32 => first(fours, |b| u32::from_le_bytes(*b) & 0x7f80_0000 == 0x7f80_0000),
        ElementType::BF16 => first(pairs, |b| u16::from_le_bytes(*b) & 0x7f80 == 0x7f80),
        ElementType::F16 => first(pairs, |b| u16::from_le_bytes(*b) & 0x7c00 == 0x7c00),
        // The codes have no infinities, and one NaN of each sign.
        ElementType::E4M3 => first(bytes, |code| code & 0x7f == 0x7f),
        ElementType::E8M0 => first(bytes, |code| *code == 0xff),
        ElementType::Other { .. } => None,
    }
}

/// The place of the first value that is NaN or infinite.
pub(super) fn first_not_number(values: &[f32]) -> Option<usize> {
    first(values, |x| !x.is_finite())
}

/// The place of the first bad element. Whole pieces are asked first, several elements an instruction.
fn first<T>(all: &[T], bad: impl Fn(&T) -> bool) -> Option<usize> {
    let piece = all.chunks(PIECE).position(|piece| piece.iter().fold(false, |any, x| any | bad(x)))?;
    let start = piece * PIECE;
    all[start..].iter().position(bad).map(|at| start + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_s_numbers_and_no_others_pass() {
        let of = |dtype, bytes: &[u8]| first_not_finite(dtype, bytes);
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let all = [f32::MAX, f32::MIN_POSITIVE, -1.0, bad];
            assert_eq!(of(ElementType::F32, bytemuck::cast_slice(&all)), Some(3));
            assert_eq!(of(ElementType::F32, bytemuck::cast_slice(&all[..3])), None);
            let halves = all.map(half::bf16::from_f32);
            // The largest f32 rounds to infinity.
            assert_eq!(of(ElementType::BF16, bytemuck::cast_slice(&halves)), Some(0));
            assert_eq!(of(ElementType::BF16, bytemuck::cast_slice(&halves[1..])), Some(2));
            let halves = [half::f16::MAX, half::f16::from_f32(bad)];
            assert_eq!(of(ElementType::F16, bytemuck::cast_slice(&halves)), Some(1));
        }
        for at in [0, PIECE - 1, PIECE, 3 * PIECE + 7] {
            let mut many = vec![0x3c_u8; 4 * PIECE];
            (many[at], many[4 * PIECE - 1]) = (0xff, 0xff);
            assert_eq!(of(ElementType::E4M3, &many), Some(at));
        }
        for code in 0..=255u8 {
            let number = code != 0x7f && code != 0xff;
            assert_eq!(of(ElementType::E4M3, &[code]).is_none(), number, "{code}");
            assert_eq!(of(ElementType::E8M0, &[code]).is_none(), code != 0xff, "{code}");
        }
    }
}
