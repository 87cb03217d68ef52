"""view.py: a run as one page, which opens from the disk without a server or a network.

    python view.py runs/stage2-avatar-seed0             # run.html there; a run ends with it, too
    python view.py runs/a runs/b runs/c --out abc.html  # the curves of several runs

The page holds the flags, the curves, the completions with their tokens coloured by what they were
trained with, the clips, the replay buffer over time, and one step as numbers to recompute.

    metrics.jsonl, rollouts.jsonl.gz, config.json  --read_run-->  a dict  --page-->  run.html
                                                                  assets/view.js draws it

What a model has written is hostile: it reaches the page as data alone, never as HTML. The script
writes it as text (textContent), and the page's Content-Security-Policy runs no other script.
"""

import argparse
import base64
import gzip
import hashlib
import html
import json
import math
import mimetypes
import os
import sys
import warnings
from pathlib import Path
from urllib.parse import quote

import torch
from torch.nn.utils.rnn import pad_sequence

from config import Config
from engine.run_folder import is_run, settings_in
from formats.fields import is_number
from formats.files import write_whole
from formats.sample import DataError
from run.flags import check_place, groups_of
from run.logs import read_rows
from run.metrics import is_drawable
from run.rollouts import NAME as ROLLOUTS
from run.rollouts import Step, read_steps
from run.session import ends_in_a_sentence
from tas import CLIPS, LEVELS, clipped_is_loss, completion_means, importance_ratio, token_advantages

ASSETS = Path(__file__).parent / "assets"
MOST_TOKENS = 600_000  # of completions on a page; of a longer run every 2nd, 3rd, .. step is shown
MARK = '<main id="page">'  # of a page of ours, which may be written over
CLIP_BYTES = 700_000  # of clips inside the page; the others are links
SCALE = 100  # numbers of tokens are written as whole hundredths

COMPLETION_FIELDS = (
    "step",
    "update",
    "replayed",
    "hinted",
    "written",
    "tier",
    "vcrs",
    "reward",
    "advantage",
    "ratio_mean",
    "ratio_max",
)
TOKEN_FIELDS = ("logps", "logps_now", "entropy", "weights", "hint_term")


# ------------------------------------------------------------------------------ a run
def read_config(folder: Path) -> dict:
    """The flags of a run, and in `given` the names of those that were given. Raises DataError where
    there is no run."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config | {"given": list(config["given"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        mend = "pass one that train.py has written"
        # RUN/checkpoint, RUN/checkpoints/000004
        for above in (folder.parent, folder.parent.parent):
            if is_run(above):
                mend = f"it is a checkpoint; pass its run, {above}"
        raise DataError(
            f"{folder}: not the folder of a run (config.json: {type(error).__name__}); {mend}"
        ) from None


def read_run(folder: Path, config: dict) -> dict:
    """Everything about a run but its completions. Raises DataError where its log is missing."""
    if not (folder / "metrics.jsonl").is_file():
        raise DataError(f"{folder}: metrics.jsonl is missing; nothing can be shown")
    rows = read_rows(folder / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if is_evaluation(row)]

    # CPU-seconds of training up to each evaluation
    seconds = 0.0
    for row in rows:
        seconds += row.get("time_cpu") or 0.0
        if "eval_accuracy" in row:
            row["cpu_seconds"] = round(seconds, 1)
    return {
        "name": folder.name,
        "result": result_of(evaluations, steps),
        "machine": read_machine(folder / "machine.json"),
        "flags": flags_of(config),
        "steps": columns_of(steps),
        "evaluations": columns_of(evaluations),
    }


def is_evaluation(row: dict) -> bool:
    """Is this the line of an evaluation, with what its point and the interval are drawn by?"""
    return row.get("eval_accuracy") is not None and row.get("eval_questions") is not None


def read_machine(path: Path) -> dict:
    """What the run has run on, texts by name; {} where the file is missing, as in folders of
    earlier versions, or damaged, with a warning."""
    machine = settings_in(path)
    if all(isinstance(value, str) for value in machine.values()) and machine:
        return machine
    if path.is_file():
        warnings.warn(f"{path}: is damaged; the page is made without it", stacklevel=2)
    return {}


def result_of(evaluations: list[dict], steps: list[dict]) -> str:
    """What came out, in a sentence."""
    if not steps:
        return "no step is done yet"
    newest = steps[-1]
    done = f"after {newest['step'] + 1:,} steps and {newest.get('generated', 0):,} completions"
    if not evaluations:
        return done
    first, last = evaluations[0]["eval_accuracy"], evaluations[-1]["eval_accuracy"]
    return f"held-out accuracy {first:.3f} to {last:.3f} {done}"


def flags_of(config: dict) -> list[dict]:
    """The flags by their groups in --help; source: where each value comes from."""
    groups = []
    for heading, fields in groups_of(Config).items():
        flags = []
        for f in fields:
            if f.name not in config:
                continue
            source = "preset" if f.default is None else "default"
            flags.append(
                {
                    "name": f.name,
                    "value": str(config[f.name]),
                    "source": "given" if f.name in config["given"] else source,
                    "help": f.metadata["help"],
                }
            )
        groups.append({"heading": heading, "flags": flags})
    return groups


def columns_of(rows: list[dict]) -> dict[str, list]:
    """Lines of a log -> {column: its numbers}, null where a line has none."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if all(value is None or is_drawable(value) for value in values):
            columns[name] = [v if v is None else float(f"{v:.5g}") for v in values]
    for exact in {"step", "generated"} & columns.keys():
        columns[exact] = [row.get(exact) for row in rows]
    return columns


