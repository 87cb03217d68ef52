"""docs/real_run.md: every command of the page, on small data sets in the layout of the real ones.

The commands are taken from the page as they stand there. A few words are replaced: models by tiny
ones, servers by a fake one, torchrun by one process; and flags of size are added. `hf download`
alone is not run: a small folder in the data set's layout takes its place.
"""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import transformers

from config import Config, parse
from engine.families import DEFAULT_MODEL, load_tokenizer_and_config, parameter_counts
from run.memory import memory
from tests import layouts_sound
from tests.chat_fakes import Server, serving
from tests.layouts_sound import write_json, write_video
from tests.runs import REPO, rows_of
from tools.tiny_model import token_fields

PAGE = (REPO / "docs" / "real_run.md").read_text(encoding="utf-8")
OMNI = "Qwen/Qwen2.5-Omni-7B"
SECTIONS = ("The paper's run", "NeMo-RL's run", "One card, one evening")
OF_SECTION = {  # the configs that a section's table of flags speaks of
    "The paper's run": ("avatar-stage1", "avatar-stage2", "avatar-stage3"),
    "NeMo-RL's run": ("intent-grpo",),
    "One card, one evening": ("evening-stage2",),
}
SMALL = "--max_pixels 2352 --max_completion_tokens 6 --workers 0"
SMALL_TRAINING = f"{SMALL} --steps 2 --prompts_per_step 2 --replay_min 2 --save_every 0"
SMALL_ASKING = f"{SMALL} --max_frames 4 --limit 2 --resamples 100"


