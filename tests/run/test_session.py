"""run/session.py: how a program ends, and the limits of a run. (Folders, signals and continued runs
are in test_checkpoint.py.)"""

import errno
import math
import os
import re
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tqdm import tqdm

from data import TooLong
from engine.distributed import start_processes
from formats.sample import DataError
from groups import Group
from media.errors import MediaError
from replay import Entry
from run.session import MAX_NONFINITE, Run, ends_in_a_sentence
from tests.runs import REPO, small_config


# ------------------------------------------------------------------ a program's end
def test_a_full_gpu_ends_the_program_with_a_sentence():
    def main(argv):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..")

    message = (
        "error: out of GPU memory: CUDA out of memory; lower --max_tokens, --max_frames or "
        "--max_pixels, or pass --train_type lora"
    )
    with pytest.raises(SystemExit, match=message):
        ends_in_a_sentence(main, [])


def test_bad_input_ends_the_program_with_a_sentence():
    def main(argv):
        raise DataError(f"{argv[0]}: no such data file")

    with pytest.raises(SystemExit) as end:
        ends_in_a_sentence(main, ["x.jsonl"])
    assert end.value.code == "error: x.jsonl: no such data file"


@pytest.mark.parametrize(
    "number",
    [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EDQUOT, errno.ELOOP, errno.ESTALE],
)
def test_a_disk_that_cannot_be_written_is_a_sentence(number):
    def main(argv):
        raise OSError(number, os.strerror(number), "runs/x/metrics.jsonl")

    reason = os.strerror(number)
    with pytest.raises(SystemExit, match=f"error: runs/x/metrics.jsonl: {reason}; see to space"):
        ends_in_a_sentence(main, [])


def test_ctrl_c_is_a_sentence_in_every_program(capsys):
    def main(argv):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        ends_in_a_sentence(main, [])
    assert end.value.code == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


@pytest.mark.parametrize("name", ["pyarrow.parquet", "scipy", "flash_attn"])
def test_a_missing_optional_package_is_named_with_its_pip_line(name):
    def main(argv):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    package = {"pyarrow.parquet": "pyarrow", "flash_attn": "flash-attn"}.get(name, name)
    with pytest.raises(SystemExit, match=f"error: this needs the package {package}: pip install"):
        ends_in_a_sentence(main, [])


def test_a_missing_package_of_the_requirements_keeps_its_traceback():
    def main(argv):
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    with pytest.raises(ModuleNotFoundError):
        ends_in_a_sentence(main, [])


def test_errors_and_warnings_have_lines_of_their_own_beside_a_progress_bar(capsys):
    def main(argv):
        bar = tqdm(total=4)
        bar.update()
        warnings.warn("a clip is broken", stacklevel=1)
        raise DataError("x.jsonl: broken")

    with pytest.raises(SystemExit) as end, warnings.catch_warnings():
        warnings.simplefilter("always")
        ends_in_a_sentence(main, [])
    # what Python prints for SystemExit comes behind all this
    written = capsys.readouterr().err
    assert written.endswith("\n")
    assert any(
        line.startswith("warning: a clip") for line in written.replace("\r", "\n").split("\n")
    )
    assert end.value.code == "error: x.jsonl: broken"


HIDDEN = """
import os, signal, sys
for name in ("SIGUSR1", "SIGHUP", "SIGKILL", "SIGALRM", "setitimer", "ITIMER_REAL"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("fork", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("fcntl", "resource", "pwd", "decord"):
    sys.modules[name] = None
import train, eval, sft, judge, toy, run.memory, tools.check_data, tools.annotate
from run.signals import SIGNALS
SIGNALS.listen()
print("imported")
"""


def test_everything_imports_where_a_system_lacks_what_only_unix_has():
    done = subprocess.run([sys.executable, "-c", HIDDEN], cwd=REPO, capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr


DECODING = """
import signal
del signal.pthread_sigmask
from media.workers import Decoders

decoders = Decoders(1, 60.0, len)
print(decoders.submit("abc").result(60))
"""


def test_media_are_decoded_where_signals_cannot_be_blocked():
    """As on Windows."""
    done = subprocess.run(
        [sys.executable, "-c", DECODING], cwd=REPO, capture_output=True, text=True
    )
    assert done.stdout == "3\n", done.stderr


def test_other_errors_keep_their_traceback():
    def main(argv):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        ends_in_a_sentence(main, [])


def test_a_run_uses_the_cores_it_may_use_or_as_many_threads_as_asked(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        start_processes()
        assert torch.get_num_threads() == 1
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5})
        start_processes()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------ a run
