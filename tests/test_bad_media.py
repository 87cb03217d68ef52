"""Bad media: a corpus of 200 files through the real way to a prompt, the decoding processes and their deadline, and the times and turns of odd videos."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from data import Prompt, PromptBuilder
from formats.load import load_samples
from formats.sample import DataError, Sample
from media.cache import MediaCache, load_media
from media.decode import MediaSettings
from media.errors import MediaError
from media.frames import read_frames
from media.workers import Decoders
from tests.corpus import MATRIX, make_corpus, misbehave, patched, starve, turned, write_clip

SETTINGS = MediaSettings(fps=2.0, max_frames=16, max_pixels=84 * 28)
TIMES = [
    0,
    40,
    80,
    1000,
    1500,
    1520,
    1540,
    3000,
    3100,
    3900,
    4000,
    4010,
    4020,
    6000,
    6500,
    7000,
]  # ms


def sample_of(path, kind="video", name="a", **more) -> Sample:
    return Sample(name, "q", "numeric", "1", where="x.jsonl:1", **{f"{kind}s": [str(path)]}, **more)


def task(name) -> Sample:
    return sample_of(f"/{name}.mp4", name=name)


@contextlib.contextmanager
def decoders(*arguments, **more):
    some = Decoders(*arguments, **more)
    try:
        yield some
    finally:
        some.close()


# ---------------------------------------------------------------------------------------------- the corpus
def test_a_corpus_of_bad_media(tmp_path, policy, monkeypatch):
    """200 files: none ends or stops the run, each bad one is one sentence with its path, each usable one a prompt, and processes that die are replaced."""
    monkeypatch.setattr("media.loader.MEDIA_TIMEOUT", 15.0)
    corpus = make_corpus(tmp_path)
    asked = [sample_of(path, kind, f"n{i}") for i, (path, kind, _) in enumerate(corpus)]
    builder, start = (
        PromptBuilder(policy.tokenizer, policy.form, SETTINGS, workers=2),
        time.monotonic(),
    )
    builder.prefetch(asked)
    found = builder.build(asked)
    seconds = time.monotonic() - start
    outcomes = Counter()
    for (path, _, expectation), s, category, one in zip(
        corpus, asked, corpus.names, found, strict=True
    ):
        outcome = "usable" if isinstance(one, Prompt) else "bad"
        assert expectation in (outcome, "either"), (path, str(one))
        outcomes[outcome] += 1
        if isinstance(one, Prompt):
            assert len(one.ids) == one.positions.shape[1] and all(
                torch.isfinite(m).all()
                for m in [*one.mels, *[one.patches] * (one.patches is not None)]
            )
        else:
            text = str(one)
            assert (
                isinstance(one, MediaError)
                and text.startswith(f"x.jsonl:1 ('{s.id}'): ")
                and path in text
                and "\n" not in text
            ), category
            assert one.path == path and text == f"x.jsonl:1 ('{s.id}'): {one.reason}"
    assert (
        len(corpus) == 200 and outcomes["usable"] >= 40 and outcomes["bad"] >= 80 and seconds < 60
    )
    assert (
        sum("made the decoder crash twice (signal 6)" in str(one) for one in found) >= 2
    )  # two of decord's aborts are among them
    builder.loader.decoders.submit = lambda *task: pytest.fail(
        "decoded again"
    )  # neither bad nor usable files are
    assert [str(one) for one in builder.build(asked) if isinstance(one, MediaError)] == [
        str(one) for one in found if isinstance(one, MediaError)
    ]
    builder.loader.close()


@pytest.mark.parametrize("kind", ["video", "audio", "image"])
def test_pipes_and_devices_are_not_opened(tmp_path, kind):
    """Also in this process, where nothing could end the wait."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(MediaError, match=r"does not exist or is not a file") as error:
            load_media(sample_of(tmp_path / name, kind), SETTINGS)
        assert error.value.path == str(tmp_path / name)


