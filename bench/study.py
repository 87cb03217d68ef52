"""Does AVATAR's claim hold? Methods x seeds on the toy world, with intervals.

    python bench/study.py                  # every run that is not done yet, then the report: hours
    python bench/study.py --parts methods  # one part
    python bench/study.py --cost           # every method once, alone: CPU-seconds of its steps
    python bench/study.py --quick          # a small one into runs/study-quick: 6 minutes
    python bench/study.py --report         # tables and pictures from the results that are there

A run is `train.py` with a cell's flags and one seed, on one core. Runs that were stopped go on
where they were; finished ones are lines of bench/results/study.jsonl and are not run again (move
that file away to measure all anew). A method first finds its own learning rate on other seeds,
unless it is `like` another: it climbs through RATES until the mean accuracy over all evaluations
but the first gets worse. Held-out questions are answered HELDOUT_SAMPLES times, those of the tuning
seeds once.

Runs share their cores with others, and may come from several machines. So CPU-seconds are those of
--cost: one run of every method after the other, on one quiet machine, without evaluations.

    study_runs.py          cells, parts, and the results that are there
    study_statistics.py    curves, savings, intervals
    study_report.py        tables: bench/STUDY.md
    study_pictures.py      pictures: bench/results/
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import toy
import toy_long
from bench.study_report import report
from bench.study_runs import (
    FEW_DATA,
    HELDOUT_CLIPS,
    HELDOUT_SAMPLES,
    LONG_DATA,
    LONG_START,
    PARTS,
    QUICK_CELLS,
    TRAIN_CLIPS,
    Cell,
    Findings,
    Plan,
    climb,
    name_of,
    preset_of,
    read_results,
    recipe_of,
    tuning_flags,
)
from config import toy_sizes
from engine.families import DEFAULT_MODEL
from formats.files import write_whole

REPO = Path(__file__).parent.parent
QUICK_HELDOUT_CLIPS = 40
QUICK_RATE = 2e-4  # the study's best for all methods of --quick, which tunes none
LONG_STEPS = 400
LONG_COLD_START = (
    f"--stage 0 --model {DEFAULT_MODEL} --data toy-long:4096,32 --max_completion_tokens 400 "
    f"--steps {LONG_STEPS} --prompts_per_step 16 --lr 1e-3 --train_towers false --eval_every 0"
)

Job = tuple[tuple[str, ...], float, int]  # flags of a cell, learning rate, seed


# ------------------------------------------------------------------------------ one run
def run(plan: Plan, flags: tuple[str, ...], rate: float, seed: int) -> dict:
    """One run of train.py from its start, or from where it was stopped, to its end: its result.
    Its folder is left, for it is not lost until the result is on disk."""
    out = plan.work / name_of(flags, rate, seed)
    out.mkdir(parents=True, exist_ok=True)
    train_flags = {"--lr": rate, "--seed": seed, "--out": out, "--save_every": 16}
    train_flags["--log_rollouts"] = 0  # nobody looks at them
    if seed not in plan.tuning:
        train_flags["--eval_data"] = repeated_questions(plan, flags)
    program = program_for(plan, flags)
    call(plan, out, program, *plan.common, *flags, "--resume", **train_flags)
    kept = collect(out)
    return identity(flags, rate, seed) | {"common": list(plan.common)} | kept


def program_for(plan: Plan, flags: tuple[str, ...]) -> Path:
    """train.py, or that of the copy of the repository with the recipe that these flags need."""
    recipe = recipe_of(flags)
    return (tree_with(plan, recipe) if recipe else REPO) / "train.py"


def tree_with(plan: Plan, recipe: str) -> Path:
    """The copy of the repository with a recipe, made where it is not there yet. Another patch is
    another copy."""
    patch = REPO / "recipes" / f"{recipe}.patch"
    tree = plan.work / f"with_{recipe}_{hashlib.sha256(patch.read_bytes()).hexdigest()[:8]}"
    if tree.exists():
        return tree

    partial = tree.with_suffix(".part")  # what is there under the other name is whole
    shutil.rmtree(partial, ignore_errors=True)
    left_out = shutil.ignore_patterns(".*", "runs", "media_cache", "toy_world", "__pycache__")
    shutil.copytree(REPO, partial, ignore=left_out)
    # git apply passes over what lies inside of another repository, unless it cannot see that one
    hidden = os.environ | {"GIT_CEILING_DIRECTORIES": str(partial.parent)}
    subprocess.run(["git", "apply", str(patch)], cwd=partial, env=hidden, check=True)
    partial.rename(tree)
    return tree


def identity(flags: tuple[str, ...], rate: float, seed: int) -> dict:
    """What a line of results says of its run, for `read_lines`."""
    return {"flags": list(flags), "preset": preset_of(flags), "rate": rate, "seed": seed}


def repeated_questions(plan: Plan, flags: tuple[str, ...]) -> Path:
    """The file of a cell's held-out questions, each HELDOUT_SAMPLES times."""
    world = f"long{toy_long.VERSION}" if LONG_DATA in flags else "stage"
    return next(plan.work.glob(f"toy_world/*/{world}*_repeated.jsonl"))