def test_a_run_opens_its_data_and_frees_its_folder(tmp_path, in_shared_folder):
    cfg = small_config(tmp_path, "--eval_every=2", "--seed=3")
    with Run(cfg) as run:
        assert (run.rank, run.world, run.per_rank) == (0, 1, 2)
        assert (run.start, run.steps, run.generated, run.seed) == (0, 3, 0, 3000)
        assert (len(run.samples), len(run.heldout)) == (12, 6)
        assert [run.evaluates(done) for done in (1, 2, 3)] == [False, True, True]
    with Run(cfg):  # the same folder again
        pass


def test_one_pass_over_the_data_without_steps(tmp_path, in_shared_folder):
    cfg = small_config(tmp_path, "--steps=0", "--prompts_per_step=5", "--eval_every=0")
    with Run(cfg) as run:
        assert run.steps == 2  # of 12 prompts
        assert [run.evaluates(done) for done in (1, 2)] == [False, True]


def test_a_run_that_cannot_begin_frees_its_folder(tmp_path, in_shared_folder):
    cfg = small_config(tmp_path, "--data=gone.jsonl")
    with pytest.raises(DataError, match="no such data file"), Run(cfg):
        pass
    with Run(small_config(tmp_path)):
        pass


def test_a_model_that_is_none_is_told_before_the_data_are_read(tmp_path):
    cfg = small_config(tmp_path, "--data=gone.jsonl", f"--model={tmp_path}")
    with pytest.raises(DataError, match="not a model folder"), Run(cfg):
        pass


def test_prompts_that_cannot_be_split_over_processes_are_one_sentence(tmp_path, monkeypatch):
    three = (0, 3, torch.device("cpu"))
    monkeypatch.setattr("run.session.start_processes", lambda: three)
    message = "--prompts_per_step 2 cannot be split evenly over 3 processes; use a multiple of 3"
    with pytest.raises(DataError, match=message), Run(small_config(tmp_path)):
        pass


# ------------------------------------------------------------------ limits
@pytest.fixture
def run(tmp_path) -> Run:
    """A run of 20 records that was not entered."""
    run = Run(small_config(tmp_path))
    run.out.mkdir()
    run.rank = 0
    run.bad_updates = 0
    run.all_samples = [SimpleNamespace(id=str(i)) for i in range(20)]
    return run


def group_to_look_at() -> Group:
    tokens, logps = np.array([5, 6], np.int32), np.array([-0.5, -0.25], np.float32)
    entries = [Entry(tokens, logps, 1.0, 1.0, 3), Entry(tokens, logps, 0.0, 0.0, 3, hinted=True)]
    return Group("a", {}, entries, True, torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_five_times_in_a_row_ends_the_run(run, norm):
    """A finite one in between starts the count anew; the groups of the last step are left."""
    assert MAX_NONFINITE == 5
    group = group_to_look_at()
    norms = [norm] * 4 + [1.0] + [norm] * 5
    for step, value in enumerate(norms[:-1]):
        run.check(step, [group], [value], {})
        assert not run.trouble
    message = r"the gradient of 5 updates in a row, up to step 9, .*nonfinite-rank0\.pt; lower --lr"
    run.check(9, [group], norms[-1:], {})
    assert re.match(message, run.trouble)
    assert not run.evaluates(10)

    (left,) = torch.load(run.out / "nonfinite-rank0.pt", weights_only=True)
    rewards, advantages = left.pop("rewards"), left.pop("advantages")
    assert rewards.tolist() == [1.0, 0.0]
    assert advantages.tolist() == [1.0, -1.0]
    assert left == {
        "id": "a",
        "hinted": [False, True],
        "replayed": True,
        "tokens": [[5, 6], [5, 6]],
        "behaviour_logps": [[-0.5, -0.25]] * 2,
    }


def test_too_many_bad_media_end_the_run(run, monkeypatch):
    """4 of 20 may be bad; prompts that are too long do not count; all processes' do."""
    bad = {str(i): MediaError(str(i), "is missing") for i in range(4)}
    long = {f"long{i}": TooLong("too long") for i in range(9)}
    run.check(0, [], [1.0], bad | long)
    assert not run.trouble
    message = r"5 of 20 records have media that cannot be used, more than 20%; .*bad_media\.jsonl"
    run.check(0, [], [1.0], bad | {"5": MediaError("5", "is missing")})
    assert re.match(message, run.trouble)

    monkeypatch.setattr("run.session.gather", lambda n: [n, 1])
    run.check(0, [], [1.0], bad)
    assert run.trouble.startswith("5 of 20 records")


@pytest.mark.parametrize(("total", "world"), [(20, 2), (100, 8), (10_000, 3), (7, 8)])
def test_a_number_of_the_run_is_shared_out_exactly(tmp_path, total, world):
    shares = []
    for rank in range(world):
        run = Run(SimpleNamespace(out=str(tmp_path)))
        run.rank, run.world = rank, world
        shares.append(run.share(total))
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
