"""run/signals.py: what the outside asks a run for.

    SIGTERM, SIGINT (Ctrl-C), SIGHUP    save after the step and stop; a second one, over a second
                                        later, stops at once
    SIGUSR1                             save after the step and go on

train.py listens from its first line on, before anything heavy is imported. Before there is a run to
save, a request to stop is obeyed at once, and SIGUSR1 is kept for the first step. Each is answered
by a line at once. Windows knows only some of these signals.
"""

import contextlib
import os
import signal
import time

STOPPING = ("SIGTERM", "SIGINT", "SIGHUP")
SAVING = ("SIGUSR1",)

STDOUT, STDERR = 1, 2  # the numbers that every system gives them

SAVE, STOP = 1, 2  # what a signal asks for


class Signals:
    """Requests, noted when they come and obeyed after the step.

    running: is there a run that can be saved? stopped: it was asked to stop. number: the last
    signal.
    """

    def __init__(self):
        self.asked = 0
        self.number = 0
        self.running = False
        self.stopped = False
        self.first_stop = 0.0  # when the first request to stop came
        self.before: dict[int, object] = {}  # what was done before, by signal

    def listen(self) -> None:
        """From now on, signals are noted instead of obeyed."""
        for name in (*STOPPING, *SAVING):
            number = getattr(signal, name, None)
            # one that is ignored stays ignored: nohup does so with SIGHUP
            if number is None or signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                self.before[number] = signal.signal(number, self.note)
            except ValueError:
                return  # not the main thread: Python cannot hear signals there

    @contextlib.contextmanager
    def heard(self):
        """Within, there is a run that can be saved."""
        listening = bool(self.before)
        if not listening:
            self.listen()
        self.running = True
        try:
            yield self
        finally:
            self.running = False
            if not listening:
                self.forget()

    def forget(self) -> None:
        """As before `listen`."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
        self.asked = 0
        self.first_stop = 0.0
        self.stopped = False

    def note(self, number: int, frame) -> None:
        """The handler of all signals."""
        name = signal.Signals(number).name
        self.number = number
        if name in SAVING:
            self.asked = max(self.asked, SAVE)
            when = "this step" if self.running else "the first step"
            say(f"{name}: the run saves after {when} and goes on")
            return
        if not self.running:
            say(f"{name}: stopped; no step was under way")
            raise SystemExit(128 + number)

        # A second one stops at once, by the system's own handler. Within a second it is the same
        # request: torchrun's end comes as two signals at once, one from each of its threads.
        now = time.monotonic()
        if self.first_stop and now - self.first_stop > 1:
            say(f"{name} once more: stopped without saving")
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not self.first_stop:
            say(f"{name}: the run saves after this step and stops; once more stops it at once")
        self.first_stop = self.first_stop or now
        self.asked = STOP

    def agreed(self) -> int:
        """The most that any process was asked for since the last call: 0, SAVE or STOP.

        All processes must call it, and all get the same.
        """
        from engine.distributed import gather  # here: this file is imported before torch

        asked = max(gather(self.asked))
        self.asked = 0
        self.stopped |= asked == STOP
        return asked


def say(line: str) -> None:
    """A line of its own on stderr, from the first process only."""
    if os.environ.get("RANK", "0") != "0":
        return
    # not print: a handler may run in the middle of another print
    try:
        os.write(STDERR, f"\n{line}\n".encode())
    except OSError:  # the terminal is gone, which is what SIGHUP says
        speak_to_nobody()


def speak_to_nobody() -> None:
    """Send stdout and stderr nowhere: else the next line that is printed would end the run before
    it has saved."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for handle in (STDOUT, STDERR):
        os.dup2(nowhere, handle)
    os.close(nowhere)


SIGNALS = Signals()  # of this process
