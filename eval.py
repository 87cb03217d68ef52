"""eval.py: a model's score on a benchmark, with confidence intervals; and models compared.

    # the bundled model on the toy world's held-out questions
    python eval.py --benchmark toy

    # a run's checkpoint; a model of the hub on a benchmark's folder as downloaded; on 8 GPUs
    python eval.py --benchmark toy --model runs/stage2-avatar-seed0/checkpoint
    python eval.py --benchmark omnibench --root OmniBench --model Qwen/Qwen2.5-Omni-7B
    torchrun --nproc_per_node=8 eval.py --benchmark videomme --root Video-MME --model CHECKPOINT

    # two runs beside each other, with pictures
    python eval.py --compare base=runs/eval/a avatar=runs/eval/b --plot --by_length

One run leaves in --out:

    results.jsonl    a line per item: prompt, completion, the answer read from it, gold answer,
                     score, labels, seconds, failure; written when the item's batch is done
    summary.json     score, scores of splits, 95 % intervals, n, failures by reason, settings
    settings.json    what the results were made with; a run with other settings will not add to them

A run that was killed goes on where it stopped and ends with the same bytes in summary.json: items
are cut into the same batches whatever has been done, and a batch's random stream depends on its
number alone. The same holds for any number of processes: each takes every n-th batch. (Tested on
CPUs; on a GPU as far as its kernels repeat themselves.)

Nothing is dropped from a score. An item whose media cannot be read, whose prompt is too long, or
whose reply holds no answer is wrong, and listed by reason; --strict stops at it instead. Intervals:
percentile bootstrap over videos (their questions stay together), 10,000 resamples.

Where to look: what a benchmark asks and how it scores, benchmarks/table.py and one file each; how
items are asked, benchmarks/inference.py; intervals, benchmarks/statistics.py.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

# torch and transformers take seconds to import, and --help must answer at once. What needs them is
# therefore imported inside `run`, and at the end of this file.
from benchmarks.base import STYLES, Item
from benchmarks.compare import compare_scores, load_runs, other_settings
from benchmarks.report import (
    by_length,
    comparison,
    length_table,
    plot_by_length,
    plot_scores,
    table,
)
from benchmarks.results import (
    check_contents,
    claim,
    collect,
    fingerprint,
    finished_results,
)
from benchmarks.statistics import summarise
from benchmarks.table import BENCHMARKS, choose_items, load_items
from config import ASKING
from formats.files import write_whole
from formats.sample import DataError
from media.decode import check_media
from media.prompt_format import MIN_PIXELS
from run.flags import fill, flag, is_tiny, read_flags


# ------------------------------------------------------------------------------ flags
@dataclass
class WhatFlags:
    """What to run"""

    benchmark: str = flag("toy", f"one of {', '.join(BENCHMARKS)}", choices=tuple(BENCHMARKS))
    model: str = flag("", "model folder or hub name; empty: the bundled tiny model")
    root: str = flag(
        "",
        "the benchmark's folder, as downloaded and unpacked (toy: rendered there; empty: "
        "toy_world)",
    )
    media_root: str = flag(
        "",
        "another folder in which media may lie, where links of --root lead there; empty: none",
    )
    out: str = flag("", "output folder; empty: runs/eval/<benchmark>-<model>-<prompt>")
    prompt: str = flag(
        "think",
        "think: reasoning, then <answer>; direct: the answer only; paper: the released "
        "evaluation's wording",
        choices=STYLES,
    )
    only: str = flag(
        "", "only the items with this label, e.g. duration=short or setting=long; empty: all"
    )
    limit: int = flag(0, "only the first items; 0: all", 0)
    strict: bool = flag(False, "stop at the first item that cannot be asked, answered or scored")
    retry: bool = flag(
        False, "ask again, in a run that goes on, the items whose media were missing or unusable"
    )


@dataclass
class SamplingFlags:
    """Sampling"""

    temperature: float = flag(0.0, "0 = greedy", 0, 100)
    seed: int = flag(0, "seed of sampling", 0)
    max_completion_tokens: int | None = flag(
        None,
        "longest completion (empty: 2048, tiny model 112; --prompt paper: the released script's)",
        1,
    )


@dataclass
class JudgingFlags:
    """Judge of open answers (MMVU, Video-TT)"""

    judge: str = flag(
        "", "model folder or hub name; empty: open answers are not scored, but counted"
    )
    judge_endpoint: str = flag(
        "", "an OpenAI-compatible server that runs the --judge; empty: load it here"
    )


@dataclass
class MediaFlags:
    """Media"""

    fps: float = flag(2.0, "video frames sampled per second", 1e-3, 1e3)
    decoder: str = flag(
        "pyav",
        "what decodes video frames; decord is for comparison (docs/data.md)",
        choices=("pyav", "decord"),
    )
    max_frames: int | None = flag(None, "most frames per video (empty: 64, tiny model 16)", 2)
    max_pixels: int | None = flag(
        None, "most pixels per frame (empty: 100,352, tiny model 2,352)", MIN_PIXELS
    )
    use_audio: bool | None = flag(
        None, "hear the sound of videos (empty: where the benchmark has sound)"
    )
    max_sound: float = flag(
        300.0,
        "seconds of sound that are heard, the items being marked (Qwen2.5-Omni's own limit); "
        "0 = all",
        0,
    )
    media_cache: str = flag("media_cache", "folder for decoded frames and sound; empty = off")
    workers: int | None = flag(
        None, "processes that decode ahead; 0 = threads (empty: 4 with a GPU, else 1, toy 0)", 0
    )


@dataclass
class MemoryFlags:
    """Memory"""

    batch: int = flag(32, "items that decode together; another number rounds differently", 1)
    max_tokens: int = flag(
        16_384, "prompt tokens per forward pass: lower it when memory runs out", 1
    )
    max_prompt_tokens: int = flag(
        32_768, "longer prompts count as wrong, by reason; 0 = no limit", 0
    )


@dataclass
class ComparisonFlags:
    """Intervals and comparison"""

    resamples: int = flag(10_000, "resamples of the bootstrap", 100)
    compare: tuple[str, ...] = flag(
        (),
        "compare runs instead: name=FOLDER of a run, or its results.jsonl; the first name is the "
        "base; a name may come again for another benchmark",
    )
    plot: bool = flag(False, "with --compare: bars with intervals, compare.png in --out")
    by_length: bool = flag(
        False,
        "with --compare: gain over the base against the length of the reasoning, by_length.png in "
        "--out",
    )
    length_edges: str = flag(
        "200,400,600", "with --by_length: where its groups of lengths end, in tokens"
    )


@dataclass
class Config(WhatFlags, SamplingFlags, JudgingFlags, MediaFlags, MemoryFlags, ComparisonFlags):
    """Every flag of eval.py. None is filled in from the benchmark, config.ASKING or the device."""


# A process that is done waits for the others, which may have long videos left: a day
TIMEOUT_SECONDS = 86_400

# Flags that change no completion: a run may go on with other values
NOT_SETTINGS = {
    "out",
    "strict",
    "retry",
    "judge",
    "judge_endpoint",
    "media_cache",
    "workers",
    "resamples",
    "compare",
    "plot",
    "by_length",
    "length_edges",
}


def parse(argv: list[str]) -> Config:
    """Flags -> Config. Unknown flags and values out of range end the program with one sentence.

    Every None is filled in, but that of --workers, which depends on the device (`run`).
    """
    cfg, parser = read_flags(Config, __doc__.split("\n")[0], argv)

    # what was not given, by the model's size, the benchmark and the wording
    benchmark = BENCHMARKS[cfg.benchmark]
    defaults = dict(ASKING["tiny" if is_tiny(cfg.model) else "real"])
    defaults["use_audio"] = benchmark.sound
    if cfg.prompt == "paper":
        defaults["max_completion_tokens"] = benchmark.tokens
    fill(cfg, defaults)

    # folders; a comparison reads no benchmark's files
    if not cfg.root and cfg.benchmark == "toy":
        cfg.root = "toy_world"
    if not cfg.root and not cfg.compare:
        parser.error(f"--root: pass the folder of {benchmark.title} ({benchmark.files})")
    if not cfg.out:
        name = f"{cfg.benchmark}-{short_name(cfg.model)}-{cfg.prompt}"
        cfg.out = "runs/eval" if cfg.compare else f"runs/eval/{name}"

    edges = [edge.strip() for edge in cfg.length_edges.split(",")]
    if not all(edge.isascii() and edge.isdecimal() for edge in edges):
        parser.error(
            f"--length_edges {cfg.length_edges}: write numbers of tokens, joined by commas"
        )
    return cfg


def short_name(model: str) -> str:
    """A model's part of a folder's name.

    >>> short_name("runs/stage2-avatar-seed0/checkpoint"), short_name("Qwen/Qwen2.5-Omni-7B")
    ('stage2-avatar-seed0', 'Qwen-Qwen2.5-Omni-7B')
    """
    tells_nothing = ("/", "runs", "checkpoint", "..", ".")
    return "-".join(name for name in Path(model or "tiny").parts if name not in tells_nothing)


# ------------------------------------------------------------------------------ one run
def run(cfg: Config) -> None:
    """One benchmark, from its files to its table. Under torchrun every process calls this."""
    import torch

    from engine.distributed import start_processes
    from run.session import only_run
    from tools.chat import check_endpoint

    if cfg.judge_endpoint:
        check_endpoint(cfg.judge_endpoint)
    if cfg.workers is None:
        cfg.workers = 4 if torch.cuda.is_available() else int(cfg.benchmark != "toy")
    rank, world, device = start_processes(TIMEOUT_SECONDS)
    with only_run(Path(cfg.out), rank):
        run_benchmark(cfg, rank, world, device)


def run_benchmark(cfg: Config, rank: int, world: int, device) -> None:
    """What `run` does in its folder. `gather` is where the processes wait for each other."""
    from benchmarks import inference
    from engine.distributed import gather
    from run.machine import versions

    out = Path(cfg.out)
    # links, as a run's `checkpoint`, are followed once, by rank 0 for all: they may move on while
    # files are read
    cfg.model = gather(without_links(cfg.model))[0]
    cfg.use_audio = cfg.use_audio and inference.can_hear(cfg.model)
    settings = {name: value for name, value in asdict(cfg).items() if name not in NOT_SETTINGS}
    settings["weights"] = fingerprint(cfg.model)

    # 1 read the items, rank 0 first: it renders the toy world and unpacks media that are inside
    # files, and the others find that done
    scratch = Path(cfg.media_cache or out) / "benchmarks" / cfg.benchmark
    for my_turn in (rank == 0, rank != 0):
        if my_turn:
            all_items, left_out = load_items(cfg.benchmark, Path(cfg.root), scratch, cfg.media_root)
        gather(None)
    items = choose_items(all_items, cfg.only, cfg.limit)
    check_items(cfg, items, left_out)

    # 2 claim the folder, or go on with the results that it holds
    order = [item.sample.id for item in items]
    if rank == 0:
        claim(out, settings)
        check_contents(out, collect(out, order), items)
    gather(None)
    done = finished_results(out, cfg.judge, cfg.retry, cfg.strict)

    # 3 find what is left to do; every process takes each n-th batch. The cut into batches is always
    # the same, whatever is done, because items that decode together round together
    batches = list(enumerate(inference.batches_of(items, cfg.batch)))
    unfinished = []
    for number, batch in batches:
        if not done.keys() >= {item.sample.id for item in batch}:
            unfinished.append((number, batch))
    unjudged = [result for result in done.values() if None in result["parts"].values()]
    todo = unfinished[rank::world]
    waiting = unjudged[rank::world]

    # 4 answer and score, into a file of this process's own
    file = out / (f"results.rank{rank}.jsonl" if world > 1 else "results.jsonl")
    judge = None
    if cfg.judge and BENCHMARKS[cfg.benchmark].judge and (todo or waiting):
        judge = inference.open_judge(cfg, device)
        inference.judge_waiting(cfg, judge, items, waiting, file)
    if todo:
        inference.answer_batches(cfg, device, todo, set(done), judge, file, rank == 0)
    gather(None)

    # 5 collect the results of all processes, and report
    if rank == 0:
        results = list(collect(out, order).values())
        n_in_files = len(all_items) + len(left_out)
        report(cfg, results, settings, n_in_files, left_out, versions())


def without_links(model: str) -> str:
    """A model folder behind all links of its path ("run/checkpoint/", "latest/checkpoint"); a hub
    name, and a folder whose path has no link, stay as they are."""
    real = os.path.realpath(model)
    if not model or not os.path.isdir(model) or real == os.path.abspath(model):
        return model
    return real


def check_items(cfg: Config, items: list[Item], left_out: list[tuple[str, str]]) -> None:
    """Raises DataError when none of the media is there, and with --strict for items left out."""
    benchmark = BENCHMARKS[cfg.benchmark]
    advice = f"pass the folder of {benchmark.title} by --root ({benchmark.files})"
    check_media([item.sample for item in items], cfg.root, advice)
    if cfg.strict and left_out:
        name, reason = left_out[0]
        raise DataError(f"{cfg.root}: item {name}: {reason}")


def report(
    cfg: Config,
    results: list[dict],
    settings: dict,
    n_in_files: int,
    left_out: list[tuple[str, str]],
    versions: dict[str, str],
) -> None:
    """Write summary.json and print it as a table.

    n_in_files: how many items there are before --only and --limit.
    """
    benchmark = BENCHMARKS[cfg.benchmark]
    summary = {
        "benchmark": cfg.benchmark,
        "title": benchmark.title,
        "rule": benchmark.scoring,
        "size": benchmark.size,
        "there": n_in_files,
        **summarise(results, benchmark, cfg.resamples),
        "left_out": [{"id": name, "reason": reason} for name, reason in left_out],
        "settings": settings,
        "judge": next((result["judge"] for result in results if "judge" in result), None),
        "versions": versions,
    }
    out = Path(cfg.out)
    write_whole(out / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    print(table(summary))
    seconds = np.mean([result["seconds"] for result in results])
    print(f"{seconds:.2f} s per item; see {out}/results.jsonl, summary.json")


# ------------------------------------------------------------------------------ runs compared
def compare(cfg: Config) -> None:
    """The paper's table: a row per run, a column per benchmark, with gains over the first run."""
    # the first run is the base; load_runs has checked that all are on its benchmarks
    runs, settings = load_runs(cfg.compare)
    base = next(iter(runs))
    benchmarks = [name for name in BENCHMARKS if name in runs[base]]
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    files = ["compare.json"]

    # the table, and a sentence on each run that was asked otherwise than the base
    scores = compare_scores(runs, cfg.resamples)
    result = {"resamples": cfg.resamples, "runs": scores}
    print("\n".join([comparison(scores, benchmarks), *other_settings(settings)]))

    # the pictures that were asked for
    if cfg.plot:
        plot_scores(scores, benchmarks, out / "compare.png")
        files.append("compare.png")
    if cfg.by_length:
        edges = sorted(int(edge) for edge in cfg.length_edges.split(","))
        result["by_length"] = by_length(runs, base, edges, cfg.resamples)
        print(length_table(result["by_length"]))
        plot_by_length(result["by_length"], out / "by_length.png")
        files.append("by_length.png")

    write_whole(out / "compare.json", json.dumps(result, indent=2) + "\n")
    print(f"see {out}/{', '.join(files)}")


# ------------------------------------------------------------------------------ the program
def evaluate(cfg: Config) -> None:
    """What the flags ask for: one run, or runs compared."""
    if cfg.compare:
        compare(cfg)
    else:
        run(cfg)


def main(argv: list[str]) -> None:
    evaluate(parse(argv))


if __name__ == "__main__":
    cfg = parse(sys.argv[1:])
    from run.session import ends_in_a_sentence  # after --help and mistyped flags: it imports torch

    ends_in_a_sentence(evaluate, cfg)
