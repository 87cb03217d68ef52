"""config.py and run/flags.py: flags, presets, files of settings, and what is said of them."""

import json
import math
import re
import subprocess
import sys
from dataclasses import asdict, fields

import pytest

import tas
from config import Config, describe, parse, to_json, toy_sizes
from engine.optim import WARMUP
from formats.sample import DataError
from replay import VCRS_WINDOW
from tests.runs import REPO

REAL = "--model=some/7b"


def refused(argv: list[str], capsys) -> str:
    """The last line that the program says before it ends."""
    with pytest.raises(SystemExit) as end:
        parse(argv)
    assert end.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


# ------------------------------------------------------------------ flags
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lambda", "1"], "error: unrecognized arguments: --lambda"),
        (["--capcity", "3"], "unrecognized arguments: --capcity; did you mean --capacity?"),
        (["--prompts-per-stpe=4"], "did you mean --prompts_per_step? (--help lists all flags)"),
        (["--zzz"], "unrecognized arguments: --zzz (--help lists all flags)"),
        (["word"], "error: unrecognized arguments: word"),
        (["--tas_lamb", "1"], "unrecognized arguments"),  # no abbreviations
        (["--method", "ppo"], "--method ppo: known are avatar, avatar_fast, grpo"),
        (["--stage", "4"], "--stage 4: known are 0, 1, 2, 3"),
        (["--tas_shape", "w"], "--tas_shape w: known are u, uniform"),
        (["--is_level", "word"], "--is_level word: known are token, sequence"),
        (["--clip", "none"], "--clip none: known are ppo, cispo"),
        (["--loss_norm", "max"], "--loss_norm max: known are sequence, token"),
        (["--train_type", "half"], "--train_type half: known are lora, full"),
        (["--lr", "-1"], "--lr -1.0: must be between 0 and 1"),
        (["--clip_eps", "1.5"], "--clip_eps 1.5: must be between 0 and 1"),
        (["--fresh", "0"], "--fresh 0: must be at least 2"),
        (["--steps", "two"], "invalid int value: 'two'"),
        (["--resume", "maybe"], "'maybe' is neither true nor false"),
        (["--max_frames", "1"], "--max_frames 1: must be at least 2"),
        (["--lr"], "--lr: expected one argument"),
    ],
)
def test_bad_flags_end_with_one_sentence(flags, message, capsys):
    assert message in refused(flags, capsys)


WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None  # an import of it would fail
sys.argv = ["train.py", sys.argv[1]]
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.parametrize(("flag", "status"), [("--capcity", 2), ("--help", 0)])
def test_mistyped_flags_and_help_are_answered_before_torch_is_imported(flag, status):
    command = [sys.executable, "-c", WITHOUT_TORCH, flag]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    if flag == "--help":
        assert "40 / 35 / 25 % hard" in done.stdout  # a % is no format of argparse's
    else:
        (line,) = done.stderr.splitlines()  # without a page of usage
        assert line.startswith("error: ")


NUMBERS = [f for f in fields(Config) if f.type in (int, float, int | None, float | None)]


@pytest.mark.parametrize("value", ["-1", "-1e-9", "0", "nan", "inf", "-inf", "1e400", str(2**63)])
@pytest.mark.parametrize("field", NUMBERS, ids=lambda f: f.name)
def test_no_number_of_a_flag_is_without_bounds(field, value, capsys):
    """It is refused in a sentence that names the flag, or it is finite and within the flag's own
    bounds."""
    argv = [f"--{field.name}={value}", "--model=Qwen/Qwen2.5-Omni-7B"]
    try:
        number = getattr(parse(argv), field.name)
    except SystemExit:
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"--{field.name}" in said
        return
    assert math.isfinite(number)
    assert 0 <= number <= 2**31 - 1
    assert number == float(value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--capacity=20"], "--replay_min 64: the buffer never holds more than --capacity 20"),
        (["--method=avatar_fast", "--capacity=50"], "--replay_min 64: the buffer never holds"),
        (["--replay_min=20000"], "never holds more than --capacity 10000 completions; lower"),
        (["--capacity=1"], "--capacity 1: must be at least 8"),
        (["--replayed=1"], "--replayed 1: a group of one has no spread of rewards"),
        (["--fresh=1"], "--fresh 1: must be at least 2"),
        (["--seed=-1"], "--seed -1: must be at least 0"),
        (["--seed=4294967296"], "--seed 4294967296: must be at most 2147483647"),
    ],
)
def test_what_could_never_begin_is_said_at_the_start(flags, message, capsys):
    assert message in refused(flags, capsys)


