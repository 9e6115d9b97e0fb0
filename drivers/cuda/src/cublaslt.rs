//! Binding of cuBLASLt, NVIDIA's library for matrix products, loaded if it is installed.
//!
//! The library's matrices are column-major. A row-major matrix is the transpose of a column-major one in the same
//! memory, so `c = a·b` becomes `cᵀ = bᵀ·aᵀ`, and our second factor is the library's first.
//!
//! A row of the result must not depend on the number of other rows. Therefore the algorithm for a product with a weight
//! is always chosen for [`ROWS`] rows, and algorithms that split sums (split-K) are excluded.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use fathom_core::device::Form;
use fathom_core::error::ErrorKind;

use crate::error::CudaError;
use crate::library;

const REMEDY: &str = "install cuBLAS 13 (`pip install nvidia-cublas==13.1.0.3`, or the CUDA toolkit 13)";

/// Bytes of workspace for algorithms, as NVIDIA advises for Hopper.
pub(crate) const WORKSPACE: usize = 32 << 20;

/// Shortest inner dimension of an FP8 product for Hopper's tensor cores. They accumulate with about 14 bits, which the
/// core allows for sums of this length: see [`GemmFp8`](fathom_core::device::GemmFp8).
pub(crate) const LEAST_CODES: usize = 512;

/// The number of rows for which the algorithm of a product with a weight is chosen.
const ROWS: u64 = 4096;

// Constants of cublasLt.h, cublas_api.h and library_types.h.
const OP_N: i32 = 0;
const OP_T: i32 = 1;
const COMPUTE_32F: c_int = 68;
const R_32F: c_int = 0;
const R_16BF: c_int = 14;
const R_8F_E4M3: c_int = 28;
const DESC_TRANSA: c_int = 3;
const DESC_TRANSB: c_int = 4;
const DESC_A_SCALE_POINTER: c_int = 17;
const DESC_B_SCALE_POINTER: c_int = 18;
const DESC_A_SCALE_MODE: c_int = 31;
const DESC_B_SCALE_MODE: c_int = 32;
const SCALE_VEC128_32F: i32 = 4;
const SCALE_BLK128X128_32F: i32 = 5;
const PREF_MAX_WORKSPACE_BYTES: c_int = 1;
const PREF_REDUCTION_SCHEME_MASK: c_int = 3;
const PREF_MIN_ALIGNMENT_A_TO_D_BYTES: [c_int; 4] = [5, 6, 7, 8];
const REDUCTION_SCHEME_NONE: u32 = 0;

type Handle = *mut c_void;
type Status = c_int;

