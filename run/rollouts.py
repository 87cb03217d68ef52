"""run/rollouts.py: rollouts.jsonl.gz, every completion that a run trains on, with its tokens.

Each step that is logged (every --log_rollouts-th) is one member of the file, which gzip reads as
one text:

    {"step": 12, "generated": 832, "prompts": {id: ..}, "buffer": {id: ..}}      the step
    {"step": 12, "id": .., "replayed": false, "advantage": .., "tokens": [..]}   a completion
    {"step": 12, ..}                                                             another one

`read_steps` gives them back. view.py shows them.

The loop only notes tensors that it has; text and compression are made by a thread while the next
step runs. A checkpoint waits for the thread, so the file is cut and goes on like the other logs.

Fields of a completion:
    step, update     when it was trained on; a fresh one stands here once, with its last update
    id, replayed, hinted, written, tier, vcrs     prompt, and in which step it was sampled
    reward, scores, advantage, ratio_mean, ratio_max
    tokens           text of each token
    logps            recorded log-probs, under the policy that wrote it
    logps_now, entropy, weights, hint_term     the policy's in this update, the TAS weights, and
                     what the hint as a teacher has added to each token's advantage; null where the
                     group had no gradient and was not computed
"""

import gzip
import json
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from engine.distributed import gather_lists
from formats.sample import Sample
from groups import Batch, Group
from replay import Entry, ReplayBuffer
from run.metrics import is_step
from run.rollout_form import HEADER, fits, is_completion

NAME = "rollouts.jsonl.gz"
DECIMALS = 3  # of the numbers of each token
HEADER_BITS = 31  # zlib's word for "with gzip's header"
CHUNK = 2**20  # bytes that are read at a time


class Step(NamedTuple):
    """One logged step."""

    step: int
    generated: int
    prompts: dict[str, dict]  # question, options, answer, media, .. of each prompt of the step
    buffer: dict[str, list]  # of each stored prompt: [tier, Rbar(q), is its hint on?]
    completions: list[dict]


class RolloutLog:
    """Writes rollouts.jsonl.gz. Rank 0 writes; every process must call `write`, for it gathers.

    every: which steps are logged; 0: none. tokenizer: None where there is nothing to decode.
    """

    def __init__(self, out: Path, every: int, is_main: bool, tokenizer=None):
        self.path = out / NAME
        self.every = every
        self.is_main = is_main
        self.tokenizer = tokenizer
        self.pieces: dict[int, str] = {}  # texts of the token ids met so far
        self.values: dict[tuple[int, int], dict[str, np.ndarray]] = {}  # by (update, id of Entry)
        self.thread = ThreadPoolExecutor(1)
        self.pending: list[Future] = []

    def is_logged(self, step: int) -> bool:
        return self.every > 0 and step % self.every == 0

    def note(self, step: int, update: int, batch: Batch, **values: Tensor) -> None:
        """Keep what an update has computed for each token of a batch: values (N, R) by name."""
        if not self.is_logged(step):
            return
        blocks = {name: value.detach().float().cpu().numpy() for name, value in values.items()}
        for i, entry in enumerate(batch.entries):
            n = len(entry.tokens)
            self.values[update, id(entry)] = {name: block[i, :n] for name, block in blocks.items()}

    def write(
        self, step: int, generated: int, updates: list[list[Group]], buffer: ReplayBuffer
    ) -> None:
        """Hand a step over to the thread. updates: the groups of each of its updates."""
        if not self.is_logged(step):
            return
        records: list[dict] = []
        prompts: dict[str, dict] = {}
        for update, groups in enumerate(updates):
            is_last = update == len(updates) - 1
            for group in groups:
                if group.replayed or is_last:
                    records += self.records(step, update, group, buffer)
                    prompts[group.prompt_id] = describe_prompt(group.sample)
        self.values = {}

        # of all processes
        records = gather_lists(records)
        all_prompts = dict(gather_lists(list(prompts.items())))
        stored = dict(gather_lists(describe_buffer(buffer)))
        header = {"step": step, "generated": generated, "prompts": all_prompts, "buffer": stored}
        if self.is_main:
            self.pending.append(self.thread.submit(self.append, [header, *records]))

    def records(self, step: int, update: int, group: Group, buffer: ReplayBuffer) -> list[dict]:
        """One dict per completion of a group, its numbers still arrays."""
        records = []
        for entry, advantage in zip(group.entries, group.advantages.tolist(), strict=True):
            values = self.values.get((update, id(entry)), {})
            records.append(
                {
                    "step": step,
                    "update": update,
                    "id": group.prompt_id,
                    "replayed": group.replayed,
                    "hinted": entry.hinted,
                    "written": entry.step,
                    "tier": buffer.tier(group.prompt_id),
                    "vcrs": buffer.vcrs(group.prompt_id),
                    "reward": entry.reward,
                    "scores": entry.scores,
                    "advantage": advantage,
                    **ratios(entry, values.get("logps_now")),
                    "tokens": entry.tokens,
                    "logps": entry.logps,
                    "logps_now": values.get("logps_now"),
                    "entropy": values.get("entropy"),
                    "weights": values.get("weights"),
                    "hint_term": values.get("hint_term"),
                }
            )
        return records

    def append(self, lines: list[dict]) -> None:
        """In the thread: write a step as one member."""
        text = "".join(json.dumps(self.plain(line)) + "\n" for line in lines)
        with self.path.open("ab") as file:
            file.write(gzip.compress(text.encode(), mtime=0))  # no clock: the same run, same bytes

    def plain(self, line: dict) -> dict:
        """A line as JSON knows it: tokens as texts, numbers rounded."""
        plain = {}
        for name, value in line.items():
            if name == "tokens":
                plain[name] = [self.piece(int(token)) for token in value]
            elif isinstance(value, np.ndarray):
                plain[name] = (value.astype(np.float64).round(DECIMALS) + 0.0).tolist()  # no -0.0
            else:
                plain[name] = round(value, 6) if isinstance(value, float) else value
        return plain

    def piece(self, token: int) -> str:
        """The text of a token."""
        if token not in self.pieces:
            decode = self.tokenizer.decode if self.tokenizer else str
            self.pieces[token] = decode([token])
        return self.pieces[token]

    def wait(self) -> None:
        """Until everything is written. Raises what went wrong, as a full disk."""
        for future in self.pending:
            future.result()
        self.pending = []

    def close(self) -> None:
        """`wait`, and end the thread."""
        self.wait()
        self.thread.shutdown()


