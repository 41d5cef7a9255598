"""What this machine can compute with, detected without importing a model library."""

from __future__ import annotations

import ctypes
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def has_bf16() -> bool:
    """Return whether the processor multiplies in bf16; ``False`` if that cannot be read."""
    return bool(BF16_FLAGS & _flags())


def may_have_gpu() -> bool:
    """Return whether torch may find a GPU: NVIDIA's driver counts one, or AMD's is loaded."""
    return _nvidia_gpus() > 0 or Path("/dev/kfd").exists()


def processor() -> str:
    """Return the features of the processor, which identify its kind as far as arithmetic is concerned."""
    return " ".join(sorted(_flags()))


def _flags() -> frozenset[str]:
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def _nvidia_gpus() -> int:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0
