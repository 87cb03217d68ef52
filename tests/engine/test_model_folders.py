"""What a model folder may do (nothing but hold files), and what its faults say."""

import ast
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ask
import eval
import train
from config import parse, to_json
from engine.families import DEFAULT_MODEL, load_config
from formats.sample import DataError
from model import load_policy
from tests.runs import REPO
from tools.chat import LocalModel

LOADERS = ("from_pretrained", "from_config")
NO_SOURCES = {"tests", "bench", ".git"}


def sources() -> list[Path]:
    paths = REPO.rglob("*.py")
    return [path for path in paths if not NO_SOURCES & set(path.relative_to(REPO).parts)]


def calls_of(tree: ast.AST) -> list[ast.Call]:
    """The calls that load something by transformers or peft."""
    calls = []
    for node in ast.walk(tree):
        is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_method and node.func.attr in LOADERS:
            calls.append(node)
    return calls


def test_every_loading_call_refuses_code_and_pickles():
    """By the source: no call of from_pretrained without trust_remote_code=False, and none of a
    model without use_safetensors=True."""
    seen = 0
    for path in sources():
        for call in calls_of(ast.parse(path.read_text())):
            given = {k.arg: ast.unparse(k.value) for k in call.keywords}
            where = f"{path}:{call.lineno}"
            owner = ast.unparse(call.func.value)
            assert given.get("trust_remote_code") == "False", where
            if "model_class" in owner or "ForC" in owner:
                assert given.get("use_safetensors") == "True", where
                seen += 1
    assert seen >= 2


@pytest.fixture
def folder(tmp_path):
    """A copy of the bundled model."""
    return Path(shutil.copytree(DEFAULT_MODEL, tmp_path / "model"))


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(folder: Path) -> str:
    """The sentence with which a folder is refused as --model."""
    parse(["--model", str(folder)])  # the presets look at its config, too
    with pytest.raises(DataError) as raised:
        load_policy(folder)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)
    return str(raised.value)


# ------------------------------------------------------------------ code
EVIL = """
open({mark!r}, "w").close()
from transformers import PreTrainedTokenizerFast, Qwen2_5OmniThinkerForConditionalGeneration
class EvilTokenizer(PreTrainedTokenizerFast): pass
class EvilModel(Qwen2_5OmniThinkerForConditionalGeneration): pass
"""


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json", "both"])
def test_code_of_a_folder_is_never_run(folder, tmp_path, monkeypatch, file):
    """Whatever stands on stdin."""
    mark = tmp_path / "executed"
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    answers = iter(["y"] * 20)
    monkeypatch.setattr("builtins.input", lambda *_: next(answers))
    if file != "config.json":
        auto_map = {"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]}
        change(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="EvilTokenizer")
    if file != "tokenizer_config.json":
        auto_map = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "evil.EvilModel")
        change(folder / "config.json", auto_map=auto_map)
    for load in (load_policy, lambda path: LocalModel(str(path))):
        try:
            load(folder)
        except DataError as error:
            assert "\n" not in str(error)
        assert not mark.exists()
        assert next(answers) == "y"  # nobody asked for more than what is taken here
        assert "evil" not in sys.modules


