"""OpenVINO as it is to be imported: without its telemetry, and without a cache that nothing bounds."""

from __future__ import annotations

import os
import sys

# Converting a model would report it to Intel. Both OpenVINO and NNCF do without this package, and send
# nothing, where it cannot be imported.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

# oneDNN, inside OpenVINO, keeps 1024 kernels beside those that OpenVINO keeps: under ever new shapes 200 MB
# with a tiny model. It reads this once.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")

import openvino  # noqa: E402

__all__ = ["openvino"]