/// `cublasLtMatmulAlgo_t`
#[derive(Clone, Copy)]
#[repr(C)]
struct Algorithm([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`
#[derive(Clone, Copy)]
#[repr(C)]
struct Choice {
    algorithm: Algorithm,
    workspace: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

impl Choice {
    const NONE: Self = Self { algorithm: Algorithm([0; 8]), workspace: 0, state: 0, waves: 0.0, reserved: [0; 4] };
}

/// Functions of the library. All but the first three return 0 on success.
struct Api {
    version: unsafe extern "C" fn() -> usize,
    status_name: unsafe extern "C" fn(Status) -> *const c_char,
    status_string: unsafe extern "C" fn(Status) -> *const c_char,
    create: unsafe extern "C" fn(*mut Handle) -> Status,
    destroy: unsafe extern "C" fn(Handle) -> Status,
    desc_create: unsafe extern "C" fn(*mut Handle, c_int, c_int) -> Status,
    desc_set: unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> Status,
    desc_destroy: unsafe extern "C" fn(Handle) -> Status,
    layout_create: unsafe extern "C" fn(*mut Handle, c_int, u64, u64, i64) -> Status,
    layout_destroy: unsafe extern "C" fn(Handle) -> Status,
    pref_create: unsafe extern "C" fn(*mut Handle) -> Status,
    pref_set: unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> Status,
    pref_destroy: unsafe extern "C" fn(Handle) -> Status,
    choose: unsafe extern "C" fn(
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        c_int,
        *mut Choice,
        *mut c_int,
    ) -> Status,
    check:
        unsafe extern "C" fn(Handle, Handle, Handle, Handle, Handle, Handle, *const Algorithm, *mut Choice) -> Status,
    matmul: unsafe extern "C" fn(
        Handle,
        Handle,
        *const c_void,
        *const c_void,
        Handle,
        *const c_void,
        Handle,
        *const c_void,
        *const c_void,
        Handle,
        *mut c_void,
        Handle,
        *const Algorithm,
        *mut c_void,
        usize,
        *mut c_void,
    ) -> Status,
}

impl Api {
    fn load() -> Result<Self, CudaError> {
        let names: &[&str] =
            if cfg!(windows) { &["cublasLt64_13.dll"] } else { &["libcublasLt.so.13", "libcublasLt.so"] };
        let lib = library::find("cuBLASLt", names, None, REMEDY)?;
        // SAFETY: the types are those of cublasLt.h, where enumerations are C's `int` in size.
        unsafe {
            Ok(Self {
                version: library::function(lib, c"cublasLtGetVersion")?,
                status_name: library::function(lib, c"cublasLtGetStatusName")?,
                status_string: library::function(lib, c"cublasLtGetStatusString")?,
                create: library::function(lib, c"cublasLtCreate")?,
                destroy: library::function(lib, c"cublasLtDestroy")?,
                desc_create: library::function(lib, c"cublasLtMatmulDescCreate")?,
                desc_set: library::function(lib, c"cublasLtMatmulDescSetAttribute")?,
                desc_destroy: library::function(lib, c"cublasLtMatmulDescDestroy")?,
                layout_create: library::function(lib, c"cublasLtMatrixLayoutCreate")?,
                layout_destroy: library::function(lib, c"cublasLtMatrixLayoutDestroy")?,
                pref_create: library::function(lib, c"cublasLtMatmulPreferenceCreate")?,
                pref_set: library::function(lib, c"cublasLtMatmulPreferenceSetAttribute")?,
                pref_destroy: library::function(lib, c"cublasLtMatmulPreferenceDestroy")?,
                choose: library::function(lib, c"cublasLtMatmulAlgoGetHeuristic")?,
                check: library::function(lib, c"cublasLtMatmulAlgoCheck")?,
                matmul: library::function(lib, c"cublasLtMatmul")?,
            })
        }
    }

    fn get() -> Result<&'static Self, CudaError> {
        static API: OnceLock<Result<Api, CudaError>> = OnceLock::new();
        API.get_or_init(Self::load).as_ref().map_err(Clone::clone)
    }

    fn checked(&self, call: &str, status: Status) -> Result<(), CudaError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: both take any number.
        let (name, meaning) = unsafe { ((self.status_name)(status), (self.status_string)(status)) };
        let message = format!("{call}: {} ({})", library::text(name), library::text(meaning));
        // 3: CUBLAS_STATUS_ALLOC_FAILED.
        Err(CudaError::new(if status == 3 { ErrorKind::OutOfMemory } else { ErrorKind::Other }, message))
    }
}

/// A handle and the library function that destroys it.
struct Owned(Handle, unsafe extern "C" fn(Handle) -> Status);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the library made it, and this is once.
        unsafe { (self.1)(self.0) };
    }
}

/// Types of the factors of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Factors {
    /// BF16.
    Bf16,
    /// FP8 in form `Nt`: a scale per 1×128 tile of `a`, and per 128×128 block of `b`.
    Blocks,
    /// FP8 in form `Nt`: a scale per 1×128 tile of both.
    Vectors,
}

impl Factors {
    /// Scale modes of the library's A and B, which are our `b` and `a`.
    fn modes(self) -> Option<[i32; 2]> {
        match self {
            Self::Bf16 => None,
            Self::Blocks => Some([SCALE_BLK128X128_32F, SCALE_VEC128_32F]),
            Self::Vectors => Some([SCALE_VEC128_32F, SCALE_VEC128_32F]),
        }
    }

    /// Whether the factors are FP8 codes with scales.
    pub(crate) fn are_codes(self) -> bool {
        self != Self::Bf16
    }
}

/// A product without the addresses of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) form: Form,
    pub(crate) m: u64,
    pub(crate) n: u64,
    pub(crate) k: u64,
    /// Row strides of `a`, `b` and `c` in elements.
    pub(crate) strides: [i64; 3],
    pub(crate) factors: Factors,
    /// Whether the result is F32 (else BF16).
    pub(crate) wide: bool,
}

impl Shape {
    /// Rows, columns and stride of the library's A, B and C, and the transpositions of A and B.
    fn matrices(&self) -> ([(u64, u64, i64); 3], [i32; 2]) {
        let (m, n, k, [a, b, c]) = (self.m, self.n, self.k, self.strides);
        let (first, second, transposed) = match self.form {
            Form::Nt => ((k, n, b), (k, m, a), [OP_T, OP_N]),
            Form::Nn => ((n, k, b), (k, m, a), [OP_N, OP_N]),
            Form::Tn => ((n, k, b), (m, k, a), [OP_N, OP_T]),
        };
        ([first, second, (n, m, c)], transposed)
    }

    /// The shape for which the algorithm is chosen.
    fn model(&self) -> Self {
        // The rows of a weight's gradient belong to the weight: they are not activations.
        let m = if self.form == Form::Tn || self.factors == Factors::Vectors { self.m } else { ROWS };
        let stride = |columns: u64| columns.next_multiple_of(16) as i64;
        let strides = match self.form {
            Form::Nt => [self.k, self.k, self.n],
            Form::Nn => [self.k, self.n, self.n],
            Form::Tn => [m, self.n, self.n],
        };
        Self { m, strides: strides.map(stride), ..*self }
    }
}

/// A shape with its algorithm and library handles.
struct Plan {
    desc: Owned,
    layouts: [Owned; 3],
    algorithm: Algorithm,
    codes: bool,
}

/// Device addresses of the operands of a product, and its scalars.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) c: u64,
    /// Scales of `a` and `b` if the factors are FP8.
    pub(crate) scales: [u64; 2],
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
}

/// The library on one GPU, whose context must be current in every call.
pub(crate) struct Lt {
    api: &'static Api,
    /// Plans by shape, as indices into `list`; `None` if the library has no such product.
    places: HashMap<Shape, Option<u32>>,
    /// Algorithms by [`Shape::model`].
    algorithms: HashMap<Shape, Option<Algorithm>>,
    list: Vec<Plan>,
    preference: Owned,
    handle: Owned,
    /// Device address of [`WORKSPACE`] bytes.
    workspace: u64,
}

impl Lt {
    /// Loads the library; `workspace` allocates [`WORKSPACE`] bytes and returns their address.
    pub(crate) fn new(workspace: impl FnOnce() -> Result<u64, CudaError>) -> Result<Self, CudaError> {
        let api = Api::get()?;
        let made = |call, destroy, create: &dyn Fn(*mut Handle) -> Status| {
            let mut raw = ptr::null_mut();
            api.checked(call, create(&raw mut raw))?;
            Ok::<_, CudaError>(Owned(raw, destroy))
        };
        // SAFETY: both are given a place for a handle.
        let handle = made("cublasLtCreate", api.destroy, &|raw| unsafe { (api.create)(raw) })?;
        // SAFETY: as above.
        let preference =
            made("cublasLtMatmulPreferenceCreate", api.pref_destroy, &|raw| unsafe { (api.pref_create)(raw) })?;
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: `value` points to a number of `bytes` bytes, below.
            let status = unsafe { (api.pref_set)(preference.0, attribute, value, bytes) };
            api.checked("cublasLtMatmulPreferenceSetAttribute", status)
        };
        let (most, none, align) = (WORKSPACE as u64, REDUCTION_SCHEME_NONE, 16u32);
        set(PREF_MAX_WORKSPACE_BYTES, (&raw const most).cast(), 8)?;
        set(PREF_REDUCTION_SCHEME_MASK, (&raw const none).cast(), 4)?;
        for attribute in PREF_MIN_ALIGNMENT_A_TO_D_BYTES {
            set(attribute, (&raw const align).cast(), 4)?;
        }
        Ok(Self {
            api,
            places: HashMap::new(),
            algorithms: HashMap::new(),
            list: Vec::new(),
            preference,
            handle,
            workspace: workspace()?,
        })
    }

    /// The version, for example 130100 for 13.1.
    pub(crate) fn version(&self) -> usize {
        // SAFETY: takes nothing.
        unsafe { (self.api.version)() }
    }

    /// Whether this version multiplies FP8 codes with scales per 128 elements (12.9 or later).
    pub(crate) fn has_codes(&self) -> bool {
        self.version() >= 120_900
    }

    /// The cached result of [`plan`](Lt::plan) for a shape.
    pub(crate) fn known(&self, shape: &Shape) -> Option<Option<u32>> {
        self.places.get(shape).copied()
    }

    /// The index of the plan for a shape; `None` if the library has no algorithm for it.
    pub(crate) fn plan(&mut self, shape: &Shape) -> Result<Option<u32>, CudaError> {
        if let Some(place) = self.known(shape) {
            return Ok(place);
        }
        let model = shape.model();
        let algorithm = match self.algorithms.get(&model) {
            Some(&known) => known,
            None => {
                let chosen = self.choose(&model)?;
                self.algorithms.insert(model, chosen);
                chosen
            }
        };
        let place = match algorithm {
            None => None,
            Some(algorithm) => self.fits(shape, algorithm)?.map(|plan| {
                self.list.push(plan);
                self.list.len() as u32 - 1
            }),
        };
        self.places.insert(*shape, place);
        Ok(place)
    }

    fn describe(&self, shape: &Shape) -> Result<(Owned, [Owned; 3]), CudaError> {
        let api = self.api;
        let (matrices, transposed) = shape.matrices();
        let mut raw = ptr::null_mut();
        // SAFETY: a place for a handle.
        let status = unsafe { (api.desc_create)(&raw mut raw, COMPUTE_32F, R_32F) };
        api.checked("cublasLtMatmulDescCreate", status)?;
        let desc = Owned(raw, api.desc_destroy);
        self.set(&desc, DESC_TRANSA, &transposed[0])?;
        self.set(&desc, DESC_TRANSB, &transposed[1])?;
        if let Some([first, second]) = shape.factors.modes() {
            self.set(&desc, DESC_A_SCALE_MODE, &first)?;
            self.set(&desc, DESC_B_SCALE_MODE, &second)?;
        }
        let factor = if shape.factors.are_codes() { R_8F_E4M3 } else { R_16BF };
        let types = [factor, factor, if shape.wide { R_32F } else { R_16BF }];
        let layout = |i: usize| {
            let ((rows, columns, stride), mut raw) = (matrices[i], ptr::null_mut());
            // SAFETY: a place for a handle.
            let status = unsafe { (api.layout_create)(&raw mut raw, types[i], rows, columns, stride) };
            api.checked("cublasLtMatrixLayoutCreate", status)?;
            Ok::<_, CudaError>(Owned(raw, api.layout_destroy))
        };
        Ok((desc, [layout(0)?, layout(1)?, layout(2)?]))
    }

    /// Sets an attribute of a matmul descriptor.
    fn set<T: Copy>(&self, desc: &Owned, attribute: c_int, value: &T) -> Result<(), CudaError> {
        // SAFETY: the description is alive, and the value is of the size that is passed.
        let status = unsafe { (self.api.desc_set)(desc.0, attribute, ptr::from_ref(value).cast(), size_of::<T>()) };
        self.api.checked("cublasLtMatmulDescSetAttribute", status)
    }

    /// Asks the library's heuristic for an algorithm.
    fn choose(&self, shape: &Shape) -> Result<Option<Algorithm>, CudaError> {
        let (desc, [a, b, c]) = self.describe(shape)?;
        if shape.factors.are_codes() {
            // The heuristic reads only the alignment of these addresses.
            self.set(&desc, DESC_A_SCALE_POINTER, &self.workspace)?;
            self.set(&desc, DESC_B_SCALE_POINTER, &self.workspace)?;
        }
        let (mut choice, mut found) = (Choice::NONE, 0);
        // SAFETY: all handles are alive; there is room for the one answer asked for.
        let status = unsafe {
            (self.api.choose)(
                self.handle.0,
                desc.0,
                a.0,
                b.0,
                c.0,
                c.0,
                self.preference.0,
                1,
                &raw mut choice,
                &raw mut found,
            )
        };
        // 15: CUBLAS_STATUS_NOT_SUPPORTED, 7: CUBLAS_STATUS_INVALID_VALUE. The library has no such product.
        if matches!(status, 7 | 15) || status == 0 && (found == 0 || choice.state != 0) {
            return Ok(None);
        }
        self.api.checked("cublasLtMatmulAlgoGetHeuristic", status)?;
        Ok((choice.workspace <= WORKSPACE).then_some(choice.algorithm))
    }

    /// The plan of a shape with an algorithm; `None` if the algorithm does not support the shape.
    fn fits(&self, shape: &Shape, algorithm: Algorithm) -> Result<Option<Plan>, CudaError> {
        let (desc, layouts) = self.describe(shape)?;
        if shape.factors.are_codes() {
            self.set(&desc, DESC_A_SCALE_POINTER, &self.workspace)?;
            self.set(&desc, DESC_B_SCALE_POINTER, &self.workspace)?;
        }
        let [a, b, c] = &layouts;
        let mut result = Choice::NONE;
        // SAFETY: all handles are alive; the algorithm and the answer are of the library's types.
        let status = unsafe {
            (self.api.check)(self.handle.0, desc.0, a.0, b.0, c.0, c.0, &raw const algorithm, &raw mut result)
        };
        let fits = status == 0 && result.workspace <= WORKSPACE;
        Ok(fits.then_some(Plan { desc, layouts, algorithm, codes: shape.factors.are_codes() }))
    }

    /// Issues a product on a stream.
    ///
    /// # Safety
    /// The operands must lie in device memory in the plan's shape, with rows aligned to 16 bytes, and `stream` must
    /// belong to the current context and order all uses of the workspace.
    pub(crate) unsafe fn run(&self, plan: u32, operands: &Operands, stream: *mut c_void) -> Result<(), CudaError> {
        let plan = &self.list[plan as usize];
        let Operands { a, b, c, scales, alpha, beta } = *operands;
        if plan.codes {
            self.set(&plan.desc, DESC_A_SCALE_POINTER, &scales[1])?;
            self.set(&plan.desc, DESC_B_SCALE_POINTER, &scales[0])?;
        }
        let [first, second, result] = &plan.layouts;
        // SAFETY: all handles are alive; α and β are f32, as the description says; the rest is promised by the caller.
        let status = unsafe {
            (self.api.matmul)(
                self.handle.0,
                plan.desc.0,
                (&raw const alpha).cast(),
                b as *const c_void,
                first.0,
                a as *const c_void,
                second.0,
                (&raw const beta).cast(),
                c as *const c_void,
                result.0,
                c as *mut c_void,
                result.0,
                &raw const plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                stream,
            )
        };
        self.api.checked("cublasLtMatmul", status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(form: Form, m: u64, strides: [i64; 3]) -> Shape {
        Shape { form, m, n: 48, k: 80, strides, factors: Factors::Bf16, wide: true }
    }

    #[test]
    fn row_major_products_are_column_major_ones_of_the_transposes() {
        // Rows by columns as the library sees them, with the distance from column to column, by its own definition of a
        // product: op(A) is n×k, op(B) is k×m, C is n×m.
        let (m, n, k) = (32, 48, 80);
        for (form, strides) in [(Form::Nt, [88, 96, 56]), (Form::Nn, [88, 56, 64]), (Form::Tn, [40, 56, 64])] {
            let ([a, b, c], [ta, tb]) = shape(form, m, strides).matrices();
            let op = |x: (u64, u64, i64), t| if t == OP_T { (x.1, x.0) } else { (x.0, x.1) };
            assert_eq!((op(a, ta), op(b, tb), (c.0, c.1)), ((n, k), (k, m), (n, m)), "{form:?}");
            for matrix in [a, b, c] {
                assert!(matrix.2 >= matrix.0 as i64, "{form:?}: columns overlap");
            }
        }
    }

    #[test]
    fn the_algorithm_does_not_depend_on_the_rows_of_activations() {
        for form in [Form::Nt, Form::Nn] {
            assert_eq!(shape(form, 1, [80, 80, 48]).model(), shape(form, 999, [160, 96, 64]).model());
        }
        assert_ne!(shape(Form::Tn, 64, [64, 48, 48]).model(), shape(Form::Tn, 128, [128, 48, 48]).model());
    }

    #[test]
    fn structs_are_as_large_as_the_library_has_them() {
        // cublasLt.h: 8 words of algorithm, a size_t, an enumeration, a float and four ints.
        assert_eq!(size_of::<Choice>(), 64 + 8 + 4 + 4 + 16);
    }
}
