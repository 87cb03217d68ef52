"""benchmarks/compare.py: runs of eval.py side by side, from their results on disk."""

from pathlib import Path

from benchmarks.results import read_results, read_settings
from benchmarks.statistics import gain, measured
from benchmarks.table import BENCHMARKS
from formats.sample import DataError

# Settings that may differ between runs that are compared: the model, and what changes rounding only
FREE_SETTINGS = {"model", "weights", "root", "batch", "max_tokens"}

Runs = dict[str, dict[str, list[dict]]]  # {run: {benchmark: results}}
Settings = dict[str, dict[str, dict]]  # {run: {benchmark: settings.json}}


def load_runs(arguments: tuple[str, ...]) -> tuple[Runs, Settings]:
    """The results and the settings of runs given as name=path, a path being a results.jsonl or its
    folder.

    Raises DataError when one is not there, or when the runs are not all on the same benchmarks.
    """
    runs: Runs = {}
    settings: Settings = {}
    for argument in arguments:
        run, file = parse_argument(argument)
        results = list(read_results(file).values())
        if not results:
            raise DataError(f"{file}: holds no results yet; run eval.py into that folder first")
        benchmark = results[0]["benchmark"]
        if benchmark in runs.setdefault(run, {}):
            raise DataError(
                f"--compare {argument}: '{run}' has a run on {benchmark} already; give it once"
            )
        runs[run][benchmark] = results
        settings.setdefault(run, {})[benchmark] = read_settings(file.parent) or {}
    check_same_benchmarks(runs)
    check_same_questions(runs)
    return runs, settings


def parse_argument(argument: str) -> tuple[str, Path]:
    """name=path -> (name, the results.jsonl)."""
    name, _, path = argument.partition("=")
    file = Path(path) / "results.jsonl" if Path(path).is_dir() else Path(path)
    if not name or not file.is_file():
        raise DataError(
            f"--compare {argument}: write name=path/results.jsonl, of a run of eval.py that is "
            "there"
        )
    return name, file


def check_same_benchmarks(runs: Runs) -> None:
    """Every run must be on the benchmarks of the first one, the base, and on no others."""
    base = next(iter(runs))
    for run in runs:
        unpaired = runs[run].keys() ^ runs[base].keys()
        if unpaired:
            raise DataError(
                f"--compare: '{run}' and '{base}' do not both have a run on {min(unpaired)}; every "
                "name needs the same benchmarks"
            )


def check_same_questions(runs: Runs) -> None:
    """Raise DataError where two runs have other questions or gold answers under one id."""
    base = next(iter(runs))
    for run in runs:
        for benchmark, results in runs[run].items():
            of_base = {result["id"]: result.get("content") for result in runs[base][benchmark]}
            changed = []
            for result in results:
                before, now = of_base.get(result["id"]), result.get("content")
                if before and now and before != now:
                    changed.append(result["id"])
            if changed:
                raise DataError(
                    f"--compare: '{run}' and '{base}' have other questions, options or gold "
                    f"answers under {len(changed):,} ids of {benchmark}, the first: "
                    f"'{changed[0]}'; the benchmark's files have changed: run one of them again"
                )


def compare_scores(runs: Runs, resamples: int) -> dict[str, dict[str, dict]]:
    """{run: {benchmark: `measured` of its headline, with "gain" over the first run}}."""
    base = next(iter(runs))
    cells: dict[str, dict[str, dict]] = {}
    for run in runs:
        cells[run] = {}
        for benchmark, results in runs[run].items():
            metric = BENCHMARKS[benchmark].metrics[0]
            cell = measured(results, metric, resamples)
            if run != base:
                cell["gain"] = gain(runs[base][benchmark], results, metric, resamples)
            cells[run][benchmark] = cell
    return cells


def other_settings(settings: Settings) -> list[str]:
    """A sentence on each run that was not asked as the base was: its gain is not the model's
    alone.
    """
    base = next(iter(settings))
    sentences = []
    for run in settings:
        for benchmark, here in settings[run].items():
            there = settings[base][benchmark]
            differences = [
                f"{name} {here[name]!r}, not {there.get(name)!r}"
                for name in here
                if name not in FREE_SETTINGS and here[name] != there.get(name)
            ]
            if differences:
                sentences.append(
                    f"{run} on {benchmark} was asked otherwise than {base}: "
                    f"{', '.join(differences)}"
                )
    return sentences
