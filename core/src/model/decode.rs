//! Decoding: the forward pass over some tokens of several sequences, with a cache of what came before.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::Model;
use crate::DType;
use crate::cache::Cache;
use crate::device::{Cast, GatherRows, Kernels};
use crate::error::{InvalidOp, at_most, ensure, same};
use crate::layer::mla::{Context, Keys, Prefix, Seen, Together, tokens_together};
use crate::layer::moe::{LoadCount, Routers};
use crate::layer::{Pass, Phase, Sequences};
use crate::tensor::{Tensor, View};

/// Tokens that follow each other in one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// Position of the first. All before it are in the cache.
    pub start: usize,
    /// Pages of the sequence in order, enough for `start + tokens.len()` tokens. Those that are written must not be
    /// another sequence's too.
    pub pages: &'a [u32],
    /// Prefill for tokens of a prompt, decode for generated ones, also where they are computed again.
    pub phase: Phase,
    /// Logits of how many of the last tokens are wanted.
    pub logits: usize,
}

/// Positions of an MTP module: [`Chunk`] for the module.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// The token *after* each position.
    pub tokens: &'a [u32],
    /// The row of the hidden states that belongs to the first position; those of the others follow.
    pub first: usize,
    /// The first position. The module's cache holds all before it.
    pub start: usize,
    /// As in [`Chunk`].
    pub pages: &'a [u32],
    /// As in [`Chunk`].
    pub phase: Phase,
    /// Logits of how many of the last positions are wanted.
    pub logits: usize,
}

impl<'a> Draft<'a> {
    /// The same without hidden states.
    fn chunk(&self) -> Chunk<'a> {
        let Self { tokens, start, pages, phase, logits, .. } = *self;
        Chunk { tokens, start, pages, phase, logits }
    }
}

/// What a pass gives, chunk by chunk in the order of the call.
pub struct Extended<D: Kernels> {
    /// `[Σ logits, vocabulary]` in f32: of the token after each of the last tokens of every chunk.
    pub logits: Tensor<D>,
    /// `[Σ tokens, d]`: hidden states after the final norm, which an MTP module starts from.
    pub hidden: Tensor<D>,
}

/// The rows of a pass over chunks of one phase, on the device.
///
/// Rows of generated tokens are padded to [few numbers](crate::device::Capabilities::padded), and tables to powers of
/// two, by the last token once more, so that the next step has the shape of this one. What more rows give is left out.
struct Rows<D: Kernels> {
    /// Rows that count.
    count: usize,
    tokens: Tensor<D>,
    sequences: Sequences<D>,
    context: Context<D>,
    /// How many rows' logits are wanted.
    logits: usize,
    /// `[Σ logits, 1]`: these rows, padded as well; none where they are all rows.
    wanted: Option<Tensor<D>>,
}

/// What a pass over rows of one phase makes of them.
struct Output<D: Kernels> {
    logits: Tensor<D>,
    hidden: Tensor<D>,
}

