"""``embed``: texts to vectors without a server."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest

from embeddings_gateway.backends.fake import BEGIN, END, fake_vector
from tests.gateway.commands import begin, refused, run
from tests.processes import Watch, children_of

pytestmark = pytest.mark.usefixtures("config_file")  # gateway.toml in the working directory


def vectors_of(texts):
    """Return the vectors that the fake backend gives these texts."""
    return np.stack([fake_vector(np.array([BEGIN, *text.encode(), END], np.int32), 8) for text in texts])


def read_jsonl(content):
    """Return the vectors of JSON lines, after checking that they are numbered in order."""
    rows = [json.loads(line) for line in content.splitlines()]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    return np.array([row["embedding"] for row in rows], np.float64).astype(np.float32)


def test_arguments(tmp_path):
    """Texts given as arguments come out as JSON lines, in order."""
    ended = run("embed", "hello", "漢字 🙂", " ", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert np.array_equal(read_jsonl(ended.stdout), vectors_of(["hello", "漢字 🙂", " "]))


def test_file_to_array(tmp_path):
    """The lines of a file come out as one float32 array, in order, however many chunks they take."""
    lines = [f"line {number} " + "x" * (number % 50) for number in range(1500)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    ended = run("embed", "--file", "lines.txt", "--output", "vectors.npy", cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    array = np.load(tmp_path / "vectors.npy", allow_pickle=False)
    assert array.dtype == np.float32
    assert np.array_equal(array, vectors_of(lines))


def test_narrow_limits(tmp_path, config_file):
    """A file larger than a request or the queue may be is embedded in parts."""
    narrow = "[server]\nmax_request_tokens = 3000\n" + config_file.read_text() + "max_queue_tokens = 4000\n"
    config_file.write_text(narrow)
    lines = [f"line {number}" for number in range(2000)]
    content = "\n".join(lines).encode()
    ended = run("embed", "--file", "-", "--output", "vectors.npy", cwd=tmp_path, stdin=content)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert np.array_equal(np.load(tmp_path / "vectors.npy"), vectors_of(lines))


ODD_LINES = ["a\rb", "c\r", "d\x0be\x0cf\x85g\u2028h", "\ufeffi", "j"]


@pytest.mark.parametrize("source", ["-", "lines.txt"])
def test_lines(tmp_path, source):
    """A line ends with a line feed, and Windows' return before it is none of it; nothing else ends one."""
    content = "\n".join(ODD_LINES).encode()
    (tmp_path / "lines.txt").write_bytes(content)
    ended = run("embed", "--file", source, "--output", "vectors.jsonl", cwd=tmp_path, stdin=content)
    assert ended.returncode == 0, ended.stderr
    lines = [line.removesuffix("\r") for line in ODD_LINES]
    assert np.array_equal(read_jsonl((tmp_path / "vectors.jsonl").read_bytes()), vectors_of(lines))


def test_empty_line(tmp_path):
    """An empty line is refused with its number."""
    assert refused(run("embed", "--file", "-", cwd=tmp_path, stdin=b"a\nb\n\nd\n")) == "input 3 is empty"


def test_too_long(tmp_path):
    """A line that is too long is named as people count, and its text is not repeated."""
    content = b"short\n" * 600 + b"secret" * 200 + b"\n" + b"short\n" * 600
    said = refused(run("embed", "--file", "-", cwd=tmp_path, stdin=content))
    assert said.startswith("input 601: ")
    assert "secret" not in said


def test_cut(tmp_path):
    """A text that is cut is reported by its number, beside its vector."""
    ended = run("embed", "--truncate", "right", "a", "x" * 600, "b", cwd=tmp_path)
    assert ended.returncode == 0
    assert np.array_equal(read_jsonl(ended.stdout), vectors_of(["a", "x" * 510, "b"]))
    assert "input 2 was cut" in ended.stderr.decode()


REFUSED = {
    "nothing to embed": ([], "nothing to embed"),
    "empty text": (["a", ""], "input 2 is empty"),
    "unknown model": (["--model", "large", "a"], "There is no model of that name"),
    "dimensions": (["--dimensions", "4", "a"], "dimensions"),
    "array without a file": (["--format", "npy", "a"], "--output"),
    "no such file": (["--file", "none.txt"], "none.txt cannot be read"),
    "not UTF-8": (["--file", "latin1.txt"], "latin1.txt cannot be read"),
    "argument that is not UTF-8": ([b"a\xff"], "UTF-8"),
    "nowhere to write": (["--output", "none/vectors.npy", "a"], "none/vectors.npy cannot be written"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(tmp_path, what):
    """A failure is reported in a sentence, with status 1."""
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9\n")
    arguments, reason = REFUSED[what]
    assert reason in refused(run("embed", *arguments, cwd=tmp_path))


def test_several_models(tmp_path, config_file):
    """Among several models one has to be named, and an alias names it too."""
    config_file.write_text(config_file.read_text() + '[models.large]\nbackend = "fake"\nwidth = 16\n')
    assert "small, large" in refused(run("embed", "a", cwd=tmp_path))
    ended = run("embed", "--model", "little", "a", cwd=tmp_path)
    assert np.array_equal(read_jsonl(ended.stdout), vectors_of(["a"]))


def test_model_that_does_not_load(tmp_path, config_file):
    """A model that cannot be served is reported with the reason."""
    config_file.write_text('[models.small]\nbackend = "fake"\ndimensions = [16]\n')
    ended = run("embed", "a", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert "error: small is failed: dimensions has 16" in ended.stderr.decode()


def interrupted(command):
    """Press Ctrl-C; return the status, after checking that the command ends without a traceback."""
    command.send_signal(signal.SIGINT)
    said = "".join(command.communicate())
    assert "Traceback" not in said
    assert "Error" not in said
    return command.returncode


def test_interrupted_while_it_reads(tmp_path):
    """Ctrl-C ends it while it reads."""
    os.mkfifo(tmp_path / "lines.txt")
    command = begin("embed", "--file", "lines.txt", cwd=tmp_path)
    with (tmp_path / "lines.txt").open("w"):  # opens when the command opens it
        assert interrupted(command) == 130


def test_interrupted_while_it_loads(tmp_path):
    """Ctrl-C ends it while it loads a model, and leaves no worker."""
    command = begin("embed", "a", cwd=tmp_path)
    while not (workers := children_of(command.pid)):
        assert command.poll() is None
    watch = Watch(workers[0])
    assert interrupted(command) == 130
    assert watch.ended()
