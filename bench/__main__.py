"""``python -m bench``: measures parts, stores the results, and writes the report of all stored results."""

from __future__ import annotations

import signal
import sys

import msgspec

from bench import report
from bench.ceiling import ceiling
from bench.comparison import gguf, minilm
from bench.machine import describe_machine
from bench.options import Options, log, parse
from bench.overhead import fake, large, start
from bench.results import Results, read_results, write_results
from bench.run_spec import RunError

MEASURE = {"minilm": minilm, "gguf": gguf, "ceiling": ceiling, "fake": fake, "start": start, "large": large}


def main() -> None:
    """Measure part after part; if one fails the others go on."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended
    options.out.mkdir(parents=True, exist_ok=True)
    results = measure(options) if options.parts else read_results(options.out / "results.json")
    if results is None:
        sys.exit(f"there is no {options.out / 'results.json'}: measure first")
    print(report.write(results, options.out))


def measure(options: Options) -> Results:
    """Measure the parts; keep earlier results of the others, and store the results after each part."""
    path = options.out / "results.json"
    machine = describe_machine(options.peers_dir)
    stored = read_results(path)
    if stored:  # its machine names peers that other parts were measured beside
        machine = stored.machine | machine
    results = msgspec.structs.replace(stored or Results(machine=machine), machine=machine)
    for part in options.parts:
        try:
            results = msgspec.structs.replace(results, **{part: MEASURE[part](options)})
        except RunError as error:
            log(f"{part} could not be measured: {error}")
        write_results(path, results)
    return results


if __name__ == "__main__":
    main()
