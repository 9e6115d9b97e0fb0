//! Safe handles over CUDA's driver API: every return code is checked, and handles are destroyed on drop.
//!
//! Calls act on the context that is current in the calling thread; [`Context::bind`] makes it current.

use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::OnceLock;

use cudarc::driver::sys as cu;
use fathom_core::error::ErrorKind;

use crate::error::CudaError;
use crate::library::text;
use crate::tensor_map::{Boxes, Swizzle, TensorMap};

/// Version of the oldest driver that loads cubins of NVRTC 13.
const OLDEST: i32 = 13000;

/// Turns a return code into a result; the message holds the driver's name and text for the code.
pub(super) fn check(call: &str, code: cu::CUresult) -> Result<(), CudaError> {
    use cu::CUresult as R;
    let kind = match code {
        R::CUDA_SUCCESS => return Ok(()),
        R::CUDA_ERROR_OUT_OF_MEMORY => ErrorKind::OutOfMemory,
        // After one of these every call fails; only a new process helps.
        R::CUDA_ERROR_ILLEGAL_ADDRESS
        | R::CUDA_ERROR_LAUNCH_TIMEOUT
        | R::CUDA_ERROR_ASSERT
        | R::CUDA_ERROR_HARDWARE_STACK_ERROR
        | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | R::CUDA_ERROR_MISALIGNED_ADDRESS
        | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | R::CUDA_ERROR_INVALID_PC
        | R::CUDA_ERROR_LAUNCH_FAILED
        | R::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | R::CUDA_ERROR_ECC_UNCORRECTABLE
        | R::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | R::CUDA_ERROR_CONTAINED
        | R::CUDA_ERROR_EXTERNAL_DEVICE
        | R::CUDA_ERROR_SYSTEM_NOT_READY
        | R::CUDA_ERROR_DEVICE_UNAVAILABLE
        | R::CUDA_ERROR_DEINITIALIZED
        | R::CUDA_ERROR_UNKNOWN => ErrorKind::DeviceLost,
        _ => ErrorKind::Other,
    };
    let (mut name, mut meaning) = (ptr::null(), ptr::null());
    // SAFETY: both write the address of a static string, or null.
    unsafe {
        let _ = cu::cuGetErrorName(code, &raw mut name);
        let _ = cu::cuGetErrorString(code, &raw mut meaning);
    }
    Err(CudaError::new(kind, format!("{call}: {} ({})", text(name), text(meaning))))
}

fn other(message: impl Into<String>) -> CudaError {
    CudaError::new(ErrorKind::Other, message)
}

/// Initialises the driver, once per process.
pub(super) fn init() -> Result<(), CudaError> {
    static DRIVER: OnceLock<Result<(), CudaError>> = OnceLock::new();
    DRIVER
        .get_or_init(|| {
            // SAFETY: loads the driver's library, if there is one.
            if !unsafe { cu::is_culib_present() } {
                return Err(other(
                    "no NVIDIA driver on this machine: libcuda is not found. Install driver 580 or later (start a \
                     container with --gpus all), or use the CPU",
                ));
            }
            // SAFETY: takes no pointer.
            check("cuInit", unsafe { cu::cuInit(0) }).map_err(|e| {
                let hint = "an NVIDIA driver is installed but unusable; check that `nvidia-smi` lists a GPU";
                CudaError::new(ErrorKind::Other, format!("{e}: {hint}"))
            })?;
            let mut version = 0;
            // SAFETY: a place for a number.
            check("cuDriverGetVersion", unsafe { cu::cuDriverGetVersion(&raw mut version) })?;
            if version < OLDEST {
                let (major, minor) = (version / 1000, version % 1000 / 10);
                return Err(other(format!(
                    "the NVIDIA driver supports CUDA {major}.{minor}, and 13.0 is needed: install driver 580 or later"
                )));
            }
            Ok(())
        })
        .clone()
}

/// The number of GPUs.
pub(super) fn count() -> Result<usize, CudaError> {
    init()?;
    let mut n = 0;
    // SAFETY: a place for a number.
    check("cuDeviceGetCount", unsafe { cu::cuDeviceGetCount(&raw mut n) })?;
    Ok(usize::try_from(n).unwrap_or(0))
}

/// The primary context of a GPU, retained until drop.
pub(super) struct Context {
    device: cu::CUdevice,
    raw: cu::CUcontext,
}

