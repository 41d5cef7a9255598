"""``python -m bench``: measures what it is told to, keeps the data, makes the report of all that is kept."""

from __future__ import annotations

import signal
import sys

import msgspec

from bench import report
from bench.ceiling import ceiling
from bench.comparison import gguf, minilm
from bench.engine_process import EngineError
from bench.fake import fake
from bench.generator import GeneratorError
from bench.large import large
from bench.machine import machine
from bench.models import ModelError
from bench.options import Options, parse
from bench.results import Results, read_results, write_results
from bench.server import ServerError
from bench.start import start

MEASURE = {"minilm": minilm, "gguf": gguf, "ceiling": ceiling, "fake": fake, "start": start, "large": large}


def main() -> None:
    """Measure part after part; one that fails is told of, and the others go on."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended
    options.out.mkdir(parents=True, exist_ok=True)
    data = options.out / "results.json"
    results = read_results(data)
    if options.parts:
        results = measured(options, results)
    if results is None:
        sys.exit(f"there is no {data}: measure first")
    print(report.write(results, options.out))


def measured(options: Options, kept: Results | None) -> Results:
    """Measure the parts; keep what was measured before of the others, and write after each part."""
    here = machine(options.peers)
    results = Results(machine=here) if kept is None else msgspec.structs.replace(kept, machine=here)
    for part in options.parts:
        try:
            found = MEASURE[part](options, say)
        except (ServerError, EngineError, GeneratorError, ModelError) as error:
            say(f"{part} could not be measured: {error}")
            continue
        results = msgspec.structs.replace(results, **{part: found})
        write_results(options.out / "results.json", results)
    return results


def say(words: str) -> None:
    """Tell whoever watches; standard output is for the report alone."""
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