def ratios(entry: Entry, logps_now: np.ndarray | None) -> dict[str, float | None]:
    """Mean and largest importance ratio of a completion's tokens; None where they are not known."""
    if logps_now is None:
        return {"ratio_mean": None, "ratio_max": None}
    ratio = np.exp(logps_now.astype(np.float64) - entry.logps)  # (L,)
    return {"ratio_mean": float(ratio.mean()), "ratio_max": float(ratio.max())}


def describe_prompt(sample: Sample) -> dict:
    """What is shown of a prompt beside its completions."""
    return {
        "question": sample.question,
        "options": sample.options,
        "answer": sample.answer,
        "problem_type": sample.problem_type,
        "hint": sample.hint,
        "media": [list(medium) for medium in sample.media],
    }


def describe_buffer(buffer: ReplayBuffer) -> list[tuple[str, list]]:
    """(id, [tier, Rbar(q), is its hint on?]) of every prompt that this process stores."""
    stored = []
    for prompt_id, history in buffer.stored.items():
        vcrs = None if history.vcrs is None else round(history.vcrs, DECIMALS)
        stored.append((prompt_id, [history.tier, vcrs, history.hint_on]))
    return stored


# ------------------------------------------------------------------------------ reading
def members(path: Path) -> Iterator[tuple[int, bytes]]:
    """(bytes in the file, text) of each gzip member; ends where one is torn or damaged."""
    with path.open("rb") as file:
        unread = b""
        while True:
            decompressor = zlib.decompressobj(HEADER_BITS)
            size = 0
            text = []
            while not decompressor.eof:
                unread = unread or file.read(CHUNK)
                if not unread:
                    return
                try:
                    text.append(decompressor.decompress(unread))
                except zlib.error:
                    return
                size += len(unread) - len(decompressor.unused_data)
                unread = decompressor.unused_data
            yield size, b"".join(text)


def read_steps(path: Path) -> Iterator[Step]:
    """The steps of a file, in order. One that is still being written is left out; damaged ones are,
    too, and a warning counts them."""
    n_bad = 0
    for _, text in members(path):
        step = step_in(text)
        if step is None:
            n_bad += 1
        else:
            yield step
    if n_bad:
        warnings.warn(
            f"{path}: steps that are damaged, or hold NaN, and are left out: {n_bad}", stacklevel=2
        )


def step_in(text: bytes) -> Step | None:
    """The step that a member holds, None where the file was changed there."""
    first, *others = text.splitlines() or [b""]
    header = object_in(first)
    if not fits(header, HEADER):
        return None
    completions = [object_in(line) for line in others]
    if not all(is_completion(completion, header["prompts"]) for completion in completions):
        return None
    return Step(*[header[name] for name in HEADER], completions)


def object_in(line: bytes) -> dict:
    """The JSON object of a line, a null for each NaN; {} where there is none."""
    try:
        value = json.loads(line, parse_constant=lambda name: None)  # which no browser reads
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def bytes_before(path: Path, step: int) -> int:
    """The length of the file up to this step: of the whole members of the steps before it. It ends
    before a member that names no step."""
    total = 0
    for size, text in members(path):
        number = object_in(text.partition(b"\n")[0]).get("step")
        if not is_step(number) or number >= step:
            break
        total += size
    return total
