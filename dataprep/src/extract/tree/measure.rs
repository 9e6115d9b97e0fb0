//! How much text there is to see, told in one pass and added up.

/// How long a text is when each run of white space is one space and soft hyphens are left out, without the white space
/// at both ends, and whether there is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::extract) struct Measure {
    pub(in crate::extract) chars: u32,
    pub(in crate::extract) commas: u32,
    space_before: bool,
    space_after: bool,
}

impl Measure {
    pub(super) fn of(text: &str) -> Self {
        let (mut chars, mut commas, mut space, mut before) = (0, 0, false, false);
        for c in text.chars() {
            if c.is_whitespace() {
                space = true;
                before |= chars == 0;
            } else if c != '\u{ad}' {
                chars += 1 + u32::from(space && chars > 0);
                commas += u32::from(matches!(c, ',' | '،' | '，' | '﹐' | '︐'));
                space = false;
            }
        }
        Self { chars, commas, space_before: before, space_after: space }
    }

    /// Of this text with `next` behind it.
    pub(in crate::extract) fn then(self, next: Self) -> Self {
        if next.chars == 0 {
            let space = next.space_before;
            let before = self.space_before || (self.chars == 0 && space);
            return Self { space_before: before, space_after: self.space_after || space, ..self };
        }
        if self.chars == 0 {
            return Self { space_before: self.space_before || next.space_before, ..next };
        }
        let gap = u32::from(self.space_after || next.space_before);
        let chars = self.chars.saturating_add(next.chars).saturating_add(gap);
        let commas = self.commas.saturating_add(next.commas);
        Self { chars, commas, space_before: self.space_before, space_after: next.space_after }
    }
}
