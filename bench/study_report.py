"""bench/study_report.py: the tables of bench/STUDY.md, written between two marks of the page."""

import json
import math
import os
from pathlib import Path

import numpy as np

from bench.study_pictures import draw_pictures
from bench.study_runs import (
    BEST_GRPO,
    PARTS,
    Cell,
    Findings,
    Plan,
    tuning_score,
)
from bench.study_statistics import (
    TARGETS,
    final,
    interval,
    mean_curve,
    reached,
    savings,
    verdict,
)

BEGIN = "<!-- tables: written by bench/study.py -->"
END = "<!-- end of the tables -->"
PAPER_COLUMN = "in the paper (points, OmniBench)"


def table(title: str, text: str, head: list[str], rows: list[list[str]]) -> str:
    """A Markdown section; "" without rows."""
    if not rows:
        return ""
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    return f"## {title}\n\n{text}\n\n" + "\n".join(lines) + "\n"


def format_count(x: float) -> str:
    return "not reached" if math.isinf(x) else f"{x:,.0f}"


def plus_minus(values: list[float], sign: bool = False) -> str:
    """The mean of values over seeds with its 95 % interval."""
    mean, half = interval(values)
    return f"{mean:{'+' if sign else ''}.3f} ± {half:.3f}"


def compared(differences: list[float], paper: float | None) -> list[str]:
    """Differences over seeds as three columns: ours, the paper's, and what they say."""
    mean, half = interval(differences)
    return [
        plus_minus(differences, sign=True),
        "" if paper is None else f"{paper:+.1f}",
        verdict(mean, half, paper),
    ]


# ------------------------------------------------------------------------------ methods
def rates_table(findings: Findings) -> str:
    """Each method's tuning scores by learning rate; the rate it runs at is bold. "" where nothing
    was tuned."""
    plan = findings.plan
    if not plan.tuning:
        return ""
    rows = []
    for method in plan.methods:
        if method.name in findings.rates:
            row = [method.name]
            for rate in plan.rates:
                score = tuning_score(findings.done, plan, method.flags, rate)
                text = "" if score is None else f"{score:.3f}"
                row.append(f"**{text}**" if rate == findings.rates[method.name] else text)
            rows.append(row)
    seeds = ", ".join(map(str, plan.tuning))
    return table(
        "Learning rates",
        f"Mean accuracy over the evaluations of seeds {seeds}, without that of the start. A method "
        "climbs until a rate does worse, and runs at its best.",
        ["method", *(f"{rate:g}" for rate in plan.rates)],
        rows,
    )


def budget_table(findings: Findings) -> str:
    """What each method spends: a group is the completions of one prompt that are trained on
    together, in one step."""
    rows = []
    with_cpu = findings.with_cpu()
    for name, runs in findings.of_methods().items():
        prompts = sum(run["prompts"] for run in runs)
        completions = sum(run["generated"][-1] for run in runs)
        groups = sum(run["groups"] for run in runs)
        cpu_seconds = sum(run["evals"][-1][2] for run in with_cpu.get(name, []))
        rows.append(
            [
                name,
                f"{runs[0]['rate']:g}",
                str(len(runs)),
                str(len(runs[0]["generated"])),
                f"{completions / len(runs):,.0f}",
                f"{groups / prompts:.2f}",
                f"{1000 * cpu_seconds / completions:.0f}" if cpu_seconds else "",
                f"{interval([final(run) for run in runs])[0]:.3f}",
            ]
        )
    return table(
        "What each method spends",
        "Updates per prompt: groups trained on, fresh and replayed, per prompt asked. CPU-seconds: "
        "of training, without evaluations, per 1,000 fresh completions, on one core.",
        [
            "method",
            "learning rate",
            "seeds",
            "steps",
            "fresh completions",
            "updates per prompt",
            "CPU-seconds per 1,000",
            "accuracy, last third",
        ],
        rows,
    )


def savings_of_methods(findings: Findings, axis: str, base: str = "GRPO") -> dict[str, list[dict]]:
    """`savings` of every method but `base` at every target, and at the best that `base` reaches."""
    runs = findings.with_cpu() if axis == "cpu" else findings.of_methods()
    if base not in runs:
        return {}
    by_method = {}
    for name in runs:
        if name != base:
            by_method[name] = savings(runs[base], runs[name], [*TARGETS, None], axis)
    return by_method