def test_a_baseline_without_replay_may_have_any_capacity():
    assert parse(["--method=grpo", "--capacity=8"]).replayed == 0
    assert parse(["--stage=0", "--capacity=8"]).stage == 0


def test_flags_are_written_with_dashes_or_underscores_with_a_space_or_an_equals_sign():
    for argv in (
        ["--prompts_per_step", "4", "--out", "a-b"],
        ["--prompts-per-step", "4", "--out=a-b"],
        ["--prompts_per_step=4", "--out", "a-b"],
        ["--prompts-per-step=4", "--out=a-b"],
    ):
        cfg = parse(argv)
        assert (cfg.prompts_per_step, cfg.out) == (4, "a-b")
        assert cfg.given == {"prompts_per_step", "out"}


def test_a_switch_needs_no_value():
    assert not parse([]).resume
    assert parse(["--resume"]).resume
    assert parse(["--resume", "--lr", "1"]).resume
    assert parse(["--resume=true"]).resume
    assert not parse(["--resume", "false"]).resume
    assert parse(["--train_towers"]).train_towers
    assert not parse(["--stage=0", "--train_towers=False"]).train_towers


def test_every_flag_is_explained_in_its_group(capsys):
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    headings = [base.__doc__ for base in Config.__bases__]
    assert re.findall(r"^(\S.*):$", text, re.MULTILINE)[1:] == headings  # after argparse's own

    solid = "".join(text.split())  # lines are wrapped at spaces and hyphens
    for base in Config.__bases__:
        section = text.split(f"\n{base.__doc__}:\n")[1].split("\n\n")[0]
        for name in base.__annotations__:
            assert f"  --{name} " in section
    for f in fields(Config):
        words = f.metadata["help"]
        assert len(words) > 10
        assert "".join(words.split()) in solid


def test_there_are_few_flags():
    """Too many flags hide those that matter: a new one must earn its place."""
    assert len(fields(Config)) <= 60


@pytest.mark.parametrize(
    ("program", "flag"),
    [("train.py", "--prompts_per_step"), ("eval.py", "--benchmark"), ("ask.py", "--samples")],
)
def test_help_imports_neither_torch_nor_transformers(program, flag):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(REPO / program), "--help"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0
    assert flag in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "run.flags" in imported
    assert not imported & {"torch", "transformers", "matplotlib"}
    assert program == "eval.py" or "numpy" not in imported


def test_a_new_shape_or_baseline_is_a_value_of_its_flag_at_once(monkeypatch, capsys):
    monkeypatch.setitem(tas.SHAPES, "cubic", lambda tt: tt**3)
    assert parse(["--tas_shape=cubic"]).tas_shape == "cubic"
    assert ", cubic" in refused(["--tas_shape=w"], capsys)
    monkeypatch.setitem(tas.BASELINES, "median", lambda *rewards: rewards[0])
    assert parse(["--baseline=median"]).baseline == "median"
    assert ", median" in refused(["--baseline=w"], capsys)


def test_a_key_in_the_judges_address_is_refused_before_it_is_written_anywhere():
    with pytest.raises(DataError, match="put the key into OPENAI_API_KEY"):
        parse(["--judge_endpoint=http://user:secret@localhost:8000/v1"])


# ------------------------------------------------------------------ presets
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("avatar", (4, 4, "u")),
        ("avatar_fast", (2, 6, "u")),
        ("grpo", (8, 0, "uniform")),
        ("tas_only", (8, 0, "u")),
        ("replay_only", (4, 4, "uniform")),
    ],
)
def test_methods_are_the_rows_of_the_ablation(method, expected):
    cfg = parse(["--method", method])
    assert (cfg.fresh, cfg.replayed, cfg.tas_shape) == expected
    given = parse(["--method", method, "--tas_shape", "decay"])
    assert given.tas_shape == "decay"  # a flag wins over the preset


def test_the_papers_preset_has_the_methods_numbers():
    cfg = parse([REAL])
    expected = {
        "fresh": 4,
        "replayed": 4,
        "baseline": "group",
        "capacity": 10_000,
        "replay_min": 64,
        "hint_patience": 3,
        "updates": 1,
        "alpha": 1.0,
        "clip": "ppo",
        "clip_eps": 0.2,
        "clip_eps_high": 0.0,
        "is_level": "token",
        "loss_norm": "sequence",
        "beta": 0.1,
        "tas_lambda": 0.3,
        "tas_shape": "u",
        "lr": 5e-7,
        "temperature": 1.0,
        "max_completion_tokens": 2048,
        "max_frames": 16,
        "max_pixels": 50_176,
    }
    assert {name: getattr(cfg, name) for name in expected} == expected
    assert VCRS_WINDOW == 20
    assert WARMUP == 0.05