# ------------------------------------------------------------------------------ the page
def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    return re.split(r"^## .*$", PAGE.split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def commands(title: str) -> list[str]:
    """The commands of a section's code blocks, one line each, without comments, loops unrolled."""
    text = "\n".join(re.findall(r"```bash\n(.*?)```", section(title), flags=re.S))
    found: list[str] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        loop = re.fullmatch(r"for s in ([\d ]+); do (.*); done", line)
        if loop:
            found += [loop[2].replace("$s", stage) for stage in loop[1].split()]
        elif line and not line.startswith("#"):
            found.append(line)
    return found


def table(text: str, first: str) -> list[list[str]]:
    """The rows, as cells, of the tables whose header begins with the cell `first`."""
    rows: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and not line.startswith("|---"):
            rows.append(cells)
    return rows


def read_config(name: str, *flags: str) -> Config:
    return parse(["--config", str(REPO / "configs" / f"{name}.json"), *flags])


# ------------------------------------------------------------------------------ small data sets
def question(number: int, **fields) -> dict:
    """A record of Video-R1's form, whose first option is right."""
    return {
        "problem": f"What is shown in clip {number}?",
        "problem_type": "multiple choice",
        "options": ["A. a grey wall", "B. a bell", "C. a dog", "D. nothing"],
        "data_type": "video",
        **fields,
    }


def video_r1(root: Path) -> None:
    """Records with reasoning, and their media in a zip that each source's folder has."""
    records = []
    for i in range(4):
        trace = {"process": "<think>grey</think>", "solution": "<answer>A</answer>"}
        records.append(question(i, problem_id=i, path=f"./CLEVRER/train/{i}.mp4", **trace))
    write_json(root / "Video-R1-COT-165k.json", records)
    zipped(root / "CLEVRER" / "train.zip", {f"train/{i}.mp4": video_bytes(root) for i in range(4)})


def avatar_rl(root: Path) -> None:
    """Three files of chat messages; those of stage 3 ask for places and come with no caption."""
    write_video(root / "clips" / "a.mp4")
    for stage in (1, 2, 3):
        records = []
        for i in range(4):
            kind = {"solution": "<answer>A</answer>", "problem_type": "multiple_choice"}
            text = f"<video>What is shown {i}?\nA. a grey wall\nB. a bell"
            if stage == 3:
                kind = {"solution": "left: dog | center: girl", "problem_type": "localization"}
                text = f"<video>Where does sound {i} come from?"
            turns = [{"role": "user", "content": text}]
            records.append({"messages": turns, "videos": ["clips/a.mp4"], **kind})
        write_json(root / f"stage{stage}.jsonl", records)


def intent_train(root: Path) -> None:
    """Two files of records with context, reasoning and answer, and all videos in one zip."""
    solution = "<context>a room</context><think>grey</think><answer>A</answer>"
    social = [question(i, path=f"{i}.mp4", solution=solution) for i in range(8)]
    feeling = question(8, video="8.mp4", answer="A", solution=solution.replace("A<", "A,B<"))
    write_json(root / "social_iq_v2_rewrite.json", social)
    write_json(root / "emer_rewrite.json", [feeling | {"problem_type": "emer_ov_mc"}])
    zipped(root / "videos.zip", {f"videos/{i}.mp4": video_bytes(root) for i in range(9)})


def daily_omni(root: Path) -> None:
    """The benchmark with its videos in a tar."""
    layouts_sound.dailyomni(root)
    with tarfile.open(root / "Videos.tar", "w") as tar:
        tar.add(root / "Videos", "Videos")
    shutil.rmtree(root / "Videos")


def video_bytes(root: Path) -> bytes:
    path = write_video(root / "one.mp4")
    content = path.read_bytes()
    path.unlink()
    return content


def zipped(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as box:
        for name, content in files.items():
            box.writestr(name, content)


DOWNLOADS = {  # what `hf download` brings; None: a model, which is replaced by a tiny one
    OMNI: None,
    "OpenGVLab/InternVL3-2B-hf": None,
    "Qwen/Qwen2.5-VL-7B-Instruct": None,
    "Video-R1/Video-R1-data": video_r1,
    "yogkul2000/AVATAR-RL-dataset": avatar_rl,
    "PhilipC/IntentTrain": intent_train,
    "m-a-p/OmniBench": layouts_sound.omnibench,
    "liarliar/Daily-Omni": daily_omni,
}


# ------------------------------------------------------------------------------ walking
class Walk:
    """Runs commands in the working folder. ran, skipped: those that were, and were not, run."""

    def __init__(self, server: str, hinter: Path, processes: int = 1):
        self.server = server
        self.hinter = hinter
        self.processes = processes
        self.ran: list[str] = []
        self.skipped: list[str] = []

    def run(self, command: str) -> None:
        """Run one command, smaller."""
        if command.startswith("hf download "):
            self.skipped.append(command)
            download(command)
            return
        words = self.smaller(command)
        if words[0] == "torchrun":
            launch = ["-m", "torch.distributed.run", f"--nproc_per_node={self.processes}"]
            words = [*launch, str(REPO / words[2]), *words[3:]]
            subprocess.run([sys.executable, *words], check=True)
        elif words[0] == "python":
            module = words[2] if words[1] == "-m" else words[1].removesuffix(".py")
            argv = words[3:] if words[1] == "-m" else words[2:]
            importlib.import_module(module).main(argv)
        else:
            subprocess.run(["bash", "-ec", command], check=True)
        self.ran.append(command)

    def smaller(self, command: str) -> list[str]:
        """The words of a command with tiny models, a fake server and flags of size."""
        command = command.replace("Qwen/Qwen2.5-VL-7B-Instruct", str(self.hinter))
        command = command.replace(OMNI, str(DEFAULT_MODEL))
        command = re.sub(r"http://localhost:\d+/v1", self.server, command)
        if self.processes == 1:
            command = command.replace("torchrun --nproc_per_node=8", "python")

        if "--config" in command:
            command += self.models_of(command)
        if "train.py" in command:
            command += f" {SMALL_TRAINING}"
        elif "eval.py --benchmark" in command:
            command += f" {SMALL_ASKING}"
        elif "tools." in command:
            command += " --workers 0"
        return shlex.split(command)

    def models_of(self, command: str) -> str:
        """Flags for the models that a config names on the hub."""
        file = re.search(r"--config (\S+)", command).group(1)
        settings = json.loads(Path(file).read_text())
        flags = ""
        if settings["model"] == OMNI and "--model" not in command:
            flags += f" --model {DEFAULT_MODEL}"
        if "judge" in settings:
            flags += f" --judge_endpoint {self.server}"
        return flags


def download(command: str) -> None:
    """Write the small folder that takes the place of a download."""
    words = shlex.split(command)
    write = DOWNLOADS[words[2]]
    if write is None:
        assert len(words) == 3, f"{command}: a model goes into the hub's cache"
        return
    flag, kind, local, folder = words[3:]
    assert (flag, kind, local) == ("--repo-type", "dataset", "--local-dir")
    if not Path(folder).exists():
        write(Path(folder))


@pytest.fixture(scope="module")
def server():
    with serving() as address:
        yield address


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The working folder, with the repository's configs."""
    shutil.copytree(REPO / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("title", SECTIONS)
def test_every_command_runs_on_small_data_sets(title, place, server, tiny_internvl):
    walk = Walk(server, tiny_internvl)
    todo = commands(title)
    for command in todo:
        walk.run(command)

    # only downloads were left out, and the others have left their files
    assert len(walk.skipped) >= 3
    assert all(command.startswith("hf download ") for command in walk.skipped)
    assert walk.ran == [command for command in todo if not command.startswith("hf ")]
    for command in todo:
        for file in made_by(command):
            assert (place / file).is_file(), f"{command}: {file}"
    for name in ("ready1", "ready2", "ready3") if title == "The paper's run" else ():
        records = read_jsonl(Path("AVATAR-RL-dataset") / f"{name}.jsonl")
        assert len(records) == 4
        assert all(record["hint"] for record in records)
        assert all(record["audio_caption"] for record in records) == (name != "ready1")


def test_the_columns_and_flags_to_watch_are_those_of_a_run(place, server, tiny_internvl):
    Server.seen.clear()
    walk = Walk(server, tiny_internvl)
    avatar_rl(Path("AVATAR-RL-dataset"))
    data = f"--model {DEFAULT_MODEL} --data AVATAR-RL-dataset/stage3.jsonl"
    walk.run(f"python train.py --config configs/avatar-stage3.json {data} --out runs/a")
    columns = rows_of(Path("runs/a"))[0][-1].keys()

    watched = [cells[0] for cells in table(section("What to watch"), "column")]
    watched += [cells[1] for cells in table(section("What to do when"), "what happens")]
    names = re.findall(r"`(\w+)`", " ".join(watched))
    assert len(names) > 20
    assert set(names) <= columns
    assert Server.seen, "nobody was asked for a verdict"

    flags = re.findall(r"`--(\w+)", section("What to do when"))
    assert len(set(flags)) > 10
    assert set(flags) <= vars(parse([])).keys()


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS[:2])
def test_every_command_runs_with_two_processes_where_the_page_has_torchrun(
    title, place, server, tiny_internvl, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    walk = Walk(server, tiny_internvl, processes=2)
    for command in commands(title):
        walk.run(command)
        for file in made_by(command):
            assert Path(file).is_file(), f"{command}: {file}"


def made_by(command: str) -> list[str]:
    """The files that a command must have left."""
    out = re.search(r"(?:--out|--convert|>) (\S+)", command)
    if "--compare" in command:
        return ["runs/eval/compare.json", "runs/eval/compare.png"]
    if not out or "<(" in out.group(1):
        return []
    if "train.py" in command:
        return [f"{out.group(1)}/checkpoint/model.safetensors", f"{out.group(1)}/metrics.jsonl"]
    if "eval.py" in command:
        return [f"{out.group(1)}/summary.json"]
    return [out.group(1)]


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ------------------------------------------------------------------------------ numbers
def value_of(text: str) -> float | str | bool:
    """A value as the page writes it: "5e-7", "10,000", "true", "full"."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return text


@pytest.mark.parametrize("title", SECTIONS)
def test_the_flags_of_the_page_are_those_of_the_configs(title):
    rows = table(section(title), "flag")
    assert len(rows) > 4
    for name in OF_SECTION[title]:
        cfg = read_config(name)
        for flag, value, _ in rows:
            assert getattr(cfg, flag.strip("`-")) == value_of(value), f"{name}: {flag}"


def test_every_config_is_on_the_page_and_all_that_it_names_counts_as_given():
    files = sorted((REPO / "configs").iterdir())
    assert len(files) == 8
    for file in files:
        assert f"configs/{file.name}" in PAGE
        if file.suffix == ".json":
            assert read_config(file.stem).given == json.loads(file.read_text()).keys() | {"config"}


def test_the_memory_of_the_page_is_that_of_its_flags():
    """By Qwen2.5-Omni-7B's published shapes: transformers' own, but for the vision tower."""
    tokenizer, _ = load_tokenizer_and_config(DEFAULT_MODEL)
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    shapes = {"vision_config": vision | {"out_hidden_size": 3584}}
    config = transformers.Qwen2_5OmniThinkerConfig(**token_fields(tokenizer), **shapes)

    rows = [cells for cells in table(PAGE, "config") if cells[1] in ("lora", "full")]
    assert len(rows) == 4
    for name, train_type, gpus, *numbers in rows:
        cfg = read_config(name, f"--train_type={train_type}")
        counts = parameter_counts(config, cfg.lora_rank, cfg.train_towers)
        parts = list(memory(cfg, counts, config.text_config, int(gpus)).values())
        assert numbers == [f"{gb:.1f}" for gb in [*parts, sum(parts)]], name


def row_seconds(prompt: int, completions: list[int]) -> float:
    """The update of one packed row on one H200 at 51 % of 790 TFLOP/s."""
    new = sum(completions)
    pairs = prompt**2 / 2 + prompt * new + sum(n**2 for n in completions) / 2
    attention = 4 * 28 * 28 * 128 * pairs
    operations = 6 * 6.53e9 * (prompt + new) + 6 * 0.545e9 * new + 3 * attention
    return operations / (0.51 * 790e12)


def step_seconds(cfg: Config, gpus: int, prompt: int) -> dict[str, float]:
    """Seconds of a step's phases on one of the GPUs, by the formulas of the page."""
    prompts = cfg.prompts_per_step // gpus
    towers = 9.7 / 32 * prompts * (3 if cfg.train_towers else 1)
    if cfg.stage == 0:
        update = prompts * row_seconds(prompt, [300])
        return {"rollout": 0.0, "towers": towers, "reference": 0.0, "update": update}

    # a decode step with few completions, and with more, by --train_type
    few, many = {"lora": (0.0121, 0.0206), "full": (0.0082, 0.015)}[cfg.train_type]
    token = few if prompts * cfg.fresh <= 32 else many
    rollout = prompts * 0.22 * prompt / 8192 + cfg.max_completion_tokens * token
    fresh = prompts * row_seconds(prompt, [300] * cfg.fresh)
    replayed = prompts * row_seconds(prompt, [300] * cfg.replayed) if cfg.replayed else 0.0
    clips = 2 if cfg.replayed else 1
    return {
        "rollout": rollout,
        "towers": clips * towers,
        "reference": fresh / 3,
        "update": fresh + replayed,
    }


def test_the_times_of_the_page_are_those_of_its_formulas():
    rows = table(section("Memory, time and disk"), "config")
    rows = [cells for cells in rows if cells[1] not in ("lora", "full")]
    assert len(rows) == 5
    for name, gpus, *numbers, steps, hours in rows:
        seconds = step_seconds(read_config(name), int(gpus), 4500 if "intent" in name else 2200)
        total = sum(seconds.values())
        assert numbers == [f"{s:.1f}" for s in [*seconds.values(), total]], name
        n_steps = int(steps.split()[0].replace(",", ""))
        assert hours == f"{n_steps * total / 3600:.1f}", name


def test_the_formulas_find_what_was_measured():
    """On one H200: an update of one long prompt, and the phases of a step of 32 prompts."""
    assert row_seconds(8192, [256] * 8) == pytest.approx(1.15, rel=0.02)
    row = 32 * row_seconds(4623, [256] * 8)
    rollout = 32 * 0.22 * 4623 / 8192 + 256 * 0.0206
    assert round(row + row / 3 + rollout + 9.7) == 50
    assert "takes 50 s" in " ".join(PAGE.split())


def test_the_time_of_an_evaluation_is_that_of_its_formula():
    batches = -(-1197 // 32)
    seconds = 1197 * (0.22 * 3750 / 8192 + 9.7 / 32) + batches * 2048 * 0.015
    assert f"take {seconds / 60:.0f} minutes on one card" in PAGE
