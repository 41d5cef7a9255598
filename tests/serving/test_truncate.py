"""What happens to token ids between the tokenizer and the queue."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings_gateway.errors import ContextLengthExceeded, InvalidTokenIds
from embeddings_gateway.serving.prepare.policies import native, tokens_left, truncate
from embeddings_gateway.serving.prepare.tally import too_long
from tests.gateway.fakes import make_info

INFO = make_info(prefix=(256, 9), suffix=(257,), max_tokens=8)
LONG = np.array([256, 9, *range(10), 257], np.int32)


def test_too_long():
    """The error of an input that is not to be cut says how long it is and may be."""
    error = too_long(13, INFO)
    assert isinstance(error, ContextLengthExceeded)
    assert "8" in error.message
    assert "13" in error.message


@given(
    more=st.integers(1, 40),
    prefix=st.integers(0, 2),
    suffix=st.integers(0, 2),
    room=st.integers(1, 20),
    policy=st.sampled_from(["right", "left"]),
)
def test_cut_fits(more, prefix, suffix, room, policy):
    """``right`` keeps the beginning of a text, ``left`` its end, as much as fits between special tokens."""
    info = make_info(prefix=(256,) * prefix, suffix=(257,) * suffix, max_tokens=prefix + suffix + room)
    ids = np.array([*info.prefix, *range(room + more), *info.suffix], np.int32)
    cut = truncate(ids, info, policy, "input[0]")
    (left,) = cut.windows
    kept = left[prefix : len(left) - suffix].tolist()
    first = 0 if policy == "right" else more
    assert kept == list(range(first, first + room))
    assert left[:prefix].tolist() == [256] * prefix
    assert left[prefix + len(kept) :].tolist() == [257] * suffix
    assert cut.was_cut
    assert tokens_left(ids, info, policy) == len(left)
    assert left.dtype == np.int32


@given(
    more=st.integers(1, 40),
    prefix=st.integers(0, 2),
    prompt=st.integers(0, 3),
    suffix=st.integers(0, 2),
    room=st.integers(1, 20),
)
def test_windows_hold_all_of_a_text(more, prefix, prompt, suffix, room):
    """``mean`` cuts nothing: windows have the special tokens and the prompt, and all of the text."""
    special = prefix + prompt + suffix
    info = make_info(prefix=(256,) * prefix, suffix=(257,) * suffix, max_tokens=special + room)
    ids = np.array([*info.prefix, *[255] * prompt, *range(room + more), *info.suffix], np.int32)
    spread = truncate(ids, info, "mean", "input[0]", leading=prefix + prompt)
    text = [window[prefix + prompt : len(window) - suffix].tolist() for window in spread.windows]
    assert [number for part in text for number in part] == list(range(room + more))
    assert list(spread.text_tokens) == [len(part) for part in text]
    for window, part in zip(spread.windows, text, strict=True):
        assert 1 <= len(part) <= room
        assert window.tolist() == [*[256] * prefix, *[255] * prompt, *part, *[257] * suffix]
    assert not spread.was_cut
    assert tokens_left(ids, info, "mean", prefix + prompt) == sum(map(len, spread.windows))


@pytest.mark.parametrize(("policy", "expected"), [("right", [0, 1, 2, 3]), ("left", [6, 7, 8, 9])])
def test_the_prompt_is_not_cut(policy, expected):
    """What is cut away is text, not the words that the model needs before it."""
    ids = np.array([256, 9, 30, *range(10), 257], np.int32)
    (window,) = truncate(ids, INFO, policy, "input[0]", leading=3).windows
    assert window.tolist() == [256, 9, 30, *expected, 257]


@pytest.mark.parametrize("policy", ["right", "left", "mean"])
def test_a_prompt_without_room_beside_it(policy):
    """A prompt that leaves no room for text is an error that says so."""
    with pytest.raises(ContextLengthExceeded, match="prompt"):
        truncate(LONG, INFO, policy, "input[0]", leading=7)


@pytest.mark.parametrize(
    "given_ids",
    [[5, 6], [256, 9, 5, 6], [5, 6, 257], [256, 9, 5, 6, 257]],
    ids=["none", "before", "after", "both"],
)
def test_native_special_tokens(given_ids):
    """Special tokens that are missing are added, and those that are there are not doubled."""
    ids = native(given_ids, INFO)
    assert ids.tolist() == [256, 9, 5, 6, 257]
    assert ids.dtype == np.int32


def test_native_half_a_prefix():
    """Only the whole of the special tokens counts as having them."""
    assert native([256, 5], INFO).tolist() == [256, 9, 256, 5, 257]


def test_native_without_special_tokens():
    """A model that has none gets the ids as they are."""
    assert native([5], make_info(prefix=(), suffix=())).tolist() == [5]


@pytest.mark.parametrize("bad", [-1, 258, 2**31, 2**63, 2**64, 10**30])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_native_vocabulary(bad, place):
    """An id outside the vocabulary is refused wherever it stands, and the message does not repeat it."""
    ids = [5, 6]
    ids.insert(place, bad)
    refusal = native(ids, INFO)
    assert isinstance(refusal, InvalidTokenIds)
    assert str(bad) not in refusal.message


def test_native_whole_vocabulary():
    """The first and the last id of the vocabulary are in it."""
    assert native([0, 257], make_info(prefix=(), suffix=())).tolist() == [0, 257]
