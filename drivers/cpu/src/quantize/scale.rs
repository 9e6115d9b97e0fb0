//! Scales of codes: factors or divisors of numbers, one for all or one for each.

/// What numbers are multiplied with or divided by: one for all, or one for each.
#[derive(Clone, Copy)]
pub(crate) enum Scale<'a> {
    Times(f32),
    TimesEach(&'a [f32]),
    Over(f32),
    OverEach(&'a [f32]),
}

impl<'a> Scale<'a> {
    /// Those of the numbers from `at` on.
    pub(super) fn from(self, at: usize) -> Self {
        match self {
            Self::TimesEach(scales) => Self::TimesEach(&scales[at..]),
            Self::OverEach(scales) => Self::OverEach(&scales[at..]),
            one => one,
        }
    }

    /// `f(x[i] scaled, y[i])` for every `i`.
    ///
    /// Slices are walked together and not indexed: where an index is checked, the compiler leaves the last vector to
    /// be done one number at a time.
    #[inline(always)]
    pub(super) fn apply<X: Copy, Y>(self, x: &[X], y: &mut [Y], load: impl Fn(X) -> f32, f: impl Fn(f32, &mut Y)) {
        match self {
            Self::Times(scale) => x.iter().zip(y).for_each(|(&x, y)| f(load(x) * scale, y)),
            Self::Over(scale) => x.iter().zip(y).for_each(|(&x, y)| f(load(x) / scale, y)),
            Self::TimesEach(scales) => {
                x.iter().zip(y).zip(scales).for_each(|((&x, y), &scale)| f(load(x) * scale, y));
            }
            Self::OverEach(scales) => {
                x.iter().zip(y).zip(scales).for_each(|((&x, y), &scale)| f(load(x) / scale, y));
            }
        }
    }
}
