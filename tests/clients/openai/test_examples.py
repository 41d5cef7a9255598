"""The example that moves a table of texts from a hosted model to the gateway."""

from __future__ import annotations

import json
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest

from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.clients.examples import run
from tests.cosine import lowest_cosine
from tests.server import WAIT_S

needs.package("openai")

TEXTS = [
    "You can return an order within thirty days and are paid back in full.",
    "Parcels to Norway take a week, and customs may hold them longer.",
    "A forgotten password is reset by a link that we send by mail.",
    *(f"On page {number} of the catalogue there is a lamp." for number in range(37)),
]
QUESTION = "How do I get my money back?"
ANSWER = "text-0: You can return an order"
HOSTED = "hosted-3-small"


@pytest.fixture
def database(tmp_path):
    """Return the path of a database with vectors of a hosted model, 1536 dimensions each."""
    source = np.random.default_rng(0)
    vectors = source.standard_normal((len(TEXTS), 1536)).astype(np.float32)
    rows = [
        (f"text-{at}", text, vector.tobytes(), HOSTED)
        for at, (text, vector) in enumerate(zip(TEXTS, vectors, strict=True))
    ]
    path = tmp_path / "app.db"
    execute(path, "CREATE TABLE texts (id TEXT PRIMARY KEY, text TEXT NOT NULL, vector BLOB, space TEXT)")
    for row in rows:
        execute(path, "INSERT INTO texts VALUES (?, ?, ?, ?)", row)
    return path


@pytest.fixture
def reembed(database, base_url):
    """Return a function that runs the script, 10 rows at a time; returns what it prints, and what beside."""

    def reembed(*settings, url=base_url, model="minilm", status=0):
        gateway = ("--base-url", url, "--model", model)
        return run("reembed.py", database, "--batch", "10", *gateway, *settings, status=status)

    return reembed


@pytest.fixture
def changing(base_url):
    """Run a way to the gateway behind which, after the first embeddings, is another model; yields its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Changing) as server:
        server.gateway, server.model = base_url, "minilm"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Changing(BaseHTTPRequestHandler):
    """Hands requests on to the gateway, for the model that is served now under every name."""

    def do_GET(self):
        """Hand on a question about the model."""
        self._answer(httpx.get(f"{self.server.gateway}/models/{self.server.model}", timeout=WAIT_S))

    def do_POST(self):
        """Hand on texts."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        space = {"x-expected-space": self.headers["x-expected-space"]}
        asked = {**body, "model": self.server.model}
        self.server.model = "fake"
        self._answer(
            httpx.post(f"{self.server.gateway}/embeddings", json=asked, headers=space, timeout=WAIT_S)
        )

    def _answer(self, answer):
        self.send_response(answer.status_code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)


def execute(path, statement, values=()):
    """Execute a statement in a database, and return the rows that it finds."""
    connection = sqlite3.connect(path)
    with connection:
        rows = connection.execute(statement, values).fetchall()
    connection.close()
    return rows


def spaces(path):
    """Return how many rows there are of each space."""
    return dict(execute(path, "SELECT space, count(*) FROM texts GROUP BY space"))


def test_a_run_that_is_interrupted_and_run_again(reembed, database, direct, requests):
    """What is done stays done, batch by batch; the rest follows; then all rows are of one space."""
    execute(
        database,
        "CREATE TRIGGER stop BEFORE UPDATE ON texts WHEN new.id = 'text-25' "
        "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    )
    _, beside = reembed(status=1)
    assert "the disk is full" in beside
    assert spaces(database)[HOSTED] == 20
    _, beside = reembed("--search", QUESTION, status=1)
    assert "The rows are of 2 spaces" in beside
    execute(database, "DROP TRIGGER stop")
    said, _ = reembed()
    assert "20 rows were embedded" in said
    assert len(spaces(database)) == 1
    rows = execute(database, "SELECT id, vector FROM texts")
    vectors = np.stack([np.frombuffer(vector, np.float32) for _, vector in rows])
    of = direct([TEXTS[int(name.removeprefix("text-"))] for name, _ in rows])
    assert lowest_cosine(vectors, of) >= EXACT
    asked = requests("minilm", 200)
    said, _ = reembed(model="text-embedding-3-small")
    assert "0 rows were embedded" in said
    assert requests("minilm", 200) == asked
    said, _ = reembed("--search", QUESTION)
    assert ANSWER in said.splitlines()[0]


def test_a_model_that_changes(reembed, database, changing):
    """A model that changes in the midst, or before a search, ends the script; the next run embeds it all."""
    _, beside = reembed(url=changing, status=1)
    assert "The model is not that of the rows" in beside
    result = spaces(database)
    assert sorted(result.values()) == [10, 30]
    said, _ = reembed(model="fake")
    assert f"{len(TEXTS)} rows were embedded" in said
    _, beside = reembed("--search", QUESTION, status=1)
    assert "The model is not that of the rows" in beside
    assert len(spaces(database)) == 1
    assert not result.keys() & spaces(database).keys()


def test_texts_that_no_hosted_model_refused(reembed, database):
    """A long text gets a vector; one that cannot be embedded is named, has none, and holds up no other."""
    long, empty = ("long", "A whale sings in the deep sea. " * 100), ("empty", "")
    for name, text in (long, empty):
        execute(database, "INSERT INTO texts VALUES (?, ?, NULL, NULL)", (name, text))
    said, beside = reembed()
    assert "empty cannot be embedded" in beside
    assert execute(database, "SELECT id FROM texts WHERE vector IS NULL") == [("empty",)]
    said, _ = reembed("--search", "a large animal that lives in water")
    assert "long: A whale" in said.splitlines()[0]
    said, _ = reembed()
    assert "0 rows were embedded" in said
