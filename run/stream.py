"""run/stream.py: which prompts a process trains on, and in which order."""

import hashlib
import itertools
import json
from collections.abc import Callable

import numpy as np

import toy
from config import Config
from data import Prompt, PromptBuilder, TooLong
from engine.distributed import gather
from formats.load import load_samples
from formats.sample import DataError, Sample
from media.decode import check_media
from media.errors import MediaError


def owner(prompt_id: str, world: int) -> int:
    """The rank a prompt belongs to, for good: its history lives there. A stable hash, not Python's."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big") % world


class Cursor:
    """Endless passes over this rank's samples, each in a fresh random order. With by_clip the questions about one clip stay together
    (in random order of clips), so that trained towers run once for all of them. dropped: the sentences on records that cannot be used, by id."""

    def __init__(self, samples: list[Sample], seed: int, by_clip: bool = False):
        self.samples, self.rng, self.order = samples, np.random.default_rng(seed), []
        self.dropped: dict[str, DataError] = {}
        clips: dict[str, list[int]] = {}
        for i, s in enumerate(samples):
            clips.setdefault(s.media_key if by_clip else s.id, []).append(i)
        self.clips = list(clips.values())

    def peek(self, n: int) -> list[Sample]:
        """The next n samples, which stay in line. Raises DataError when every record has been dropped."""
        while len(self.order) < n:
            if len(self.dropped) == len(self.samples):
                raise DataError(
                    f"none of the {len(self.samples):,} records of this process can be used; the last one: {list(self.dropped.values())[-1]}"
                )
            self.order += [
                i
                for c in self.rng.permutation(len(self.clips))
                for i in self.clips[c]
                if self.samples[i].id not in self.dropped
            ]
        return [self.samples[i] for i in self.order[:n]]

    def state(self) -> dict:
        """Where this process is in its data, and what it has dropped."""
        return {
            "rng": json.dumps(self.rng.bit_generator.state),
            "order": self.order,
            "dropped": {
                i: [type(why).__name__, *map(str, why.args)] for i, why in self.dropped.items()
            },
        }

    def load(self, state: dict) -> None:
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.order = list(state["order"])
        self.dropped = {
            i: {"MediaError": MediaError, "TooLong": TooLong}[kind](*args)
            for i, (kind, *args) in state["dropped"].items()
        }

    def deal(self, states: list[dict], samples: list[Sample]) -> None:
        """Go on with this process's share of what other processes had before them in this pass, and of what they had dropped. samples: of all processes."""
        parts: list[list[Sample]] = [[] for _ in states]
        for s in samples:
            parts[owner(s.id, len(states))].append(s)
        place = {s.id: i for i, s in enumerate(self.samples)}
        lines = [
            [part[at].id for at in state["order"]]
            for part, state in zip(parts, states, strict=True)
        ]
        waiting = [i for row in itertools.zip_longest(*lines) for i in row if i in place]
        dropped = {i: why for state in states for i, why in state["dropped"].items() if i in place}
        self.load(
            {
                "rng": json.dumps(self.rng.bit_generator.state),
                "order": [place[i] for i in waiting],
                "dropped": dropped,
            }
        )

    def take(self, n: int) -> list[Sample]:
        taken = self.peek(n)
        self.order = self.order[n:]
        return taken

    def drop(self, sample: Sample, why: DataError) -> None:
        """Leave a record out from now on."""
        self.dropped[sample.id] = why
        self.order = [i for i in self.order if self.samples[i].id != sample.id]


def next_prompts(
    cursor: Cursor, builder: PromptBuilder, n: int, hinted: Callable[[Sample], bool]
) -> list[Prompt]:
    """The prompts of the next n records that can be used. Those that cannot are dropped, each process its own: it goes on with its next ones, so that
    all processes keep step."""
    prompts: list[Prompt] = []
    while len(prompts) < n:
        some = cursor.take(n - len(prompts))
        for sample, made in zip(some, builder.build(some, [hinted(s) for s in some]), strict=True):
            if isinstance(made, Prompt):
                prompts.append(made)
            else:
                cursor.drop(sample, made)
    return prompts


def load_data(cfg: Config, rank: int, world: int) -> tuple[list[Sample], list[Sample]]:
    """(all training samples, this rank's share of the held-out ones), from --data or the toy world (rendered by rank 0)."""
    train_file, eval_file = cfg.data, cfg.eval_data
    if not cfg.data:
        if rank == 0:
            made = [
                str(toy.build(cfg.toy_dir, cfg.stage, "train", cfg.toy_clips)),
                str(toy.build(cfg.toy_dir, cfg.stage, "heldout", cfg.toy_heldout)),
            ]
        train_file, default_eval = gather(made if rank == 0 else None)[0]
        eval_file = cfg.eval_data or default_eval
    samples = load_samples(train_file, cfg.media_root, cfg.stage, allow_outside=cfg.allow_outside)
    check_media(
        samples, train_file, "pass --media_root with the folder that its paths are relative to"
    )
    if cfg.stage == 0 and (bare := [s for s in samples if not s.trace]):
        raise DataError(
            f"{bare[0].where}: field 'trace' of record '{bare[0].id}' is empty; stage 0 imitates traces"
        )
    if not all(any(owner(s.id, world) == r for s in samples) for r in range(world)):
        raise DataError(
            f"{train_file}: {len(samples)} prompts are too few for {world} processes, each needs one of its own by the hash of its id; "
            "use fewer processes or more data"
        )
    held = (
        load_samples(eval_file, cfg.media_root, cfg.stage, allow_outside=cfg.allow_outside)
        if eval_file
        else []
    )
    return samples, held[rank::world]
