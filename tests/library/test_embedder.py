"""Models without a server, for applications without an event loop: real workers, with numbers for vectors."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from embeddings_gateway import Embedder
from embeddings_gateway.config_file import ConfigError
from embeddings_gateway.errors import (
    InputFailed,
    InvalidRequest,
    ModelNotFound,
    ModelUnavailable,
    TooManyTokens,
)
from tests.gateway.fakes import WIDTH, vector_of
from tests.processes import children_of
from tests.server import WAIT_S, eventually

FAKE = {"backend": "fake", "width": WIDTH}
FAULT = {"backend": "fault", "width": WIDTH}
ROOT = Path(__file__).parent.parent.parent


def texts_of(count, name=""):
    """Return texts of several lengths, no two alike."""
    return [f"{name}{number} ".ljust(5 + number % 60, ".") for number in range(count)]


def right(texts):
    """Return the vectors that texts have to have."""
    return np.stack([vector_of(text) for text in texts])


@pytest.fixture
def make():
    """Return a function that makes embedders, and closes them at the end."""
    made = []

    def embedder(model=FAKE, **document):
        made.append(Embedder({"models": {"m": model}, **document}))
        return made[-1]

    yield embedder
    for one in made:
        one.close()


def test_any_number_of_texts(make):
    """Each of several thousand texts has its own vector, in the order of the texts."""
    texts = texts_of(3000)
    result = make().embed(texts)
    np.testing.assert_array_equal(result.vectors, right(texts))
    assert result.tokens == sum(len(text.encode()) + 2 for text in texts)
    assert (result.model, result.errors, result.truncated) == ("m", {}, [])
    assert len(result.space) == 16


def test_no_texts(make):
    """No texts have no vectors, of the model's width."""
    assert make().embed([]).vectors.shape == (0, WIDTH)


def test_an_iterable(make):
    """Texts may come from anything that gives them."""
    np.testing.assert_array_equal(make().embed(str(n) for n in range(3)).vectors, right("012"))


def test_strings_of_other_kinds(make):
    """A column of a table, with numpy's own strings, works as a list does."""
    np.testing.assert_array_equal(make().embed(np.array(["a", "bc"])).vectors, right(["a", "bc"]))


def test_many_threads(make):
    """Threads use one embedder at the same time, and each gets its own vectors."""
    embedder = make()

    def work(number):
        texts = texts_of(200, f"thread {number}: ")
        return np.array_equal(embedder.embed(texts).vectors, right(texts))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(16)))


def test_progress(make):
    """Progress is reported in the calling thread, begins with none, never goes back, and ends with all."""
    steps = []
    make().embed(
        texts_of(1000), progress=lambda done, total: steps.append((done, total, threading.get_ident()))
    )
    counts = [done for done, _, _ in steps]
    assert counts == sorted(counts)
    assert len(counts) > 1
    assert (steps[0][:2], steps[-1][:2]) == ((0, 1000), (1000, 1000))
    assert {thread for _, _, thread in steps} == {threading.get_ident()}


