//! The kernels of a GPU: modules are compiled and loaded on first use, and kernels are found by name.

use std::collections::HashMap;
use std::ffi::CString;
use std::hash::{BuildHasherDefault, Hasher};
use std::ptr;

use cudarc::driver::sys as cu;
use fathom_core::error::ErrorKind;

use super::driver::check;
use crate::compile;
use crate::error::CudaError;
use crate::source::Module;

/// Bytes of shared memory that every kernel may use; more must be requested.
const FREE_SHARED: u32 = 48 << 10;

/// A kernel.
pub(super) struct Function {
    module: &'static str,
    name: &'static str,
    raw: cu::CUfunction,
    /// Size of the argument in bytes.
    bytes: usize,
    /// Bytes of shared memory that were requested so far.
    shared: u32,
}

impl Function {
    pub(super) fn raw(&self) -> cu::CUfunction {
        self.raw
    }

    /// `rmsnorm_f32 of norm.cu`
    pub(super) fn title(&self) -> String {
        format!("{} of {}.cu", self.name, self.module)
    }
}

/// Addresses of the module's and the kernel's name, and the length of the latter; a kernel may have several keys.
type Key = (usize, usize, usize);

/// A cheap hash of a [`Key`], which every launch looks up.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_usize(b.into()));
    }
    fn write_usize(&mut self, word: usize) {
        self.0 = (self.0.rotate_left(5) ^ word as u64).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// Table of all kernels that were used.
pub(super) struct Functions {
    architecture: String,
    /// Maximum bytes of shared memory per block.
    most_shared: u32,
    modules: HashMap<&'static str, cu::CUmodule>,
    places: HashMap<Key, u32, BuildHasherDefault<Mix>>,
    list: Vec<Function>,
}

impl Functions {
    pub(super) fn new(architecture: String, most_shared: u32) -> Self {
        Self { architecture, most_shared, modules: HashMap::new(), places: HashMap::default(), list: Vec::new() }
    }

    pub(super) fn architecture(&self) -> &str {
        &self.architecture
    }

    pub(super) fn get(&self, place: u32) -> &Function {
        &self.list[place as usize]
    }

    /// The index of a kernel, if it was looked up under these names before.
    #[inline]
    pub(super) fn known(&self, module: Module, name: &'static str) -> Option<u32> {
        self.places.get(&Self::key(module, name)).copied()
    }

    fn key(module: Module, name: &'static str) -> Key {
        (module.name.as_ptr() as usize, name.as_ptr() as usize, name.len())
    }

    /// The index of a kernel; compiles and loads its module if needed. The context must be current.
    pub(super) fn load(&mut self, module: Module, name: &'static str) -> Result<u32, CudaError> {
        if let Some(place) = self.list.iter().position(|f| f.module == module.name && f.name == name) {
            self.places.insert(Self::key(module, name), place as u32);
            return Ok(place as u32);
        }
        let loaded = self.module(module)?;
        let wrong = |what: String| CudaError::new(ErrorKind::Other, format!("{name} of {}.cu: {what}", module.name));
        let symbol = CString::new(name).map_err(|_| wrong("its name holds a zero byte".into()))?;
        let mut raw = ptr::null_mut();
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: places for a handle and numbers; the module is loaded, and its first kernel parameter is asked for.
        unsafe {
            check("cuModuleGetFunction", cu::cuModuleGetFunction(&raw mut raw, loaded, symbol.as_ptr()))
                .map_err(|e| wrong(e.to_string()))?;
            check("cuFuncGetParamInfo", cu::cuFuncGetParamInfo(raw, 0, &raw mut offset, &raw mut bytes))
                .map_err(|e| wrong(e.to_string()))?;
        }
        let place = self.list.len() as u32;
        self.list.push(Function { module: module.name, name, raw, bytes, shared: FREE_SHARED });
        self.places.insert(Self::key(module, name), place);
        Ok(place)
    }

    /// Checks the size of a launch's argument and raises the kernel's limit of shared memory if needed. The context
    /// must be current if the launch uses more than [`FREE_SHARED`].
    #[inline]
    pub(super) fn admit(&mut self, place: u32, shared: usize, bytes: usize) -> Result<(), CudaError> {
        let function = &mut self.list[place as usize];
        if bytes == function.bytes && shared <= function.shared as usize {
            return Ok(());
        }
        let wrong = |what: String| Err(CudaError::new(ErrorKind::Other, what));
        if bytes != function.bytes {
            let expected = function.bytes;
            return wrong(format!("{}: its argument has {bytes} bytes, not {expected}", function.title()));
        }
        if shared > self.most_shared as usize {
            let most = self.most_shared;
            let title = function.title();
            return wrong(format!("{title}: needs {shared} bytes of shared memory per block; this GPU has {most}"));
        }
        let attribute = cu::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is of a loaded module.
        let code = unsafe { cu::cuFuncSetAttribute(function.raw, attribute, shared as i32) };
        check("cuFuncSetAttribute", code)
            .map_err(|e| CudaError::new(ErrorKind::Other, format!("{}: {e}", function.title())))?;
        function.shared = shared as u32;
        Ok(())
    }

    /// Loads a module on its first use.
    pub(super) fn module(&mut self, module: Module) -> Result<cu::CUmodule, CudaError> {
        if let Some(&loaded) = self.modules.get(module.name) {
            return Ok(loaded);
        }
        let (cubin, path) = compile::cubin(module, &self.architecture)?;
        let mut raw = ptr::null_mut();
        // SAFETY: a place for a handle, and a cubin, which says itself how long it is.
        let code = unsafe { cu::cuModuleLoadData(&raw mut raw, cubin.as_ptr().cast()) };
        check("cuModuleLoadData", code).map_err(|e| {
            let message = format!("{}.cu: {e}; if the file is damaged, delete {}", module.name, path.display());
            CudaError::new(fathom_core::error::DeviceError::kind(&e), message)
        })?;
        self.modules.insert(module.name, raw);
        Ok(raw)
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        for &module in self.modules.values() {
            // SAFETY: loaded once, unloaded once, after all work.
            let _ = unsafe { cu::cuModuleUnload(module) };
        }
    }
}
