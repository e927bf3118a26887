"""A vector addition for any NVIDIA GPU since compute capability 5.3, as PTX, and a copy for a driver without a GPU."""

from __future__ import annotations

import ctypes
import threading
from typing import Any, List

import numpy as np

from engines.cuda import Context, CudaError, Stream
from engines.cudaerrors import check, library
from tests.device.world import Absent

PTX = b"""
.version 6.0
.target sm_53
.address_size 64
.visible .entry vector_add(.param .u64 left, .param .u64 right, .param .u64 sum, .param .u32 count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [left];
    ld.param.u64 %rd2, [right];
    ld.param.u64 %rd3, [sum];
    ld.param.u32 %r1, [count];
    cvta.to.global.u64 %rd1, %rd1;
    cvta.to.global.u64 %rd2, %rd2;
    cvta.to.global.u64 %rd3, %rd3;
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd4, %r5, 4;
    add.u64 %rd5, %rd1, %rd4;
    add.u64 %rd6, %rd2, %rd4;
    add.u64 %rd7, %rd3, %rd4;
    ld.global.f32 %f1, [%rd5];
    ld.global.f32 %f2, [%rd6];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%rd7], %f3;
DONE:
    ret;
}
"""
"""The driver compiles it for the GPU that it finds."""

BLOCK = 128


class VectorAdd:
    """The kernel, loaded into the current context: `with VectorAdd() as add`.

    Raises:
        Absent: The driver loads no code, as the one for tests.
    """

    def __init__(self) -> None:
        self._driver = library()
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        code = self._driver.cuModuleLoadData(ctypes.byref(self._module), PTX)
        if code == 801:
            raise Absent("this driver loads no kernels (CUDA_ERROR_NOT_SUPPORTED)")
        check(code, "loading a kernel")
        check(
            self._driver.cuModuleGetFunction(ctypes.byref(self._function), self._module, b"vector_add"),
            "finding a kernel",
        )

    def __enter__(self) -> VectorAdd:
        return self

    def __exit__(self, *exc: Any) -> None:
        check(self._driver.cuModuleUnload(self._module), "unloading a kernel")

    def launch(self, left: int, right: int, total: int, count: int, stream: Stream) -> None:
        """Queue `total[i] = left[i] + right[i]` for `count` float32 values at device addresses."""
        values = [ctypes.c_uint64(left), ctypes.c_uint64(right), ctypes.c_uint64(total), ctypes.c_uint32(count)]
        pointers = (ctypes.c_void_p * 4)(*[ctypes.cast(ctypes.pointer(v), ctypes.c_void_p) for v in values])
        blocks = (count + BLOCK - 1) // BLOCK
        code = self._driver.cuLaunchKernel(
            self._function, blocks, 1, 1, BLOCK, 1, 1, 0, ctypes.c_void_p(stream.handle), pointers, None
        )
        if code:
            check(code, "launching a kernel")


class Work:
    """Buffers of one query, copied in, worked on and copied out: what `engines.tensorrt.slots.Slot` drives.

    With a kernel it adds its two inputs; without one it copies the first to the output on the device.

    Args:
        gpu: Where.
        count: float32 values of each buffer.
        add: The kernel, or None.
    """

    def __init__(self, gpu: Context, count: int, add: Any = None) -> None:
        self._gpu, self._add, self.count = gpu, add, count
        self.left, self.right, self.total = (gpu.host(count, np.float32) for _ in range(3))
        self.memory: List[Any] = [gpu.allocate(4 * count) for _ in range(3)]
        self.left.array[:] = np.arange(count, dtype=np.float32)
        self.right.array[:] = 1
        self.total.array[:] = 0
        self._addresses = [one.address for one in self.memory]
        self._copy: Any = library().cuMemcpyDtoDAsync_v2
        self.one = threading.RLock()

    def claim(self, stream: Stream) -> None:
        """Nothing to wait for: there is no execution context that others use."""

    def copy_in(self, stream: Stream) -> None:
        """Queue the copies to the device."""
        self._gpu.to_device(self._addresses[0], self.left.array, stream)
        self._gpu.to_device(self._addresses[1], self.right.array, stream)

    def execute(self, stream: Stream) -> None:
        """Queue the kernel, or the copy that stands for it.

        Raises:
            CudaError: The driver refuses.
        """
        left, right, total = self._addresses
        if self._add is not None:
            self._add.launch(left, right, total, self.count, stream)
            return
        code = self._copy(
            ctypes.c_uint64(total),
            ctypes.c_uint64(left),
            ctypes.c_size_t(4 * self.count),
            ctypes.c_void_p(stream.handle),
        )
        if code:
            raise CudaError(f"copying on the device gives {code}")

    def copy_out(self, stream: Stream) -> None:
        """Queue the copy from the device."""
        self._gpu.to_host(self.total.array, self._addresses[2], stream)

    def right_result(self) -> bool:
        """Whether the output is what was to be computed."""
        want = self.left.array + self.right.array if self._add is not None else self.left.array
        return bool(np.array_equal(self.total.array, want))
