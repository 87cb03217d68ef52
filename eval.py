"""eval.py: a model's score on a benchmark, item by item, with confidence intervals; and models compared.

    python eval.py --benchmark toy                                                       # the bundled model on the toy world's held-out questions
    python eval.py --benchmark toy --model runs/stage2-avatar-seed0/checkpoint
    python eval.py --benchmark omnibench --root OmniBench --model Qwen/Qwen2.5-Omni-7B   # the benchmark's folder as downloaded
    torchrun --nproc_per_node=8 eval.py --benchmark videomme --root Video-MME --model CHECKPOINT
    python eval.py --compare base=runs/eval/a/results.jsonl avatar=runs/eval/b/results.jsonl --plot true --by_length true

One run leaves in --out:
    results.jsonl    a line per item: prompt, completion, parsed answer, gold, score, labels, seconds, failure; written when its batch is done
    summary.json     score, scores of splits, 95 % intervals, n, failures by reason, settings, versions
    settings.json    what the results were made with; a run with other settings will not add to them

A run that was killed goes on where it stopped and ends with the same bytes in summary.json: items are cut into the same batches whatever has been done, and a
batch's random stream hangs on its number. The same holds for any number of processes: each takes every n-th batch. (Tested on CPUs; on a GPU as far as its
kernels repeat themselves.)

Nothing is dropped from a score. An item whose media cannot be read, whose prompt is too long, or whose reply holds no answer is wrong, and listed by reason;
--strict stops at it instead. Intervals: percentile bootstrap over videos (their questions stay together), 10,000 resamples.
"""

import hashlib
import json
import math
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
import transformers
from tqdm import tqdm

from benchmarks import BENCHMARKS, STYLES, Benchmark, Item, Metric, ask, load_items, read_answer
from data import MIN_PIXELS, Prompt, PromptMaker, TooLong, check_media, question_text
from judge import Endpoint, LocalModel, Request, check_endpoint
from model import ATTENTIONS, DEFAULT_MODEL, Policy, load_config, load_policy, prompt_format
from program import (
    bound_memory,
    ends_in_a_sentence,
    fill,
    flag,
    gather,
    is_tiny,
    only_run,
    prompt_maker,
    read_flags,
    start_processes,
    wants_cuda,
    weight_dtype,
)
from records import DataError, write_whole
from rewards import split_completion
from rollout import Completion, generate

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BAD_MEDIA, TOO_LONG, NO_ANSWER, NO_VERDICT = (
    "media missing or unusable",
    "prompt too long",
    "no answer in the reply",
    "judge gave no verdict",
)


@dataclass
class Config:
    """Every flag of eval.py. A default of None is filled in from the benchmark or from DEFAULTS (by model)."""

    benchmark: str = flag("toy", f"what to run: {', '.join(BENCHMARKS)}", known=tuple(BENCHMARKS))
    model: str = flag("", "model folder or hub name; empty: the bundled tiny model")
    root: str = flag(
        "",
        "the benchmark's folder, as downloaded and unpacked (toy: rendered there; empty: toy_world)",
    )
    out: str = flag("", "output folder; empty: runs/eval/<benchmark>-<model>-<prompt>")
    prompt: str = flag(
        "think",
        "think: reasoning, then <answer>; direct: the answer only; paper: the released evaluation's wording",
        known=STYLES,
    )
    only: str = flag(
        "", "only the items with this label, e.g. duration=short or setting=long; empty: all"
    )
    limit: int = flag(0, "only the first items; 0: all", 0)
    strict: bool = flag(False, "stop at the first item that cannot be asked, answered or scored")
    retry: bool = flag(
        False, "ask again, in a run that goes on, the items whose media were missing or unusable"
    )
    judge: str = flag(
        "",
        "the model that judges open answers (MMVU, Video-TT); empty: they are left out and counted",
    )
    judge_endpoint: str = flag(
        "", "an OpenAI-compatible server that runs the --judge; empty: load it here"
    )
    judge_device: str = flag(
        "", "where a judge that is loaded here runs; empty: the model's device"
    )
    temperature: float = flag(0.0, "sampling temperature; 0 = greedy", 0)
    top_k: int = flag(0, "sample among the k likeliest ids only; 0 = off", 0)
    top_p: float = flag(1.0, "sample in the nucleus of this mass only; 1 = off", 1e-6, 1)
    seed: int = flag(0, "seed of sampling")
    max_completion_tokens: int | None = flag(
        None,
        "longest completion (empty: 2048, tiny model 112; --prompt paper: the released script's)",
        1,
    )
    fps: float = flag(2.0, "video frames sampled per second", 1e-3)
    max_frames: int | None = flag(None, "most frames per video (empty: 64, tiny model 16)", 2)
    max_pixels: int | None = flag(
        None, "most pixels per frame (empty: 100,352, tiny model 2,352)", MIN_PIXELS
    )
    use_audio: bool | None = flag(
        None, "hear the sound of videos (empty: where the benchmark has sound)"
    )
    max_sound: float = flag(
        300.0,
        "seconds of sound that are heard, the items being marked (Qwen2.5-Omni's own limit); 0 = all",
        0,
    )
    max_prompt_tokens: int = flag(
        32_768, "longer prompts count as wrong, by reason; 0 = no limit", 0
    )
    batch: int = flag(32, "items that decode together; another number rounds differently", 1)
    max_tokens: int = flag(
        16_384, "prompt tokens per forward pass: lower it when memory runs out", 1
    )
    max_cache_tokens: int = flag(
        2**18,
        "tokens whose keys and values are held while completions decode together (7B: 57 kB each)",
        1,
    )
    feature_cache_gb: float = flag(
        1.0, "host memory for tower outputs, for questions about one video in several batches", 0
    )
    attn: str = flag("auto", f"attention of the towers: {', '.join(ATTENTIONS)}", known=ATTENTIONS)
    cuda_graph: bool = flag(True, "on a GPU, replay decode steps as CUDA graphs")
    media_cache: str = flag("media_cache", "folder for decoded frames and sound; empty = off")
    media_cache_gb: float = flag(20.0, "most that the folder holds", 0)
    workers: int | None = flag(
        None,
        "processes that decode ahead, each under --media_timeout; 0 = threads without (empty: 4 with a GPU, else 1, toy 0)",
        0,
    )
    media_timeout: float = flag(
        120.0,
        "seconds that a process may decode the media of one item, which then count as unusable (--workers 0: no limit)",
        1,
    )
    device: str = flag("", "cpu or cuda; empty: cuda when there is one")
    timeout: int = flag(86_400, "seconds that a process which is done waits for the others", 1)
    resamples: int = flag(10_000, "resamples of the bootstrap", 100)
    compare: tuple[str, ...] = flag(
        (),
        "compare runs instead: name=results.jsonl, the first name being the base; a name may come again for another benchmark",
    )
    plot: bool = flag(False, "with --compare: bars with intervals, compare.png in --out")
    by_length: bool = flag(
        False,
        "with --compare: gain over the base against the length of the reasoning, by_length.png in --out",
    )
    length_edges: str = flag(
        "200,400,600", "with --by_length: where its groups of lengths end, in tokens"
    )


