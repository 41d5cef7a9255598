"""Who may have written a folder of conversions."""

from __future__ import annotations

import os
import stat

import pytest

pytest.importorskip("filelock", reason="the hf extra is not installed")

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.conversion.conversion_cache import ConversionCache
from embeddings_gateway.backends.hf.conversion.trusted_folder import make_private, untrusted

ME, MY_GROUP, OTHER = 1000, 1000, 2000


def facts(mode, user, group):
    """Return what the system says of a folder."""
    return os.stat_result((stat.S_IFDIR | mode, 1, 1, 2, user, group, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "user", "group", "says"),
    [
        (0o700, ME, MY_GROUP, ""),
        (0o755, 0, 0, ""),
        (0o775, ME, MY_GROUP, ""),
        (0o775, 0, 0, ""),
        (0o755, OTHER, MY_GROUP, "belongs to the user 2000"),
        (0o775, ME, OTHER, "the group 2000"),
        (0o777, ME, MY_GROUP, "every user"),
        (0o1777, 0, 0, ""),
    ],
)
def test_untrusted(mode, user, group, says):
    """Root, our user and our own group are trusted, nobody else; in a sticky folder entries are judged alone."""
    reason = untrusted(facts(mode, user, group), ME, MY_GROUP)
    assert says in reason
    assert bool(reason) == bool(says)


def test_random_user_of_the_root_group():
    """A process with a random user and the group 0 trusts what an image gave to that group, and nothing else."""
    assert untrusted(facts(0o775, OTHER, 0), 1000650000, 0) == ""
    assert untrusted(facts(0o775, OTHER, OTHER), 1000650000, 0) != ""


def test_made_folders_are_private(tmp_path):
    """Each missing level of a cache is made for its owner alone."""
    make_private(tmp_path / "a/b/c")
    for folder in ("a", "a/b", "a/b/c"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700


@pytest.mark.parametrize("open_to_all", ["openvino", "openvino/key", "openvino/key/record.json"])
def test_cache_that_others_can_write(tmp_path, open_to_all):
    """A conversion is refused where others could have put it, be it the cache, the entry or one of its files."""
    make_private(tmp_path / "openvino/key")
    (tmp_path / "openvino/key/record.json").touch(0o600)
    (tmp_path / open_to_all).chmod(0o777)
    with pytest.raises(LoadError, match="cannot be trusted"):
        ConversionCache(str(tmp_path)).read("key")
    (tmp_path / open_to_all).chmod(0o700)
    assert ConversionCache(str(tmp_path)).read("key") is None
