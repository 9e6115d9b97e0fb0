//! A model's forward pass and its decoding on bare ground: no `std`, no libc, no heap but a static arena.
//!
//! What runs here runs in a kernel, an enclave or a microcontroller with enough memory. The arena below is all the
//! memory there is, and the cache lies in it; [`System`] and the four memory functions are all the platform gives (on a
//! board they would be the UART and the vendor's). The model is made of random weights, and sums of the bits of its
//! logits are printed, so that they can be compared with those of the same model under `std`.
//!
//! x86-64 Linux only, for its two system calls.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use fathom_core::cache::{Cache, CacheFormat, CacheOptions, PagePool};
use fathom_core::config::ModelConfig;
use fathom_core::device::{Device, Host};
use fathom_core::layer::Phase;
use fathom_core::model::{Batch, Chunk, Model};
use fathom_core::precision::Precision;

const ARENA_BYTES: usize = 64 << 20;

/// Memory that is handed out from one end to the other. What is freed is lost unless it was handed out last: the
/// device's own pool reuses its buffers, so a forward pass needs little more than that.
#[repr(align(64))]
struct Arena {
    bytes: UnsafeCell<[u8; ARENA_BYTES]>,
    used: AtomicUsize,
}

// SAFETY: `used` is only moved forward by compare-exchange, so no two callers are handed the same bytes.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena { bytes: UnsafeCell::new([0; ARENA_BYTES]), used: AtomicUsize::new(0) };

// SAFETY: blocks are disjoint parts of the arena, aligned as asked for; null is returned when it is full.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let start = used.next_multiple_of(layout.align().min(64));
            let Some(end) = start.checked_add(layout.size()).filter(|&end| end <= ARENA_BYTES) else {
                return core::ptr::null_mut();
            };
            match self.used.compare_exchange_weak(used, end, Ordering::Relaxed, Ordering::Relaxed) {
                // SAFETY: `start` is inside the arena, as `end` is.
                Ok(_) => return unsafe { self.bytes.get().cast::<u8>().add(start) },
                Err(now) => used = now,
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let start = block as usize - self.bytes.get() as usize;
        let end = start + layout.size();
        // Give back the last block only; a failed exchange means that it was not the last.
        let _ = self.used.compare_exchange(end, start, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The two things the platform does for us.
struct System;

impl System {
    fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
        let result;
        // SAFETY: `write` and `exit` touch no memory but the bytes they are told to read.
        unsafe {
            core::arch::asm!(
                "syscall",
                inlateout("rax") number as isize => result,
                in("rdi") a, in("rsi") b, in("rdx") c,
                lateout("rcx") _, lateout("r11") _,
                options(nostack)
            );
        }
        result
    }

    fn print(text: &str) {
        Self::call(1, 1, text.as_ptr() as usize, text.len());
    }

    fn exit(code: usize) -> ! {
        Self::call(60, code, 0, 0);
        loop {
            core::hint::spin_loop();
        }
    }
}

fn run() -> Result<(), <Host as Device>::Error> {
    let device = Host::new();
    let config = ModelConfig {
        vocab_size: 64,
        hidden_size: 32,
        num_hidden_layers: 2,
        n_routed_experts: 8,
        num_nextn_predict_layers: 0,
        ..ModelConfig::tiny()
    };
    let mut model = Model::new(&device, &config, Precision::F32)?;
    model.initialize(1)?;
    let tokens: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 0];
    let logits = model.logits(&Batch::new(&tokens, 8, None, 64)?)?.download::<Host, f32>(&device)?;
    let used = ARENA.used.load(Ordering::Relaxed) / 1024;
    System::print(&format!("{:016x} from {} logits, {used} KiB of the arena used\n", sum(&logits), logits.len()));
    decode(&device, &model, &tokens[..8])
}

/// Continues `prompt` by the most probable tokens, with a cache in the arena.
fn decode(device: &Host, model: &Model<Host>, prompt: &[u32]) -> Result<(), <Host as Device>::Error> {
    let options = CacheOptions { format: CacheFormat::Fp8, page_tokens: 4, pages: 4, mtp: 0 };
    let mut cache = Cache::new(device, model.config(), options)?;
    let mut pool = PagePool::new(options.pages);
    let pages: [u32; 4] = core::array::from_fn(|_| pool.take().unwrap_or_default());
    let (mut tokens, mut done, mut all) = (Vec::from(prompt), 0, 0);
    while tokens.len() <= options.pages * options.page_tokens {
        let phase = if done == 0 { Phase::Prefill } else { Phase::Decode };
        let chunk = Chunk { tokens: &tokens[done..], start: done, pages: &pages, phase, logits: 1 };
        let logits: Vec<f32> = model.extend(&mut cache, &[chunk])?.logits.download(device)?;
        all ^= sum(&logits);
        done = tokens.len();
        let better = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
        tokens.push((0..logits.len()).fold(0, better) as u32);
    }
    let (used, each) = (ARENA.used.load(Ordering::Relaxed) / 1024, cache.bytes_per_token());
    let last = tokens[tokens.len() - 1];
    System::print(&format!("{all:016x} decoded to token {last}, {each} bytes cached a token, {used} KiB used\n"));
    Ok(())
}

/// The sum of the bits of numbers.
fn sum(x: &[f32]) -> u64 {
    x.iter().fold(0u64, |sum, x| sum.rotate_left(5) ^ u64::from(x.to_bits()))
}

/// Where the program begins; the stack is as the kernel left it.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    core::arch::naked_asm!("and rsp, -16", "call {main}", main = sym main)
}

extern "C" fn main() -> ! {
    match run() {
        Ok(()) => System::exit(0),
        Err(error) => {
            System::print(&format!("error: {error}\n"));
            System::exit(1)
        }
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    System::print(&format!("panic: {}\n", info.message()));
    System::exit(101)
}

// The prebuilt `alloc` was compiled to unwind and names these two. This program aborts instead: neither is ever called.

/// Never called.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Never called.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    System::exit(102)
}

// The compiler calls these for copies, fills and comparisons. They are written in assembly so that it does not turn
// their loops into calls of themselves.

/// Copies `n` bytes between blocks that do not overlap.
// SAFETY: the name and the signature are C's, and the caller keeps C's rules for it.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller promises both blocks.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") n => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

/// Copies `n` bytes between blocks that may overlap.
// SAFETY: the name and the signature are C's, and the caller keeps C's rules for it.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= n {
        // SAFETY: copying upwards does not overwrite what is still to be read.
        return unsafe { memcpy(to, from, n) };
    }
    // SAFETY: the caller promises both blocks; from the end down, nothing is overwritten before it is read.
    unsafe {
        core::arch::asm!("std", "rep movsb", "cld", inout("rcx") n => _,
            inout("rdi") to.wrapping_add(n).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(n).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// Fills `n` bytes.
// SAFETY: the name and the signature are C's, and the caller keeps C's rules for it.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, n: usize) -> *mut u8 {
    // SAFETY: the caller promises the block.
    unsafe {
        core::arch::asm!("rep stosb", inout("rcx") n => _, inout("rdi") to => _, in("al") value as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// Compares `n` bytes.
// SAFETY: the name and the signature are C's, and the caller keeps C's rules for it.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    for i in 0..n {
        // SAFETY: the caller promises both blocks. Volatile, so that the loop stays a loop.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}