def savings_table(by_method: dict[str, list[dict]], unit: str, base: str = "GRPO") -> str:
    """The `savings` over `base` as a table."""
    rows = []
    for name in by_method:
        for i, entry in enumerate(by_method[name]):
            rows.append(
                [
                    name,
                    f"{entry['target']:.3f}" + (f" (best of {base})" if i == len(TARGETS) else ""),
                    f"{entry['base']:,.0f}",
                    format_count(entry["ours"]),
                    f"{entry['ratio']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]",
                ]
            )
    return table(
        f"{unit[0].upper()}{unit[1:]} to a target: {base}",
        f"How many {unit} the mean curve needs, and how many times as many {base} needs, with the "
        f"95 % interval over seeds (0: not reached). Where {base} does not reach a target itself, "
        "all that it had is counted.",
        ["method", "held-out accuracy", base, "method", f"{base} / method"],
        rows,
    )


# ------------------------------------------------------------------------------ parts
def part_table(findings: Findings, name: str) -> str:
    """A part's cells, and their differences seed by seed from what each is compared with."""
    part = PARTS[name]
    by_name = {cell.name: cell for cell in part.cells}
    rows = []
    for cell in part.cells:
        row = cell_row(findings, cell, by_name[cell.against or part.reference])
        if row:
            rows.append(row)
    return table(
        name[0].upper() + name[1:],
        "Held-out accuracy in the last third of the steps, and its difference from another cell "
        "seed by seed, with 95 % intervals. No difference: the interval holds 0.",
        [
            "cell",
            "seeds",
            "fresh completions",
            "of them to 0.70",
            "accuracy",
            "compared with",
            "difference",
            PAPER_COLUMN,
            "verdict",
        ],
        rows,
    )


def cell_row(findings: Findings, cell: Cell, reference: Cell) -> list[str] | None:
    """A cell as a row, with its difference from the reference. None with fewer than two seeds in
    common, which have no interval."""
    base = {run["seed"]: final(run) for run in findings.runs(reference)}
    runs = findings.runs(cell)
    differences = [final(run) - base[run["seed"]] for run in runs if run["seed"] in base]
    if len(differences) < 2:
        return None
    spent = np.mean([run["evals"][-1][1] for run in runs])
    to_target = reached(*mean_curve(runs, "completions"), 0.7)
    paper = None
    if cell.paper is not None and reference.paper is not None:
        paper = cell.paper - reference.paper
    return [
        cell.name,
        str(len(runs)),
        f"{spent:,.0f}",
        format_count(to_target),
        plus_minus([final(run) for run in runs]),
        *([""] * 4 if cell is reference else [reference.name, *compared(differences, paper)]),
    ]


# ------------------------------------------------------------------------------ the page
def report(plan: Plan, page: Path, folder: Path) -> None:
    """Write tables and links to the pictures between the two marks of `page`, made when there is
    none; pictures and savings (study.json) into `folder`."""
    findings = Findings(plan)
    by_completions = savings_of_methods(findings, "completions")
    by_cpu = savings_of_methods(findings, "cpu")
    sections = [
        rates_table(findings),
        budget_table(findings),
        savings_table(by_completions, "fresh completions"),
        savings_table(by_cpu, "CPU-seconds of training"),
        savings_table(
            savings_of_methods(findings, "completions", BEST_GRPO), "fresh completions", BEST_GRPO
        ),
        *(part_table(findings, part) for part in PARTS),
    ]
    sections = [section for section in sections if section]

    folder.mkdir(parents=True, exist_ok=True)
    captions = draw_pictures(findings, {"completions": by_completions, "cpu": by_cpu}, folder)
    sections.append("## Pictures\n")
    for file, caption in captions.items():
        link = os.path.relpath(folder / file, page.parent)
        sections.append(f"{caption}:\n\n![{Path(file).stem}]({link})\n")

    text = page.read_text() if page.is_file() else f"# The study\n\n{BEGIN}\n{END}\n"
    before = text.split(BEGIN)[0]
    after = text.split(END)[-1]
    page.write_text(f"{before}{BEGIN}\n\n" + "\n".join(sections) + f"\n{END}{after}")
    write_numbers(findings, by_completions, by_cpu, folder / "study.json")
    print(f"{len(findings.done)} runs; {page} and the pictures in {folder} are written")


def write_numbers(
    findings: Findings,
    by_completions: dict[str, list[dict]],
    by_cpu: dict[str, list[dict]],
    file: Path,
) -> None:
    """What the page's tables of methods show, as JSON, which knows no infinity: null."""
    accuracies = {}
    for name, runs in findings.of_methods().items():
        accuracies[name] = interval([final(run) for run in runs])
    numbers = {
        "learning_rates": findings.rates,
        "accuracy": accuracies,
        "completions_to_targets": without_infinity(by_completions),
        "cpu_to_targets": without_infinity(by_cpu),
    }
    file.write_text(json.dumps(numbers, indent=1) + "\n")


def without_infinity(value):
    """A structure of dicts, lists and numbers with None for what is not finite."""
    if isinstance(value, dict):
        return {key: without_infinity(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_infinity(entry) for entry in value]
    return value if math.isfinite(value) else None
