//! The latent cache: what decoding keeps of every token that was computed.
//!
//! Latent attention needs of a past token its normed latent and its rotated key, which all heads share: in DeepSeek-V3
//! 576 numbers a layer where keys and values of all heads would be 40,960. They lie in *pages* of a fixed number of
//! tokens, so that memory grows with the tokens in use and sequences with a common prefix can share it.
//!
//! [`Cache`] owns the device's memory and knows no sequences. [`PagePool`] knows which pages are free and how often
//! each is used, and no device. Which pages a sequence has, in order, is its page table: the caller's.

mod format;
mod pages;

use alloc::vec::Vec;

pub use format::{CacheFormat, bytes_per_token, full_bytes_per_token};
pub use pages::PagePool;

use crate::DType;
use crate::config::ModelConfig;
use crate::device::{Device, GatherRows, LatentRow, Primitives};
use crate::error::{InvalidOp, at_most, ensure, same};
use crate::tensor::Tensor;

/// Numbers of a prompt's keys and values that attention holds at once, unless told otherwise: 64 MiB in F32.
pub const SCRATCH: usize = 16 << 20;

/// How large a [`Cache`] is, and in which format it holds tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// Format of a token.
    pub format: CacheFormat,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Number of pages.
    pub pages: usize,
    /// MTP modules that draft, each of which has a layer of the cache; 0 for none.
    pub mtp: usize,
}

impl CacheOptions {
    /// Tokens of a page unless told otherwise.
    pub const PAGE_TOKENS: usize = 64;

    /// `pages` pages of [`PAGE_TOKENS`](Self::PAGE_TOKENS) in BF16, without MTP modules.
    pub fn new(pages: usize) -> Self {
        Self { format: CacheFormat::Bf16, page_tokens: Self::PAGE_TOKENS, pages, mtp: 0 }
    }
}

/// The cached tokens of all sequences and layers, on a device.
pub struct Cache<D: Device> {
    options: CacheOptions,
    row: LatentRow,
    /// Layers of the trunk; those of the MTP modules follow.
    trunk: usize,
    /// `[pages·page_tokens, row.cols()]` for every layer.
    layers: Vec<Tensor<D>>,
    scratch: usize,
}

impl<D: Device> Cache<D> {
    /// A cache for a model of this configuration. Its contents are undefined until they are written.
    ///
    /// # Errors
    /// Pages without tokens, no pages, more MTP modules than the model has, or no memory.
    pub fn new(device: &D, config: &ModelConfig, options: CacheOptions) -> Result<Self, D::Error> {
        const OP: &str = "cache";
        ensure(OP, "a page needs at least one token", options.page_tokens > 0)?;
        ensure(OP, "needs at least one page", options.pages > 0)?;
        at_most(OP, "the number of pages", options.pages, "the largest page number", u32::MAX as usize)?;
        at_most(OP, "MTP modules", options.mtp, "those of the model", config.num_nextn_predict_layers)?;
        let row = options.format.row(config)?;
        let tokens = options.pages.checked_mul(options.page_tokens).filter(|&n| u32::try_from(n).is_ok());
        let tokens = tokens.ok_or(InvalidOp::plain(OP, "holds more tokens than 32 bits can number"))?;
        let layer = |_| Tensor::<D>::empty(device, &[tokens, row.cols()], row.dtype());
        let trunk = config.num_hidden_layers;
        let layers = (0..trunk + options.mtp).map(layer).collect::<Result<_, _>>()?;
        Ok(Self { options, row, trunk, layers, scratch: SCRATCH })
    }

    /// The same for prompts whose attention holds about `numbers` keys and values at once: it computes a group of heads
    /// after the other, at least as many heads as fill blocks of FP8 together. Results are the same, bit for bit where
    /// the device's columns are.
    #[must_use]
    pub fn with_scratch(self, numbers: usize) -> Self {
        Self { scratch: numbers, ..self }
    }

    /// Numbers of a prompt's keys and values that are held at once; those of the smallest group of heads may be more.
    pub fn scratch(&self) -> usize {
        self.scratch
    }

    /// Size and format.
    pub fn options(&self) -> CacheOptions {
        self.options
    }

    /// Tokens of a page.
    pub fn page_tokens(&self) -> usize {
        self.options.page_tokens
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.options.pages
    }

    /// Bytes on the device, of all layers.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(Tensor::<D>::bytes).sum()
    }

    /// Bytes of one token in all layers, as allocated.
    pub fn bytes_per_token(&self) -> usize {
        self.bytes() / (self.pages() * self.page_tokens())
    }

    /// Layout of a row.
    pub fn row(&self) -> LatentRow {
        self.row
    }

    /// Checks that the cache was made for a model of this configuration.
    pub(crate) fn check(&self, op: &'static str, config: &ModelConfig) -> Result<(), InvalidOp> {
        same(op, "layers of the cache", config.num_hidden_layers, self.trunk)?;
        same(op, "columns of the cache's latents", config.kv_lora_rank, self.row.latent())?;
        same(op, "columns of the cache's keys", config.qk_rope_head_dim, self.row.rope())
    }

    /// Layer `index` of the trunk.
    pub(crate) fn layer(&mut self, index: usize) -> &mut Tensor<D> {
        &mut self.layers[index]
    }

    /// The layer of MTP module `index`.
    pub(crate) fn module(&mut self, op: &'static str, index: usize) -> Result<&mut Tensor<D>, InvalidOp> {
        let modules = self.options.mtp;
        let outside = InvalidOp::not_below(op, "MTP module", index, "those that the cache has layers for,", modules);
        if index < modules { Ok(&mut self.layers[self.trunk + index]) } else { Err(outside) }
    }
}

