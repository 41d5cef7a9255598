"""What a process of ours asks of the operating system for itself, before it does anything else.

Only the standard library is imported here: a process that is about to import much asks first.
"""

from __future__ import annotations

import ctypes
import getpass
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
CLEAN_UP_S = 1.0


def open_standard_descriptors() -> None:
    """Open ``/dev/null`` in place of standard input, output and error that are closed.

    Otherwise the next socket gets such a number, and is taken for the stream by whoever writes to it or replaces it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, descriptor, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:  # it was closed when Python started
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - for as long as we run


def name_user() -> None:
    """Give a user that the system does not know a name and a home directory, as containers do; libraries ask for them.

    The home is the root directory, where such a user can write nothing.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user{os.getuid()}"


def name_temporary_folder() -> None:
    """Let libraries import that ask for a temporary folder where none can be written: they need it later, if at all."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = "/tmp"  # noqa: S108 - where nobody can write


def forbid_core_files() -> None:
    """Let Linux write no core file of this process: it would hold users' texts.

    Linux ignores a limit of 0 where it pipes cores to a program; a limit of 1 byte it keeps (``fs/coredump.c``).
    """
    with suppress(ValueError, OSError):  # the limit is 0 already and cannot be raised
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


def confine() -> None:
    """Give up what neither a worker nor a conversion needs.

    It writes no core file and gains no privileges by running a program. On Linux, other processes of the same user
    cannot read its memory, which holds users' texts, or its environment.
    """
    forbid_core_files()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)


def end_with_parent(pid: int) -> None:
    """Ask Linux to kill this process with its parent. Other systems rely on a closed pipe or socket.

    The parent is the thread that started it: it has to live as long as the process may.
    """
    if sys.platform != "linux":
        return
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != pid:
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def ending_with_peer(channel: socket.socket) -> Iterator[None]:
    """End this process if the other end of ``channel`` closes during the block, in which nobody reads from it.

    The main thread gets a ``SystemExit``, so that it ends what it has started and removes its temporary files. If it
    is held up in native code, the process ends without it a second later.
    """
    main = threading.get_ident()
    over = threading.Event()

    def watch() -> None:
        with suppress(OSError):
            if channel.recv(1, socket.MSG_PEEK):
                return
        if not over.is_set():
            signal.pthread_kill(main, signal.SIGTERM)
            time.sleep(CLEAN_UP_S)
            os._exit(0)

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    threading.Thread(target=watch, daemon=True, name="watch").start()
    try:
        yield
    finally:
        over.set()
        signal.signal(signal.SIGTERM, before)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
