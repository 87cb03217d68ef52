"""media/workers.py: processes that decode under a deadline.

A media file can hang its decoder for ever (a header that counts more frames than there are), crash
it (a segmentation fault in native code) or eat all memory. None of this is an exception that Python
could catch, so decoding happens in processes of its own, each watched by a thread of the program:

    submit(sample) --> queue of tasks --> Supervisor (a thread) <--pipe--> decoder process
                                          kills the process at the deadline, replaces a dead one,
                                          and turns either into a MediaError

Processes and threads end with the program, however that ends: a killed program closes its pipes, at
which idle processes end, and a process that is stuck at that time is ended by a timer of the
operating system.
"""

import contextlib
import multiprocessing
import queue
import signal
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from multiprocessing import resource_tracker
from pathlib import Path

import torch

from formats.sample import DataError, Sample
from media.cache import MediaCache, load_media
from media.decode import Media, MediaSettings
from media.errors import MediaError, about_files
from media.features import with_mel

MEDIA_TIMEOUT = 120.0  # seconds that decoding one record's media may take

# Seconds in which a process must start: on a busy file system its imports take long.
START_TIMEOUT = 600.0

# Seconds behind the deadline after which the system itself ends a process: that is one whose
# program has been killed, so that nobody else watches it.
TIMER_MARGIN = 5.0


# ------------------------------------------------------------------ in the decoder process
def try_load_media(
    sample: Sample, settings: MediaSettings, cache: MediaCache | None
) -> list[Media] | MediaError:
    """load_media with the error as its result: a broken file concerns its record, not the batch."""
    try:
        return load_media(sample, settings, cache)
    except MediaError as error:
        return error
    except MemoryError:
        return about_files(sample, "needs more memory to decode than there is")


def load_media_and_mel(
    sample: Sample, settings: MediaSettings, cache: MediaCache | None, n_mels: int | None
) -> list[Media] | MediaError:
    """What a decoder process does for each record of a batch."""
    media = try_load_media(sample, settings, cache)
    if isinstance(media, MediaError):
        return media
    try:
        return with_mel(media, n_mels)
    except RuntimeError as error:
        # this is how torch says MemoryError
        if "allocate memory" not in str(error):
            raise
        return about_files(sample, "needs more memory to decode than there is")


def decoder_process(pipe, function: Callable, timeout: float) -> None:
    """The main function of a decoder process: function(*task) of every task that comes through the
    pipe.

    It ends when the pipe closes, which happens when the program at the other end is gone, however
    that ended.
    """
    torch.set_num_threads(1)

    # Linux: when memory runs out, the system ends this process and not the program
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")

    with contextlib.suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            task = pipe.recv()

            # the system ends a decoder that never returns, should the program be gone by then
            end_after(timeout + TIMER_MARGIN)
            with warnings.catch_warnings(record=True) as caught:
                try:
                    reply = (True, function(*task))
                # whatever it is: it is raised again where the result is asked for
                except Exception as error:
                    error.add_note(traceback.format_exc())
                    reply = (False, error)
            end_after(0)

            # the program warns: it says once what each of its processes has met
            pipe.send((*reply, [str(warning.message) for warning in caught]))