@pytest.mark.parametrize("method", ["grpo", "tas_only"])
def test_a_baseline_has_neither_replay_nor_hints(method):
    cfg = parse(["--method", method])
    assert (cfg.fresh, cfg.replayed) == (8, 0)
    assert (cfg.hint_patience, cfg.hint_kl) == (0, 0)
    assert (cfg.clip, cfg.loss_norm, cfg.beta) == ("ppo", "sequence", 0.02)
    assert parse(["--method", method, "--hint_patience", "2"]).hint_patience == 2


@pytest.mark.parametrize(
    ("flags", "beta"),
    [
        ([], 0.02),
        (["--method=avatar_fast"], 0.0),  # although the tiny model has a default of its own
        (["--method=replay_only"], 0.02),
        ([REAL], 0.1),
        ([REAL, "--method=avatar_fast"], 0.0),
        ([REAL, "--method=grpo"], 0.1),
        (["--beta=0.5"], 0.5),
    ],
)
def test_a_method_wins_over_a_models_default_and_a_flag_over_both(flags, beta):
    assert parse(flags).beta == beta


def test_sound_is_left_out_of_stage_1_of_a_real_model_only():
    assert not parse([REAL, "--stage=1"]).use_audio
    assert parse([REAL, "--stage=1", "--use_audio"]).use_audio
    assert parse([REAL, "--stage=2"]).use_audio
    assert parse(["--stage=1"]).use_audio


def test_every_flag_has_a_value():
    for argv in ([], [REAL], ["--stage=0"], [REAL, "--stage=1", "--method=grpo"]):
        assert None not in asdict(parse(argv)).values()


def test_a_run_has_a_folder_of_its_own():
    assert parse([]).out == "runs/stage2-avatar-seed0"
    assert parse(["--stage=1", "--method=grpo", "--seed=3"]).out == "runs/stage1-grpo-seed3"
    assert parse(["--out=x"]).out == "x"


def test_the_size_of_the_toy_world():
    assert parse([]).data == parse(["--data=toy"]).data == "toy:256,160"
    assert parse(["--stage=0"]).data == "toy:5000,160"
    assert parse([REAL, "--stage=0"]).data == "toy:256,160"
    assert parse(["--data=toy:6,3", "--stage=0"]).data == "toy:6,3"
    assert parse(["--data=mine.jsonl"]).data == "mine.jsonl"
    assert toy_sizes("toy:6,3") == (6, 3)


@pytest.mark.parametrize(
    "sizes", ["6", "6,", ",3", "0,3", "6,0", "six,3", "6,3,1", "-6,3", "²,3", "1" * 5000 + ",3"]
)
def test_sizes_that_are_none_are_one_sentence(sizes):
    with pytest.raises(DataError, match=f"--data toy:{sizes}: write toy:N,M with N training"):
        toy_sizes(f"toy:{sizes}")


def test_a_checkpoint_of_the_tiny_model_keeps_its_defaults(policy, tmp_path):
    policy.save(tmp_path / "checkpoint")
    checkpoint = parse(["--model", str(tmp_path / "checkpoint")])
    assert checkpoint.lr == parse([]).lr
    assert checkpoint.lr != parse([REAL]).lr


# ------------------------------------------------------------------ --config FILE
@pytest.fixture
def file(tmp_path):
    """Writes a run's config.json, with changes; the flag that names it."""

    def write(*argv: str, **changes) -> str:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(to_json(parse([*argv]))) | changes))
        return f"--config={path}"

    return write


def test_all_that_a_file_written_by_hand_names_is_given(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"method": "grpo", "fresh": 6, "lr": 0.5}')
    cfg = parse([f"--config={path}"])
    assert (cfg.method, cfg.fresh, cfg.replayed, cfg.lr) == ("grpo", 6, 0, 0.5)
    assert cfg.given == {"method", "fresh", "lr", "config"}
    assert parse([f"--config={path}", "--method=avatar"]).fresh == 6  # as if it stood beside it


