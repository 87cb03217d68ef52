"""media/workers.py: processes that decode under a deadline."""

import contextlib
import multiprocessing
import queue
import signal
import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from multiprocessing import resource_tracker
from pathlib import Path

import torch

from formats.sample import DataError, Sample
from media.cache import MediaCache, decode
from media.decode import Media, MediaError, about_files
from media.features import with_mel


def attempt(sample: Sample, settings: dict, store: MediaCache | None) -> list[Media] | MediaError:
    """decode, with an error as its result: a broken file concerns its own record, not the batch."""
    try:
        return decode(sample, settings, store)
    except MediaError as error:
        return error
    except MemoryError:
        return about_files(sample, "needs more memory to decode than there is")


def attempt_with_mel(
    sample: Sample, settings: dict, store: MediaCache | None, n_mels: int | None
) -> list[Media] | MediaError:
    """What a worker process does."""
    media = attempt(sample, settings, store)
    return media if isinstance(media, MediaError) else with_mel(media, n_mels)


def serve(pipe, function: Callable, timeout: float) -> None:
    """What a decoding process does until its pipe closes, which happens when the program at the other end is gone, however that ended."""
    torch.set_num_threads(1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(
            "1000"
        )  # Linux, when memory runs out: end this process, not the run
    with contextlib.suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            task = pipe.recv()
            signal.setitimer(
                signal.ITIMER_REAL, timeout + 5
            )  # the system ends a decoder that never returns, should the program be gone by then
            try:
                reply = True, function(*task)
            except (
                Exception
            ) as error:  # whatever it is: raised again by whoever asks for the result
                error.add_note(traceback.format_exc())
                reply = False, error
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(reply)


class Lane(threading.Thread):
    """A decoding process, started when first needed, and the thread that hands it one task after the other and replaces it when it is stuck or dead."""

    def __init__(self, tasks: queue.SimpleQueue, timeout: float, function: Callable):
        super().__init__(daemon=True)
        self.tasks, self.timeout, self.function = tasks, timeout, function
        self.process = self.pipe = None
        self.ended, self.lock = False, threading.RLock()
        self.start()

    def run(self) -> None:
        signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGINT}
        )  # inherited by the process, also while it starts: Ctrl-C is for the program
        while (task := self.tasks.get()) is not None:
            future, arguments = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self.do(*arguments))
                except Exception as error:  # raised again by whoever asks for the result
                    future.set_exception(error)
        if self.process:
            self.stop()

    def do(self, sample: Sample, *rest) -> object:
        """function(sample, *rest) of the process, or the MediaError that says what became of it."""
        for _ in range(2):  # a process may have been ended for want of memory that another one held
            if self.process is None:
                self.launch()
            try:
                self.pipe.send((sample, *rest))
                if not self.pipe.poll(self.timeout):
                    self.stop()
                    return about_files(
                        sample, f"took longer than {self.timeout:g} s to decode (--media_timeout)"
                    )
                done, value = self.pipe.recv()
            except (EOFError, OSError):
                code = self.stop(patience=1)
                if self.ended:
                    raise CancelledError from None
                continue
            if done:
                return value
            raise value
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return about_files(
            sample,
            f"made the decoder crash twice ({how}"
            + (", out of memory?)" if code == -signal.SIGKILL else ")"),
        )

    def launch(self) -> None:
        spawn = multiprocessing.get_context(
            "spawn"
        )  # not forked: a fork of a process with threads and a GPU may hang
        with self.lock:
            if self.ended:
                raise CancelledError
            self.pipe, theirs = spawn.Pipe()
            self.process = spawn.Process(
                target=serve, args=(theirs, self.function, self.timeout), daemon=True
            )
            self.process.start()
        theirs.close()  # or the process's death would not end the pipe
        try:
            if (
                self.pipe.poll(600) and self.pipe.recv() == "ready"
            ):  # it imports this file first, which may take long and is not the decoder's time
                return
        except (EOFError, OSError):
            pass
        raise DataError(
            f"a process that decodes media did not start (exit code {self.stop(patience=1)}); see its message above, or pass --workers 0"
        )

    def stop(self, patience: float = 0) -> int | None:
        """Kill the process, after so many seconds; its exit code, -n: ended by signal n, None: not yet gone (a file system that hangs)."""
        process = self.process
        process.join(patience)
        process.kill()
        process.join(5)
        self.pipe.close()
        self.process = None
        return process.exitcode


def end_lanes(tasks: queue.SimpleQueue, lanes: list[Lane]) -> None:
    """Kill the processes; what was not decoded by then is cancelled."""
    for lane in lanes:
        with lane.lock:
            lane.ended = True
            if lane.process:
                lane.process.kill()
    while not tasks.empty():
        if task := tasks.get():
            task[0].cancel()
    for _ in lanes:
        tasks.put(None)


class Decoders:
    """n processes that decode, with a deadline: submit(sample, *rest) -> the Future of function(sample, *rest).

    decord may spin for ever in native code that no exception ends (a header that counts more frames than there are), and a decoder's segmentation fault
    takes its process along. So a process that takes longer than `timeout` seconds is killed and replaced, and the result is a MediaError; one that
    dies is replaced and the task tried once more before it is one. function: what the processes do, of a module's top level.
    Processes and threads end by close(), with this object, and with the program, even when that is killed.
    """

    def __init__(self, n: int, timeout: float, function: Callable = attempt_with_mel):
        resource_tracker.ensure_running()  # multiprocessing's helper; here, because to start it unblocks Ctrl-C in the thread that does
        self.tasks: queue.SimpleQueue = queue.SimpleQueue()
        self.lanes = [Lane(self.tasks, timeout, function) for _ in range(n)]
        self.close = weakref.finalize(self, end_lanes, self.tasks, self.lanes)

    def submit(self, sample: Sample, *rest) -> Future:
        future: Future = Future()
        self.tasks.put((future, (sample, *rest)))
        return future
