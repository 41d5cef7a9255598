"""No text of a user is ever logged, whatever becomes of its request."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from embeddings_gateway import log
from tests.gateway.commands import environment
from tests.server import serving

SECRET = "marmalade"
CONFIG = """
[server]
log_format = "json"
log_level = "debug"

[models.small]
backend = "fault"
max_tokens = 40
"""
GOOD = {"model": "small", "input": SECRET}
IN_ENGINE, IN_TOKENIZER = f"{SECRET}<raise>", f"{SECRET}<tokenizer-raise>"
BODIES = [
    (200, GOOD),
    (200, GOOD | {"input": [SECRET, IN_ENGINE, IN_TOKENIZER, SECRET * 9], "partial": True}),
    (200, GOOD | {"input": SECRET * 9, "truncate": "right"}),
    (500, GOOD | {"input": [SECRET, IN_ENGINE]}),
    (500, GOOD | {"input": [SECRET, IN_TOKENIZER]}),
    (400, GOOD | {"input": SECRET * 9}),
    (400, GOOD | {"input": [SECRET, ""]}),
    (400, GOOD | {"input": {SECRET: SECRET}}),
    (400, GOOD | {"encoding_format": SECRET}),
    (400, GOOD | {"dimensions": SECRET}),
    (404, GOOD | {"model": SECRET}),
]


def test_requests(tmp_path):
    """Requests that succeed, are refused, and fail in the worker leave log events without their texts."""
    with serving(tmp_path, CONFIG) as server:
        url = f"{server.url}/v1/embeddings"
        for status, body in BODIES:
            assert httpx.post(url, json=body).status_code == status, body
        cut_short = json.dumps(GOOD).encode()[:-1]
        wrong = httpx.post(url, content=cut_short, headers={"content-type": "application/json"})
        assert wrong.status_code == 400
        assert httpx.post(url, content=SECRET).status_code == 415
        assert httpx.post(url, json=GOOD, headers={"x-expected-space": SECRET}).status_code == 412
        assert httpx.get(f"{server.url}/{SECRET}", params={"q": SECRET}).status_code == 404
        assert httpx.get(f"{server.url}/v1/models/{SECRET}").status_code == 404
        assert httpx.post(f"{server.url}/v1/models/{SECRET}").status_code == 405
        assert httpx.options(f"{server.url}/v1/models/{SECRET}").status_code == 204
    said = server.log.read_text()
    events = [json.loads(line) for line in said.splitlines()]
    statuses = [event["status"] for event in events if event["event"] == "request"]
    assert [status for status, _ in BODIES] == statuses[-len(BODIES) - 7 : -7]
    assert sum(event["event"].startswith("batch failed") for event in events) >= 2
    assert SECRET not in said


def test_what_is_no_json():
    """An event is written whatever is in it."""
    for odd in ("\ud800", 2**70, {1: 2}, float("nan"), Path("a")):
        assert json.loads(log.as_json({"event": odd}, default=repr))


PROGRAM = """
import logging, sys
from embeddings_gateway import log

def fail(text):
    raise ValueError("the words of the library")

log.configure(sys.argv[1], "info")
try:
    fail(sys.argv[2])
except ValueError:
    log.get_logger().exception("ours failed", inputs=3)
    logging.getLogger("library").exception("theirs failed")
log.get_logger().debug("too quiet")
"""


@pytest.mark.parametrize("form", ["json", "console", "auto"])
def test_tracebacks(form):
    """A traceback, ours or a library's, shows neither a message nor a variable, which may be a text."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, form, SECRET],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == ""
    said = ended.stderr
    assert SECRET not in said
    assert "the words of the library" not in said
    assert all(words in said for words in ("ours failed", "theirs failed", "ValueError"))
    assert "too quiet" not in said
    assert "\x1b" not in said  # this is no terminal
    if form != "console":
        assert [json.loads(line)["level"] for line in said.splitlines()] == ["error", "error"]


APPLICATION = """
import logging, sys
import structlog
from embeddings_gateway import log

structlog.configure(processors=[structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()])
before = structlog.get_config()
logging.basicConfig(level="INFO", format="%(name)s %(levelname)s %(message)s")
ours = log.get_logger().bind(model="small")
try:
    raise ValueError(sys.argv[1])
except ValueError:
    ours.exception("ours failed", inputs=3)
ours.debug("too quiet")
assert structlog.get_config() == before
"""


def test_an_application_has_its_own():
    """In an application events go to its logging, without messages, however it has set structlog up."""
    ended = subprocess.run(
        [sys.executable, "-c", APPLICATION, SECRET],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == ""
    assert SECRET not in ended.stderr
    (said,) = ended.stderr.splitlines()
    assert said.startswith("embeddings_gateway ERROR event='ours failed' ")
    assert "model='small'" in said
    assert said.endswith("ValueError'")


GOES_ON = """
from embeddings_gateway import log

log.configure("json", "info")
log.get_logger().error("the disk is full")
print("it goes on")
"""


def test_a_log_that_cannot_be_written():
    """What cannot be logged is lost, and nothing else with it."""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", GOES_ON],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=False,
        )
    assert ended.stdout == "it goes on\n"
