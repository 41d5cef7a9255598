"""From ``config.json`` to transformers' configuration and class, neither of which reads any other file.

What the author wants computed and that class does not implement is a LoadError: it would be left out in silence.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import transformers
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedConfig, PreTrainedModel

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files.layout import Layout

# Encoder-decoders whose encoder stands alone in transformers, by config.json's model_type.
ENCODERS = {
    "longt5": "LongT5EncoderModel",
    "mt5": "MT5EncoderModel",
    "switch_transformers": "SwitchTransformersEncoderModel",
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
# Keys that say which code, kernels or files to load and in which dtype, all of which is decided here.
LOADING = re.compile(r"_\w*|auto_map|name_or_path|base_model_name_or_path|(torch_)?dtype|\w+_implementation")
# Keys of the author's own code that change no vector: training, heads on top, and how to compute.
PASSED_OVER = re.compile(
    r"\w*dropout\w*|\w*_pdrop|initializer\w*|gradient_checkpointing|output_past|directionality|tie_\w+"
    r"|(emb_)?pooler\w*|classifier\w*|summary_\w+|\w*loss\w*|label\w*|num_labels|task\w*|prompt\w*"
    r"|(use_)?(flash|fused|memory_efficient|xformers|mem_efficient)\w*|unpad\w*|pad_vocab_size_multiple"
    r"|reference_compile|matryoshka\w*|sentence_transformers|transformers\.js_config|is_causal"
)
# Keys that change what is computed, in the configurations of several architectures.
COMPUTED = re.compile(
    r"position_embedding_type|feed_forward_type|(use_)?alibi\w*|use_rotary\w*|rotary_(emb|scaling)\w*"
    r"|(use_)?qk_(layer_?)?norm\w*|relative_attention\w*"
)
# Beside the class's own, the modules that may read a key of any configuration.
SHARED_MODULES = (
    "transformers.configuration_utils",
    "transformers.masking_utils",
    "transformers.modeling_rope_utils",
    "transformers.modeling_utils",
)


class Architecture(NamedTuple):
    """A configuration and the class that computes it; ``notes`` are for the operator."""

    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    notes: tuple[str, ...]


def read_architecture(layout: Layout) -> Architecture:
    """Return what transformers itself makes of ``config.json``, without the code that it may name."""
    path = layout.folder / "config.json"
    values = _without_loading(layout.config)
    config = _config_class(path, layout.config).from_dict(dict(values))
    model_class = _model_class(path, config)
    if model_class.config_class is not type(config):  # the text part of a model of several kinds of input
        config = config.get_text_config()
        values = _without_loading(_part(layout.config, "text_config"))
    _forget_impossible_padding(config)
    own_code = _own_code(layout.config)
    _refuse_unimplemented(path, values, config, model_class, own_code)
    note = f"{path} names code of its own ({own_code}), which is never run: {model_class.__name__} is used"
    return Architecture(config, model_class, (note,) if own_code else ())


def _forget_impossible_padding(config: PreTrainedConfig) -> None:
    """Leave out a padding id that the table of embeddings lacks: its class would refuse to be built."""
    padding, size = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    if isinstance(padding, int) and isinstance(size, int) and padding >= size:
        config.pad_token_id = None


def _without_loading(values: Mapping[str, object]) -> dict[str, object]:
    return {
        key: _without_loading(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if not LOADING.fullmatch(key)
    }


def _own_code(values: Mapping[str, object]) -> str:
    """Return the author's class for the transformer; empty where it is one of transformers'."""
    return str(_part(values, "auto_map").get("AutoModel", ""))


def _part(values: Mapping[str, object], key: str) -> Mapping[str, object]:
    part = values.get(key)
    return part if isinstance(part, dict) else {}


def _config_class(path: Path, values: Mapping[str, object]) -> type[PreTrainedConfig]:
    kind = values.get("model_type")
    if not isinstance(kind, str):
        raise LoadError(f"{path} has no model_type, which names the architecture: add it")
    if kind == "mistral" and "layer_types" in values:  # as AutoConfig has it
        kind = "ministral"
    if kind in CONFIG_MAPPING:
        return CONFIG_MAPPING[kind]  # type: ignore[no-any-return]
    if values.get("auto_map"):
        raise LoadError(
            f"{path}: the model {kind!r} needs code of its own, and none is ever run: "
            "take a model whose architecture transformers has"
        )
    raise LoadError(f"{path}: transformers {transformers.__version__} has no architecture {kind!r}")


def _model_class(path: Path, config: PreTrainedConfig) -> type[PreTrainedModel]:
    kind = config.model_type
    if kind in ENCODERS:
        return getattr(transformers, ENCODERS[kind])  # type: ignore[no-any-return]
    if getattr(config, "is_encoder_decoder", False):
        raise LoadError(
            f"{path}: {kind} is an encoder-decoder; of those only {', '.join(ENCODERS)} are supported"
        )
    if type(config) not in MODEL_MAPPING:
        raise LoadError(f"{path}: transformers has no model for {kind!r} alone, without a task")
    mapped = MODEL_MAPPING[type(config)]
    classes = {model.__name__: model for model in (mapped if isinstance(mapped, list | tuple) else [mapped])}
    wanted = [name for name in config.architectures or () if name in classes]
    return classes[wanted[0] if wanted else next(iter(classes))]  # type: ignore[no-any-return]


def _refuse_unimplemented(
    path: Path,
    values: Mapping[str, object],
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    own_code: str,
) -> None:
    """Refuse what is asked for and not implemented.

    Where the author's own code is passed over, that is every key that it alone could read. Elsewhere it is
    known keys: configurations are full of old ones that never meant anything.
    """
    unread = _unread(values, config, model_class)
    suspect = [
        key
        for key in unread
        if values[key] not in (None, False, 0, "", [], {}, "absolute")
        and (COMPUTED.fullmatch(key) or (own_code and not PASSED_OVER.fullmatch(key)))
    ]
    if suspect:
        shown = ", ".join(f"{key} ({values[key]!r})"[:60] for key in sorted(suspect)[:5])
        needs = ": the model needs code of its own, and none is ever run" if own_code else ""
        raise LoadError(f"{path} has {shown}, which {model_class.__name__} does not implement{needs}")


def _unread(
    values: Mapping[str, object], config: PreTrainedConfig, model_class: type[PreTrainedModel]
) -> list[str]:
    """Return the keys that neither the configuration declares nor the model's source mentions."""
    declared = {field.name for field in dataclasses.fields(config)} | set(config.attribute_map)
    undeclared = set(vars(config)) - declared - {"model_type"}
    names = (model_class.__module__, type(config).__module__, *SHARED_MODULES)
    words = set(re.findall(r"\w+", "".join(_source(name) for name in names)))
    return [key for key in values if key in undeclared and key not in words]


def _source(module: str) -> str:
    try:
        return inspect.getsource(sys.modules[module])
    except (OSError, KeyError):  # an installation without sources
        return ""