DEFAULTS = {
    "real": {"max_frames": 64, "max_pixels": 100_352, "max_completion_tokens": 2048},
    "tiny": {"max_frames": 16, "max_pixels": 84 * 28, "max_completion_tokens": 112},
}
NOT_SETTINGS = {
    "out",
    "strict",
    "retry",
    "judge",
    "judge_endpoint",
    "judge_device",
    "feature_cache_gb",
    "cuda_graph",
    "media_cache",
    "media_cache_gb",
    "media_timeout",
    "workers",
    "timeout",
    "resamples",
    "compare",
    "plot",
    "by_length",
    "length_edges",
}  # what changes no completion
ROUNDING = {
    "batch",
    "max_tokens",
    "max_cache_tokens",
    "attn",
    "device",
}  # what changes its rounding only, and may be changed when memory runs out


def parse(argv: list[str]) -> Config:
    """Flags -> Config with every None filled in. Unknown flags and values out of range end the program with one sentence."""
    cfg, parser = read_flags(Config, __doc__.split("\n")[0], argv)
    benchmark = BENCHMARKS[cfg.benchmark]
    paper = {"max_completion_tokens": benchmark.tokens} if cfg.prompt == "paper" else {}
    fill(
        cfg,
        DEFAULTS["tiny" if is_tiny(cfg.model) else "real"]
        | paper
        | {
            "use_audio": benchmark.sound,
            "workers": 4 if wants_cuda(cfg) else int(cfg.benchmark != "toy"),
        },
    )
    cfg.root = cfg.root or ("toy_world" if cfg.benchmark == "toy" else "")
    name = "-".join(
        part
        for part in Path(cfg.model or "tiny").parts
        if part not in ("/", "runs", "checkpoint", "..", ".")
    )
    cfg.out = cfg.out or (
        "runs/eval" if cfg.compare else f"runs/eval/{cfg.benchmark}-{name}-{cfg.prompt}"
    )
    if not all(edge.strip().isdigit() for edge in cfg.length_edges.split(",")):
        parser.error(
            f"--length_edges {cfg.length_edges}: write numbers of tokens, joined by commas"
        )
    if cfg.judge_endpoint:
        check_endpoint(cfg.judge_endpoint)  # before it is written into settings.json
    if not cfg.root and not cfg.compare:
        parser.error(f"--root: pass the folder of {benchmark.title} ({benchmark.files})")
    return cfg


# ---------------------------------------------------------------------------------------------- asking
def answer(
    policy: Policy,
    make: PromptMaker,
    samples: list,
    max_new_tokens: int,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    cuda_graph: bool = True,
) -> list[tuple[Prompt | DataError, Completion | None]]:
    """One completion of each sample: (its prompt, the completion), or (the error that says why it cannot be asked, None). Neighbours about the same media
    share their prefill."""
    made = make.each(samples)
    prompts = [p for p in made if isinstance(p, Prompt)]
    with torch.no_grad():
        done = iter(
            generate(
                policy,
                prompts,
                policy.features(prompts),
                1,
                max_new_tokens,
                temperature,
                top_k,
                top_p,
                generator,
                cuda_graph,
                share=True,
            )
            if prompts
            else []
        )
    return [(p, next(done)[0] if isinstance(p, Prompt) else None) for p in made]