def test_a_pickle_of_weights_is_not_opened(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert "no weights could be loaded" in refused(folder)
    assert "weights are *.safetensors" in refused(folder)


# ------------------------------------------------------------------ folders of runs
@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run as train.py leaves it, with two checkpoints, named from the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/t5")
    for step in ("000009", "000010"):
        shutil.copytree(DEFAULT_MODEL, folder / "checkpoints" / step)
    (folder / "checkpoint").symlink_to("checkpoints/000010")
    (folder / "config.json").write_text(to_json(parse([])))
    (folder / "metrics.jsonl").write_text('{"step": 0}\n')
    return folder


def refused_run(path: str | Path) -> str:
    """The sentence with which this is refused, the same by its config alone and as a policy."""
    sentences = set()
    for load in (load_config, load_policy):
        with pytest.raises(DataError) as raised:
            load(path)
        sentences.add(str(raised.value))
    (sentence,) = sentences
    return sentence


PASS = "runs/t5 is the folder of a run; pass its checkpoint, runs/t5/checkpoint"


def test_the_folder_of_a_run_names_its_checkpoint(run):
    assert refused_run("runs/t5") == PASS
    assert refused_run("runs/t5/checkpoints") == PASS
    load_config("runs/t5/checkpoint")
    load_config("runs/t5/checkpoints/000009")

    # flags and logs may have been lost, each for itself
    (run / "metrics.jsonl").rename("metrics.jsonl")
    assert refused_run("runs/t5") == PASS
    (run / "config.json").unlink()
    shutil.move("metrics.jsonl", run)
    assert refused_run(run.resolve()) == PASS
    (run / "config.json").write_text('{"stage": 2, ')
    assert refused_run("runs/t5") == PASS


def test_a_run_whose_link_was_lost_names_its_newest_checkpoint(run):
    """As where it was copied from another machine."""
    (run / "checkpoint").unlink()
    for path in ("runs/t5", "runs/t5/checkpoint"):
        assert refused_run(path).endswith("pass its checkpoint, runs/t5/checkpoints/000010")


def test_a_damaged_checkpoint_is_not_taken_for_one_that_is_absent(run):
    (run / "checkpoints" / "000010" / "config.json").unlink()
    with pytest.raises(DataError, match="runs/t5/checkpoint: not a model folder"):
        load_config("runs/t5/checkpoint")


def test_a_run_without_a_checkpoint_says_that_it_has_none_yet(run):
    (run / "checkpoint").unlink()
    shutil.rmtree(run / "checkpoints")
    nothing = "runs/t5 is the folder of a run, and holds no checkpoint yet; a run saves one at its"
    for path in ("runs/t5", "runs/t5/checkpoint"):
        assert refused_run(path).startswith(nothing)


def test_a_folder_of_several_runs_names_a_checkpoint(run):
    """Those of a curriculum, or all."""
    shutil.copytree(run, "runs/t6", symlinks=True)
    shutil.copytree(run, "runs/t7", ignore=shutil.ignore_patterns("checkpoint*"))
    assert refused_run("runs") == (
        "runs holds the folders of runs; pass the checkpoint of one, for example runs/t6/checkpoint"
    )


def test_a_model_beside_logs_is_a_model_and_what_is_neither_is_no_run(run, folder):
    (folder / "metrics.jsonl").touch()
    shutil.copytree(run, folder / "t5", symlinks=True)
    load_config(folder)
    change(folder / "config.json", model_type="llama", thinker_config={"model_type": "llama"})
    assert "config.json says model_type 'llama'" in refused_run(folder)
    (folder / "metrics.jsonl").unlink()
    (folder / "config.json").write_text('{"stage": 2}')
    assert "config.json says model_type 'None'" in refused_run(folder)


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (lambda argv: ask.answer_all(ask.parse(argv)), [str(REPO / "assets/clip.mp4"), "What?"]),
        (eval.main, ["--limit=1"]),
        (train.main, ["--data=toy:2,1", "--out=new"]),
    ],
    ids=["ask", "eval", "train"],
)
def test_every_program_says_so(run, main, argv):
    with pytest.raises(DataError) as raised:
        main(["--model", "runs/t5", *argv])
    assert str(raised.value) == PASS


# ------------------------------------------------------------------ broken files
BROKEN = {
    "open": "{",
    "list": "[]",
    "null": "null",
    "number": "7",
    "text": '"x"',
    "empty": "",
    "deep": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "not UTF-8": b"\xff\xfe{}",
    "NUL bytes": b"\0" * 100,
    "huge number": '{"model_type": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_a_broken_file_is_a_sentence(folder, name, kind):
    content = BROKEN[kind]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        refused(folder)
    except pytest.fail.Exception:
        # transformers goes on without a tokenizer_config.json that says nothing
        assert name == "tokenizer_config.json"


@pytest.mark.parametrize(
    "values",
    [
        {"text_config": None},
        {"text_config": []},
        {"text_config": "large"},
        {"vision_config": None},
        {"vision_config": {"patch_size": "x"}},
        {"audio_config": 7},
        {"model_type": None},
        {"model_type": ["qwen2_5_omni_thinker"]},
        {"image_token_id": "x"},
        {"image_token_id": 10**12},
        {"position_id_per_seconds": None},
    ],
    ids=str,
)
def test_odd_values_of_a_config_are_a_sentence(folder, values):
    settings = json.loads((folder / "config.json").read_text())
    inner = settings.get("thinker_config", settings)
    inner.update(values)
    (folder / "config.json").write_text(json.dumps(settings))
    refused(folder)


@pytest.mark.parametrize("value", [-64, 0, 10**9, "64", 3.5, None, [64], True])
@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "vocab_size"])
def test_odd_sizes_of_a_text_model_are_a_sentence(folder, name, value):
    settings = json.loads((folder / "config.json").read_text())
    inner = settings.get("thinker_config", settings)
    inner["text_config"][name] = value
    (folder / "config.json").write_text(json.dumps(settings))
    refused(folder)


@pytest.mark.parametrize("place", [0, 3, 8, 200, -1])
def test_broken_weights_are_a_sentence(folder, place):
    """A byte of the header's length, of the header, and a file that ends early."""
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    if place < 0:
        del content[-100:]
    else:
        content[place] ^= 0xFF
    file.write_bytes(content)
    refused(folder)


@pytest.mark.parametrize("template", ["{% for %}", "{{ 1 / 0 }}", "{{ x.y.z }}"])
def test_a_broken_chat_template_is_a_sentence(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    refused(folder)


def test_a_judge_folder_that_is_broken_is_a_sentence(tmp_path):
    for content in ("{", "[]", "null", '{"model_type": "qwen2"}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(DataError, match="no language model could be loaded") as raised:
            LocalModel(str(tmp_path))
        assert "\n" not in str(raised.value)