def test_a_pipe_among_the_frames_of_a_folder(tmp_path):
    Image.new("RGB", (28, 28)).save(tmp_path / "1.png")
    os.mkfifo(tmp_path / "2.png")
    with pytest.raises(
        MediaError, match=r"cannot read .*2\.png as a picture \(it is not a file\)"
    ) as error:
        load_media(sample_of(tmp_path, frame_rate=2.0), SETTINGS)
    assert error.value.path == str(tmp_path / "2.png")


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (1, "says that it has 1 samples per second"),
        (2**32 - 1, "samples per second|cannot be read as sound"),
    ],
)
def test_a_rate_that_no_sound_has(tmp_path, rate, message):
    """A second at a declared 1 Hz would become 16,000 seconds."""
    soundfile.write(tmp_path / "s.wav", np.zeros(16_000), 16_000)
    with pytest.raises(MediaError, match=message):
        load_media(
            sample_of(
                patched(tmp_path / "s.wav", tmp_path / "p.wav", b"fmt ", 8, "<I", rate), "audio"
            ),
            SETTINGS,
        )


# ---------------------------------------------------------------------------------------------- the processes
def test_stuck_and_crashed_processes_are_replaced_while_others_go_on(tmp_path):
    """One process in native code that never returns and holds the GIL, one that segfaults, one that eats memory: each is one sentence, the stuck one after
    the deadline, and the 30 good tasks behind them are done by the other process meanwhile and by the new ones after it."""
    mark = tmp_path / "mark"
    with decoders(2, 4.0, misbehave) as some:
        warm = [some.submit(task(f"warm{i}")) for i in range(2)]
        assert {f.result(60)[0] for f in warm} == {"warm0", "warm1"}
        start = time.monotonic()
        stuck = some.submit(task("stuck"), str(mark))
        good = [some.submit(task(f"g{i}"), str(mark)) for i in range(30)]
        first = [f.result(60) for f in good]
        assert (
            time.monotonic() - start < 3.5
            and not stuck.done()
            and [name for name, _ in first] == [f"g{i}" for i in range(30)]
        )
        error = stuck.result(60)
        assert 3.9 < time.monotonic() - start < 8 and isinstance(error, MediaError)
        assert str(error) == (
            "x.jsonl:1 ('stuck'): /stuck.mp4 took longer than 4 s to decode; replace the file or remove the record"
        )
        assert error.path == "/stuck.mp4"
        bad = {
            name: some.submit(task(name), str(mark))
            for name in ("segfault", "eats memory", "crashes once")
        }
        last = [some.submit(task(f"h{i}"), str(mark)) for i in range(4)]
        assert "/segfault.mp4 made the decoder crash twice (signal 11);" in str(
            bad["segfault"].result(120)
        )
        assert "/eats memory.mp4 made the decoder crash twice (signal 9, out of memory?);" in str(
            bad["eats memory"].result(120)
        )
        assert bad["crashes once"].result(120)[0] == "crashes once" and [
            f.result(120)[0] for f in last
        ] == [f"h{i}" for i in range(4)]
        tried = Counter(line.split(" ", 1)[1] for line in mark.read_text().splitlines())
        assert tried == {"stuck": 1, "segfault": 2, "eats memory": 2, "crashes once": 2} | {
            n: 1 for n, _ in first
        } | {f"h{i}": 1 for i in range(4)}
        (stuck_pid,) = {
            int(line.split()[0]) for line in mark.read_text().splitlines() if "stuck" in line
        }
        assert (
            gone(stuck_pid)
            and len({int(line.split()[0]) for line in mark.read_text().splitlines()}) > 5
        )


def test_other_errors_come_back_and_ctrl_c_is_not_for_the_processes():
    """A bug is raised where the result is asked for, with the process's own traceback; the process lives on, also through SIGINT."""
    with decoders(1, 60.0, misbehave) as some:
        (_, before), error = (
            some.submit(task("x")).result(60),
            some.submit(task("raises")).exception(60),
        )
        assert isinstance(error, KeyError) and "in misbehave" in error.__notes__[0]
        assert (
            some.submit(task("interrupted")).result(60)
            == ("interrupted", before)
            == ("interrupted", some.submit(task("y")).result(60)[1])
        )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is set from /proc")
def test_a_file_that_needs_more_memory_than_there_is(tmp_path):
    Image.new("RGB", (9000, 9000)).save(tmp_path / "big.png")
    with decoders(1, 60.0, starve) as some:
        error = some.submit(sample_of(tmp_path / "big.png", "image"), SETTINGS, None, None).result(
            120
        )
    assert (
        isinstance(error, MediaError)
        and error.path == str(tmp_path / "big.png")
        and "\n" not in str(error)
    )


