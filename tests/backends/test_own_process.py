"""What our processes ask of the operating system, each tried in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

START = """
import ctypes, getpass, os, pwd, stat, sys, tempfile
from embeddings_gateway.backends import own_process
"""
DESCRIPTORS = """
own_process.open_standard_descriptors()
null = os.stat(os.devnull)
assert all(os.fstat(number).st_rdev == null.st_rdev for number in (0, 1, 2))
print("lost", file=sys.stdout)
print("lost", file=sys.stderr)
assert sys.stdin.read() == ""
sys.exit(3)
"""
CONFINED = """
own_process.confine()
prctl = ctypes.CDLL(None).prctl
dumpable, no_new_privileges = prctl(3, 0, 0, 0, 0), prctl(39, 0, 0, 0, 0)
print(dumpable, no_new_privileges)
"""
UNKNOWN_USER = """
def getpwuid(uid):
    raise KeyError(uid)

pwd.getpwuid = getpwuid
own_process.name_user()
assert getpass.getuser() == f"user{os.getuid()}"
print(os.path.expanduser("~/.cache"))
"""
NO_TEMPORARY_FOLDER = """
def default():
    raise FileNotFoundError

tempfile._get_default_tempdir = default
own_process.name_temporary_folder()
print(tempfile.gettempdir())
"""


def run(program: str, *, closed: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a program, for which neither a home nor a user's name is set; ``closed`` are its standard descriptors."""
    names = ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME")
    return subprocess.run(
        [sys.executable, "-c", START + program],
        env={name: value for name, value in os.environ.items() if name not in names},
        stdout=None if closed else subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: os.closerange(0, 3)) if closed else None,
        check=False,
    )


def test_closed_descriptors_are_opened():
    """Standard descriptors that are closed lead to nowhere, and Python's streams to them."""
    assert run(DESCRIPTORS, closed=True).returncode == 3


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        pytest.param(CONFINED, "0 1", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux only")),
        (UNKNOWN_USER, "/.cache"),
        (NO_TEMPORARY_FOLDER, "/tmp"),
    ],
)
def test_what_a_process_asks_for(program, printed):
    """It gains no privileges and cannot be read; libraries find a home, a user's name and a temporary folder."""
    assert run(program).stdout.strip() == printed
