"""Makes OpenVINO's graph of a network: traced once, for any number of inputs of any length."""

from __future__ import annotations

import torch

from embeddings_gateway.backends.hf.network.network import Network
from embeddings_gateway.backends.hf.network.traceable_attention import use_traceable_attention
from embeddings_gateway.backends.hf.runtimes.openvino_runtime import openvino

# Two rows of unequal length: what depends on the mask must show while the module is traced.
EXAMPLE_LENGTHS = (8, 5)


class UnconvertibleError(Exception):
    """OpenVINO cannot express the network."""


def trace(network: Network, token: int) -> openvino.Model:
    """Return the network as OpenVINO's graph, for any number of inputs of any length.

    Its transformer has another attention afterwards. ``token`` is any id of the vocabulary but that of padding.
    """
    longest = max(EXAMPLE_LENGTHS)
    ids = torch.full((len(EXAMPLE_LENGTHS), longest), token)
    mask = (torch.arange(longest) < torch.tensor(EXAMPLE_LENGTHS)[:, None]).long()
    example = {"input_ids": ids, "attention_mask": mask}
    try:
        use_traceable_attention(network.transformer)
        with torch.inference_mode():
            model = openvino.convert_model(network, example_input=example)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch's tracer and OpenVINO raise all kinds
        raise UnconvertibleError(" ".join(str(error).split())[:300]) from error
    model.reshape({port: openvino.PartialShape([-1, -1]) for port in model.inputs})
    keep_integers_exact(model)
    return model


def keep_integers_exact(model: openvino.Model) -> None:
    """Have integers that are computed with fractions, such as the buckets of relative positions, computed in fp32.

    With eight digits of bf16 a distance falls into the wrong bucket. OpenVINO keeps what lies between the last
    matrix product and an output in fp32, so each such computation gets an output of its own: its maximum, which
    nobody reads.
    """
    opset, outputs = openvino.opset13, []
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convert" or not node.get_input_element_type(0).is_real():
            continue
        if node.get_output_element_type(0).is_integral_number():
            numbers = opset.reshape(node.output(0), [-1], special_zero=False)
            outputs.append(opset.result(opset.reduce_max(numbers, [0])))
    model.add_results(outputs)
