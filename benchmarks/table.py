"""benchmarks/table.py: the benchmarks that eval.py knows, and loading their items.

A benchmark is a file in this folder that holds everything about it, and a line in BENCHMARKS. The
least that such a file says is how its own files are read into Items; what differs from the defaults
of `Benchmark` (multiple choice, accuracy over all items) is named in its record:

    def read_mine(root, scratch):       # root: --root; scratch: for media that the files hold
        for i, row in enumerate(rows(root / "mine.jsonl")):
            yield new_item(
                f"mine-{i}",
                row["question"],
                row["answer"],
                lettered(row["options"]),
                videos=[root / "clips" / row["clip"]],
                labels={"topic": row["topic"]},
            )

    BENCHMARK = Benchmark("Mine", "me/mine: mine.jsonl, clips/", read_mine, splits=("topic",))

Scoring follows each benchmark's own authors. Where their scripts slip, the rule that was meant is
kept: a reply from which no answer can be read is wrong (scripts drop it, guess, or take "A"), a
letter in the middle of a word is none, and gold answers are never read by the parser of replies.
The wordings of --prompt paper are those of the released AVATAR evaluation, and of the benchmark's
authors where it has none (Video-MMMU, VSI-Bench, Video-TT).
"""

from collections import Counter
from pathlib import Path

from benchmarks import (
    avodyssey,
    cgav,
    dailyomni,
    intentbench,
    lvbench,
    mmvu,
    mvbench,
    omnibench,
    tomato,
    toy_world,
    videoholmes,
    videomme,
    videommmu,
    videott,
    vsi,
    worldsense,
)
from benchmarks.base import Benchmark, Item
from benchmarks.files import last_read
from benchmarks.statistics import label_values
from formats.confine import Confinement
from formats.sample import DataError, file_of

BENCHMARKS: dict[str, Benchmark] = {
    "toy": toy_world.BENCHMARK,
    "omnibench": omnibench.BENCHMARK,
    "dailyomni": dailyomni.BENCHMARK,
    "cgav": cgav.BENCHMARK,
    "avodyssey": avodyssey.BENCHMARK,
    "worldsense": worldsense.BENCHMARK,
    "intentbench": intentbench.BENCHMARK,
    "mvbench": mvbench.BENCHMARK,
    "videomme": videomme.BENCHMARK,
    "lvbench": lvbench.BENCHMARK,
    "videoholmes": videoholmes.BENCHMARK,
    "mmvu": mmvu.BENCHMARK,
    "tomato": tomato.BENCHMARK,
    "videommmu": videommmu.BENCHMARK,
    "vsi": vsi.BENCHMARK,
    "videott": videott.BENCHMARK,
}


def load_items(
    name: str, root: Path, scratch: Path, media_root: str = ""
) -> tuple[list[Item], list[tuple[str, str]]]:
    """A benchmark's items, and (id, reason) of those that cannot be scored whatever a model says.

    Of items that share an id the second is called "id#2". Raises DataError where the files are not
    as they are downloaded, and for media that lie outside of root, scratch and media_root.
    """
    benchmark = BENCHMARKS[name]
    again = f"download it again: {benchmark.files}"
    items: list[Item] = []
    uses: Counter[str] = Counter()
    last = "its beginning"
    last_read.update(file=None, row=0)
    try:
        for item in benchmark.read(root, scratch):
            uses[item.sample.id] += 1
            last = f"item '{item.sample.id}'"
            if uses[item.sample.id] > 1:
                item.sample.id += f"#{uses[item.sample.id]}"
            items.append(item)
    except DataError:
        raise
    except (ImportError, MemoryError, OSError):
        raise
    # whatever a reader meets in files that are not as it knows them
    except Exception as error:
        where = str(last_read["file"] or root)
        if last_read["row"]:
            where += f", record {last_read['row']}"
        raise DataError(
            f"{where}: the first item after {last} is not as in {benchmark.title}'s own files "
            f"({type(error).__name__}: {error}); {again}"
        ) from error

    # a broken item is never asked, and its placeholders may name media that it lacks
    usable = [item for item in items if not item.broken]
    check_inside(usable, Confinement(root, scratch, *([media_root] if media_root else [])), root)
    if not items:
        raise DataError(f"{root}: holds no item of {benchmark.title}; {again}")
    if not usable:
        raise DataError(
            f"{root}: none of its {len(items):,} items can be scored, e.g. {last}: "
            f"{items[-1].broken}; {again}"
        )
    return usable, [(item.sample.id, item.broken) for item in items if item.broken]


def check_inside(items: list[Item], confinement: Confinement, root: Path) -> None:
    """Raise DataError for an item that names a file outside."""
    for item in items:
        sample = item.sample
        files = [file_of(path, kind) for kind, path in sample.media]
        if sample.soundtrack:
            files.append(sample.soundtrack)
        for file in files:
            if not confinement.holds(file):
                raise DataError(
                    f"{root}: item '{sample.id}' names {file}, which lies outside; pass "
                    "--media_root with a folder that holds it, if you trust these files"
                )


def choose_items(items: list[Item], only: str, limit: int) -> list[Item]:
    """The items with a label (`--only`), of these the first ones (`--limit`)."""
    if only:
        name, _, value = only.partition("=")
        known: set[str] = set()
        for item in items:
            known |= set(label_values(item.labels, name))
        values = sorted(known)
        if not values:
            labels = ", ".join(items[0].labels)
            raise DataError(f"--only {only}: no item has a label '{name}'; labels are {labels}")
        if value not in values:
            raise DataError(f"--only {only}: the values of '{name}' are {', '.join(values)}")
        items = [item for item in items if value in label_values(item.labels, name)]
    return items[:limit] if limit else items