def test_closing_cancels_what_waits_and_ends_the_processes(tmp_path):
    mark = tmp_path / "mark"
    some = Decoders(1, 60.0, misbehave)
    (_, pid), stuck = some.submit(task("x")).result(60), some.submit(task("stuck"), str(mark))
    waiting = some.submit(task("z"))
    while not mark.exists():
        time.sleep(0.05)
    some.close()
    assert (
        waiting.cancelled()
        and wait_until(lambda: gone(pid))
        and wait_until(stuck.done)
        and isinstance(stuck.exception(), CancelledError)
    )
    assert wait_until(lambda: not some.supervisors[0].is_alive())
    lanes = Decoders(1, 60.0, misbehave).supervisors  # nobody holds it: its thread ends
    assert wait_until(lambda: not lanes[0].is_alive())


def gone(pid: int) -> bool:
    """Is a process no more, or only waiting for its parent to notice?"""
    status = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
    ).stdout.strip()
    return not status or status.startswith("Z")


def wait_until(true, seconds=20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


SCRIPT = """
import sys, time
from media.workers import Decoders
from tests.corpus import misbehave
from tests.test_bad_media import task
if __name__ == "__main__":
    some, mode = Decoders(2, 2.0 if sys.argv[1] == "killed" else 60.0, misbehave), sys.argv[1]
    warm = [some.submit(task(f"w{i}")) for i in range(2)]
    while len({f.result()[1] for f in warm}) < 2:                              # both processes are up
        warm = [some.submit(task(f"w{i}")) for i in range(2)]
    waiting = [] if mode == "ends" else [some.submit(task("stuck")), *(some.submit(task(f"q{i}")) for i in range(50 if mode == "interrupted" else 0))]
    time.sleep(0.3)
    print(*{f.result()[1] for f in warm}, flush=True)
    if mode != "ends":
        waiting[0].result()
"""


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("ends", marks=pytest.mark.slow),
        "interrupted",
        pytest.param("killed", marks=pytest.mark.slow),
    ],
)
def test_the_processes_end_with_the_program(tmp_path, mode):
    """A program that just ends, one ended by Ctrl-C at its terminal while a process is stuck, and one that is killed. In the last case an idle process ends
    as its pipe closes, a stuck one a few seconds behind its deadline, by the system's timer."""
    (tmp_path / "program.py").write_text(SCRIPT)
    root = str(Path(__file__).parent.parent)
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": root, "HF_HUB_OFFLINE": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # the tests may have been started with it ignored
    try:
        pids = [int(word) for word in run.stdout.readline().split()]
        assert len(pids) == 2
        if mode == "interrupted":
            os.killpg(run.pid, signal.SIGINT)
        elif mode == "killed":
            run.kill()
        start = time.monotonic()
        _, errors = run.communicate(timeout=60)
        assert wait_until(lambda: all(map(gone, pids))) and time.monotonic() - start < (
            15 if mode == "killed" else 8
        )
        if mode == "interrupted":
            assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")
        else:
            assert errors == "" and run.returncode == (0 if mode == "ends" else -signal.SIGKILL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)