def batches_of(items: list[Item], size: int) -> list[list[Item]]:
    """Items cut into batches, those about the same media side by side, in the order in which the media come up first."""
    by_media: dict[str, list[Item]] = {}
    for one in items:
        by_media.setdefault(one.sample.media_key, []).append(one)
    ordered = [one for some in by_media.values() for one in some]
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def answer_batch(
    cfg: Config, policy: Policy, make: PromptMaker, items: list[Item], number: int
) -> list[dict]:
    """One batch of items -> their lines of results.jsonl, an open answer's score still None."""
    benchmark, started = BENCHMARKS[cfg.benchmark], time.perf_counter()
    generator = torch.Generator(policy.device).manual_seed(cfg.seed * 1_000_003 + number)
    samples = [ask(one, benchmark, cfg.prompt) for one in items]
    done = answer(
        policy,
        make,
        samples,
        cfg.max_completion_tokens,
        cfg.temperature,
        cfg.top_k,
        cfg.top_p,
        generator,
        cfg.cuda_graph,
    )
    each, out = (time.perf_counter() - started) / len(items), []
    for one, sample, (prompt, completion) in zip(items, samples, done, strict=True):
        text = completion.text if completion else ""
        said = read_answer(one, text, benchmark.several)
        row = {
            "id": sample.id,
            "benchmark": cfg.benchmark,
            "video": one.video,
            "labels": one.labels,
            "prompt": question_text(sample),
            "completion": text,
            "answer": said,
            "gold": one.sample.answer,
            "parts": benchmark.score(one, said if completion else None, benchmark.several),
            "tokens": len(completion.tokens) if completion else 0,
            "finished": bool(completion and completion.finished),
            "reasoning_tokens": len(
                policy.tokenizer(split_completion(text)[0], add_special_tokens=False)["input_ids"]
            )
            if text
            else 0,
            "sound": prompt.sound if completion else "off",
            "seconds": round(each, 3),
            "failure": None if said else NO_ANSWER,
            "reason": None,
        }
        row["score"] = next(iter(row["parts"].values()))
        if completion is None:
            row |= {
                "failure": TOO_LONG if isinstance(prompt, TooLong) else BAD_MEDIA,
                "reason": str(prompt),
            }
        out.append(row)
    return out


def let_judge(
    judge: Endpoint | LocalModel | None,
    name: str,
    benchmark: Benchmark,
    items: dict[str, Item],
    found: list[dict],
) -> list[dict]:
    """Lines whose score a judge has to say, with the score and the judge's name: an empty answer is wrong without asking; a reply that cannot be read is asked
    for once more, then the answer is wrong, by reason."""
    open_ones = [row for row in found if None in row["parts"].values()]
    if judge is None or not open_ones:
        return []
    for row in open_ones:
        row |= {"parts": {"score": 0.0}, "score": 0.0, "judge": name}
    open_ones, judged = [row for row in open_ones if row["answer"]], open_ones
    if not open_ones:
        return judged
    asked, verdict = benchmark.judge
    requests = [Request(asked(items[row["id"]], row["answer"])) for row in open_ones]
    verdicts = [verdict(reply) for reply in judge.ask(requests)]
    again = [i for i, v in enumerate(verdicts) if v is None]
    for i, reply in zip(
        again, judge.ask([requests[i] for i in again]) if again else [], strict=True
    ):
        verdicts[i] = verdict(reply)
    for row, v in zip(open_ones, verdicts, strict=True):
        row["parts"], row["score"] = {"score": v or 0.0}, v or 0.0
        row["failure"] = NO_VERDICT if v is None else row["failure"]
    return judged


# ---------------------------------------------------------------------------------------------- results on disk
def read_results(path: Path) -> dict[str, dict]:
    """{id: line} of a results file, a later line of an id in place of an earlier one. A last line that a killed run left torn is not read."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    found: dict[str, dict] = {}
    for n, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line else None
        except json.JSONDecodeError:
            if n == len(lines):
                break
            raise DataError(
                f"{path}:{n}: not a line of results; remove that line, and its item is asked again"
            ) from None
        if row is not None:
            found[row["id"]] = row
    return found


def collect(out: Path, order: list[str]) -> dict[str, dict]:
    """Bring what all processes have written into results.jsonl, in the order of the items. Whole at any moment: written beside and renamed."""
    parts = [out / "results.jsonl", *sorted(out.glob("results.rank*.jsonl"))]
    found: dict[str, dict] = {}
    for path in parts:
        found |= read_results(path)
    place = {name: i for i, name in enumerate(order)}
    if strange := [name for name in found if name not in place]:
        raise DataError(
            f"{out}/results.jsonl: holds the item '{strange[0]}', which the benchmark's files do not; pass another --out"
        )
    found = dict(sorted(found.items(), key=lambda pair: place[pair[0]]))
    write_whole(
        out / "results.jsonl",
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.values()),
    )
    for path in parts[1:]:
        path.unlink()
    return found


def fingerprint(model: str) -> str:
    """What tells a model's weights apart without reading them: names, sizes and times of change of the files, or the hub name."""
    folder = Path(model) if model else DEFAULT_MODEL
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("config.json"))
    known = (
        [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files] if model else "bundled"
    )
    return hashlib.sha256(json.dumps(known or model).encode()).hexdigest()[:16]