# ------------------------------------------------------------------------------ completions
def read_rollouts(folder: Path, config: dict) -> dict | None:
    """The completions of a run, its prompts and its buffer; None where none were kept, and before
    the first step has ended.

    Lists are by completion; tokens are places in `vocabulary`. Of a long run some steps are left
    out (MOST_TOKENS), and `every` says so.
    """
    file = folder / ROLLOUTS
    if not file.is_file():
        return None
    steps = list(read_steps(file))
    if not steps:
        return None
    check_loss_flags(folder, config)
    n_tokens = sum(len(c["tokens"]) for step in steps for c in step.completions)
    every = max(1, -(-n_tokens // MOST_TOKENS))
    shown = steps[::every]
    if shown[-1] is not steps[-1]:
        shown.append(steps[-1])

    prompts = {}
    for step in steps:
        prompts |= step.prompts
    return {
        "every": every,
        "prompts": with_clips(prompts, folder, [c["id"] for c in shown[-1].completions]),
        **completions_of(shown, list(prompts), config),
        "buffer": buffer_of(steps),
    }


def check_loss_flags(folder: Path, config: dict) -> None:
    """Raises DataError where a flag that `policy_losses` computes with is missing or damaged."""
    is_right = {
        "is_level": config.get("is_level") in LEVELS,
        "clip": config.get("clip") in CLIPS,
        "clip_eps": is_number(config.get("clip_eps")),
        "clip_eps_high": is_number(config.get("clip_eps_high")),
    }
    wrong = [name for name, right in is_right.items() if not right]
    if wrong:
        name = wrong[0]
        shown = repr(config.get(name))[:60]
        raise DataError(
            f"{folder / 'config.json'}: field '{name}' is {shown}, which is no value of "
            f"--{name}; write there what the run was made with"
        )


def completions_of(steps: list[Step], ids: list[str], config: dict) -> dict:
    """The completions of these steps as lists. ids: of all prompts, in order."""
    number = {prompt_id: i for i, prompt_id in enumerate(ids)}
    vocabulary: dict[str, int] = {}
    lists: dict[str, list] = {name: [] for name in (*COMPLETION_FIELDS, *TOKEN_FIELDS)}
    lists |= {"prompt": [], "tokens": [], "scores": [], "loss": []}
    for step in steps:
        lists["loss"] += policy_losses(step.completions, config)
        for completion in step.completions:
            for name in COMPLETION_FIELDS:
                lists[name].append(completion[name])
            for name in TOKEN_FIELDS:
                lists[name].append(hundredths(completion.get(name)))
            for token in completion["tokens"]:
                vocabulary.setdefault(token, len(vocabulary))
            lists["tokens"].append([vocabulary[token] for token in completion["tokens"]])
            lists["prompt"].append(number[completion["id"]])
            lists["scores"].append(completion["scores"])
    return {"vocabulary": list(vocabulary), "completions": lists}


def hundredths(values: list[float] | None) -> list[int] | None:
    return None if values is None else [round(value * SCALE) for value in values]


def policy_losses(completions: list[dict], config: dict) -> list[float | None]:
    """The clipped importance-sampled loss of each completion, the mean over its tokens, as train.py
    computes it; without the KL term. None where its group was not computed."""
    computed = [c for c in completions if c["logps_now"] is not None]
    if not computed:
        return [None] * len(completions)

    def block(name: str) -> torch.Tensor:
        """(N, R) of the computed ones."""
        return pad_sequence([torch.tensor(c[name]) for c in computed], batch_first=True)

    logp, weights = block("logps_now"), block("weights")  # (N, R), weights 0 on padding
    mask = weights != 0  # (N, R)
    ratio = importance_ratio(logp, block("logps"), mask, config["is_level"])  # (N, R)
    advantages = torch.tensor([c["advantage"] for c in computed])  # (N,)
    logged = all("hint_term" in c for c in computed)  # not by a run of an older version
    hint_term = block("hint_term") if logged else torch.zeros_like(weights)  # (N, R)
    shaped = token_advantages(advantages, weights, hint_term)  # (N, R)
    bounds = (config["clip"], config["clip_eps"], config["clip_eps_high"])
    loss, _ = clipped_is_loss(ratio, logp, shaped, *bounds)  # (N, R)
    losses = iter(completion_means(loss, mask).tolist())
    rounded = []
    for completion in completions:
        value = math.nan if completion["logps_now"] is None else next(losses)
        rounded.append(round(value, 4) if math.isfinite(value) else None)
    return rounded


def buffer_of(steps: list[Step]) -> dict:
    """Which prompt was in which tier after each step: a letter per prompt, " " where it is not
    stored; and whose hint was on."""
    ids = sorted({prompt_id for step in steps for prompt_id in step.buffer})
    tiers, hints = [], []
    for step in steps:
        letters = [step.buffer[name][0][0] if name in step.buffer else " " for name in ids]
        tiers.append("".join(letters))
        hints.append([i for i, name in enumerate(ids) if step.buffer.get(name, [0, 0, False])[2]])
    return {
        "ids": ids,
        "steps": [step.step for step in steps],
        "tiers": tiers,
        "hints": hints,
    }


# ------------------------------------------------------------------------------ clips
def with_clips(prompts: dict[str, dict], folder: Path, first: list[str]) -> list[dict]:
    """The prompts, each with addresses of its media: inside the page as long as there is space, or
    relative to the run's folder. first: the ids whose clips go into the page first."""
    space = CLIP_BYTES
    addresses: dict[str, str] = {}
    for prompt_id in [*dict.fromkeys(first), *prompts]:
        for kind, path in prompts[prompt_id]["media"]:
            file = Path(path.partition("#t=")[0] if kind == "image" else path)
            if path in addresses or not file.is_file():
                continue
            size = file.stat().st_size
            if size <= space:
                space -= size
                addresses[path] = data_address(file)
            else:
                addresses[path] = quote(os.path.relpath(file, folder))

    shown = []
    for prompt_id, prompt in prompts.items():
        media = [[kind, path, addresses.get(path, "")] for kind, path in prompt["media"]]
        shown.append({"id": prompt_id, **prompt, "media": media})
    return shown


def data_address(file: Path) -> str:
    """A file as a data: address."""
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


# ------------------------------------------------------------------------------ the page
def page(data: dict, title: str) -> str:
    """The page: style, data and script in one file."""
    style = (ASSETS / "view.css").read_text(encoding="utf-8")
    script = (ASSETS / "view.js").read_text(encoding="utf-8")
    packed = gzip.compress(json.dumps(data, separators=(",", ":")).encode(), mtime=0)
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest(script)}'; "
        f"style-src 'sha256-{digest(style)}'; img-src data: file: 'self'; "
        "media-src data: file: 'self'"
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{style}</style></head><body>",
            f"{MARK}This page needs a browser of 2023 or later, with JavaScript.</main>",
            f'<script type="application/octet-stream" id="data">{base64.b64encode(packed).decode()}'
            "</script>",
            f"<script>{script}</script>",
            "</body></html>\n",
        ]
    )


