"""PURE: the environment variables that a worker gets: known ones of the gateway's own, and settings of engines.

A gateway's environment holds secrets of other programs. A worker parses files from elsewhere, so it gets only what it
may need.
"""

from __future__ import annotations

from collections.abc import Mapping

from embeddings_gateway.backends.spec import HfSpec, Spec

ENGINE_SETTINGS = {
    # OpenMP threads synchronize about two hundred times for a short input. With the default, spinning, one
    # busy neighbour core makes torch and llama.cpp five times slower. With sleeping at once, a short input
    # takes llama.cpp four times as long. So they spin for a few microseconds, then sleep.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "200",
    "GGML_NO_BACKTRACE": "1",  # otherwise ggml starts a debugger when it aborts
    # By default glibc keeps eight heaps per core, and buffers of an engine's threads spread over all of them:
    # memory grows for hours without a leak. Two heaps are as fast; a single one costs 7 % of throughput.
    "MALLOC_ARENA_MAX": "2",
}
"""What engines, and the C library below them, read from their environment at import."""

SYSTEM = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "TZ",
    "TERM",
    "COLUMNS",
    "LANG",
    "LANGUAGE",
    "GLIBC_TUNABLES",
)
SYSTEM_PREFIXES: tuple[str, ...] = ("LC_", "XDG_", "LD_", "DYLD_", "MALLOC_", "PYTHON")
ENGINE_PREFIXES = (
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "VECLIB_", "RAYON_", "TBB_", "ONEDNN_", "DNNL_"),
    *("TORCH", "PYTORCH_", "ATEN_", "TRITON_", "TRANSFORMERS_", "TOKENIZERS_", "SAFETENSORS_", "NNCF_"),
    *("OV_", "OPENVINO_", "GGML_", "LLAMA_"),
    *(
        "CUDA_",
        "CUBLAS_",
        "CUDNN_",
        "NVIDIA_",
        "NCCL_",
        "HIP_",
        "HSA_",
        "ROCR_",
        "ROCM_",
        "SYCL_",
        "ONEAPI_",
        "ZE_",
    ),
)
DOWNLOAD = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
DOWNLOAD_PREFIXES = ("HF_", "HUGGING")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
"""In capitals or not."""


def worker_environment(spec: Spec, own: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment: settings of its engine, and over them what it gets of the gateway's own.

    Args:
        spec: the worker's model. Only one that is downloaded gets the hub's variables and proxies.
        own: the gateway's environment, which the operator controls.
    """
    settings = dict(ENGINE_SETTINGS)
    if "OMP_WAIT_POLICY" in own:
        del settings["GOMP_SPINCOUNT"]  # it would take precedence
    if spec.threads is not None:
        settings["OMP_NUM_THREADS"] = str(spec.threads)
    names, prefixes = {*SYSTEM, *spec.environment}, SYSTEM_PREFIXES + ENGINE_PREFIXES
    if isinstance(spec, HfSpec) and spec.is_downloaded:
        names |= {*DOWNLOAD, *PROXIES, *map(str.lower, PROXIES)}
        prefixes += DOWNLOAD_PREFIXES
    passed = {name: value for name, value in own.items() if name in names or name.startswith(prefixes)}
    return settings | passed