def repeat_questions(table: Path) -> None:
    """Write `repeated_questions` beside a table of held-out questions. Copies are neighbours, so
    that they share a prefill."""
    lines = []
    for line in table.read_text().splitlines():
        record = json.loads(line)
        for sample in range(HELDOUT_SAMPLES):
            lines.append(json.dumps(record | {"id": f"{record['id']}#{sample}"}))
    repeated = table.with_name(f"{table.stem}_repeated.jsonl")
    write_whole(repeated, "\n".join(lines) + "\n")  # other runs may be reading it


def call(plan: Plan, out: Path, program: Path, *words: str, **flags) -> None:
    """Run a program on one core, its output into log.txt.

    In the plan's folder, so that the toy world and the decoded media are made there, once for all
    runs. Raises RuntimeError when it fails.
    """
    command = [sys.executable, str(program), *words]
    for name, value in flags.items():
        command += [name, str(value)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (out / "log.txt").open("a") as log:
        done = subprocess.run(command, cwd=plan.work, env=env, stdout=log, stderr=log)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}; see {out / 'log.txt'}"
        )


def collect(out: Path) -> dict:
    """What the study keeps of a run's folder.

    evals: step, fresh completions, CPU-seconds of training and accuracy of each evaluation. Per
    step: generated (completions so far), reward, zero (the fraction of groups without advantage)
    and, of every fourth, tiers (completions in each). advantages: their histograms. prompts: how
    many were asked; groups: how many were trained on.
    """
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    evals = []
    cpu_seconds = 0.0
    for line in lines:
        if "eval_accuracy" in line:
            accuracy = round(line["eval_accuracy"], 5)
            evals.append([line["step"], line["generated"], round(cpu_seconds, 1), accuracy])
        else:
            cpu_seconds += line["time_cpu"]

    steps = [line for line in lines if "loss" in line]
    shared = torch.load(out / "checkpoint" / "trainer" / "shared.pt", weights_only=True)
    fresh = json.loads((out / "config.json").read_text())["fresh"]
    last_completion = (out / "completions.jsonl").read_text().splitlines()[-1]
    return {
        "evals": evals,
        "generated": [step["generated"] for step in steps],
        "reward": [round(step["reward"], 4) for step in steps],
        "zero": [round(step["zero_advantage_groups"] / step["groups"], 4) for step in steps],
        "tiers": [
            [step["tier_hard"], step["tier_medium"], step["tier_easy"]] for step in steps[::4]
        ],
        "advantages": shared["logs"]["advantages"],
        "prompts": steps[-1]["generated"] // fresh,
        "groups": sum(step["groups"] for step in steps),
        "hints": max(step["hints"] for step in steps),
        "completion": json.loads(last_completion)["completion"],
    }


# ------------------------------------------------------------------------------ all runs
def run_all(plan: Plan, jobs: list[Job]) -> None:
    """Run what is not done yet, one process per core, and append each result as it comes.

    Raises RuntimeError at the end when some have failed.
    """
    done = read_results(plan.results)
    todo = [job for job in dict.fromkeys(jobs) if name_of(*job) not in done]
    plan.results.parent.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    lock = threading.Lock()
    started = time.monotonic()

    def run_one(job: Job) -> None:
        flags, rate, seed = job
        try:
            result = run(plan, flags, rate, seed)
        except RuntimeError as error:
            failed.append(str(error))
            print(f"failed: {error}", flush=True)
            return
        with lock:
            append_line(plan.results, result)
        shutil.rmtree(plan.work / name_of(*job))
        minutes = (time.monotonic() - started) / 60
        outcome = f"{result['evals'][-1][3]:.3f}"
        print(
            f"{minutes:6.1f} min  {' '.join(flags)} --lr {rate:g} --seed {seed}: {outcome}",
            flush=True,
        )

    with ThreadPoolExecutor(plan.cores) as pool:
        list(pool.map(run_one, todo))
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(todo)} runs failed, the first: {failed[0]}")


def append_line(file: Path, line: dict) -> None:
    """Append a line of JSON. Where the last one was torn, the new one does not stick to it."""
    text = json.dumps(line) + "\n"
    content = file.read_bytes() if file.is_file() else b""
    if content and not content.endswith(b"\n"):
        text = "\n" + text
    with file.open("a") as opened:
        opened.write(text)


