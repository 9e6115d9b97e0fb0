//! Tile registers of Intel's AMX: whether this process may use them, and their shape.
//!
//! A tile register holds sixteen rows of 64 bytes. `tdpbf16ps` multiplies two of them, sixteen rows of 32 BF16 numbers
//! with 32 rows of sixteen, and adds to a third: 16 × 16 sums in f32. It takes sixteen cycles, in which two units of
//! AVX-512 make a sixteenth as many multiply-adds of f32. Stable Rust has no functions for these instructions, so they
//! are written in assembly.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::cell::Cell;
use std::sync::OnceLock;

/// Rows of a tile register, and words of 32 bits in each.
pub(crate) const SIDE: usize = 16;

/// Whether the processor has tile registers and products of BF16, and the system lets this process use them.
///
/// Linux gives a process the registers when it asks for them, since they add 8 KiB to what is saved of a thread, on the
/// stack of a signal too. Other systems are not asked.
pub(crate) fn is_allowed() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| has_tiles() && linux_allows())
}

/// Whether the processor has the instructions, and the system keeps the registers.
fn has_tiles() -> bool {
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    const SHAPE_AND_DATA: u64 = 1 << 17 | 1 << 18;
    const HAS_XGETBV: u32 = 1 << 27;
    if __cpuid(0).eax < 7
        || __cpuid(1).ecx & HAS_XGETBV == 0
        || __cpuid_count(7, 0).edx & BF16_AND_TILE != BF16_AND_TILE
    {
        return false;
    }
    // SAFETY: the processor has just said that it has the instruction, and register 0 always exists.
    let kept = unsafe { _xgetbv(0) };
    kept & SHAPE_AND_DATA == SHAPE_AND_DATA
}

/// Asks the system for the registers, on behalf of all threads.
fn linux_allows() -> bool {
    if cfg!(not(all(target_os = "linux", target_pointer_width = "64"))) {
        return false;
    }
    const ARCH_PRCTL: isize = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: the call reads no memory of ours and writes none. The kernel overwrites rcx and r11.
    unsafe {
        asm!("syscall", inout("rax") result, in("rdi") REQUEST_PERMISSION, in("rsi") TILE_DATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

/// What `ldtilecfg` reads: all eight registers, whole.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static WHOLE: Shape = {
    let mut shape = Shape { palette: 1, start: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let mut i = 0;
    while i < 8 {
        shape.row_bytes[i] = (SIDE * size_of::<u32>()) as u16;
        shape.rows[i] = SIDE as u8;
        i += 1;
    }
    shape
};

thread_local! {
    /// How many [`Tiles`] this thread has.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// The tile registers of this thread, in their whole shape. They are given back with the last of these: to load the
/// shape takes some 150 ns, so what multiplies many small products holds one around them all.
pub(crate) struct Tiles {
    /// They are of this thread.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Tiles {
    /// Prepares the registers, unless this thread has them.
    ///
    /// # Panics
    /// Where they are not [allowed](is_allowed).
    pub(crate) fn hold() -> Self {
        assert!(is_allowed(), "tile registers that this process may use");
        HELD.with(|held| {
            if held.get() == 0 {
                // SAFETY: the registers are allowed; the shape is one of palette 1.
                unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(nostack, preserves_flags)) };
            }
            held.set(held.get() + 1);
        });
        Self { _not_send: std::marker::PhantomData }
    }

    /// Whether this thread has them.
    pub(crate) fn are_held() -> bool {
        HELD.get() > 0
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        HELD.with(|held| {
            held.set(held.get() - 1);
            if held.get() == 0 {
                // SAFETY: the registers were this thread's.
                unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
            }
        });
    }
}