# ---------------------------------------------------------------------------------------------- the time and the turn of frames
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
@pytest.mark.parametrize(
    ("span", "fps", "most"),
    [
        (None, 2.0, 16),
        (None, 4.0, 64),
        (None, 2.0, 6),
        ((1.2, 4.2), 2.0, 16),
        ((3.0, 3.0), math.inf, 2),
        ((6.9, 60.0), 2.0, 16),
    ],
)
def test_a_varying_rate_is_sampled_by_time(tmp_path, name, span, fps, most):
    """At each moment the frame that PyAV's time stamps say is on the screen, under the time at which it appeared, or the moment where it stays on."""
    path = write_clip(tmp_path / name, TIMES, tone=False)
    with av.open(str(path)) as box:
        starts = np.array([float(frame.pts * frame.time_base) for frame in box.decode(video=0)])
    assert starts == pytest.approx(np.array(TIMES) / 1000)
    sampled = read_frames(str(path), fps, most, "here", span)
    pixels, step, times = sampled.pixels, sampled.seconds_per_frame, sampled.times
    low = span[0] if span else 0.0
    seen = [int(g) // 10 for g in np.round(pixels[:, 40:, 40:].mean(axis=(1, 2, 3)), -1)]
    assert len(seen) == len(times) <= most
    for i, (frame, at) in enumerate(zip(seen, times, strict=True)):
        moment = low + i * step if step != math.inf and math.isfinite(fps) else low
        shown = int(np.searchsorted(starts, moment + 1e-3, side="right")) - 1
        if span != (6.9, 60.0) or i == 0:
            assert frame == shown, (i, moment)
        stays = i > 0 and seen[i - 1] == frame
        if math.isfinite(fps) and span != (6.9, 60.0):
            assert at == pytest.approx(
                moment - low if stays else max(starts[frame] - low, 0.0), abs=2e-3
            )
    if span is None:  # evenly spread over the whole clip: 7 s and its last frame
        assert 7.0 < step * len(seen) < 8.0 and step >= 1 / fps - 1e-6


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.mov", "v.avi"])
def test_a_constant_rate_is_sampled_as_before(tmp_path, name):
    """By number, to the bit: frames, step and times as number / rate gives them."""
    path = write_clip(
        tmp_path / name, codec="mpeg4" if name == "v.avi" else "libx264", tone=False, noisy=True
    )
    with av.open(str(path)) as box:
        every = [frame.to_ndarray(format="rgb24") for frame in box.decode(video=0)]
    sampled = read_frames(str(path), 2.0, 16, "here")
    pixels, step, times = sampled.pixels, sampled.seconds_per_frame, sampled.times
    assert step == 0.5 and times.tolist() == [0, 0.5, 1.0, 1.5, 2.0, 2.5]
    for ours, i in zip(pixels, range(0, 24, 4), strict=True):
        assert (
            np.abs(ours.astype(int) - every[i]).mean()
            < 2
            < np.abs(ours.astype(int) - every[i + 1]).mean()
        )


@pytest.mark.parametrize("degrees", MATRIX)
def test_turned_videos_are_seen_upright(tmp_path, degrees):
    """decord turns them: as PyAV's own frame, which it does not turn, by the angle that it reports, to the pixel."""
    path = turned(
        write_clip(tmp_path / "v.mp4", size=(56, 112), tone=False), tmp_path / "t.mp4", degrees
    )
    with av.open(str(path)) as box:
        frame = next(box.decode(video=0))
    expected = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    assert frame.rotation % 360 == -degrees % 360
    (media,) = load_media(sample_of(path), replace(SETTINGS, max_pixels=10**5))
    assert (
        media.frames.shape[1:3] == expected.shape[:2] == ((112, 56) if degrees % 180 else (56, 112))
    )
    assert np.abs(media.frames[0].astype(int) - expected).max() <= 3
    corners = [expected[y, x].mean() > 200 for y in (3, -4) for x in (3, -4)]
    assert corners == [
        degrees == 0,
        degrees == 90,
        degrees == 270,
        degrees == 180,
    ]  # clockwise: upper left, upper right, ..


# ---------------------------------------------------------------------------------------------- the store
def test_leftovers_of_killed_processes_are_removed_and_counted(tmp_path):
    """A .part of more than an hour ago goes when the store is opened; a new one stays, and counts."""
    for name, age in (("old.1.2.part", 3700), ("new.1.2.part", 60)):
        (tmp_path / name).write_bytes(bytes(2000))
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    store = MediaCache(tmp_path, 3000)
    assert [p.name for p in tmp_path.iterdir()] == ["new.1.2.part"]
    for i in range(3):
        (tmp_path / f"{i}.npz").write_bytes(bytes(400))
        os.utime(tmp_path / f"{i}.npz", (i, i))
    store.trim()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.npz", "2.npz", "new.1.2.part"]


@pytest.mark.parametrize("content", [b"", b"PK\3\4" + bytes(40), bytes(100)])
def test_a_damaged_stored_file_is_decoded_again(tmp_path, content):
    Image.new("RGB", (56, 56), (9, 9, 9)).save(tmp_path / "p.png")
    store, sample = MediaCache(tmp_path / "store", 10**9), sample_of(tmp_path / "p.png", "image")
    (first,) = load_media(sample, SETTINGS, store)
    (stored,) = store.folder.iterdir()
    stored.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged cache file"):
        assert np.array_equal(load_media(sample, SETTINGS, store)[0].frames, first.frames)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load_media(sample, SETTINGS, store)[0].frames, first.frames)


