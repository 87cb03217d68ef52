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

import json
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from tqdm import tqdm

from benchmarks.base import STYLES, Benchmark, Item, ask, read_answer
from benchmarks.report import (
    by_length,
    comparison,
    length_table,
    plot_by_length,
    plot_scores,
    table,
)
from benchmarks.results import (
    BAD_MEDIA,
    NO_ANSWER,
    NO_VERDICT,
    TOO_LONG,
    claim,
    collect,
    fingerprint,
    read_results,
    write,
)
from benchmarks.statistics import gain, labels_of, measured, summarise
from benchmarks.table import BENCHMARKS, load_items
from data import PromptBuilder, TooLong, prompt_builder, question_text
from engine.distributed import gather, start_processes, wants_cuda, weight_dtype
from engine.families import ATTENTIONS, DEFAULT_MODEL, load_config, prompt_format
from formats.files import write_whole
from formats.sample import DataError
from judge import Endpoint, LocalModel, Request, check_endpoint
from media.decode import check_media
from media.prompt_format import MIN_PIXELS
from model import Policy, bound_memory, load_policy
from rewards import split_completion
from rollout import Sampling, sample_answers
from run.flags import fill, flag, is_tiny, read_flags
from run.session import ends_in_a_sentence, only_run


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


def batches_of(items: list[Item], size: int) -> list[list[Item]]:
    """Items cut into batches, those about the same media side by side, in the order in which the media come up first."""
    by_media: dict[str, list[Item]] = {}
    for one in items:
        by_media.setdefault(one.sample.media_key, []).append(one)
    ordered = [one for some in by_media.values() for one in some]
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def answer_batch(
    cfg: Config, policy: Policy, builder: PromptBuilder, items: list[Item], number: int
) -> list[dict]:
    """One batch of items -> their lines of results.jsonl, an open answer's score still None."""
    benchmark, started = BENCHMARKS[cfg.benchmark], time.perf_counter()
    generator = torch.Generator(policy.device).manual_seed(cfg.seed * 1_000_003 + number)
    samples = [ask(one, benchmark, cfg.prompt) for one in items]
    done = sample_answers(
        policy,
        builder,
        samples,
        Sampling(cfg.max_completion_tokens, cfg.temperature, generator),
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


def settings_of(cfg: Config) -> dict:
    hears = prompt_format(load_config(cfg.model or DEFAULT_MODEL)).n_mels is not None
    return {k: v for k, v in asdict(cfg).items() if k not in NOT_SETTINGS} | {
        "weights": fingerprint(cfg.model),
        "use_audio": cfg.use_audio and hears,
    }


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
        builder = prompt_builder(cfg, policy, max_sound=cfg.max_sound)
        bar = tqdm(
            total=sum(len(batch) for _, batch in todo) * world,
            disable=rank > 0,
            desc=cfg.benchmark,
            dynamic_ncols=True,
        )
        for at, (number, batch) in enumerate(todo):
            coming = [one for _, some in todo[at : at + 2] for one in some]
            builder.prefetch(
                [ask(one, benchmark, cfg.prompt) for one in coming]
            )  # decoded while this batch is answered
            found = [
                row
                for row in answer_batch(cfg, policy, builder, batch, number)
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


def versions() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": device,
    }


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


def main(argv: list[str]) -> None:
    cfg = parse(argv)
    (compare if cfg.compare else run)(cfg)


if __name__ == "__main__":
    ends_in_a_sentence(main, sys.argv[1:])
