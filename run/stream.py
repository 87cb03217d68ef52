"""run/stream.py: which prompts a process trains on, and in which order.

Every prompt belongs to one process for good (`owner`), so that its history in the replay buffer
lives in one place. Each process walks through its own prompts in endless passes, each in a new
random order.
"""

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

import toy
import toy_long
from config import Config, is_toy, toy_sizes
from data import Prompt, PromptBuilder, TooLong
from engine.distributed import gather
from formats.load import load_samples, tell_unused
from formats.sample import Away, BadTrace, DataError, LeftOut, Sample
from media.decode import check_media
from media.errors import MediaError

DROPPED = {"MediaError": MediaError, "TooLong": TooLong}  # why a record can be left out


def owner(prompt_id: str, world: int) -> int:
    """The rank that a prompt belongs to. A stable hash, not Python's, which changes by process."""
    digest = hashlib.sha256(prompt_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % world


class PromptStream:
    """Endless passes over a process's samples, as prompts for the model.

    A record that cannot be used (media missing or broken, prompt too long) is dropped, and the next
    one takes its place, so that all processes keep step; a run that goes on tries again those that
    were dropped for their media. dropped: why, by id. by_clip:
    questions about one clip stay together, so that trained towers run once for all of them.
    """

    def __init__(
        self, samples: list[Sample], builder: PromptBuilder, seed: int, by_clip: bool = False
    ):
        self.samples = {sample.id: sample for sample in samples}
        if len(self.samples) < len(samples):
            raise DataError("two records have one id; ids tell the prompts of a run apart")
        self.builder = builder
        self.rng = np.random.default_rng(seed)
        self.coming: list[str] = []  # ids, in the order in which they will be taken
        self.dropped: dict[str, DataError] = {}
        self.tried_again: set[str] = set()  # after --resume, what had been dropped for its media

        clips: dict[str, list[str]] = {}
        for sample in samples:
            key = sample.media_key if by_clip else sample.id
            clips.setdefault(key, []).append(sample.id)
        self.clips = list(clips.values())

    def take(self, n: int, hinted: Callable[[str], bool]) -> list[Prompt]:
        """The prompts of the next n usable records; hinted(id): does its prompt show its hint, if
        any?

        Media of the n records after them are decoded meanwhile. Raises Away when no usable record
        is left: most often all media are out of reach.
        """
        prompts: list[Prompt] = []
        while len(prompts) < n:
            # the next records in line
            samples = self.peek(n - len(prompts))
            self.coming = self.coming[len(samples) :]

            # each becomes a prompt, or the error that says why not
            flags = [bool(sample.hint) and hinted(sample.id) for sample in samples]
            for sample, prompt in zip(samples, self.builder.build(samples, flags), strict=True):
                if isinstance(prompt, Prompt):
                    prompts.append(prompt)
                else:
                    self.drop(sample.id, prompt)
        self.builder.prefetch(self.peek(n))
        return prompts

    def prompt(self, prompt_id: str, hinted: bool) -> Prompt | None:
        """The prompt of one record; None, and the record is dropped, when its media have gone."""
        prompt = self.builder.build([self.samples[prompt_id]], [hinted])[0]
        if isinstance(prompt, Prompt):
            return prompt
        self.drop(prompt_id, prompt)
        return None

    def peek(self, n: int) -> list[Sample]:
        """The next n samples, which stay in line."""
        while len(self.coming) < n:
            if len(self.dropped) == len(self.samples):
                last = list(self.dropped.values())[-1]
                raise Away(
                    f"none of the {len(self.samples):,} records of this process can be used; "
                    f"the last one: {last}"
                )
            for clip in self.rng.permutation(len(self.clips)):
                usable = [i for i in self.clips[clip] if i not in self.dropped]
                self.coming += usable
        return [self.samples[prompt_id] for prompt_id in self.coming[:n]]

    def drop(self, prompt_id: str, why: DataError) -> None:
        """Leave a record out from now on."""
        self.dropped[prompt_id] = why
        self.coming = [i for i in self.coming if i != prompt_id]

    # -------------------------------------------------------------------------- saving
    def state_dict(self) -> dict:
        """Where this process is in its data, and what it has dropped."""
        dropped = {}
        for prompt_id, why in self.dropped.items():
            dropped[prompt_id] = [type(why).__name__, *map(str, why.args)]
        return {
            "rng": json.dumps(self.rng.bit_generator.state),
            "coming": list(self.coming),
            "dropped": dropped,
        }

    def load_state_dict(self, state: dict) -> None:
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.coming = list(state["coming"])
        self.dropped = {}
        self.tried_again = set()
        for prompt_id, (kind, *args) in state["dropped"].items():
            # the storage may be back, or the file mended: its turn comes again in the next pass
            if DROPPED[kind] is MediaError:
                self.tried_again.add(prompt_id)
            else:
                self.dropped[prompt_id] = DROPPED[kind](*args)

    def redistribute(self, states: list[dict], owns: Callable[[str], bool]) -> None:
        """Go on after a change of the number of processes, from the states of all that there were.

        What they had before them in this pass comes first, one of each in turn, as far as this
        process now owns it; what they had dropped stays dropped.
        """
        coming: list[str] = []
        dropped: dict[str, list[str]] = {}
        for ids in itertools.zip_longest(*[state["coming"] for state in states]):
            coming += [i for i in ids if i is not None and owns(i)]
        for state in states:
            for prompt_id, why in state["dropped"].items():
                if owns(prompt_id):
                    dropped[prompt_id] = why
        own_rng = json.dumps(self.rng.bit_generator.state)
        self.load_state_dict({"rng": own_rng, "coming": coming, "dropped": dropped})


# ------------------------------------------------------------------------------ loading
def load_data(
    cfg: Config, rank: int, world: int, left_out: list[LeftOut] | None = None
) -> tuple[list[Sample], list[Sample]]:
    """(all training samples, this rank's part of the held-out ones), from --data or the toy world.

    left_out: a list for the errors of records that are left out, in place of a warning; stage 0
    leaves those out whose trace cannot be imitated.
    Raises DataError for bad records, for media none of which exist, for records of stage 0 without
    a trace, and where a process would have no prompt.
    """
    train_file, heldout_file = data_files(cfg, rank)
    samples = load_samples(train_file, cfg.media_root, cfg.stage, left_out=left_out)
    check_media(
        samples, train_file, "pass --media_root with the folder that its paths are relative to"
    )

    if cfg.stage == 0:
        bad = [BadTrace(sample.bad_trace, sample.id) for sample in samples if sample.bad_trace]
        samples = [sample for sample in samples if not sample.bad_trace]
        tell_unused(Path(train_file), bad, None, left_out)
        if not samples:
            raise DataError(f"{train_file}: no record has a trace; the first: {bad[0]}")
        for sample in samples:
            if not sample.trace:
                raise DataError(
                    f"{sample.where}: field 'trace' of record '{sample.id}' is empty; "
                    "stage 0 imitates traces"
                )

    # each process needs a prompt of its own
    owners = {owner(sample.id, world) for sample in samples}
    if len(owners) < world:
        raise DataError(
            f"{train_file}: {len(samples)} prompts are too few for {world} processes, each needs "
            "one of its own by the hash of its id; use fewer processes or more data"
        )
    if not heldout_file:
        return samples, []
    heldout = load_samples(heldout_file, cfg.media_root, cfg.stage, left_out=left_out)
    return samples, heldout[rank::world]


def data_files(cfg: Config, rank: int) -> tuple[str, str]:
    """The files of training and held-out records; the toy world's are rendered by rank 0."""
    if not is_toy(cfg.data):
        return cfg.data, cfg.eval_data
    files = None
    if rank == 0:
        world = toy_long if cfg.data.startswith("toy-long:") else toy
        n_train, n_heldout = toy_sizes(cfg.data)
        files = (
            str(world.build(toy.TOY_ROOT, cfg.stage, "train", n_train)),
            str(world.build(toy.TOY_ROOT, cfg.stage, "heldout", n_heldout)),
        )
    train_file, heldout_file = gather(files)[0]
    return train_file, cfg.eval_data or heldout_file
