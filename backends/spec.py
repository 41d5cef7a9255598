"""How a backend is configured: one frozen struct per kind, told apart by ``backend``.

All defaults live here. The backend itself reads the files and judges whether a value fits the model.

No ``str`` inside a union has a pattern: with msgspec 0.22.0 a decoder of such a type sometimes crashes the
process when garbage is collected.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from embeddings_gateway.backends.base import Output

Pooling = Literal["cls", "mean", "max", "mean_sqrt_len", "last", "weighted_mean"]
Directory = Annotated[
    str,
    msgspec.Meta(description="a model's directory, package:MODULE/DIRECTORY or a hub id such as org/name"),
]
File = Annotated[str, msgspec.Meta(description="a GGUF file")]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Device = Annotated[
    str, msgspec.Meta(pattern=r"^(auto|cpu|cuda|cuda:\d+)$", description="auto, cpu, cuda or cuda:N")
]
Dtype = Annotated[
    Literal["auto", "fp32", "fp16", "bf16", "int8"],
    msgspec.Meta(extra={"spellings": {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}}),
]
"""Users may write the long forms too. Reading the configuration replaces them by the short ones."""


class BackendSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="backend"):
    """The settings of every kind of backend.

    Attributes:
        max_tokens: a lower limit for an input than the model's own, in tokens, special tokens included.
        max_batch_tokens: the largest cost of one batch, in tokens; ``None``: the backend decides.
        dimensions: the Matryoshka sizes to offer, instead of those in the model's own files.
        threads: processor threads of the engine; ``None``: this replica's share of the cores.
        prompts: prompt name -> prompt, instead of the model's own.
        default_prompt: the name of the prompt for requests that name none; ``""``: no prompt, whatever the
            model's files say.
        environment: names of environment variables that the worker gets beside those that it always gets.
    """

    max_tokens: Positive | None = None
    max_batch_tokens: Positive | None = None
    dimensions: tuple[Positive, ...] | None = None
    threads: Positive | None = None
    prompts: dict[str, str] | None = None
    default_prompt: str | None = None
    environment: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The value of ``backend``."""
        return str(self.__struct_config__.tag)


class HfSpec(BackendSpec, frozen=True, kw_only=True, tag="hf"):
    """A Hugging Face model directory, run by OpenVINO or torch.

    Attributes:
        path: an absolute directory, ``package:module/sub`` for a directory in an installed Python package, or
            a hub id such as ``BAAI/bge-m3``.
        revision: commit, tag or branch of a hub id.
        sha256: the checksum of the only weights file, or a table of file name -> checksum.
        runtime: what computes the network; ``auto`` is OpenVINO on a processor and torch on a GPU.
        device: ``auto`` is a GPU if there is one.
        dtype: of the arithmetic; ``auto`` is bf16 if the processor or GPU has it, else fp32. It is fp32 for
            torch on a processor. ``fp16`` needs torch on a GPU. ``int8`` is quantised with NNCF and needs
            OpenVINO.
        calibration: a file of texts, one a line, to calibrate ``int8`` with instead of the built-in texts.
        cache_dir: where converted models are stored; ``None``: ``embeddings-gateway`` in the user's cache
            directory (``XDG_CACHE_HOME``).
        pooling: replaces what the model's files say.
        normalize: whether vectors get unit length; ``None``: yes, unless the model says that its vectors are
            compared by dot product.
    """

    path: Directory
    revision: str | None = None
    sha256: str | dict[str, str] | None = None
    runtime: Literal["auto", "torch", "openvino"] = "auto"
    device: Device = "auto"
    dtype: Dtype = "auto"
    calibration: str | None = None
    cache_dir: str | None = None
    pooling: Pooling | None = None
    normalize: bool | None = None

    @property
    def is_downloaded(self) -> bool:
        """Whether the path is a hub id."""
        return not self.path.startswith(("/", "package:"))


class GgufSpec(BackendSpec, frozen=True, kw_only=True, tag="gguf"):
    """A GGUF file, run by llama.cpp.

    Attributes:
        path: an absolute file.
        sha256: the checksum of the file.
        pooling: replaces what the file says.
        normalize: whether vectors get unit length; ``None``: yes.
        n_gpu_layers: layers to put on the GPU; -1: all of them.
    """

    path: File
    sha256: str | dict[str, str] | None = None
    pooling: Literal["cls", "mean", "last"] | None = None
    normalize: bool | None = None
    n_gpu_layers: Annotated[int, msgspec.Meta(ge=-1)] = 0


class FakeSpec(BackendSpec, frozen=True, kw_only=True, tag="fake"):
    """Deterministic numbers without meaning, to test everything around a model. Never a default.

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
    """The fake backend with faults, to test that they harm nothing else. Never a default.

    Attributes:
        loading: how loading goes; ``wrong`` loads a model that mixes up the inputs of a batch.
        load_seconds: how long loading takes.
        seconds_per_token: how long a batch takes.
        memory_tokens: the padded cost of a batch above which memory runs out.
        file: the absolute path of a file with any content, which stands for the model's weights.
    """

    loading: Literal["well", "abort", "hang", "refuse", "wrong"] = "well"
    load_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0
    seconds_per_token: Annotated[float, msgspec.Meta(ge=0)] = 0
    memory_tokens: Positive | None = None
    file: str | None = None


Spec = HfSpec | GgufSpec | FakeSpec | FaultSpec