def settings_of(cfg: Config) -> dict:
    hears = prompt_format(load_config(cfg.model or DEFAULT_MODEL)).n_mels is not None
    return {k: v for k, v in asdict(cfg).items() if k not in NOT_SETTINGS} | {
        "weights": fingerprint(cfg.model),
        "use_audio": cfg.use_audio and hears,
    }


def claim(out: Path, settings: dict) -> None:
    """Make --out this run's, or go on with it when it was made with the same settings."""
    file = out / "settings.json"
    before = json.loads(file.read_text()) if file.is_file() else settings
    differ = {
        k: f"{k} {before.get(k)!r}, now {settings.get(k)!r}"
        for k in {**before, **settings}
        if before.get(k) != settings.get(k)
    }
    if differ.keys() - ROUNDING:
        raise DataError(
            f"{out}: holds results made with other settings ({', '.join(v for k, v in differ.items() if k not in ROUNDING)}); "
            "pass another --out, or remove the folder"
        )
    if differ:
        print(
            f"going on with {', '.join(differ.values())}: the items to come are rounded differently from those that are done"
        )
    write_whole(file, json.dumps(settings, indent=2) + "\n")


def run(cfg: Config) -> None:
    """One benchmark, from its files to its table."""
    rank, world, device = start_processes(cfg)
    with only_run(Path(cfg.out), rank):
        run_benchmark(cfg, rank, world, device)


def run_benchmark(cfg: Config, rank: int, world: int, device: torch.device) -> None:
    """What `run` does in its folder, from the items to the table."""
    benchmark, out, settings = BENCHMARKS[cfg.benchmark], Path(cfg.out), settings_of(cfg)
    items, left_out = [], []
    for turn in (
        True,
        False,
    ):  # rank 0 first: it renders the toy, and writes out media that files hold inside
        if turn == (rank == 0):
            items, left_out = load_items(
                cfg.benchmark,
                Path(cfg.root),
                Path(cfg.media_cache or out) / "benchmarks" / cfg.benchmark,
            )
        gather(None)
    there = len(items) + len(left_out)
    items = choose(items, cfg.only, cfg.limit)
    check_media(
        [one.sample for one in items],
        cfg.root,
        f"pass the folder of {benchmark.title} by --root ({benchmark.files})",
    )
    if cfg.strict and left_out:
        raise DataError(f"{cfg.root}: item {left_out[0][0]}: {left_out[0][1]}")
    order, by_id = [one.sample.id for one in items], {one.sample.id: one for one in items}
    if rank == 0:
        claim(out, settings)
        collect(out, order)
    gather(None)
    done = read_results(out / "results.jsonl")
    if cfg.retry:
        done = {name: row for name, row in done.items() if row["failure"] != BAD_MEDIA}
    if cfg.strict:
        refuse(done.values())
    if (
        other := {row["judge"] for row in done.values() if "judge" in row} - {cfg.judge}
        if cfg.judge
        else set()
    ):
        raise DataError(
            f"{out}: its open answers were judged by {', '.join(sorted(other))}, and would now be by {cfg.judge}; pass another --out"
        )
    todo = [
        (i, batch)
        for i, batch in enumerate(batches_of(items, cfg.batch))
        if any(one.sample.id not in done for one in batch)
    ][rank::world]
    waiting, judge = (
        [row for row in done.values() if None in row["parts"].values()][rank::world],
        None,
    )
    if cfg.judge and benchmark.judge and (todo or waiting):
        judge = (
            Endpoint(cfg.judge_endpoint, cfg.judge)
            if cfg.judge_endpoint
            else LocalModel(cfg.judge, cfg.judge_device or device)
        )
    target = out / (f"results.rank{rank}.jsonl" if world > 1 else "results.jsonl")
    for i in range(0, len(waiting) if judge else 0, 64):
        write(target, let_judge(judge, cfg.judge, benchmark, by_id, waiting[i : i + 64]))
    if todo:
        policy = load_policy(cfg.model or DEFAULT_MODEL, device, weight_dtype(device), cfg.attn)
        policy.freeze_towers()
        bound_memory(cfg, policy)
        cfg.use_audio = settings["use_audio"]
        make = prompt_maker(cfg, policy, max_sound=cfg.max_sound)
        bar = tqdm(
            total=sum(len(batch) for _, batch in todo) * world,
            disable=rank > 0,
            desc=cfg.benchmark,
            dynamic_ncols=True,
        )
        for at, (number, batch) in enumerate(todo):
            coming = [one for _, some in todo[at : at + 2] for one in some]
            make.ahead(
                [ask(one, benchmark, cfg.prompt) for one in coming]
            )  # decoded while this batch is answered
            found = [
                row
                for row in answer_batch(cfg, policy, make, batch, number)
                if row["id"] not in done
            ]
            let_judge(judge, cfg.judge, benchmark, by_id, found)
            write(target, found)
            if cfg.strict:
                refuse(found)
            bar.update(len(batch) * world)
        bar.close()
    gather(None)
    if rank == 0:
        found = list(collect(out, order).values())
        summary = {
            "benchmark": cfg.benchmark,
            "title": benchmark.title,
            "rule": benchmark.scoring,
            "size": benchmark.size,
            "there": there,
            **summarise(found, benchmark, cfg.resamples),
            "left_out": [{"id": name, "reason": why} for name, why in left_out],
            "settings": settings,
            "judge": next((row["judge"] for row in found if "judge" in row), None),
            "versions": versions(),
        }
        write_whole(out / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        print(table(summary))
        print(
            f"{np.mean([row['seconds'] for row in found]):.2f} s per item; see {out}/results.jsonl, summary.json"
        )


def refuse(found: Iterable[dict]) -> None:
    """--strict: raises DataError at the first failure."""
    for row in found:
        if row["failure"]:
            raise DataError(
                f"item '{row['id']}': {row['reason'] or row['failure']}; leave out --strict to count such items as wrong"
            )


def write(path: Path, found: list[dict]) -> None:
    """Append lines, safe on the disk when this returns."""
    if found:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
            file.flush()
            os.fsync(file.fileno())


def choose(items: list[Item], only: str, limit: int) -> list[Item]:
    """The items with a label (`--only`), of these the first ones (`--limit`)."""
    if only:
        name, _, value = only.partition("=")
        known = sorted({v for one in items for v in labels_of(one.labels, name)})
        if value not in known:
            raise DataError(
                f"--only {only}: "
                + (
                    f"the values of '{name}' are {', '.join(known)}"
                    if known
                    else f"no item has a label '{name}'; labels are {', '.join(items[0].labels)}"
                )
            )
        items = [one for one in items if value in labels_of(one.labels, name)]
    return items[: limit or None]


def labels_of(labels: dict, name: str) -> list[str]:
    """The values of one label: a question may have several types."""
    value = labels.get(name, [])
    return [value] if isinstance(value, str) else list(value)


def versions() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": device,
    }