def test_leaving_early(make):
    """An exception in the caller's own progress ends the call, and the embedder goes on working."""
    embedder = make()

    def enough(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embedder.embed(texts_of(2000), progress=enough)
    np.testing.assert_array_equal(embedder.embed(["a"]).vectors, right(["a"]))


def test_partial(make):
    """Each text that cannot be embedded has its own error, and the others have their vectors."""
    texts = texts_of(600)
    bad = {3: "", 299: "x" * 600, 300: "a\ud800", 555: "<nan>"}
    for index, text in bad.items():
        texts[index] = text
    result = make(FAULT).embed(texts, partial=True)
    assert {index: error.param for index, error in result.errors.items()} == {
        index: f"input[{index}]" for index in bad
    }
    assert isinstance(result.errors[555], InputFailed)
    good = [index for index in range(600) if index not in bad]
    np.testing.assert_array_equal(result.vectors[good], right([texts[index] for index in good]))
    assert np.isnan(result.vectors[list(bad)]).all()
    assert result.quality().failed == 4


@pytest.mark.parametrize("bad", ["", "x" * 600, "a\ud800", "<raise>"])
def test_a_bad_text(make, bad):
    """Without partial results a text that cannot be embedded fails the call, and the error says which one."""
    texts = texts_of(600)
    texts[400] = bad
    with pytest.raises((InvalidRequest, InputFailed)) as caught:
        make(FAULT).embed(texts)
    assert caught.value.param == "input[400]"


def test_long_texts(make):
    """Truncated and averaged texts are listed by their index among all texts."""
    texts = texts_of(600)
    texts[7] = texts[500] = "x" * 600
    embedder = make()
    assert embedder.embed(texts, truncate="right").truncated == [7, 500]
    assert embedder.embed(texts, truncate="mean").averaged == [7, 500]


def test_more_than_a_request_may_have(make):
    """Bounds on a request and on the queue hold back no call: it is made of as many requests as it takes."""
    texts = texts_of(400)
    embedder = make(FAKE | {"max_queue_tokens": 3000}, server={"max_request_tokens": 1000})
    np.testing.assert_array_equal(embedder.embed(texts).vectors, right(texts))
    with pytest.raises(TooManyTokens) as caught:
        make(FAKE | {"max_tokens": 600}, server={"max_request_tokens": 100}).embed(["a", "x" * 300])
    assert caught.value.param == "input[1]"


def test_a_text_that_no_request_may_have(make):
    """With partial results a text of more tokens than a request may have is an error in its place."""
    embedder = make(FAKE | {"max_tokens": 64}, server={"max_request_tokens": 1000})
    result = embedder.embed(["a"] * 300 + ["x" * 2000, "b"], truncate="mean", partial=True)
    assert {index: error.param for index, error in result.errors.items()} == {300: "input[300]"}
    np.testing.assert_array_equal(result.vectors[[0, 299, 301]], right(["a", "a", "b"]))


def test_large_texts(make):
    """Large texts go by few at a time, each whole."""
    texts = [f"{number}".ljust(300_000, "x") for number in range(5)]
    result = make().embed([*texts, "a"], truncate="right")
    np.testing.assert_array_equal(result.vectors, right([*(text[:510] for text in texts), "a"]))


def test_input_types_and_dimensions(make):
    """As over HTTP, a call can set the input type, by name or by argument, and the dimensions."""
    embedder = make(FAKE | {"prompts": {"query": "Q: "}, "dimensions": [4]})
    by_name, by_argument = embedder.embed(["a"], model="m@query"), embedder.embed(["a"], input_type="query")
    np.testing.assert_array_equal(by_name.vectors, right(["Q: a"]))
    np.testing.assert_array_equal(by_argument.vectors, by_name.vectors)
    assert by_name.prompt == "query"
    assert embedder.embed(["a"], dimensions=4).vectors.shape == (1, 4)
    for dimensions in (5, -1, 10**12):
        with pytest.raises(InvalidRequest):
            embedder.embed(["a"], dimensions=dimensions)
        with pytest.raises(InvalidRequest):
            embedder.embed([], dimensions=dimensions)
    with pytest.raises(InvalidRequest):
        embedder.embed(["a"], model="m@query", input_type="document")


def test_mistakes(make):
    """Wrong arguments and configurations raise errors that say what is wrong."""
    embedder = make()
    with pytest.raises(TypeError, match="list"):
        embedder.embed("one text")
    with pytest.raises(TypeError, match="text 1"):
        embedder.embed(["a", 2])
    with pytest.raises(ValueError, match="truncate is 'middle': set it to one of error, right, left, mean"):
        embedder.embed(["a"], truncate="middle")
    with pytest.raises(ModelNotFound):
        embedder.embed(["a"], model="other")
    with (
        Embedder({"models": {"one": FAKE, "other": FAKE}}) as two,
        pytest.raises(ValueError, match="one, other"),
    ):
        two.embed(["a"])
    for models, key in (({"m": {}}, "backend"), ({1: FAKE}, "string"), ({"m": FAKE | {2: 3}}, "2")):
        with pytest.raises(ConfigError, match=key):
            Embedder({"models": models})


def test_a_model_that_does_not_load(make):
    """A model that cannot be loaded says why, when it is asked for."""
    with pytest.raises(ModelUnavailable, match="dimensions has 16"):
        make(FAKE | {"dimensions": [16]}).warm_up()


def test_a_worker_that_dies(make):
    """A worker that is killed in the midst of a call costs time, and nothing else."""
    before = set(children_of(os.getpid()))  # of other tests in this process
    embedder = make(FAULT | {"seconds_per_token": 1e-4})
    texts = texts_of(400)
    killed = []

    def kill_once(done, total):
        if done and not killed:
            killed.extend(set(children_of(os.getpid())) - before)
            os.kill(killed[0], signal.SIGKILL)

    np.testing.assert_array_equal(embedder.embed(texts, progress=kill_once).vectors, right(texts))


def test_many_killers(make):
    """More crashing texts than one search can find are all found, and no other text fails."""
    texts = texts_of(300)
    killers = range(100, 107)
    for index in killers:
        texts[index] = f"{index} <abort>"
    result = make(FAULT).embed(texts, partial=True)
    assert list(result.errors) == list(killers)
    assert all(isinstance(error, InputFailed) for error in result.errors.values())
    good = [index for index in range(300) if index not in result.errors]
    np.testing.assert_array_equal(result.vectors[good], right([texts[index] for index in good]))


def test_closing():
    """Closing ends the workers and the calls that wait for them; a closed embedder says that it is."""
    before = set(children_of(os.getpid()))
    embedder = Embedder({"models": {"m": FAULT | {"seconds_per_token": 1e-4}}})
    embedder.embed(["a"])
    begun = threading.Event()
    ended = []

    def work():
        try:
            embedder.embed(texts_of(2000), progress=lambda done, _: done and begun.set())
        except RuntimeError as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    embedder.close()
    thread.join()
    assert len(ended) == 1
    assert set(children_of(os.getpid())) <= before
    embedder.close()
    with pytest.raises(RuntimeError, match="closed"):
        embedder.embed(["a"])
    assert "closed" in repr(embedder)


def test_closing_at_once():
    """An embedder that is closed while its workers start leaves none of them behind."""
    before = set(children_of(os.getpid()))
    for _ in range(5):
        Embedder({"models": {"m": FAKE}}).close()
    assert set(children_of(os.getpid())) <= before


def test_an_embedder_that_nobody_has_any_more():
    """Workers end with an embedder that is forgotten."""
    before = set(children_of(os.getpid()))
    embedder = Embedder({"models": {"m": FAKE}})
    embedder.embed(["a"])
    del embedder
    gc.collect()
    eventually(lambda: set(children_of(os.getpid())) <= before)


FORKED = """
import os, sys
from embeddings_gateway import Embedder
embedder = Embedder({"models": {"m": {"backend": "fake"}}})
embedder.embed(["a"])
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    embedder.embed(["a"])
except RuntimeError as error:
    print(error)
"""


def test_a_fork():
    """A forked process gets an error that the embedder belongs to its parent, and ends normally."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", FORKED],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_S,
    )
    assert "forked" in ended.stdout


CLOSED = """
import os
from embeddings_gateway import Embedder
os.close(0)
os.close(2)
with Embedder({"models": {"m": {"backend": "fake"}}}) as embedder:
    print(embedder.embed(["a"]).vectors.shape)
"""


def test_closed_descriptors():
    """An application may have closed its standard input and error."""
    ended = subprocess.run(
        [sys.executable, "-c", CLOSED],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=WAIT_S,
    )
    assert ended.stdout == "(1, 8)\n"


PROGRAM = """
import sys
from embeddings_gateway import Embedder
embedder = Embedder()
assert embedder.embed(["a"]).vectors.shape == (1, 8)
{end}
"""


@pytest.mark.parametrize(
    "end", ["", "sys.exit(0)", "import threading; threading.Thread(target=print).start()"]
)
def test_the_end_of_the_program(tmp_path, end):
    """A program that does not close its embedder ends as it would without, and says nothing of it."""
    (tmp_path / "gateway.toml").write_text('[models.m]\nbackend = "fake"\n')
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("EMBEDDINGS_GATEWAY_CONFIG", None)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM.format(end=end)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ended.stdout.strip(), ended.stderr) == ("", "")


def test_where_the_configuration_is(tmp_path, monkeypatch):
    """It can be named, or be where the command line looks for it."""
    path = tmp_path / "other.toml"
    path.write_text('[models.named]\nbackend = "fake"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMBEDDINGS_GATEWAY_CONFIG", raising=False)
    for source in (path, str(path)):
        with Embedder(source) as embedder:
            assert list(embedder.config.models) == ["named"]
    monkeypatch.setenv("EMBEDDINGS_GATEWAY_CONFIG", str(path))
    with Embedder() as embedder:
        assert list(embedder.config.models) == ["named"]
    with pytest.raises(ConfigError, match="missing"):
        Embedder(tmp_path / "missing.toml")