impl Context {
    pub(super) fn new(ordinal: usize) -> Result<Self, CudaError> {
        let count = count()?;
        if ordinal >= count {
            let plural = if count == 1 { "is 1" } else { &format!("are {count}") };
            return Err(other(format!("no GPU {ordinal}: there {plural}, counted from 0")));
        }
        let (mut device, mut raw) = (0, ptr::null_mut());
        // SAFETY: places for a number and a handle; the device exists.
        unsafe {
            check("cuDeviceGet", cu::cuDeviceGet(&raw mut device, ordinal as i32))?;
            check("cuDevicePrimaryCtxRetain", cu::cuDevicePrimaryCtxRetain(&raw mut raw, device))?;
        }
        let context = Self { device, raw };
        context.bind()?;
        Ok(context)
    }

    /// Makes the context current in this thread.
    pub(super) fn bind(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained.
        check("cuCtxSetCurrent", unsafe { cu::cuCtxSetCurrent(self.raw) })
    }

    pub(super) fn attribute(&self, which: cu::CUdevice_attribute) -> Result<i32, CudaError> {
        let mut value = 0;
        // SAFETY: a place for a number; the device exists.
        check("cuDeviceGetAttribute", unsafe { cu::cuDeviceGetAttribute(&raw mut value, which, self.device) })?;
        Ok(value)
    }

    pub(super) fn total_memory(&self) -> Result<u64, CudaError> {
        let mut bytes = 0;
        // SAFETY: a place for a number; the device exists.
        check("cuDeviceTotalMem", unsafe { cu::cuDeviceTotalMem_v2(&raw mut bytes, self.device) })?;
        Ok(bytes as u64)
    }

