"""run/signals.py: signals are heard from the first second on, and answered at once."""

import os
import signal
import subprocess
import sys
import time

import pytest

from run.signals import SAVE, STOP, Signals
from tests.runs import REPO

ENV = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def signals():
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    signals = Signals()
    signals.listen()
    yield signals
    signals.forget()
    assert {n: signal.getsignal(n) for n in handlers} == handlers


def test_before_there_is_a_run_to_save_a_stop_is_obeyed_at_once(signals, capfd):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with pytest.raises(SystemExit) as stop:
            os.kill(os.getpid(), number)
        assert stop.value.code == 128 + number
        name = signal.Signals(number).name
        assert f"{name}: stopped; no step was under way\n" in capfd.readouterr().err


def test_a_request_to_save_waits_for_the_first_step(signals, capfd):
    os.kill(os.getpid(), signal.SIGUSR1)
    assert "SIGUSR1: the run saves after the first step" in capfd.readouterr().err
    with signals.heard():
        assert signals.agreed() == SAVE
        assert signals.agreed() == 0


def test_within_a_run_a_stop_is_noted_and_said(signals, capfd):
    with signals.heard():
        os.kill(os.getpid(), signal.SIGHUP)
        assert "SIGHUP: the run saves after this step and stops" in capfd.readouterr().err
        assert signals.agreed() == STOP
    assert signals.stopped
    assert signals.number == signal.SIGHUP


def test_a_signal_that_is_ignored_stays_ignored():
    """As by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals = Signals()
        signals.listen()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signals.forget()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_one_process_of_several_speaks(signals, capfd, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    os.kill(os.getpid(), signal.SIGUSR1)
    assert capfd.readouterr().err == ""


TERMINAL_GONE = """
import os, pty, signal, sys
from run.signals import SIGNALS, STOP

SIGNALS.listen()
master, slave = pty.openpty()
os.dup2(slave, 1)
os.dup2(slave, 2)
os.close(slave)
with SIGNALS.heard():
    os.close(master)
    os.kill(os.getpid(), signal.SIGHUP)
    print("a line of the run", flush=True)
    open(sys.argv[1], "w").write(f"asked {SIGNALS.asked == STOP}")
"""


def test_a_run_whose_terminal_is_gone_can_still_save(tmp_path):
    """Every further line that it prints would be an error."""
    file = tmp_path / "said"
    subprocess.run([sys.executable, "-c", TERMINAL_GONE, str(file)], cwd=REPO, check=True)
    assert file.read_text() == "asked True"


@pytest.mark.parametrize(
    "wait",
    [pytest.param(0.4, marks=pytest.mark.slow), 1.0, pytest.param(3.0, marks=pytest.mark.slow)],
)
def test_save_now_kills_no_program_while_it_starts(tmp_path, wait):
    """While it imports torch, renders or loads: it saves after its first step and ends well."""
    command = [sys.executable, str(REPO / "train.py"), "--out", str(tmp_path / "run")]
    command += ["--data", "toy:6,2", "--steps", "2", "--prompts_per_step", "2", "--replay_min", "8"]
    command += ["--max_completion_tokens", "16", "--eval_every", "0", "--media_cache", ""]
    run = subprocess.Popen(
        command, cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    time.sleep(wait)
    run.send_signal(signal.SIGUSR1)
    said, _ = run.communicate(timeout=100)
    assert run.returncode == 0, said
    assert "SIGUSR1: the run saves after" in said
    saved = [folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()]
    assert sorted(saved) == ["000001", "000002"], said
