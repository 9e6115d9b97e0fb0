//! The rows of a step: tokens that the device chose, and logits where the host chooses.

use fathom_core::DType;
use fathom_core::device::{Kernels, NO_TOKEN, Sample};
use fathom_core::sampling::Rule;
use fathom_core::tensor::Tensor;

/// What a row of logits comes to on the host.
pub(super) enum Row<'a> {
    /// The token that the device chose.
    Token(u32),
    /// The logits themselves.
    Logits(&'a mut [f32]),
}

/// Buffers of all steps: memory that is new each time costs more than what is copied there.
#[derive(Default)]
pub(super) struct Chooser {
    words: Vec<u32>,
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

impl Chooser {
    /// Chooses on the device by the rules of the first rows of `logits`, and reads the rows that have none; also those
    /// with a number that is not finite, so that it can be named.
    ///
    /// # Errors
    /// Those of the device.
    pub fn rows<D: Kernels>(
        &mut self,
        device: &D,
        logits: &Tensor<D>,
        rules: &[Option<Rule>],
    ) -> Result<Vec<Row<'_>>, D::Error> {
        let (n, vocabulary) = (rules.len(), logits.shape().cols());
        self.tokens.clear();
        self.tokens.resize(n, NO_TOKEN);
        if rules.iter().any(Option::is_some) {
            self.words.clear();
            // Rows without a rule are chosen for in vain, so that a step has one shape.
            self.words.extend(rules.iter().flat_map(|rule| rule.unwrap_or(Rule::GREEDY).words()));
            let padded = device.capabilities().padded(n);
            self.words.resize(padded * Rule::WORDS, 0);
            let rules = Tensor::<D>::from_slice(device, &[padded, Rule::WORDS], DType::U32, &self.words)?;
            let rules = rules.first_rows(n)?;
            let mut tokens = Tensor::<D>::empty(device, &[n, 1], DType::U32)?;
            let rows = logits.view().row_range(0..n)?;
            device.sample(Sample::new(rows, rules.view(), tokens.view_mut())?)?;
            tokens.download_into(device, &mut self.tokens)?;
        }
        let is_read = |row: usize| rules[row].is_none() || self.tokens[row] == NO_TOKEN;
        self.logits.resize((0..n).filter(|&row| is_read(row)).count() * vocabulary, 0.0);
        // Rows next to each other at once.
        let (mut row, mut rest) = (0, &mut self.logits[..]);
        while row < n {
            let end = (row..n).find(|&row| !is_read(row)).unwrap_or(n);
            let (run, after) = rest.split_at_mut((end - row) * vocabulary);
            if end > row {
                logits.download_rows(device, row..end, run)?;
            }
            rest = after;
            row = (end..n).find(|&row| is_read(row)).unwrap_or(n);
        }
        let mut read = self.logits.chunks_exact_mut(vocabulary.max(1));
        let each = rules.iter().zip(&self.tokens).map(|(rule, &token)| match token {
            token if rule.is_some() && token != NO_TOKEN => Row::Token(token),
            _ => Row::Logits(read.next().unwrap_or_default()),
        });
        Ok(each.collect())
    }
}