# ---------------------------------------------------------------------------------------------- statistics
def sums(found: list[dict], metric: Metric) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the lines that have the metric's part, by video (C) and group of `over` (K): sums of the part (C, K), numbers of lines (C, K), and the groups'
    weights (K,). Groups weigh alike inside their outer group, which weigh alike."""
    some = [row for row in found if row["parts"].get(metric.part) is not None]
    videos = {v: i for i, v in enumerate(sorted({row["video"] for row in some}))}
    keys = [tuple(row["labels"][name] for name in metric.over) for row in some]
    leaves = {key: i for i, key in enumerate(sorted(set(keys)))}
    total, count = (np.zeros((len(videos), len(leaves))) for _ in range(2))
    for row, key in zip(some, keys, strict=True):
        total[videos[row["video"]], leaves[key]] += row["parts"][metric.part]
        count[videos[row["video"]], leaves[key]] += 1
    siblings = [
        Counter(key[:depth] for key in {k[: depth + 1] for k in leaves})
        for depth in range(len(metric.over))
    ]
    return (
        total,
        count,
        np.array(
            [
                math.prod(1 / siblings[depth][key[:depth]] for depth in range(len(metric.over)))
                for key in leaves
            ]
        ),
    )


def mean_of_groups(
    total: np.ndarray, count: np.ndarray, weights: np.ndarray, root: bool
) -> np.ndarray:
    """(.., K) sums and numbers -> (..) weighted means of the groups' means; a group without a line leaves its weight to the others."""
    there = count > 0
    means = np.where(there, total / np.maximum(count, 1), 0.0)
    value = (means * weights).sum(-1) / (there * weights).sum(-1)
    return np.sqrt(value) if root else value


def estimate(found: list[dict], metric: Metric) -> float | None:
    """A metric's value; None when no line has its part."""
    total, count, weights = sums(found, metric)
    return (
        float(mean_of_groups(total.sum(0), count.sum(0), weights, metric.root))
        if len(total)
        else None
    )