impl<D: Primitives> Cache<D> {
    /// Copies page `from` to page `to`, in all layers: a sequence that is about to write into a page that it shares
    /// takes a copy of it first.
    ///
    /// # Errors
    /// A page number that the cache does not have.
    pub fn copy_page(&mut self, device: &D, from: u32, to: u32) -> Result<(), D::Error> {
        const OP: &str = "copy_page";
        for page in [from, to].map(|page| page as usize) {
            if page >= self.pages() {
                return Err(InvalidOp::not_below(OP, "page", page, "the number of pages", self.pages()).into());
            }
        }
        let n = self.page_tokens();
        let rows = |page: u32| page as usize * n..(page as usize + 1) * n;
        let order: Vec<u32> = (0..n as u32).collect();
        let order = Tensor::<D>::from_slice(device, &[n, 1], DType::U32, &order)?;
        for layer in &mut self.layers {
            let mut page = Tensor::<D>::empty(device, &[n, self.row.cols()], self.row.dtype())?;
            let source = layer.view().row_range(rows(from))?;
            device.gather_rows(GatherRows::new(source, order.view(), 1, page.view_mut())?)?;
            let target = layer.view_mut().row_range(rows(to))?;
            device.gather_rows(GatherRows::new(page.view(), order.view(), 1, target)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KvCache;
    use crate::device::{Dry, Host};
    use crate::error::ErrorKind;

    #[test]
    fn a_token_of_v3_takes_what_the_formula_says() {
        let v3 = ModelConfig::v3_671b();
        for (format, bytes) in [(CacheFormat::Bf16, 70_272), (CacheFormat::Fp8, 40_016), (CacheFormat::F32, 140_544)] {
            assert_eq!(bytes_per_token(&v3, format, 0), bytes);
            let device = Dry::new();
            let options = CacheOptions { format, pages: 2048, ..CacheOptions::new(1) };
            let cache = Cache::new(&device, &v3, options).expect("memory without end");
            assert_eq!(cache.bytes_per_token(), bytes);
            assert_eq!(device.memory().in_use, (2048 * 64 * bytes) as u64, "{format} of 128K tokens");
        }
    }

    #[test]
    fn the_plan_counts_the_same_bytes() {
        for config in [ModelConfig::v3_671b(), ModelConfig::v2_lite(), ModelConfig::moonlight_16b()] {
            let (plan, modules) = (KvCache::of(&config), config.num_nextn_predict_layers);
            let bytes = |mtp| bytes_per_token(&config, CacheFormat::Bf16, mtp) as u64;
            assert_eq!((bytes(0), bytes(modules)), (plan.latent, plan.latent + plan.mtp));
            assert_eq!(full_bytes_per_token(&config, 0, 2) as u64, plan.multi_head);
        }
    }

    #[test]
    fn modules_have_separate_layers() {
        let config = ModelConfig { num_nextn_predict_layers: 1, ..ModelConfig::tiny() };
        let options = CacheOptions { mtp: 1, ..CacheOptions::new(2) };
        let mut cache = Cache::new(&Host::new(), &config, options).expect("memory");
        assert_eq!(cache.bytes_per_token(), bytes_per_token(&config, CacheFormat::Bf16, 1));
        assert!(cache.module("draft", 0).is_ok());
        let error = cache.module("draft", 1).err().expect("there is one module");
        assert_eq!(std::format!("{error}"), "draft: MTP module 1 is not below those that the cache has layers for, 1");
        assert!(Cache::new(&Host::new(), &config, CacheOptions { mtp: 2, ..options }).is_err());
    }

    #[test]
    fn sizes_that_make_no_cache_are_errors() {
        for (page_tokens, pages) in [(0, 1), (1, 0), (1 << 20, 1 << 20), (1, usize::MAX), (usize::MAX, 2)] {
            let options = CacheOptions { page_tokens, pages, ..CacheOptions::new(1) };
            assert!(Cache::new(&Dry::new(), &ModelConfig::tiny(), options).is_err(), "{options:?}");
        }
    }

    #[test]
    fn a_copied_page_has_the_same_bytes_and_no_other_changes() {
        for format in [CacheFormat::F32, CacheFormat::Bf16, CacheFormat::Fp8] {
            let (device, config) = (Host::new(), ModelConfig::tiny());
            let options = CacheOptions { format, page_tokens: 3, pages: 4, mtp: 0 };
            let mut cache = Cache::new(&device, &config, options).expect("memory");
            for layer in &mut cache.layers {
                let bytes: Vec<u8> = (0..layer.bytes()).map(|i| (i * 31 % 251) as u8).collect();
                layer.upload(&device, &bytes).expect("it fits");
            }
            let read = |cache: &Cache<Host>| -> Vec<Vec<u8>> {
                let page = 3 * cache.row.bytes();
                let whole = |layer: &Tensor<Host>| {
                    let mut bytes = alloc::vec![0; layer.bytes()];
                    device.download(layer.view().buffer(), 0, &mut bytes).expect("it fits");
                    bytes
                };
                cache
                    .layers
                    .iter()
                    .flat_map(|l| whole(l).chunks(page).map(<[u8]>::to_vec).collect::<Vec<_>>())
                    .collect()
            };
            let before = read(&cache);
            cache.copy_page(&device, 2, 1).expect("both are pages");
            for (i, (old, new)) in before.iter().zip(read(&cache)).enumerate() {
                assert_eq!(if i % 4 == 1 { &before[i + 1] } else { old }, &new, "page {i}");
            }
            let error = cache.copy_page(&device, 0, 4).expect_err("there are four pages");
            assert_eq!(error.kind, ErrorKind::Shape);
        }
    }
}