impl<D: Kernels> Model<D> {
    /// Computes tokens of several sequences and adds them to the cache. Prompts and generated tokens may be mixed.
    ///
    /// A token's results depend on its own sequence alone, bit for bit where the device's rows do: not on the other
    /// chunks, on how a sequence is cut into chunks, or on the size or order of its pages. Computing a position again
    /// replaces it in the cache.
    ///
    /// # Errors
    /// A chunk without tokens, a token id or page number out of range, too few pages, a position past
    /// `max_position_embeddings`, more logits than tokens, or a cache that was made for another model. The cache is
    /// then as it was. Under an FP8 cache, a latent that is not finite is an error too, and tokens of the call may
    /// have been written.
    pub fn extend(&self, cache: &mut Cache<D>, chunks: &[Chunk<'_>]) -> Result<Extended<D>, D::Error> {
        self.extend_counting(cache, chunks, None)
    }

    /// As [`extend`](Self::extend); adds the tokens that the routers send to each expert to `loads`, made by
    /// [`load_count`](Self::load_count). Counting changes no bit of the results.
    ///
    /// # Errors
    /// As [`extend`](Self::extend); `loads` may then hold a part of the tokens.
    pub fn extend_counting(
        &self,
        cache: &mut Cache<D>,
        chunks: &[Chunk<'_>],
        mut loads: Option<&mut LoadCount<D>>,
    ) -> Result<Extended<D>, D::Error> {
        const OP: &str = "extend";
        self.check(OP, cache, chunks)?;
        if let Some(loads) = &loads {
            same(OP, "layers whose load is counted", self.routers.len(), loads.layers.len())?;
        }
        let (a, store) = (&self.architecture, self.whole()?);
        let end = chunks.iter().map(|c| c.start + c.tokens.len()).max().unwrap_or(0);
        let rope = self.rope(end)?;
        self.in_phases(chunks, |phase, chosen| {
            let chunks: Vec<Chunk<'_>> = chosen.iter().map(|&i| chunks[i]).collect();
            // Rows for nothing would be counted.
            let rows = self.rows(cache, phase, &chunks, loads.is_none())?;
            let pass = self.pass_over(&rows.sequences, &rope, &store, phase);
            let routers = &mut Routers { states: &self.routers, loads: loads.as_deref_mut() };
            let mut x = a.embedding.forward(&pass, rows.tokens.view())?;
            for (i, block) in a.blocks.iter().enumerate() {
                x = block.extend(&pass, routers, &rows.context, cache.layer(i), x)?;
            }
            let hidden = a.norm.normed(&pass, x.view())?.0;
            let logits = self.wanted_logits(&pass, &rows, &hidden)?;
            Ok(Output { logits, hidden: hidden.first_rows(rows.count)? })
        })
    }

    /// Computes positions of an MTP module and adds them to its cache: the module predicts the token two places after
    /// each position. `hidden [n, d]` is [`Extended::hidden`] of the main model, or of the module itself where it
    /// drafts several tokens ahead; that of the result is the module's own.
    ///
    /// # Errors
    /// As [`extend`](Self::extend), and for a module that the model or the cache does not have, or rows that the hidden
    /// states do not have.
    pub fn draft(
        &self,
        cache: &mut Cache<D>,
        module: usize,
        hidden: View<'_, D>,
        drafts: &[Draft<'_>],
    ) -> Result<Extended<D>, D::Error> {
        const OP: &str = "draft";
        let chunks: Vec<Chunk<'_>> = drafts.iter().map(Draft::chunk).collect();
        self.check(OP, cache, &chunks)?;
        cache.module(OP, module)?;
        let (a, store, d) = (&self.architecture, self.whole()?, self.config().hidden_size);
        let modules = a.mtp.len();
        let layer =
            a.mtp.get(module).ok_or(InvalidOp::not_below(OP, "MTP module", module, "those of the model,", modules))?;
        same(OP, "columns of the hidden states", d, hidden.cols())?;
        for draft in drafts {
            let end = draft.first.saturating_add(draft.tokens.len());
            at_most(OP, "the end of a draft's rows", end, "those of the hidden states,", hidden.rows())?;
        }
        let end = chunks.iter().map(|c| c.start + c.tokens.len()).max().unwrap_or(0);
        let rope = self.rope(end)?;
        self.in_phases(&chunks, |phase, chosen| {
            let some: Vec<Chunk<'_>> = chosen.iter().map(|&i| chunks[i]).collect();
            let rows = self.rows(cache, phase, &some, true)?;
            let pass = self.pass_over(&rows.sequences, &rope, &store, phase);
            let all = rows.tokens.shape().rows();
            let mut before = pass.activation(all, d)?;
            let places = chosen.iter().flat_map(|&i| drafts[i].first..drafts[i].first + drafts[i].tokens.len());
            let places = self.column(&padded(places.map(|row| row as u32).collect(), all))?;
            self.device.gather_rows(GatherRows::new(hidden, places.view(), 1, before.view_mut())?)?;
            let routers = &mut Routers { states: &self.routers, loads: None };
            let (tokens, before) = (rows.tokens.view(), before.view());
            let cached = cache.module(OP, module)?;
            let hidden = layer.extend(&pass, routers, &a.embedding, tokens, before, &rows.context, cached)?;
            let logits = self.wanted_logits(&pass, &rows, &hidden)?;
            Ok(Output { logits, hidden: hidden.first_rows(rows.count)? })
        })
    }

    fn check(&self, op: &'static str, cache: &Cache<D>, chunks: &[Chunk<'_>]) -> Result<(), InvalidOp> {
        let (config, n) = (self.config(), cache.page_tokens());
        cache.check(op, config)?;
        for chunk in chunks {
            ensure(op, "a chunk needs at least one token", !chunk.tokens.is_empty())?;
            let vocabulary = config.vocab_size;
            if let Some(&t) = chunk.tokens.iter().find(|&&t| t as usize >= vocabulary) {
                return Err(InvalidOp::not_below(op, "token id", t as usize, "the vocabulary size", vocabulary));
            }
            let end = chunk.start.saturating_add(chunk.tokens.len());
            let context = config.max_position_embeddings;
            at_most(op, "the length of a sequence", end, "max_position_embeddings", context)?;
            at_most(op, "the length of a sequence", end, "the tokens of its pages,", chunk.pages.len() * n)?;
            if let Some(&p) = chunk.pages.iter().find(|&&p| p as usize >= cache.pages()) {
                return Err(InvalidOp::not_below(op, "page", p as usize, "the number of pages", cache.pages()));
            }
            at_most(op, "the number of logits", chunk.logits, "the tokens of the chunk,", chunk.tokens.len())?;
        }
        Ok(())
    }

    /// Runs `pass` over the numbers of the chunks of each phase, and puts what it gives in the order of the chunks.
    fn in_phases(
        &self,
        chunks: &[Chunk<'_>],
        mut pass: impl FnMut(Phase, &[usize]) -> Result<Output<D>, D::Error>,
    ) -> Result<Extended<D>, D::Error> {
        let of = |phase| (0..chunks.len()).filter(|&i| chunks[i].phase == phase).collect::<Vec<_>>();
        let mut parts = Vec::new();
        for phase in [Phase::Prefill, Phase::Decode] {
            let chosen = of(phase);
            if !chosen.is_empty() {
                parts.push((pass(phase, &chosen)?, chosen));
            }
        }
        if parts.len() == 1
            && let Some((Output { logits, hidden }, _)) = parts.pop()
        {
            return Ok(Extended { logits, hidden });
        }
        let statistics = self.precision.statistics();
        let (wanted, tokens) = (chunks.iter().map(|c| c.logits).sum(), chunks.iter().map(|c| c.tokens.len()).sum());
        let config = self.config();
        let mut logits = Tensor::<D>::empty(&self.device, &[wanted, config.vocab_size], statistics)?;
        let activation = self.precision.activation();
        let mut hidden = Tensor::<D>::empty(&self.device, &[tokens, config.hidden_size], activation)?;
        for (part, chosen) in &parts {
            let (mut row, mut logit) = (0, 0);
            for &i in chosen {
                let before = &chunks[..i];
                let copy = |from: &Tensor<D>, at: usize, n: usize, to: &mut Tensor<D>, start: usize| {
                    let from = from.view().row_range(at..at + n)?;
                    self.device.cast(Cast::new(from, to.view_mut().row_range(start..start + n)?)?)
                };
                let (n, start) = (chunks[i].tokens.len(), before.iter().map(|c| c.tokens.len()).sum());
                copy(&part.hidden, row, n, &mut hidden, start)?;
                row += n;
                let (n, start) = (chunks[i].logits, before.iter().map(|c| c.logits).sum());
                copy(&part.logits, logit, n, &mut logits, start)?;
                logit += n;
            }
        }
        Ok(Extended { logits, hidden })
    }

    /// Brings tokens, positions and places in the cache to the device; rows may be padded where `pad` says so.
    fn rows(&self, cache: &Cache<D>, phase: Phase, chunks: &[Chunk<'_>], pad: bool) -> Result<Rows<D>, D::Error> {
        let n = cache.page_tokens();
        let column = |values: Vec<u32>| self.column(&values);
        let capabilities = self.device.capabilities();
        let replays = pad && phase == Phase::Decode && capabilities.replays;
        let number = |rows: usize| if replays { capabilities.padded(rows) } else { rows };
        let positions = |c: &Chunk<'_>| c.start..c.start + c.tokens.len();
        let slot = |c: &Chunk<'_>, at: usize| c.pages[at / n] * n as u32 + (at % n) as u32;
        let flat = |f: &dyn Fn(&Chunk<'_>, usize) -> u32| -> Vec<u32> {
            chunks.iter().flat_map(|c| positions(c).map(move |at| f(c, at))).collect()
        };
        let tokens: Vec<u32> = chunks.iter().flat_map(|c| c.tokens).copied().collect();
        let mut wanted = Vec::new();
        let mut end = 0;
        for chunk in chunks {
            end += chunk.tokens.len();
            wanted.extend((end - chunk.logits..end).map(|row| row as u32));
        }
        let (count, logits, all) = (tokens.len(), wanted.len(), number(tokens.len()));
        let seen = match phase {
            Phase::Prefill => {
                let most = tokens_together(self.config(), cache.scratch());
                let sequence = |c: &Chunk<'_>| (0..c.start + c.tokens.len()).map(|at| slot(c, at)).collect();
                let together = |(slots, chunks): Shared| {
                    let prefix = |(rows, keys): (Range<usize>, Vec<u32>)| {
                        let next = |pair: &[u32]| pair[1] == pair[0] + 1;
                        let first = keys.first().map_or(0, |&first| first as usize);
                        let keys = match keys.windows(2).all(next) {
                            true => Keys::Range(first..first + keys.len()),
                            false => Keys::Chosen(column(keys)?),
                        };
                        Ok::<_, D::Error>(Prefix { rows, keys })
                    };
                    let chunks = chunks.into_iter().map(prefix).collect::<Result<_, _>>()?;
                    Ok::<_, D::Error>(Together { slots: column(slots)?, chunks })
                };
                let lengths = chunks.iter().map(|c| c.tokens.len());
                let parts = share(lengths.zip(chunks.iter().map(sequence)), most);
                Seen::Chunks(parts.into_iter().map(together).collect::<Result<_, _>>()?)
            }
            Phase::Decode => {
                // Pages past the last that is needed would be read for nothing by a device that reads whole tables.
                let needed = |c: &Chunk<'_>| (c.start + c.tokens.len()).div_ceil(n);
                let most = chunks.iter().map(needed).max().unwrap_or(0);
                let context = self.config().max_position_embeddings.div_ceil(n);
                let width = if replays { most.next_power_of_two().min(context).max(most) } else { most };
                let height = number(chunks.len());
                let mut tables = Vec::with_capacity(height * width);
                for chunk in chunks {
                    tables.extend_from_slice(&chunk.pages[..needed(chunk)]);
                    tables.resize(tables.len().next_multiple_of(width), chunk.pages[0]);
                }
                let tables = padded(tables, height * width);
                let sequence = chunks.iter().enumerate().flat_map(|(i, c)| c.tokens.iter().map(move |_| i as u32));
                Seen::Tokens {
                    tables: Tensor::<D>::from_slice(&self.device, &[height, width], DType::U32, &tables)?,
                    sequence: column(padded(sequence.collect(), all))?,
                    keys: column(padded(flat(&|_, at| at as u32 + 1), all))?,
                }
            }
        };
        Ok(Rows {
            count,
            tokens: column(padded(tokens, all))?,
            sequences: Sequences {
                length: 1,
                positions: Arc::new(column(padded(flat(&|_, at| at as u32), all))?),
                starts: Arc::new(column(Vec::new())?),
            },
            context: Context {
                row: cache.row(),
                page_tokens: n,
                scratch: cache.scratch(),
                slots: column(flat(&slot))?,
                seen,
            },
            logits,
            wanted: if logits == count { None } else { Some(column(padded(wanted, number(logits)))?) },
        })
    }

    /// Logits of the rows that are wanted.
    fn wanted_logits(&self, pass: &Pass<'_, D>, rows: &Rows<D>, hidden: &Tensor<D>) -> Result<Tensor<D>, D::Error> {
        if rows.logits == 0 {
            return pass.statistics(0, self.config().vocab_size);
        }
        let logits = match &rows.wanted {
            None => self.architecture.head.logits(pass, hidden.view())?,
            Some(wanted) => {
                let mut chosen = pass.activation(wanted.shape().rows(), hidden.shape().cols())?;
                self.device.gather_rows(GatherRows::new(hidden.view(), wanted.view(), 1, chosen.view_mut())?)?;
                self.architecture.head.logits(pass, chosen.view())?
            }
        };
        Ok(logits.first_rows(rows.logits)?)
    }
}

/// Values with the last one again until there are `rows`.
fn padded(mut values: Vec<u32>, rows: usize) -> Vec<u32> {
    if let Some(&last) = values.last() {
        values.resize(rows.max(values.len()), last);
    }
    values
}

/// Different slots, and of each chunk its rows and the places of its sequence among the slots.
type Shared = (Vec<u32>, Vec<(Range<usize>, Vec<u32>)>);

/// Puts chunks that follow each other together while they see at most `most` different slots: from the number of tokens
/// of each, and the slots of its sequence.
fn share(chunks: impl Iterator<Item = (usize, Vec<u32>)>, most: usize) -> Vec<Shared> {
    let mut parts: Vec<Shared> = Vec::new();
    let mut places: BTreeMap<u32, u32> = BTreeMap::new();
    let mut at = 0;
    for (tokens, sequence) in chunks {
        let rows = at..at + tokens;
        at = rows.end;
        let new = sequence.iter().filter(|&slot| !places.contains_key(slot)).count();
        if parts.last().is_none_or(|(slots, _)| slots.len() + new > most) {
            places.clear();
            parts.push((Vec::new(), Vec::new()));
        }
        let Some((slots, chunks)) = parts.last_mut() else { continue };
        let place = |slot: u32| {
            *places.entry(slot).or_insert_with(|| {
                slots.push(slot);
                slots.len() as u32 - 1
            })
        };
        chunks.push((rows, sequence.into_iter().map(place).collect()));
    }
    parts
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn a_beginning_that_chunks_share_is_held_once() {
        let chunks = || [(2, vec![8, 9, 4, 5]), (1, vec![8, 9, 0]), (3, vec![1, 2, 3])].into_iter();
        let first = [(0..2, vec![0, 1, 2, 3]), (2..3, vec![0, 1, 4]), (3..6, vec![5, 6, 7])];
        assert_eq!(share(chunks(), 8), [(vec![8, 9, 4, 5, 0, 1, 2, 3], first.to_vec())]);
        let last = (vec![1, 2, 3], vec![(3..6, vec![0, 1, 2])]);
        assert_eq!(share(chunks(), 5), [(vec![8, 9, 4, 5, 0], first[..2].to_vec()), last.clone()]);
        // A chunk alone may see more.
        let parts = share(chunks(), 1);
        assert_eq!(parts.iter().map(|(slots, _)| slots.len()).collect::<Vec<_>>(), [4, 3, 3]);
        assert_eq!((&parts[1].1, &parts[2]), (&vec![(2..3, vec![0, 1, 2])], &last));
    }
}