def run_cells(plan: Plan, cells: list[Cell]) -> None:
    """Tune the methods that the cells need, then run the cells on all seeds."""
    plan.work.mkdir(parents=True, exist_ok=True)
    heldout = QUICK_HELDOUT_CLIPS if plan.common else HELDOUT_CLIPS
    toy.build(plan.work / "toy_world", 2, "train", TRAIN_CLIPS)  # here, before several runs would
    repeat_questions(toy.build(plan.work / "toy_world", 2, "heldout", heldout))
    if any(LONG_DATA in cell.flags for cell in cells):
        make_long_start(plan)
    if any(FEW_DATA in cell.flags for cell in cells):
        toy.build(plan.work / "toy_world", 2, "train", toy_sizes(FEW_DATA)[0])
    for cell in cells:
        program_for(plan, cell.flags)  # a recipe's copy is made here, before several runs would

    names = {cell.like or cell.name for cell in cells}
    methods = [method for method in plan.methods if not method.like and method.name in names]
    jobs = tuning_jobs(plan, methods)
    while jobs:  # which rate comes next depends on how the last one did
        run_all(plan, jobs)
        jobs = tuning_jobs(plan, methods)

    findings = Findings(plan)
    jobs = []
    for cell in cells:
        jobs += [(cell.flags, findings.rate(cell), seed) for seed in plan.seeds_of(cell)]
    jobs.sort(key=lambda job: job[2])  # a seed of all cells before the next: pairs come first
    run_all(plan, jobs)


def make_long_start(plan: Plan) -> None:
    """The files of the questions with long reasoning, and the policy that all cells on them start
    from: the bundled model after a short cold start on their traces."""
    n_train, n_heldout = toy_sizes(LONG_DATA)
    toy_long.build(plan.work / "toy_world", 2, "train", n_train)
    repeat_questions(toy_long.build(plan.work / "toy_world", 2, "heldout", n_heldout))
    out = plan.work / LONG_START
    if (out / "checkpoint").resolve().name == f"{LONG_STEPS:06d}":
        return
    out.mkdir(exist_ok=True)
    call(plan, out, REPO / "train.py", *LONG_COLD_START.split(), "--resume", **{"--out": out})


def measure_costs(plan: Plan, names: list[str]) -> None:
    """CPU-seconds of every step of the methods that have results, one run after the other.

    Appends to study-cost.jsonl; of several runs of a method the least of each step counts, since a
    machine that others use is now and then slower. Move the file away on another machine. names:
    the methods to measure; []: all.
    """
    findings = Findings(plan)
    for method in plan.methods:
        if not findings.runs(method) or (names and method.name not in names):
            continue
        rate = findings.rate(method)
        seed = plan.seeds[0]
        out = plan.work / f"cost-{name_of(method.flags, rate, seed)}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        flags = {"--lr": rate, "--seed": seed, "--out": out, "--log_rollouts": 0}
        flags["--eval_every"] = 0  # stands after that of the method's flags, so it wins
        call(plan, out, program_for(plan, method.flags), *plan.common, *method.flags, **flags)

        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        seconds = [round(line["time_cpu"], 3) for line in lines if "loss" in line]
        cost = identity(method.flags, rate, seed) | {"cpu": seconds}
        append_line(plan.costs, cost)
        print(f"{sum(seconds):6.1f} CPU-seconds: {method.name}", flush=True)
        shutil.rmtree(out)


def tuning_jobs(plan: Plan, methods: list[Cell]) -> list[Job]:
    """The tuning runs that are missing, of the next learning rate of each method."""
    done = read_results(plan.results)
    jobs = []
    for method in methods:
        _, rate = climb(done, plan, method.flags)
        if rate:
            jobs += [(tuning_flags(method.flags), rate, seed) for seed in plan.tuning]
    return jobs


def chosen_cells(parts: list[str], names: list[str]) -> list[Cell]:
    """The cells of some parts, or those of them with these names. Raises ValueError on a name that
    none has."""
    cells: list[Cell] = []
    for part in parts:
        cells += PARTS[part].cells
    known = [cell.name for cell in cells]
    for name in names:
        if name not in known:
            raise ValueError(f"--cells {name!r}: no such cell; there are {', '.join(known)}")
    return [cell for cell in cells if not names or cell.name in names]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument(
        "--cells", nargs="+", default=[], help="of these parts, the cells of these names alone"
    )
    cores = os.cpu_count() or 1
    parser.add_argument("--cores", type=int, default=cores, help="runs at a time, one core each")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="GRPO and both AVATARs, two seeds, 20-40 steps, 80 questions, into runs/study-quick",
    )
    parser.add_argument(
        "--cost",
        action="store_true",
        help="measure the CPU-seconds of every method that has results, one run after the other; "
        "let nothing else run meanwhile",
    )
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args()

    if args.quick:
        folder = REPO / "runs" / "study-quick"
        page = folder / "STUDY.md"
        cells = QUICK_CELLS
        plan = Plan(
            folder / "study.jsonl",
            folder,
            ("--data", f"toy:{TRAIN_CLIPS},{QUICK_HELDOUT_CLIPS}"),
            tuple(QUICK_CELLS),
            seeds=(0, 1),
            tuning=(),
            first_rate=QUICK_RATE,
            cores=args.cores,
        )
    else:
        folder = REPO / "bench" / "results"
        page = REPO / "bench" / "STUDY.md"
        try:
            cells = chosen_cells(args.parts, args.cells)
        except ValueError as error:
            parser.error(str(error))
        plan = Plan(folder / "study.jsonl", REPO / "runs" / "study", cores=args.cores)
    if args.cost:
        measure_costs(plan, args.cells)
    elif not args.report:
        run_cells(plan, cells)
    report(plan, page, folder)


if __name__ == "__main__":
    main()
