"""How a backend is configured: one frozen, data-only struct per kind, chosen by the key ``backend``.

Defaults live here and nowhere else. The backend itself reads the files, and judges whether a value fits the
model.

No ``str`` inside a union carries a pattern: with msgspec 0.22.0 a decoder of such a type crashes the
process, now and then, when garbage is collected.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from embeddings_gateway.backends.base import Output

Pooling = Literal["cls", "mean", "max", "mean_sqrt_len", "last", "weighted_mean"]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class BackendSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="backend"):
    """The keys of every kind of backend.

    Attributes:
        max_tokens: a lower limit than the model's own, in tokens, special tokens included.
        max_batch_tokens: the largest cost of one batch, in tokens; ``None`` leaves it to the backend.
        dimensions: the Matryoshka sizes offered, where the model's own files do not say.
        threads: processor threads of the engine; ``None`` is this replica's share of the cores.
        prompts: name -> words that go before a text of that kind, instead of the model's own.
        default_prompt: the name of the one used where a request names none; ``""`` is none, whatever the
            model's files say.
    """

    max_tokens: Positive | None = None
    max_batch_tokens: Positive | None = None
    dimensions: tuple[Positive, ...] | None = None
    threads: Positive | None = None
    prompts: dict[str, str] | None = None
    default_prompt: str | None = None

    @property
    def kind(self) -> str:
        """The value of ``backend`` that chooses it."""
        return str(self.__struct_config__.tag)


class HfSpec(BackendSpec, frozen=True, kw_only=True, tag="hf"):
    """A Hugging Face model directory, run by OpenVINO or torch.

    Attributes:
        path: an absolute directory, ``package:module/sub`` for one inside an installed Python package, or
            a hub id such as ``BAAI/bge-m3``.
        revision: commit, tag or branch of a hub id.
        sha256: the sum of the weights file, or a table of file name -> sum.
        runtime: what computes the network; ``auto`` is OpenVINO on a processor and torch on a GPU.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: of the arithmetic; ``auto`` is bf16 where the processor or GPU has it, else fp32, and fp32 for
            torch on a processor. ``fp16`` needs a GPU. ``int8`` is quantised with NNCF, by OpenVINO alone.
        calibration: a file of texts, one a line, that ``int8`` is calibrated with instead of our own.
        cache_dir: where converted models are kept; ``None`` is ``embeddings-gateway`` in the user's cache
            directory (``XDG_CACHE_HOME``).
        pooling: overrides what the model's files say.
        normalize: whether vectors get unit length; ``None`` is yes, unless the model says that it is
            compared by dot product.
    """

    path: str
    revision: str | None = None
    sha256: str | dict[str, str] | None = None
    runtime: Literal["auto", "torch", "openvino"] = "auto"
    device: Annotated[str, msgspec.Meta(pattern=r"^(auto|cpu|cuda|cuda:\d+)$")] = "auto"
    dtype: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    calibration: str | None = None
    cache_dir: str | None = None
    pooling: Pooling | None = None
    normalize: bool | None = None


class GgufSpec(BackendSpec, frozen=True, kw_only=True, tag="gguf"):
    """A GGUF file, run by llama.cpp.

    Attributes:
        path: an absolute file.
        sha256: the sum of the file.
        pooling: overrides what the file says.
        normalize: whether vectors get unit length; ``None`` is yes.
        n_gpu_layers: layers put on the GPU; -1 is all of them.
    """

    path: str
    sha256: str | dict[str, str] | None = None
    pooling: Literal["cls", "mean", "last"] | None = None
    normalize: bool | None = None
    n_gpu_layers: Annotated[int, msgspec.Meta(ge=-1)] = 0


class FakeSpec(BackendSpec, frozen=True, kw_only=True, tag="fake"):
    """Deterministic numbers without meaning, for tests of the machinery. Never a default.

    Attributes:
        width: dimensions of a vector, be it of an input or of a token.
        cost: the cost rule that the backend states.
        outputs: what it computes.
        labels: scores for each input, where ``outputs`` has ``score``.
    """

    width: Positive = 8
    cost: Literal["padded", "packed"] = "padded"
    outputs: tuple[Output, ...] = ("dense",)
    labels: Positive = 1


class FaultSpec(FakeSpec, frozen=True, kw_only=True, tag="fault"):
    """The fake backend with faults, for tests of what happens to all other requests. Never a default.

    Attributes:
        loading: how loading goes: ``wrong`` loads a model that mixes up the inputs of a batch.
        load_seconds: how long loading takes.
        seconds_per_token: how long a batch takes.
        memory_tokens: the cost of a batch, padded, above which memory runs out.
    """

    loading: Literal["well", "abort", "hang", "refuse", "wrong"] = "well"
    load_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0
    seconds_per_token: Annotated[float, msgspec.Meta(ge=0)] = 0
    memory_tokens: Positive | None = None


Spec = HfSpec | GgufSpec | FakeSpec | FaultSpec
