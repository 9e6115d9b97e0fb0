//! Registers, stack and spills of the compiled kernels; needs NVRTC, but no GPU.

use fathom_core::error::ErrorKind;

use crate::compile;
use crate::error::CudaError;
use crate::source::MODULES;

/// Resources that a kernel uses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelUse {
    /// The kernel file, without `.cu`.
    pub module: &'static str,
    /// The kernel's name.
    pub kernel: String,
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of stack frame per thread, in local memory.
    pub stack: u32,
    /// Bytes of spilled registers, stores and loads together.
    pub spills: u32,
}

/// Names of all kernel files, without `.cu`.
pub fn modules() -> Vec<&'static str> {
    MODULES.iter().map(|m| m.name).collect()
}

/// Compiles a kernel file for an architecture (such as `sm_90a`) and returns the resources of each kernel.
///
/// # Errors
/// NVRTC is not installed, or the file does not compile; the message holds the compiler's log.
pub fn kernel_uses(module: &str, architecture: &str) -> Result<Vec<KernelUse>, CudaError> {
    let module = MODULES.iter().find(|m| m.name == module);
    let &module = module.ok_or_else(|| CudaError::new(ErrorKind::Other, "no such module"))?;
    let log = compile::verbose(module, architecture)?.log;
    parse(module.name, &log)
        .ok_or_else(|| CudaError::new(ErrorKind::Other, format!("{}.cu: cannot read\n{log}", module.name)))
}

/// Compiles a text for an architecture, with the options of the kernel files.
///
/// # Errors
/// NVRTC is not installed, or the text does not compile.
pub fn compile_text(text: &str, architecture: &str) -> Result<(), CudaError> {
    compile::text(text, architecture).map(drop)
}

/// Compiles all kernels for an architecture into the cache, for machines without NVRTC.
///
/// Such a machine uses cached kernels of the same sources and of NVRTC 13.0. Calls `done(compiled, total)` after each
/// file.
///
/// # Errors
/// NVRTC is not installed, or a kernel does not compile.
pub fn fill_cache(architecture: &str, done: impl Fn(usize, usize) + Sync) -> Result<(), CudaError> {
    compile::all(architecture, &done)
}

/// Parses a log of `ptxas -v`.
fn parse(module: &'static str, log: &str) -> Option<Vec<KernelUse>> {
    let mut found: Vec<KernelUse> = Vec::new();
    let mut complete = true;
    for line in log.lines() {
        // The assembler does not fail where it drops `setmaxnreg` (C7508) or lets products of warpgroups wait for each
        // other (C7510).
        if line.contains("Potential Performance Loss") || line.contains("'setmaxnreg' ignored") {
            return None;
        }
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            complete &= found.last().is_none_or(|k| k.registers > 0);
            let kernel = rest.split('\'').next()?.to_owned();
            found.push(KernelUse { module, kernel, registers: 0, stack: 0, spills: 0 });
        } else if let Some((stack, rest)) = line.split_once(" bytes stack frame, ") {
            // Functions that were not inlined have separate lines; the sum of the frames is the worst case.
            let kernel = found.last_mut()?;
            kernel.stack += stack.split_whitespace().last()?.parse::<u32>().ok()?;
            for part in rest.split(", ") {
                kernel.spills += part.split_whitespace().next()?.parse::<u32>().ok()?;
            }
        } else if let Some((_, rest)) = line.split_once("Used ") {
            found.last_mut()?.registers = rest.split(" registers").next()?.trim().parse().ok()?;
        }
    }
    (complete && found.last().is_none_or(|k| k.registers > 0)).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'a_f32' for 'sm_80'\n\
            ptxas info    : Function properties for a_f32\n    \
            16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n\
            ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 576 bytes cmem[0]\n\
            ptxas info    : Compiling entry function 'b' for 'sm_80'\n\
            ptxas info    : Function properties for b\n    \
            ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
            ptxas info    : Used 255 registers\n\
            ptxas info    : Compile time = 122.591 ms\n";
        let kernel = |kernel: &str, registers, stack, spills| KernelUse {
            module: "m",
            kernel: kernel.into(),
            registers,
            stack,
            spills,
        };
        assert_eq!(parse("m", log), Some(vec![kernel("a_f32", 40, 16, 12), kernel("b", 255, 0, 0)]));
        let cut = log.rsplit_once("ptxas info    : Used").map_or("", |(start, _)| start);
        assert_eq!(parse("m", cut), None, "a kernel of which nothing is said");
        assert_eq!(parse("m", ""), Some(vec![]));
        let slow = format!("{log}ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored");
        assert_eq!(parse("m", &slow), None, "registers that are not given to others");
    }
}