def test_a_config_file_brings_its_values_and_flags_beside_it_win(file):
    flag = file("--method=grpo", "--steps=7", "--lr=0.5", "--out=first", "--resume")
    cfg = parse([flag, "--lr=0.25"])
    assert (cfg.method, cfg.steps, cfg.fresh, cfg.lr) == ("grpo", 7, 8, 0.25)
    assert cfg.given == {"method", "steps", "lr", "config"}
    assert cfg.out == "runs/stage2-grpo-seed0"  # a start's own matter
    assert not cfg.resume


def test_a_config_file_holds_its_presets_whatever_has_become_of_ours(file):
    """A version of the program whose preset had another number of completions."""
    flag = file("--method=grpo", fresh=5)
    cfg = parse([flag])
    assert cfg.fresh == 5
    assert "fresh" not in cfg.given
    assert parse([flag, "--method=grpo"]).fresh == 5  # the same method is no other one


def test_a_config_file_that_is_older_than_a_flag_says_so(tmp_path):
    values = json.loads(to_json(parse(["--method=avatar_fast"])))
    values.pop("hint_teacher")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    with pytest.warns(UserWarning, match="older than the flags hint_teacher; they have today's"):
        cfg = parse([f"--config={path}"])
    assert cfg.hint_teacher == 0.3  # today's avatar_fast
    assert "hint_teacher" not in cfg.given


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("--method=avatar_fast", {"fresh": 2, "clip": "cispo", "lr": 2e-4, "steps": 7}),
        ("--stage=0", {"fresh": 8, "clip": "ppo", "lr": 2e-3, "steps": 7}),
        (REAL, {"fresh": 8, "clip": "ppo", "lr": 5e-7, "steps": 7}),
    ],
)
def test_another_method_stage_or_model_beside_a_config_file_derives_presets_anew(
    file, other, expected
):
    cfg = parse([file("--method=grpo", "--steps=7"), other])
    assert {name: getattr(cfg, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not a run's config.json (FileNotFoundError"),
        ("{", "not a run's config.json (JSONDecodeError"),
        ("[]", "not a run's config.json"),
        ("7", "not a run's config.json"),
        ("[" * 100_000, "not a run's config.json (RecursionError"),
        ('{"given": null}', "not a run's config.json"),
        ('{"given": [], "gone": 1}', "unknown flag 'gone'; remove it from the file"),
        ('{"given": [], "fresh": 0}', "--fresh 0: must be at least 2"),
        ('{"given": [], "clip": "none"}', "--clip none: known are ppo"),
        ('{"given": [], "steps": "many"}', "steps 'many' is no INT"),
        ('{"given": [], "resume_": 1, "steps": 2}', "unknown flag 'resume_'"),
        ('{"given": [], "temperature": null}', "temperature None is no FLOAT"),
        ('{"given": [], "temperature": [1]}', "temperature [1] is no FLOAT"),
        ('{"given": [], "model": null}', "model None is no STR"),
        ('{"given": [], "help": true}', "unknown flag 'help'"),
        ('{"given": [], "train_towers": 1}', "train_towers 1 is no BOOL"),
    ],
)
def test_a_broken_config_file_is_one_sentence(tmp_path, capsys, text, message):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    said = refused([f"--config={path}"], capsys)
    assert message in said
    if "not a run's" in message:
        assert str(path) in said


# ------------------------------------------------------------------ what is said of it
def test_a_config_is_described_by_where_its_values_come_from():
    cfg = parse(["--method=grpo", "--steps=7", "--alpha=0.5"])
    headings, values = [], []
    for line in describe(cfg).splitlines():
        heading, _, text = line.partition(": ")
        headings.append(heading)
        values.append(set(text.split(", ")))
    assert headings == [
        "config, given",
        "config, from --method grpo, the model and the stage",
        "config, defaults",
    ]
    given, preset, default = values
    assert given == {"method grpo", "steps 7", "alpha 0.5"}
    assert preset >= {"fresh 8", "beta 0.02", "lr 0.0002", "replayed 0"}
    assert default >= {"stage 2", "tas_lambda 0.3", "seed 0"}
    assert len(given | preset | default) == len(given) + len(preset) + len(default)
    assert describe(parse([])).splitlines()[0] == "config, given: nothing"


def test_the_written_config_is_every_flag_and_what_was_given():
    cfg = parse(["--steps=7", "--fresh=3"])
    written = json.loads(to_json(cfg))
    assert written.pop("given") == ["fresh", "steps"]
    assert written == asdict(cfg)
