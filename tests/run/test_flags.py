"""run/flags.py: what "--" means, and the numbers and names that tools and programs take; the other
tests of flags are in tests/test_config.py."""

import os
import subprocess
import sys

import pytest

import ask
import config
from run import watch
from tests.runs import REPO
from tools import annotate, check_data


@pytest.mark.parametrize("parse", [config.parse, ask.parse])
def test_two_dashes_with_nothing_behind_them_change_nothing(parse):
    cfg = parse(["--seed", "3", "--"])
    assert cfg.seed == 3
    assert cfg.given == {"seed"}


def test_words_behind_two_dashes_are_refused_where_no_words_are_taken(capsys):
    with pytest.raises(SystemExit) as end:
        config.parse(["--seed=3", "--", "a.mp4", "what?"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: unrecognized arguments: a.mp4 what? (--help lists all flags)\n"


def test_a_name_behind_two_dashes_is_checked_for_flags_and_not_for_typos(capsys):
    """A flag there would silently be a question; --smaples is one that may be meant."""
    assert ask.parse(["--", "--smaples"]).words == ["--smaples"]
    for word in ("--samples", "--samples=2", "--max-frames", "--help"):
        with pytest.raises(SystemExit):
            ask.parse(["a.mp4", "--", word])
        assert f"error: {word} stands behind --" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parse", "flag"), [(config.parse, "out"), (config.parse, "model"), (ask.parse, "model")]
)
def test_a_folder_of_a_model_whose_name_is_no_utf8_is_refused(capsys, parse, flag):
    name = os.fsdecode(b"runs/caf\xe9")
    with pytest.raises(SystemExit):
        parse([f"--{flag}", name])
    sentence = f"error: --{flag} runs/caf\ufffd: holds bytes that are no UTF-8; rename it ("
    assert capsys.readouterr().err.startswith(sentence)


@pytest.mark.parametrize(
    ("main", "flags", "sentence"),
    [
        (check_data.arguments, ["--workers", "-1"], "--workers: -1: must be at least 0"),
        (check_data.arguments, ["--show", "-1"], "--show: -1: must be at least 0"),
        (annotate.make_parser().parse_args, ["--batch", "0"], "--batch: 0: must be at least 1"),
        (annotate.make_parser().parse_args, ["--workers", "-1"], "--workers: -1: must be at leas"),
        (annotate.make_parser().parse_args, ["--batch", "x"], "--batch: invalid int value: 'x'"),
        (watch.main, ["--every", "-1"], "--every: -1: must be between 0.1 and 86400"),
        (watch.main, ["--every", "nan"], "--every: nan: must be between 0.1 and 86400"),
    ],
)
def test_numbers_of_tools_have_a_range(capsys, main, flags, sentence):
    with pytest.raises(SystemExit):
        main(["hint", *flags] if main.__name__ == "parse_args" else ["x", *flags])
    error = capsys.readouterr().err
    assert error.startswith(f"error: argument {sentence}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--fps", "0"],
        ["--fps", "-1"],
        ["--fps", "nan"],
        ["--fps", "inf"],
        ["--fps", "1001"],
        ["--max_frames", "0"],
        ["--max_frames", "1"],
        ["--max_pixels", "1"],
        ["--max_pixels", str(2**31)],
        ["--max_prompt_tokens", "-1"],
        ["--workers", "-1"],
    ],
)
def test_check_data_refuses_what_training_refuses(capsys, flags):
    for parse in (config.parse, lambda argv: check_data.arguments(["x", *argv])):
        with pytest.raises(SystemExit):
            parse(flags)
        assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--fps", "0.001"],
        ["--fps", "1e3"],
        ["--max_frames", "2"],
        ["--max_prompt_tokens", "0"],
        ["--workers", "0"],
    ],
)
def test_check_data_takes_what_training_takes(flags):
    name = flags[0].removeprefix("--")
    ours = vars(check_data.arguments(["x", *flags]))[name]
    assert ours == getattr(config.parse(flags), name)


@pytest.mark.parametrize("module", ["tools.check_data", "view", "run.watch"])
def test_a_file_whose_name_is_no_utf8_is_named(tmp_path, module):
    """Also where what is printed must be UTF-8, as in most terminals."""
    file = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(file)
    for name, content in (("config.json", "{}"), ("metrics.jsonl", '{"step": 0, "loss": 1}\n')):
        with open(os.path.join(file, name.encode()), "w") as out:
            out.write(content.replace("{}", '{"steps": 1}'))
    command = [sys.executable, "-m", module, file, *([b"--once"] if module == "run.watch" else [])]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True)
    shown = (done.stdout + done.stderr).decode()
    assert "Traceback" not in shown
    assert "/caf\\udce9" in shown