def end_after(seconds: float) -> None:
    """Have the system end this process after so many seconds; 0: never. Not on Windows."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


# ------------------------------------------------------------------ in the program
class Supervisor(threading.Thread):
    """A thread with one decoder process: it hands over one task after the other, and replaces a
    process that is stuck or dead. The process starts with the first task."""

    def __init__(self, tasks: queue.SimpleQueue, timeout: float, function: Callable):
        super().__init__(daemon=True)
        self.tasks = tasks
        self.timeout = timeout
        self.function = function
        self.process: multiprocessing.process.BaseProcess | None = None
        self.pipe = None
        self.closing = False  # set by `end_processes`: from then on no process may start
        self.lock = threading.RLock()  # held while a process starts, and while `closing` is set
        self.start()

    def run(self) -> None:
        """One task after the other, until the None that ends the thread."""
        # Ctrl-C is for the program. The process inherits the blocked signal, so even one that is
        # just starting does not get it. So is SIGHUP, of a terminal that is closed.
        if hasattr(signal, "pthread_sigmask"):  # not on Windows
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        while (task := self.tasks.get()) is not None:
            future, arguments = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self.run_task(*arguments))
            except Exception as error:  # it is raised again where the result is asked for
                future.set_exception(error)
        if self.process:
            self.kill_process()

    def run_task(self, sample: Sample, *rest) -> object:
        """function(sample, *rest) of the process, or the MediaError that says what became of the
        process."""
        # twice, since a process may have been ended for want of memory that another one held
        for _ in range(2):
            if self.process is None:
                self.start_process()
            try:
                self.pipe.send((sample, *rest))
                if not self.pipe.poll(self.timeout):
                    self.kill_process()
                    return about_files(sample, f"took longer than {self.timeout:g} s to decode")
                done, value, messages = self.pipe.recv()
            except (EOFError, OSError):  # the process has died
                exit_code = self.kill_process(patience=1)
                if self.closing:
                    raise CancelledError from None
                continue
            for message in messages:
                warnings.warn(message, stacklevel=1)
            if done:
                return value
            raise value

        # an exit code of -n is the signal n; SIGKILL is how the system ends a process when memory
        # runs out
        cause = f"exit code {exit_code}"
        if exit_code is not None and exit_code < 0:
            cause = f"signal {-exit_code}"
        if exit_code == -getattr(signal, "SIGKILL", 9):
            cause += ", out of memory?"
        return about_files(sample, f"made the decoder crash twice ({cause})")

    def start_process(self) -> None:
        """Start the process and wait until it is ready. Raises DataError when it does not start."""
        # not forked: a fork of a process with threads and a GPU may hang
        spawn = multiprocessing.get_context("spawn")
        with self.lock:
            if self.closing:
                raise CancelledError
            self.pipe, far_end = spawn.Pipe()
            self.process = spawn.Process(
                target=decoder_process, args=(far_end, self.function, self.timeout), daemon=True
            )
            self.process.start()
        far_end.close()  # else the process's death would not close the pipe

        # it imports this file first, which may take long and is not the decoder's time
        with contextlib.suppress(EOFError, OSError):
            if self.pipe.poll(START_TIMEOUT) and self.pipe.recv() == "ready":
                return
        raise DataError(
            "a process that decodes media did not start (exit code "
            f"{self.kill_process(patience=1)}); see its message above, or pass --workers 0"
        )

    def kill_process(self, patience: float = 0) -> int | None:
        """Kill the process unless it ends by itself within `patience` seconds.

        Returns its exit code; -n: ended by signal n; None: not yet gone (a file system that hangs).
        """
        process = self.process
        process.join(patience)
        process.kill()
        process.join(5)
        self.pipe.close()
        self.process = None
        return process.exitcode


def end_processes(tasks: queue.SimpleQueue, supervisors: list[Supervisor]) -> None:
    """Kill the processes and end their threads; what was not decoded by then is cancelled."""
    for supervisor in supervisors:
        with supervisor.lock:
            supervisor.closing = True
            if supervisor.process:
                supervisor.process.kill()

    # What waits is cancelled, and then each thread finds the None that ends it. trap: the threads
    # go on taking tasks meanwhile, so a queue that has just held one may be empty now.
    with contextlib.suppress(queue.Empty):
        while True:
            task = tasks.get_nowait()
            if task is not None:
                future, _ = task
                future.cancel()
    for _ in supervisors:
        tasks.put(None)


class Decoders:
    """n decoder processes: submit(sample, *rest) -> the Future of function(sample, *rest).

    A process that takes longer than `timeout` seconds is killed and replaced, and the result is a
    MediaError. One that dies is replaced, and the task is tried once more before it is a
    MediaError. function: what the processes do; it must stand at the top level of a module. The
    processes end by close(), with this object, and with the program.
    """

    def __init__(
        self, n: int, timeout: float = MEDIA_TIMEOUT, function: Callable = load_media_and_mel
    ):
        # multiprocessing's helper process. It is started here, because starting it unblocks Ctrl-C
        # in the thread that does.
        resource_tracker.ensure_running()
        self.tasks: queue.SimpleQueue = queue.SimpleQueue()
        self.supervisors = [Supervisor(self.tasks, timeout, function) for _ in range(n)]
        self.close = weakref.finalize(self, end_processes, self.tasks, self.supervisors)

    def submit(self, sample: Sample, *rest) -> Future:
        """The first argument is a sample, so that an error can name its files."""
        future: Future = Future()
        self.tasks.put((future, (sample, *rest)))
        return future
