"""What decoder processes are given to do in tests: to hang, to crash, to run out of memory."""

import ctypes
import os
import resource
import signal
import time
from pathlib import Path

from formats.sample import Sample
from media.workers import load_media_and_mel


def misbehave(sample: Sample, mark: str = "") -> object:
    """Does what the sample's id says; what it does not know it gives back, after a moment.

    mark: a file to which each try is written, "pid id".
    """
    if mark:
        with Path(mark).open("a") as file:
            file.write(f"{os.getpid()} {sample.id}\n")
    if sample.id == "stuck":  # in native code, the GIL held, deaf to any exception
        ctypes.PyDLL(None).sleep(600)
    elif sample.id == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif sample.id == "eats memory":  # what the system does with such a process
        bytes(200_000_000)
        os.kill(os.getpid(), signal.SIGKILL)
    elif sample.id == "crashes once" and Path(mark).read_text().count("crashes once") == 1:
        os._exit(3)
    elif sample.id == "raises":
        raise KeyError("a bug")
    elif sample.id == "interrupted":  # Ctrl-C goes to every process of the terminal
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
    return sample.id, os.getpid()


def starve(sample: Sample, *rest) -> object:
    """A real decoding where no more memory can be had than there is now and 64 MB."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = now + 64 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return load_media_and_mel(sample, *rest)