# ---------------------------------------------------------------------------------------------- paths that lead out of the media folder
@pytest.fixture
def tree(tmp_path):
    """data/d.jsonl, data/in.png, data/sub, secret.png beside data, and links: data/link.png and data/away lead out, data/near.png stays inside."""
    inside = tmp_path / "data"
    (inside / "sub").mkdir(parents=True)
    for path in (inside / "in.png", inside / "sub" / "in.png", tmp_path / "secret.png"):
        Image.new("RGB", (28, 28)).save(path)
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "away").symlink_to(tmp_path)
    (inside / "near.png").symlink_to(inside / "in.png")
    (tmp_path / "data2").mkdir()
    return SimpleNamespace(root=inside, above=tmp_path, file=inside / "d.jsonl")


def records(tree, *paths, field="image"):
    lines = [
        f'{{"id": "{i}", "question": "q", "problem_type": "numeric", "answer": "1", "{field}": "{path}"}}\n'
        for i, path in enumerate(paths)
    ]
    tree.file.write_text("".join(lines))
    return tree.file


OUTSIDE = [
    "../secret.png",
    "sub/../../secret.png",
    "{above}/secret.png",
    "link.png",
    "away/secret.png",
    "away/data/../secret.png",
    "../none.png",
    "/etc/passwd",
    "{above}/data2/x.png",
    "..",
    "link.png#t=1.0",
    "{above}/data/../secret.png",
]
INSIDE = [
    "in.png",
    "./in.png",
    "sub/../in.png",
    "{above}/data/in.png",
    "near.png",
    "none.png",
    "sub/none/x.png",
    "../data/in.png",
    "away/data/in.png",
    "in.png#t=0.5",
    "..png",
    "sub/../..a.png",
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("field", ["image", "video", "audio", "soundtrack"])
def test_paths_that_lead_out_of_the_folder_are_refused(tree, path, field):
    path = path.format(above=tree.above)
    file = records(tree, "in.png", path, field=field)
    with pytest.raises(DataError) as error:
        load_samples(file)
    text = str(error.value)
    assert (
        text.startswith(f"{file}:2: field '{field}' of record '1': ")
        and path in text
        and f"outside of the media folder {tree.root};" in text
    )
    assert "--media_root" in text and "--allow_outside" in text and "\n" not in text
    problems = []
    assert [s.id for s in load_samples(file, problems=problems)] == ["0"] and problems == [text]
    assert len(load_samples(file, allow_outside=True)) == 2


def test_paths_inside_are_left_as_they_are(tree, monkeypatch):
    """Absolute ones, too, and however the root is written: relative, by a link, or as the whole disk."""
    paths = [path.format(above=tree.above) for path in INSIDE]
    file = records(tree, *paths)
    assert [s.images[0] for s in load_samples(file)] == [str(tree.root / path) for path in paths]
    monkeypatch.chdir(tree.above)
    (tree.above / "same").symlink_to(tree.root)
    for root in ("data", "same", "same/../data"):
        assert len(load_samples(file, root)) == len(paths)
    for root in (tree.above, "/"):
        assert (
            len(
                load_samples(
                    records(tree, "x.png", f"{tree.root}/in.png", f"{tree.root}/link.png"), root
                )
            )
            == 3
        )
    records(tree, "x.png")
    assert len(load_samples("data/d.jsonl")) == 1
    monkeypatch.chdir(tree.root)
    assert [s.images for s in load_samples("d.jsonl")] == [["x.png"]]


def test_records_of_another_stage_may_name_anything(tree):
    """They are not read."""
    tree.file.write_text(
        '{"id": "a", "question": "q", "problem_type": "numeric", "answer": "1", "image": "/etc/passwd", "stage": 3}\n'
        '{"id": "b", "question": "q", "problem_type": "numeric", "answer": "1", "image": "in.png", "stage": 2}\n'
    )
    assert [s.id for s in load_samples(tree.file, stage=2)] == ["b"]
    with pytest.raises(DataError, match="outside of the media folder"):
        load_samples(tree.file, stage=3)
