//! Macros that write to stderr and do not mind when nobody reads it.
//!
//! They take the place of the standard macros of the same names in this crate. Those panic where a write fails, as it
//! does after Ctrl-C in `train 2>&1 | tee log`, which ends `tee` first, or once a terminal is closed: a run would then
//! end before it saves.

/// Writes to stderr as [`std::eprint`] does; a write that fails is no failure.
macro_rules! eprint {
    ($($text:tt)*) => {{
        let _ = ::std::io::Write::write_fmt(&mut ::std::io::stderr(), format_args!($($text)*));
    }};
}

/// Writes a line to stderr as [`std::eprintln`] does; a write that fails is no failure.
macro_rules! eprintln {
    () => { eprint!("\n") };
    ($($text:tt)*) => { eprint!("{}\n", format_args!($($text)*)) };
}
