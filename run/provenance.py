"""run/provenance.py: what a run was made with, by content: its records, their media, its model, the
wording of its prompts and the weights of its rewards.

A run that goes on with other questions or other gold answers under the same ids would be neither
the old run nor a new one, so that is refused. Media of another size or time, and other held-out
questions, are listed: they may have been copied anew. Another wording or other weights, which only
a change of the code brings, are listed, too: the buffer still holds what the old ones made.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from data import instructions
from engine.checksums import NAME as CHECKSUMS
from engine.families import DEFAULT_MODEL
from formats.sample import DataError, Sample, file_of
from problems import SYSTEM
from rewards import STAGE_REWARDS

BYTES = 8  # of a digest of one record
SAMPLES = 256  # pieces of a file of weights
PIECE = 2**12  # bytes of each


def provenance(samples: list[Sample], heldout: list[Sample], model: str, stage: int) -> dict:
    """What tells the data, the model and the task of two runs apart, as tensors and texts of a
    checkpoint.

    heldout: those of this process.
    """
    return {
        "records": digests([record_digest(sample) for sample in samples]),
        "media": digests([media_digest(sample) for sample in samples]),
        "heldout": digests([record_digest(sample) for sample in heldout]),
        "model": model_digest(model or DEFAULT_MODEL),
        "wording": wording(samples),
        "rewards": json.dumps(STAGE_REWARDS.get(stage, {})),
    }


def wording(samples: list[Sample]) -> str:
    """What the prompts ask for below their questions, and their system turns."""
    texts = {(sample.system or SYSTEM, instructions(sample)) for sample in samples}
    return json.dumps(sorted(texts))


def digests(values: list[bytes]) -> Tensor:
    """(n, BYTES) uint8."""
    return torch.frombuffer(bytearray(b"".join(values)) or bytearray(1), dtype=torch.uint8)[
        : BYTES * len(values)
    ].reshape(len(values), BYTES)


def short_digest(value: object) -> bytes:
    content = json.dumps(value).encode()
    return hashlib.blake2b(content, digest_size=BYTES).digest()


def record_digest(sample: Sample) -> bytes:
    """Of all that a record shows and wants, without the folder in which its media lie."""
    names = [[kind, os.path.basename(path)] for kind, path in sample.media]
    return short_digest(
        [
            sample.id,
            sample.question,
            sample.options,
            sample.problem_type,
            sample.answer,
            sample.hint,
            sample.audio_caption,
            sample.trace,
            names,
            os.path.basename(sample.soundtrack or ""),
            sample.scene,
        ]
    )


def media_digest(sample: Sample) -> bytes:
    """Of the sizes and times of change of a record's files."""
    stats = []
    files = [file_of(path, kind) for kind, path in sample.media]
    for file in [*files, sample.soundtrack or ""]:
        try:
            stat = os.stat(file)
            stats.append([stat.st_size, stat.st_mtime_ns])
        except (OSError, ValueError):
            stats.append(None)
    return short_digest(stats)


def model_digest(model: str) -> str:
    """Of a checkpoint of ours its checksums. Of another folder its configs, and of its weights the
    sizes and SAMPLES pieces of each file, evenly spread; of a hub model its name.

    Not of every byte: a 7B has 15 GB, and each start would read them twice. Pieces from all over,
    because training leaves whole tensors alone (towers, embeddings under LoRA).
    """
    folder = Path(model)
    if (folder / CHECKSUMS).is_file():
        return hashlib.sha256((folder / CHECKSUMS).read_bytes()).hexdigest()
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")])
    if not files:
        return model
    hasher = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        hasher.update(f"{file.name} {size} ".encode())
        with file.open("rb") as content:
            for start in range(0, size, max(PIECE, size // SAMPLES)):
                content.seek(start)
                hasher.update(content.read(PIECE))
    return hasher.hexdigest()


def check_provenance(folder: Path, before: dict, now: dict, samples: list[Sample]) -> None:
    """Compare a checkpoint with the run that goes on from it. samples: those of `now`.

    Raises DataError for other records and for another model; says on stderr what else has changed.
    """
    mend = "or start another run with another --out"
    new, n_gone = compared(before["records"], now["records"])
    n_before, n_now = len(before["records"]), len(now["records"])
    if new or n_gone:
        first = ""
        if new:
            sample = samples[new[0]]
            first = (
                f"; {len(new):,} of {n_now:,} are new now, or have another text, answer or file "
                f"name, the first: '{sample.id}' at {sample.where}"
            )
        raise DataError(
            f"{folder}: was made on other training prompts: {n_gone:,} of {n_before:,} are no "
            f"longer there as they were{first}; go on with the same --data, {mend}"
        )
    if before["model"] != now["model"]:
        raise DataError(
            f"{folder}: was made with other weights or another config under the same --model; "
            f"bring them back, {mend}"
        )

    # what may be; a checkpoint of an older version says nothing of wording and rewards
    if before.get("wording", now["wording"]) != now["wording"]:
        say(
            "the prompts are worded otherwise than before: stored completions answer the old "
            "wording, and their ratios compare two prompts; to leave them behind, start another run"
        )
    if before.get("rewards", now["rewards"]) != now["rewards"]:
        say(
            f"the rewards weigh {now['rewards']} now, before {before['rewards']}: Rbar(q) and "
            "stored completions are of both; to leave the old ones behind, start another run"
        )
    if differing(before["records"], now["records"]):
        say("the records stand in another order than before: the run goes on, but not bit for bit")
        return  # what follows is compared place by place
    media = differing(before["media"], now["media"])
    if media:
        first = samples[media[0]]
        say(
            f"{len(media):,} of {n_now:,} records have media of another size or time than before, "
            f"the first: '{first.id}' ({', '.join(path for _, path in first.media)})"
        )
    same_number = len(before["heldout"]) == len(now["heldout"])
    if not same_number or differing(before["heldout"], now["heldout"]):
        say("the held-out questions are others than before: accuracies do not compare")


def compared(before: Tensor, now: Tensor) -> tuple[list[int], int]:
    """(the places of `now` that are not among `before`, how many of `before` are not in `now`)."""
    digests_before = {bytes(row) for row in before.numpy()}
    digests_now = [bytes(row) for row in now.numpy()]
    new = [i for i, digest in enumerate(digests_now) if digest not in digests_before]
    return new, len(digests_before - set(digests_now))


def differing(before: Tensor, now: Tensor) -> list[int]:
    """The places at which two lists of digests (n, BYTES) differ."""
    return (before != now).any(dim=1).nonzero().flatten().tolist()


def say(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
