//! FP8 encoding finds the nearest code of every number, and every code survives a round trip.
#![no_main]

use fathom_core::fp8::{Code, E4M3, E5M2, E5M6, pack_pair, ue8m0, unpack_pair};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for &word in data.as_chunks::<4>().0 {
        let x = f32::from_le_bytes(word);
        number::<E4M3>(x);
        number::<E5M2>(x);
        number::<E5M6>(x);
        let code = u16::from_le_bytes([word[0], word[1]]);
        round_trip::<E4M3>(code);
        round_trip::<E5M2>(code);
        round_trip::<E5M6>(code);
        let [a, b, c, last] = word;
        let (first, second) = unpack_pair([a, b, c]);
        assert_eq!(pack_pair(first, second), [a, b, c]);
        power_of_two(x, last);
    }
});

/// The code of `x` is the nearest there is: no neighbour is nearer, and of two equally near the even one is taken.
fn number<C: Code>(x: f32) {
    let Ok(code) = C::encode(x) else {
        assert!(!x.is_finite());
        return;
    };
    assert!(x.is_finite());
    assert_eq!(code & C::SIGN != 0, x.is_sign_negative());
    let magnitude = code & (C::SIGN - 1);
    assert!(magnitude <= C::MAX_CODE);
    if x.abs() >= C::MAX {
        assert_eq!(magnitude, C::MAX_CODE);
        return;
    }
    let distance = |code: u16| (f64::from(C::decode(code)) - f64::from(x.abs())).abs();
    for neighbour in [magnitude.saturating_sub(1), (magnitude + 1).min(C::MAX_CODE)] {
        let tie_lost = distance(neighbour) == distance(magnitude) && neighbour != magnitude && magnitude & 1 == 1;
        assert!(distance(magnitude) <= distance(neighbour) && !tie_lost, "{x} became {magnitude:#x}");
    }
}

fn round_trip<C: Code>(code: u16) {
    let code = code & (2 * C::SIGN - 1);
    let x = C::decode(code);
    match C::encode(x) {
        Ok(again) => assert_eq!(again, code),
        Err(_) => assert!(code & (C::SIGN - 1) > C::MAX_CODE),
    }
}

fn power_of_two(x: f32, code: u8) {
    if let Some(code) = ue8m0::encode(x) {
        assert_eq!(ue8m0::decode(code), x);
    }
    let again = ue8m0::encode(ue8m0::decode(code));
    assert_eq!(again, (code != u8::MAX).then_some(code));
}
