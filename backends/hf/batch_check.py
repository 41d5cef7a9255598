"""Whether the longest input that shares batches has its own vector there: a model may be right for short ones only.

Windows of attention and positions that depend on the length show in no shorter input. The self-test, which is the
same for all backends, has short ones.
"""

from __future__ import annotations

import numpy as np

from embeddings_gateway.backends.base import Batch, EmbedError, LoadError, ModelInfo, OutOfMemory, TokenIds
from embeddings_gateway.backends.hf.runtimes.runtime import Runtime
from embeddings_gateway.backends.invariance import batch_invariance, cosine

LONGEST = 8192
SHORT = 8
"""The length in tokens of the input beside the long one."""


def check_batch_invariance(runtime: Runtime, info: ModelInfo, tokens: TokenIds) -> None:
    """Compute a long and a short input alone and together, in no larger a batch than will be served.

    ``tokens`` are any of the vocabulary, for example those of a text.

    Raises:
        LoadError: the vectors differ by more than is promised, or the model fails on the long input.
        OutOfMemory: another attempt may succeed.
    """
    known = tokens[tokens < info.vocabulary_size]
    longest = min(info.max_tokens, info.max_batch_tokens // 2, LONGEST)
    if not len(known) or longest <= SHORT or info.max_batch_inputs < 2:
        return
    batch = Batch.of([np.resize(known, longest), np.resize(known, SHORT)])
    try:
        alone = np.concatenate([runtime.run(single) for single in batch.singles()])
        together = runtime.run(batch)
    except OutOfMemory:
        raise
    except EmbedError as error:
        raise LoadError(
            f"the model fails on an input of {longest} tokens ({error}): lower max_tokens"
        ) from error
    lowest = cosine(alone, together).min()
    if not lowest >= batch_invariance(info):  # also where it is NaN
        raise LoadError(
            f"inputs of {longest} and {SHORT} tokens have other vectors together than alone (cosine {lowest:.5f}): "
            "lower max_tokens or max_batch_tokens, or set runtime to 'torch' and dtype to 'fp32'"
        )