def resampled(
    found: list[dict], metric: Metric, resamples: int = 10_000, seed: int = 0
) -> np.ndarray:
    """(resamples,) values of a metric on as many videos drawn with replacement, each with all of its lines. The same videos are drawn for any lines about
    the same videos, so that two runs on the same items can be subtracted draw by draw."""
    total, count, weights = sums(found, metric)
    n, rng, out = len(total), np.random.default_rng(seed), []
    for start in range(0, resamples, size := max(1, 2**22 // n)):
        some = min(size, resamples - start)
        drawn = rng.integers(0, n, (some, n)) + np.arange(some)[:, None] * n
        times = (
            np.bincount(drawn.ravel(), minlength=some * n).reshape(some, n).astype(float)
        )  # how often each video was drawn
        out.append(mean_of_groups(times @ total, times @ count, weights, metric.root))
    return np.concatenate(out)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def measured(found: list[dict], metric: Metric, resamples: int) -> dict:
    """{value, low, high, n, videos} of a metric; low and high None where fewer than two videos leave nothing to resample."""
    some = [row for row in found if row["parts"].get(metric.part) is not None]
    videos = len({row["video"] for row in some})
    low, high = interval(resampled(some, metric, resamples)) if videos > 1 else (None, None)
    return {
        "value": estimate(some, metric),
        "low": low,
        "high": high,
        "n": len(some),
        "videos": videos,
    }


def summarise(found: list[dict], benchmark: Benchmark, resamples: int = 10_000) -> dict:
    """Scores, scores of splits (each a plain mean over its lines), failures by reason, and what a judge has still to say."""
    plain = [m for m in benchmark.metrics if not m.over] or [
        Metric("mean", benchmark.metrics[0].part)
    ]
    splits: dict[str, dict] = {}
    for name in benchmark.splits:
        for value in sorted({v for row in found for v in labels_of(row["labels"], name)}):
            inside = [row for row in found if value in labels_of(row["labels"], name)]
            splits.setdefault(name, {})[value] = {
                m.name: v for m in plain if (v := measured(inside, m, resamples))["n"]
            }
    failed = [
        {"id": row["id"], "failure": row["failure"], "reason": row["reason"] or row["failure"]}
        for row in found
        if row["failure"]
    ]
    return {
        "n": len(found),
        "videos": len({row["video"] for row in found}),
        "metrics": {
            m.name: v for m in benchmark.metrics if (v := measured(found, m, resamples))["n"]
        },
        "splits": splits,
        "failures": dict(Counter(f["failure"] for f in failed).most_common()),
        "failed": failed,
        "unjudged": sum(None in row["parts"].values() for row in found),
        "sound": dict(Counter(row["sound"] for row in found).most_common()),
        "completion_tokens": float(np.mean([row["tokens"] for row in found])) if found else 0.0,
    }


def gain(base: list[dict], other: list[dict], metric: Metric, resamples: int = 10_000) -> dict:
    """{value, low, high} of other - base on the same items, resampled in pairs: both on the same videos. Raises DataError for different items."""
    ids, theirs = {row["id"] for row in base}, {row["id"] for row in other}
    if ids != theirs:
        one = sorted(ids ^ theirs)[0]
        raise DataError(
            f"the runs are not of the same items: {len(ids - theirs)} are in the first only, {len(theirs - ids)} in the second only, e.g. '{one}'; "
            "run eval.py to the end, with the same --only and --limit"
        )
    scored = [
        {row["id"] for row in rows if row["parts"].get(metric.part) is not None}
        for rows in (base, other)
    ]
    if one := scored[0] ^ scored[1]:
        raise DataError(
            f"open answers of one run are scored and of the other not, e.g. '{sorted(one)[0]}'; run eval.py with --judge on both"
        )
    if not scored[0]:
        return {"value": None, "low": None, "high": None, "n": 0}
    videos = {
        row["id"]: row["video"] for row in base
    }  # runs may have kept their media in different places
    base, other = (
        [row | {"video": videos[row["id"]]} for row in rows if row["id"] in scored[0]]
        for rows in (base, other)
    )
    low, high = (
        interval(resampled(other, metric, resamples) - resampled(base, metric, resamples))
        if len({row["video"] for row in base}) > 1
        else (None, None)
    )
    return {
        "value": estimate(other, metric) - estimate(base, metric),
        "low": low,
        "high": high,
        "n": len(base),
    }


# ---------------------------------------------------------------------------------------------- tables
def shown(value: float | None, percent: bool, sign: bool = False) -> str:
    return (
        "-"
        if value is None
        else f"{value * 100:{'+' if sign else ''}.1f}"
        if percent
        else f"{value:{'+' if sign else ''}.2f}"
    )


def line(name: str, found: dict, percent: bool) -> str:
    return f"  {name:<44} {shown(found['value'], percent):>6}  [{shown(found['low'], percent)}, {shown(found['high'], percent)}]  n {found['n']:,}"


def table(summary: dict) -> str:
    """A summary as text: metrics with intervals, splits, failures."""
    metrics = BENCHMARKS[summary["benchmark"]].metrics
    percent, lower = {m.name: m.percent for m in metrics}, {m.name for m in metrics if not m.higher}
    lines = [
        f"{summary['title']}: {summary['n']:,} items about {summary['videos']:,} videos, {summary['settings']['model'] or 'the bundled model'}, "
        f"--prompt {summary['settings']['prompt']}",
        f"scored by: {summary['rule']}",
    ]
    lines += [
        line(name, found, percent[name]) + ("" if name not in lower else ", lower is better")
        for name, found in summary["metrics"].items()
    ]
    settings = summary["settings"]
    lines.append(
        f"  at most {settings['max_frames']} frames of {settings['max_pixels']:,} pixels at {settings['fps']:g} per second, "
        f"{'with' if settings['use_audio'] else 'without'} the sound of videos, replies of at most {settings['max_completion_tokens']:,} tokens, "
        + (f"temperature {settings['temperature']:g}" if settings["temperature"] else "greedy")
    )
    lines.append(
        "  " + ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    )
    for name, values in summary["splits"].items():
        lines.append(f"by {name}")
        for value, found in values.items():
            lines += [
                line(
                    f"{value}, {metric}" if len(found) > 1 else value,
                    one,
                    percent.get(metric, True),
                )
                for metric, one in found.items()
            ]
    for failure, n in summary["failures"].items():
        one = next(f for f in summary["failed"] if f["failure"] == failure)
        lines.append(
            f"wrong because of: {failure}: {n:,}, e.g. "
            + (one["id"] if one["reason"] == failure else one["reason"])
            + (" (mended? --retry asks them again)" if failure == BAD_MEDIA else "")
        )
    for kind, what in (
        ("silent", "about a video without sound"),
        ("cut", "with sound cut at --max_sound"),
    ):
        if n := summary["sound"].get(kind):
            lines.append(f"asked {what}: {n:,}")
    if summary["unjudged"]:
        lines.append(f"not scored, waiting for a --judge: {summary['unjudged']:,} open answers")
    if summary["size"] and summary["there"] != summary["size"]:
        lines.append(
            f"the benchmark has {summary['size']:,} items as published, these files {summary['there']:,}"
        )
    if summary["left_out"]:
        lines.append(
            f"left out, because the files do not say what is right: {len(summary['left_out']):,}, e.g. {summary['left_out'][0]['id']}: "
            f"{summary['left_out'][0]['reason']}"
        )
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------- runs compared
def load_runs(
    words: tuple[str, ...],
) -> tuple[dict[str, dict[str, list[dict]]], dict[str, dict[str, dict]]]:
    """({name: {benchmark: lines}}, the same of their settings) of words name=path, a path being a results.jsonl or its folder."""
    runs: dict[str, dict[str, list[dict]]] = {}
    settings: dict[str, dict[str, dict]] = {}
    for word in words:
        name, sign, path = word.partition("=")
        file = Path(path) / "results.jsonl" if Path(path).is_dir() else Path(path)
        if not sign or not name or not file.is_file():
            raise DataError(
                f"--compare {word}: write name=path/results.jsonl, of a run of eval.py that is there"
            )
        found = list(read_results(file).values())
        if not found:
            raise DataError(f"{file}: holds no results yet; run eval.py into that folder first")
        if found[0]["benchmark"] in runs.setdefault(name, {}):
            raise DataError(
                f"--compare {word}: '{name}' has a run on {found[0]['benchmark']} already; give it once"
            )
        runs[name][found[0]["benchmark"]] = found
        beside = file.with_name("settings.json")
        settings.setdefault(name, {})[found[0]["benchmark"]] = (
            json.loads(beside.read_text()) if beside.is_file() else {}
        )
    return runs, settings


def other_settings(settings: dict[str, dict[str, dict]], base: str) -> list[str]:
    """Sentences on runs that were not asked as the base was: then a gain is not the model's alone."""
    own = {
        "model",
        "weights",
        "root",
        "out",
        "device",
        "batch",
        "max_tokens",
        "max_cache_tokens",
        "attn",
    }
    return [
        f"{run} on {name} was asked otherwise than {base}: "
        + ", ".join(f"{k} {there[k]!r}, not {settings[base][name].get(k)!r}" for k in differ)
        for run, found in settings.items()
        for name, there in found.items()
        if (
            differ := [k for k in there if k not in own and there[k] != settings[base][name].get(k)]
        )
    ]


def compare(cfg: Config) -> None:
    """The paper's table: a row per run, a column per benchmark: score, and for all but the first the gain over it with its paired 95 % interval."""
    runs, settings = load_runs(cfg.compare)
    base, *others = runs
    names = [name for name in BENCHMARKS if name in runs[base]]
    if missing := [
        (run, name)
        for run in others
        for name in {*names, *runs[run]}
        if name not in runs[run] or name not in names
    ]:
        raise DataError(
            f"--compare: '{missing[0][0]}' and '{base}' do not both have a run on {missing[0][1]}; every name needs the same benchmarks"
        )
    cells: dict[str, dict[str, dict]] = {}
    for run in runs:
        for name in names:
            metric = BENCHMARKS[name].metrics[0]
            cell = measured(runs[run][name], metric, cfg.resamples)
            if run != base:
                cell["gain"] = gain(runs[base][name], runs[run][name], metric, cfg.resamples)
            cells.setdefault(run, {})[name] = cell
    print("\n".join([comparison(cells, names), *other_settings(settings, base)]))
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    result = {"resamples": cfg.resamples, "runs": cells}
    if cfg.by_length:
        result["by_length"] = by_length(
            runs,
            base,
            names,
            sorted(int(edge) for edge in cfg.length_edges.split(",")),
            cfg.resamples,
        )
        print(length_table(result["by_length"]))
        plot_by_length(result["by_length"], out / "by_length.png")
    if cfg.plot:
        plot_scores(cells, names, out / "compare.png")
    write_whole(out / "compare.json", json.dumps(result, indent=2) + "\n")
    print(
        f"see {out}/compare.json"
        + (", compare.png" if cfg.plot else "")
        + (", by_length.png" if cfg.by_length else "")
    )


def significant(found: dict) -> bool:
    """Does the 95 % interval of a gain leave out 0?"""
    return found["low"] is not None and not found["low"] <= 0 <= found["high"]


def comparison(cells: dict[str, dict[str, dict]], names: list[str]) -> str:
    """The table of `compare` in Markdown."""
    first = next(iter(cells.values()))
    lines = [
        "| | "
        + " | ".join(f"{BENCHMARKS[name].title} ({first[name]['n']:,})" for name in names)
        + " |",
        "|" + "---|" * (len(names) + 1),
    ]
    for run, row in cells.items():
        texts = []
        for name in names:
            cell, percent = row[name], BENCHMARKS[name].metrics[0].percent
            text = shown(cell["value"], percent)
            if found := cell.get("gain"):
                text += f" ({shown(found['value'], percent, True)}{'' if significant(found) else '†'} [{shown(found['low'], percent, True)}, "
                text += f"{shown(found['high'], percent, True)}])"
            else:
                text += f" [{shown(cell['low'], percent)}, {shown(cell['high'], percent)}]"
            texts.append(text)
        lines.append(f"| {run} | " + " | ".join(texts) + " |")
    return "\n".join(
        [
            *lines,
            "",
            "In brackets: the 95 % interval of the score, or of the gain over the first row, in pairs. † not significant: the "
            "interval holds 0.",
        ]
    )


def by_length(
    runs: dict, base: str, names: list[str], edges: list[int], resamples: int
) -> dict[str, list[dict]]:
    """Figure 6 of the paper: {run: [{low_tokens, high_tokens, and `gain`'s fields}]}, items grouped by how many tokens the run reasons for; those of all
    benchmarks together that score answers one by one."""
    metric, out = Metric("accuracy"), {}
    pools = {
        run: [
            row | {"id": f"{name}/{row['id']}", "video": f"{name}/{row['video']}"}
            for name in names
            for row in found[name]
            if row["parts"].get("score") is not None
        ]
        for run, found in runs.items()
    }
    before = {row["id"]: row for row in pools[base]}
    for run in [run for run in runs if run != base]:
        for low, high in zip([0, *edges], [*edges, math.inf], strict=True):
            some = [
                row
                for row in pools[run]
                if low <= row["reasoning_tokens"] < high and row["id"] in before
            ]
            if some:
                found = gain([before[row["id"]] for row in some], some, metric, resamples)
                out.setdefault(run, []).append(
                    {"low_tokens": low, "high_tokens": None if high == math.inf else high, **found}
                )
    return out


def length_table(found: dict[str, list[dict]]) -> str:
    return "\n".join(
        f"{run}, {group_name(g)}: {shown(g['value'], True, True)}{'' if significant(g) else '†'} [{shown(g['low'], True, True)}, "
        f"{shown(g['high'], True, True)}], n {g['n']:,}"
        for run, groups in found.items()
        for g in groups
    )


def group_name(group: dict) -> str:
    return (
        f"{group['low_tokens']}+ tokens"
        if group["high_tokens"] is None
        else f"{group['low_tokens']}-{group['high_tokens'] - 1} tokens"
    )


def bars(axes, values: list[dict], places: list[float], width: float, label: str) -> None:
    """Bars with their intervals, in percent."""
    heights = [100 * v["value"] for v in values]
    wings = [
        [
            0.0 if v[side] is None else abs(100 * v[side] - h)
            for v, h in zip(values, heights, strict=True)
        ]
        for side in ("low", "high")
    ]
    axes.bar(places, heights, width, yerr=wings, capsize=3, label=label)


def plot_scores(cells: dict[str, dict[str, dict]], names: list[str], path: Path) -> None:
    """compare.png: a group of bars per benchmark, of those whose headline is a share."""
    names, width = [name for name in names if BENCHMARKS[name].metrics[0].percent], 0.8 / len(cells)
    figure, axes = plt.subplots(figsize=(2 + 1.6 * len(names), 4), layout="constrained")
    for i, (run, row) in enumerate(cells.items()):
        bars(
            axes,
            [row[name] for name in names],
            [x + i * width for x in range(len(names))],
            width,
            run,
        )
    axes.set(
        xticks=[x + 0.4 - width / 2 for x in range(len(names))],
        xticklabels=[BENCHMARKS[name].title for name in names],
        ylabel="score, 95 % interval",
    )
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def plot_by_length(found: dict[str, list[dict]], path: Path) -> None:
    """by_length.png: the gain over the base in groups of reasoning length."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    order = {group_name(g): g["low_tokens"] for groups in found.values() for g in groups}
    labels, width = sorted(order, key=order.get), 0.8 / max(1, len(found))
    for i, (run, groups) in enumerate(found.items()):
        bars(axes, groups, [labels.index(group_name(g)) + i * width for g in groups], width, run)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(
        xticks=[x + 0.4 - width / 2 for x in range(len(labels))],
        xticklabels=labels,
        ylabel="gain in accuracy, 95 % interval",
        xlabel="reasoning",
    )
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv: list[str]) -> None:
    cfg = parse(argv)
    (compare if cfg.compare else run)(cfg)


if __name__ == "__main__":
    ends_in_a_sentence(main, sys.argv[1:])
