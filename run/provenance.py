"""run/provenance.py: what a run was made with, by content: its records, their media, its model.

A run that goes on with other questions or other gold answers under the same ids would be neither
the old run nor a new one, so that is refused. Media of another size or time, and other held-out
questions, are listed: they may have been copied anew.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from engine.families import DEFAULT_MODEL
from formats.sample import DataError, Sample, file_of

BYTES = 8  # of a digest of one record


def provenance(samples: list[Sample], heldout: list[Sample], model: str) -> dict:
    """What tells the data and the model of two runs apart, as tensors and texts of a checkpoint.

    heldout: those of this process.
    """
    return {
        "records": digests([record_digest(sample) for sample in samples]),
        "media": digests([media_digest(sample) for sample in samples]),
        "heldout": digests([record_digest(sample) for sample in heldout]),
        "model": model_digest(model or DEFAULT_MODEL),
    }


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
    """Of the sizes of a model folder's weights, their headers and their first and last MB, and of
    its config; of a hub model its name.

    Not of every byte: a 7B has 15 GB, and each start would read them twice.
    """
    folder = Path(model)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")])
    if not files:
        return model
    hasher = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        hasher.update(f"{file.name} {size} ".encode())
        with file.open("rb") as content:
            hasher.update(content.read(2**20))
            content.seek(max(0, size - 2**20))
            hasher.update(content.read())
    return hasher.hexdigest()


def check_provenance(folder: Path, before: dict, now: dict, samples: list[Sample]) -> None:
    """Compare a checkpoint with the run that goes on from it. samples: those of `now`.

    Raises DataError for other records and for another model; says on stderr what else has changed.
    """
    mend = "or start another run with another --out"
    n_before, n_now = len(before["records"]), len(now["records"])
    if n_before != n_now:
        raise DataError(
            f"{folder}: was made on other training prompts: {n_before:,} records then, {n_now:,} "
            f"now; go on with the same --data, {mend}"
        )
    changed = differing(before["records"], now["records"])
    if changed:
        first = samples[changed[0]]
        raise DataError(
            f"{folder}: was made on other training prompts: {len(changed):,} of {n_now:,} records "
            f"have another text, answer or file name now, the first: '{first.id}' at "
            f"{first.where}; go on with the same --data, {mend}"
        )
    if before["model"] != now["model"]:
        raise DataError(
            f"{folder}: was made with other weights or another config under the same --model; "
            f"bring them back, {mend}"
        )

    # what may be
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


def differing(before: Tensor, now: Tensor) -> list[int]:
    """The places at which two lists of digests (n, BYTES) differ."""
    return (before != now).any(dim=1).nonzero().flatten().tolist()


def say(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
