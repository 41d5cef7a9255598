"""The command line."""

from __future__ import annotations

import pytest

from bench.models import Layers
from bench.options import PARTS, UrlPeer, parse
from bench.peers import Missing, gateway, infinity, llama_server
from embeddings_gateway.config_file import read_config


def test_everything_is_measured_unless_parts_are_named():
    """``report`` measures nothing."""
    assert parse([]).parts == parse(["all"]).parts == PARTS
    assert parse(["fake", "start"]).parts == ("fake", "start")
    assert parse(["report"]).parts == ()


def test_a_trial_is_quicker():
    """What is said outright counts more."""
    assert (parse(["--quick"]).rounds, parse(["--quick"]).seconds) == (1, 1.0)
    assert parse(["--quick", "--rounds", "2"]).rounds == 2
    assert parse([]).rounds >= 3


def test_running_servers_are_named_in_turn():
    """The first model and process belong to the first server."""
    given = ["--peer", "a=http://h:1/v1", "--peer", "b=http://h:2", "--peer-model", "m", "--pid", "7"]
    assert parse(given).url_peers == (
        UrlPeer("a", "http://h:1/v1", "m", 7),
        UrlPeer("b", "http://h:2", "model", None),
    )
    with pytest.raises(SystemExit):
        parse(["--peer", "http://h:1"])


def test_a_peer_that_is_not_installed_says_how_to_get_it(tmp_path):
    """The reason names the command."""
    for recipe in (infinity, llama_server):
        with pytest.raises(Missing, match="make bench-peers"):
            recipe(tmp_path, tmp_path)


def test_the_gateways_configuration_is_one_that_it_reads(tmp_path):
    """The file that is written is valid, whatever is in the path."""
    recipe = gateway(tmp_path, "m", {"backend": "gguf", "path": '/a "b"\\c.gguf'})
    config = read_config(tmp_path / "m.toml")
    assert config.models["m"].spec.path == '/a "b"\\c.gguf'
    assert str(tmp_path / "m.toml") in recipe.command


def test_operations_of_an_encoder_are_counted():
    """BERT-base: 85 million parameters in linear layers, twice, and attention over 128 tokens."""
    assert Layers(768, 3072, 12).flops_per_token(128) == 2 * 84_934_656 + 4 * 12 * 768 * 128