    /// The GPU's product name.
    pub(super) fn name(&self) -> Result<String, CudaError> {
        let mut name = [0u8; 256];
        // SAFETY: the length that is passed is one less than the array's, so it ends in a zero byte.
        let code = unsafe { cu::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32 - 1, self.device) };
        check("cuDeviceGetName", code)?;
        Ok(CStr::from_bytes_until_nul(&name).map(|n| n.to_string_lossy().into_owned()).unwrap_or_default())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once in `new`, released once here.
        let _ = unsafe { cu::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Allocates `bytes` bytes of GPU memory.
pub(super) fn alloc(bytes: usize) -> Result<u64, CudaError> {
    let mut address = 0;
    // SAFETY: a place for an address.
    check("cuMemAlloc", unsafe { cu::cuMemAlloc_v2(&raw mut address, bytes) })?;
    Ok(address)
}

/// Frees memory of [`alloc`]. An error belongs to earlier work, and the next call that waits reports it.
pub(super) fn free(address: u64) {
    // SAFETY: `Engine::free` takes what `alloc` gave, once, when nothing uses it any more.
    let _ = unsafe { cu::cuMemFree_v2(address) };
}

/// Encodes a tensor map.
pub(super) fn tensor_map(boxes: &Boxes) -> Result<TensorMap, CudaError> {
    use cu::CUtensorMapDataType as T;
    boxes.check()?;
    let matrix = boxes.matrix;
    let element = match matrix.size() {
        1 => T::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        2 => T::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        4 => T::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        bytes => return Err(other(format!("a tensor map of elements of {bytes} bytes"))),
    };
    let swizzle = match boxes.swizzle {
        Swizzle::None => cu::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes128 => cu::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    // The dimension along which elements are neighbours comes first; its stride is not given.
    let extents = [u64::from(matrix.cols().unsigned_abs()), u64::from(matrix.rows().unsigned_abs())];
    let (strides, sides, steps) = ([boxes.stride()], [boxes.cols, boxes.rows], [1u32, 1]);
    let mut map = cu::CUtensorMap { opaque: [0; 16] };
    // SAFETY: a place for a map and, for both dimensions, extents, the stride between rows, sides of a box and steps;
    // the address is only kept. The map is used while the matrix is alive, as any argument of a kernel.
    let code = unsafe {
        cu::cuTensorMapEncodeTiled(
            &raw mut map,
            element,
            2,
            matrix.address() as *mut c_void,
            extents.as_ptr(),
            strides.as_ptr(),
            sides.as_ptr(),
            steps.as_ptr(),
            cu::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            cu::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            cu::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    check("cuTensorMapEncodeTiled", code)?;
    Ok(Boxes::encoded(map.opaque))
}

/// Pinned host memory, which the GPU can access.
pub(super) struct Pinned {
    host: *mut c_void,
    bytes: usize,
}

impl Pinned {
    pub(super) fn new(bytes: usize) -> Result<Self, CudaError> {
        let mut host = ptr::null_mut();
        let flags = cu::CU_MEMHOSTALLOC_DEVICEMAP | cu::CU_MEMHOSTALLOC_PORTABLE;
        // SAFETY: a place for an address.
        check("cuMemHostAlloc", unsafe { cu::cuMemHostAlloc(&raw mut host, bytes, flags) })?;
        // SAFETY: `bytes` bytes were just made at `host`.
        unsafe { ptr::write_bytes(host.cast::<u8>(), 0, bytes) };
        Ok(Self { host, bytes })
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn host(&self) -> *mut u8 {
        self.host.cast()
    }

    /// Its address on the GPU.
    pub(super) fn device(&self) -> Result<u64, CudaError> {
        let mut address = 0;
        // SAFETY: the memory is mapped, as `new` asked for.
        let code = unsafe { cu::cuMemHostGetDevicePointer_v2(&raw mut address, self.host, 0) };
        check("cuMemHostGetDevicePointer", code)?;
        Ok(address)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once; the engine waits for all work before it goes.
        let _ = unsafe { cu::cuMemFreeHost(self.host) };
    }
}

/// Work of the GPU that the host can wait for.
pub(super) trait Pending {
    /// Waits until it is done.
    fn wait(&self) -> Result<(), CudaError>;

    /// Whether it is done.
    fn is_done(&self) -> Result<bool, CudaError>;
}

/// Whether the answer `code` of a query is that work is done.
fn answer(call: &str, code: cu::CUresult) -> Result<bool, CudaError> {
    match code {
        cu::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
        code => check(call, code).map(|()| true),
    }
}

/// A point in a stream's work that can be waited for.
pub(super) struct Event(cu::CUevent);

impl Event {
    pub(super) fn new(timing: bool) -> Result<Self, CudaError> {
        use cu::CUevent_flags_enum as F;
        let flags = if timing { F::CU_EVENT_DEFAULT } else { F::CU_EVENT_DISABLE_TIMING } as u32;
        let mut raw = ptr::null_mut();
        // SAFETY: a place for a handle.
        check("cuEventCreate", unsafe { cu::cuEventCreate(&raw mut raw, flags) })?;
        Ok(Self(raw))
    }

    /// Seconds from `self` to `end`; both must have timing and be complete.
    pub(super) fn seconds_to(&self, end: &Self) -> Result<f64, CudaError> {
        let mut milliseconds = 0.0f32;
        // SAFETY: a place for a number; both events are alive.
        let code = unsafe { cu::cuEventElapsedTime_v2(&raw mut milliseconds, self.0, end.0) };
        check("cuEventElapsedTime", code)?;
        Ok(f64::from(milliseconds) * 1e-3)
    }
}

impl Pending for Event {
    fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: the event is alive.
        check("cuEventSynchronize", unsafe { cu::cuEventSynchronize(self.0) })
    }

    fn is_done(&self) -> Result<bool, CudaError> {
        // SAFETY: the event is alive.
        answer("cuEventQuery", unsafe { cu::cuEventQuery(self.0) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { cu::cuEventDestroy_v2(self.0) };
    }
}

/// A stream: a queue of work that runs in order.
pub(super) struct Stream(cu::CUstream);

impl Stream {
    pub(super) fn new() -> Result<Self, CudaError> {
        let mut raw = ptr::null_mut();
        let flags = cu::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a place for a handle.
        check("cuStreamCreate", unsafe { cu::cuStreamCreate(&raw mut raw, flags) })?;
        Ok(Self(raw))
    }

    pub(super) fn raw(&self) -> cu::CUstream {
        self.0
    }

    pub(super) fn record(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both are alive.
        check("cuEventRecord", unsafe { cu::cuEventRecord(event.0, self.0) })
    }

    /// Orders all later work of this stream after `event`.
    pub(super) fn after(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both are alive.
        check("cuStreamWaitEvent", unsafe { cu::cuStreamWaitEvent(self.0, event.0, 0) })
    }

    /// Copies `bytes` bytes to the device.
    ///
    /// # Safety
    /// `from` must be pinned memory of that size that nothing writes, and `to` device memory, until the copy is
    /// done.
    pub(super) unsafe fn upload(&self, to: u64, from: *const u8, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: as promised by the caller.
        check("cuMemcpyHtoDAsync", unsafe { cu::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, self.0) })
    }

    /// Copies `bytes` bytes from the device.
    ///
    /// # Safety
    /// `to` must be pinned memory of that size that nothing uses, and `from` device memory, until the copy is
    /// done.
    pub(super) unsafe fn download(&self, to: *mut u8, from: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: as promised by the caller.
        check("cuMemcpyDtoHAsync", unsafe { cu::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, self.0) })
    }

    /// Copies `bytes` bytes from one place of the device to another.
    ///
    /// # Safety
    /// Both places must be device memory, apart from each other, until the copy is done.
    pub(super) unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: as promised by the caller.
        check("cuMemcpyDtoDAsync", unsafe { cu::cuMemcpyDtoDAsync_v2(to, from, bytes, self.0) })
    }

    /// Begins a capture: later work of the stream is recorded as a graph instead of run.
    pub(super) fn begin_capture(&self) -> Result<(), CudaError> {
        let mode = cu::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is alive and not capturing.
        check("cuStreamBeginCapture", unsafe { cu::cuStreamBeginCapture_v2(self.0, mode) })
    }

    /// The last node of the graph under capture, on which the next one will depend.
    pub(super) fn last_node(&self) -> Result<cu::CUgraphNode, CudaError> {
        let mut status = cu::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let (mut nodes, mut edges, mut count) = (ptr::null(), ptr::null(), 0);
        // SAFETY: places for what is asked for; null for what need not be. Edges are asked for only because the driver
        // fails where an edge has data and no place is given for it.
        let code = unsafe {
            cu::cuStreamGetCaptureInfo_v3(
                self.0,
                &raw mut status,
                ptr::null_mut(),
                ptr::null_mut(),
                &raw mut nodes,
                &raw mut edges,
                &raw mut count,
            )
        };
        check("cuStreamGetCaptureInfo", code)?;
        let active = status == cu::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
        if !active || count != 1 || nodes.is_null() {
            return Err(other(format!("cuStreamGetCaptureInfo: {status:?} with {count} dependencies, not 1")));
        }
        // SAFETY: the driver's list has one node, and lives until the stream is next used.
        Ok(unsafe { *nodes })
    }

    pub(super) fn end_capture(&self) -> Result<Graph, CudaError> {
        let mut raw = ptr::null_mut();
        // SAFETY: a place for a handle; the stream is alive.
        check("cuStreamEndCapture", unsafe { cu::cuStreamEndCapture(self.0, &raw mut raw) })?;
        if raw.is_null() {
            return Err(other("cuStreamEndCapture: no graph"));
        }
        Ok(Graph(raw))
    }

    pub(super) fn launch(&self, graph: &Executable) -> Result<(), CudaError> {
        // SAFETY: both are alive. What the kernels of the graph use is alive as for a single launch.
        check("cuGraphLaunch", unsafe { cu::cuGraphLaunch(graph.0, self.0) })
    }
}

impl Pending for Stream {
    fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: the stream is alive.
        check("cuStreamSynchronize", unsafe { cu::cuStreamSynchronize(self.0) })
    }

    fn is_done(&self) -> Result<bool, CudaError> {
        // SAFETY: the stream is alive.
        answer("cuStreamQuery", unsafe { cu::cuStreamQuery(self.0) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once; the driver keeps it until its work is done.
        let _ = unsafe { cu::cuStreamDestroy_v2(self.0) };
    }
}

/// A captured graph.
pub(super) struct Graph(cu::CUgraph);

impl Graph {
    pub(super) fn instantiate(&self) -> Result<Executable, CudaError> {
        let mut raw = ptr::null_mut();
        // SAFETY: a place for a handle; the graph is alive.
        check("cuGraphInstantiate", unsafe { cu::cuGraphInstantiateWithFlags(&raw mut raw, self.0, 0) })?;
        Ok(Executable(raw))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `end_capture`, destroyed once.
        let _ = unsafe { cu::cuGraphDestroy(self.0) };
    }
}

/// A graph that can be launched.
pub(super) struct Executable(cu::CUgraphExec);

impl Executable {
    /// Changes the parameters of a kernel node for later launches of the graph.
    ///
    /// # Safety
    /// `node` must be a kernel node of the graph that this was instantiated from, the graph must be alive, and `params`
    /// must hold arguments as that kernel takes them.
    pub(super) unsafe fn set(
        &self,
        node: cu::CUgraphNode,
        params: &cu::CUDA_KERNEL_NODE_PARAMS,
    ) -> Result<(), CudaError> {
        // SAFETY: as promised by the caller.
        let code = unsafe { cu::cuGraphExecKernelNodeSetParams_v2(self.0, node, params) };
        check("cuGraphExecKernelNodeSetParams", code)
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        // SAFETY: made by `instantiate`, destroyed once; the driver keeps it until its launches are done.
        let _ = unsafe { cu::cuGraphExecDestroy(self.0) };
    }
}
