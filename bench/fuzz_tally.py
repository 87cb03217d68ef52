"""What bench/fuzz.py counts, and how it makes its inputs."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import hypothesis

MOST_FINDS = 10  # of one target: after so many there is something to mend first
BATCH = 300  # inputs that hypothesis makes with one seed


@dataclass
class Tally:
    """What became of the inputs of one target."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # by (kind, outcome)
    finds: list[str] = field(default_factory=list)

    def add(self, kind: str, outcome: str) -> None:
        self.outcomes[kind, outcome] += 1

    def find(self, text: str) -> None:
        self.finds.append(text)
        print(f"find: {text}", flush=True)

    @property
    def full(self) -> bool:
        return len(self.finds) >= MOST_FINDS

    def rows(self, target: str) -> list[dict]:
        """A row for each kind of input."""
        rows = []
        for kind in dict.fromkeys(kind for kind, _ in self.outcomes):
            counts = {o: n for (k, o), n in sorted(self.outcomes.items()) if k == kind}
            outcomes = ", ".join(f"{outcome} {n:,}" for outcome, n in counts.items())
            rows.append(
                {
                    "target": target,
                    "kind": kind,
                    "tried": sum(counts.values()),
                    "outcomes": outcomes,
                }
            )
        return rows


def run_hypothesis(strategy, check: Callable[[object], tuple[str, str]], until: float) -> Tally:
    """Try inputs of a strategy until a moment of time.monotonic().

    check(input) gives its (kind, outcome); an exception is a find.
    """
    tally = Tally()
    seed = 0
    while time.monotonic() < until and not tally.full:
        try:
            hypothesis_batch(strategy, check, until, tally, seed)
        except Exception as error:
            # hypothesis adds the shrunk input as a note
            notes = " ".join(getattr(error, "__notes__", []))
            tally.find(f"{type(error).__name__}: {str(error)[:300]} {notes[:1000]}")
        seed += 1
    return tally


def hypothesis_batch(strategy, check, until: float, tally: Tally, seed: int) -> None:
    """One seed's inputs. Raises what `check` raised on the smallest input that raises it."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def trial(case):
        if time.monotonic() < until:
            tally.add(*check(case))

    trial()
