"""Inputs longer than the real model takes, on both backends: what becomes of them, and how that is told."""

from __future__ import annotations

import numpy as np
import openai
import pytest

from tests.cosine import lowest_cosine, unit
from tests.e2e.minilm import MINILM_PATH

tokenizers = pytest.importorskip("tokenizers")

TEXT = " ".join(f"item {number} of a long list of things;" for number in range(120))


@pytest.fixture(scope="module")
def ids():
    """Return the ids of the long text, without special tokens."""
    tokenizer = tokenizers.Tokenizer.from_file(str(MINILM_PATH / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer.encode(TEXT, add_special_tokens=False).ids


@pytest.fixture
def room(client, model):
    """Return how many tokens of text the model takes."""
    return client.models.retrieve(model).max_tokens - 2


def ask(client, model, inputs, **extra):
    """Return the vectors, float32 ``[inputs, 384]``, and the headers."""
    raw = client.embeddings.with_raw_response.create(model=model, input=inputs, extra_body=extra)
    return np.array([item.embedding for item in raw.parse().data], np.float32), raw.headers


def test_the_mean_is_that_of_the_windows(client, model, min_cosine, ids, room):
    """``mean`` gives the average of the windows' vectors by tokens, at unit length, and the header tells."""
    windows = [ids[at : at + room] for at in range(0, len(ids), room)]
    assert len(windows) > 2
    parts, _ = ask(client, model, windows)
    expected = unit(np.average(parts, axis=0, weights=[len(window) for window in windows])[None])
    vectors, headers = ask(client, model, ["short", TEXT, "also short"], truncate="mean")
    assert lowest_cosine(vectors[1:2], expected) >= min_cosine
    assert np.linalg.norm(vectors[1]) == pytest.approx(1, abs=1e-4)
    assert headers["x-averaged-inputs"] == "1"
    assert "x-truncated-inputs" not in headers
    alone, headers = ask(client, model, ["short", "also short"], truncate="mean")
    assert lowest_cosine(vectors[[0, 2]], alone) >= min_cosine
    assert "x-averaged-inputs" not in headers


@pytest.mark.parametrize("side", ["right", "left", "END", "START", True])
def test_what_is_left_is_one_end_of_the_text(client, model, ids, room, side):
    """``right`` leaves the beginning of a text and ``left`` its end; other APIs' words for them do the same."""
    left = ids[-room:] if side in ("left", "START") else ids[:room]
    vectors, headers = ask(client, model, [TEXT], truncate=side)
    expected, _ = ask(client, model, [left])
    assert lowest_cosine(vectors, expected) >= 0.9999
    assert headers["x-truncated-inputs"] == "0"


def test_the_mean_of_all_windows_is_paid_for(client, model, ids, room):
    """Usage counts every window, special tokens included."""
    raw = client.embeddings.create(model=model, input=TEXT, extra_body={"truncate": "mean"})
    windows = -(-len(ids) // room)
    assert raw.usage.prompt_tokens == len(ids) + 2 * windows


def test_by_default_a_long_input_is_refused(client, model):
    """Without a policy a long input is 400, as with OpenAI, and the message names what can be set."""
    with pytest.raises(openai.BadRequestError, match="mean") as caught:
        ask(client, model, ["short", TEXT])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input[1]")


def test_the_mean_of_a_text_in_smaller_dimensions(client, min_cosine):
    """Dimensions are cut after averaging, and brought back to unit length."""
    full, _ = ask(client, "minilm", [TEXT], truncate="mean")
    raw = client.embeddings.create(
        model="minilm", input=[TEXT], dimensions=64, extra_body={"truncate": "mean"}
    )
    short = np.array([raw.data[0].embedding], np.float32)
    assert lowest_cosine(short, full[:, :64]) >= 0.999
    assert np.linalg.norm(short) == pytest.approx(1, abs=1e-4)
