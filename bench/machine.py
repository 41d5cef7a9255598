"""The machine that is measured on, the versions that are compared, and what processes use of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import psutil

from embeddings_gateway.workers.local.cores import usable

PACKAGES = "torch transformers sentence-transformers openvino llama-cpp-python numpy uvicorn uvloop"
PEER_PACKAGES = {"infinity": ("infinity_emb", "torch", "transformers"), "llama": ("llama_cpp_python",)}
FLAGS = "avx2 avx512f avx512_vnni avx512_bf16 avx512_fp16 avx_vnni amx_bf16 amx_int8 bf16"
"""What decides how fast a processor multiplies."""
MEASURED = ("gateway", "backends")
SAMPLE_S = 0.1
LOOK_EVERY = 10  # samples: finding descendants reads all of /proc
MB = 1_000_000


def describe_machine(peers: Path) -> dict[str, str]:
    """Return the machine and the versions on it, as rows of a table."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().partition("\n\n")[0].splitlines() if cpuinfo.exists() else []
    processor = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = processor.get("model name") or platform.processor() or platform.machine()
    flags = (processor.get("flags") or processor.get("Features", "")).split()
    return {
        "processor": f"{name}, {usable().total} cores",
        "flags": " ".join(flag for flag in FLAGS.split() if flag in flags),
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        **dict(_versions(peers)),
    }


def commit() -> str:
    """Return the state of this project that is measured; empty where git does not tell."""
    name, changed = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--", *MEASURED)
    return f"{name} with changes" if name and changed else name


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=False, text=True).stdout.strip()
    except OSError:
        return ""


def _versions(peers: Path) -> Iterator[tuple[str, str]]:
    for package in ("embeddings-gateway", *PACKAGES.split()):
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
    for peer, packages in PEER_PACKAGES.items():
        for package in packages:
            for path in sorted((peers / peer).glob(f"lib/python*/site-packages/{package}-*.dist-info")):
                yield f"{peer}: {package}", path.stem.removeprefix(f"{package}-")


class ProcessTree:
    """A process and its descendants, as they are at each call; what has ended uses nothing."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def family(self) -> list[psutil.Process]:
        """Return the process and its descendants."""
        try:
            root = psutil.Process(self._pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_s(self) -> float:
        """Return user and system time of all, and of descendants that have ended and were waited for."""
        return total(self.family(), lambda process: sum(process.cpu_times()[:4]))

    def root_cpu_s(self) -> float:
        """Return user and system time of the process alone."""
        return total(self.family()[:1], lambda process: sum(process.cpu_times()[:2]))


def total(family: list[psutil.Process], measure: Callable[[psutil.Process], float]) -> float:
    """Return the sum over the processes that have not ended."""
    result = 0.0
    for process in family:
        try:
            result += measure(process)
        except (psutil.NoSuchProcess, OSError):
            continue
    return result


def rss_mb(process: psutil.Process) -> float:
    """Return resident memory, of which pages that processes share are part for each."""
    return process.memory_info().rss / MB  # type: ignore[no-any-return]


def pss_mb(process: psutil.Process) -> float:
    """Return proportional memory: pages that processes share are divided among them."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024 / MB


class Memory(msgspec.Struct):
    """The largest sums of a process tree's memory that were sampled; ``None`` without a process."""

    rss_peak_mb: float | None = None
    pss_peak_mb: float | None = None  # sampled once a second, if at all


@contextmanager
def sample_memory(pid: int | None, *, pss: bool = False) -> Iterator[Memory]:
    """Sample a process tree's memory from a thread while a block runs; the result is complete after it."""
    memory, ended = Memory(), threading.Event()

    def sample(tree: ProcessTree) -> None:
        family, samples = tree.family(), 0
        while samples == 0 or not ended.wait(SAMPLE_S):
            memory.rss_peak_mb = max(memory.rss_peak_mb or 0.0, total(family, rss_mb))
            samples += 1
            if samples % LOOK_EVERY == 1:
                family = tree.family()
                memory.pss_peak_mb = max(memory.pss_peak_mb or 0.0, total(family, pss_mb)) if pss else None

    thread = threading.Thread(target=sample, args=(ProcessTree(pid or 0),), daemon=True)
    if pid is not None:
        thread.start()
    yield memory
    ended.set()
    if pid is not None:
        thread.join()