def digest(text: str) -> str:
    """What a Content-Security-Policy knows an inline script or style by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write_page(folders: list[Path], out: Path) -> Path:
    """Write the page of one run, or of the curves of several, to `out`."""
    configs = [read_config(folder) for folder in folders]
    runs = [read_run(*pair) for pair in zip(folders, configs, strict=True)]
    data = {"runs": runs, "rollouts": None}
    if len(runs) == 1:
        data["rollouts"] = read_rollouts(folders[0], configs[0])
    write_whole(out, page(data, " / ".join(run["name"] for run in runs)))
    return out


def check_out(out: Path) -> None:
    """Raises DataError where a page cannot be written, or would replace what is none of ours."""
    check_place(out, "--out", "run.html")
    if os.path.lexists(out) and not is_page(out):
        raise DataError(
            f"{out}: is there already, and no page of view.py; move it away, or pass another file "
            "to --out"
        )


def is_page(path: Path) -> bool:
    """Has `page` written this file?"""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        content = file.read(1_000_000)  # the style is before the mark
    return content.startswith(b"<!doctype html>") and MARK.encode() in content


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders that train.py has written")
    parser.add_argument(
        "--out", type=Path, help="the page; run.html in the run's folder, compare.html of several"
    )
    args = parser.parse_args(argv)
    name = "run.html" if len(args.runs) == 1 else "compare.html"
    out = args.out or args.runs[0] / name
    if args.out or out.parent.is_dir():  # else the run is what is missing
        check_out(out)
    write_page(args.runs, out)
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    ends_in_a_sentence(main, sys.argv[1:])
