"""tools/annotate.py: write the hints or the audio captions of a data set, by asking another model.

    python -m tools.annotate hint    --data DATA.jsonl --out WITH_HINTS.jsonl \\
        --model Qwen/Qwen2.5-VL-72B-Instruct
    python -m tools.annotate caption --data DATA.jsonl --out WITH_CAPTIONS.jsonl \\
        --model kimi-audio --endpoint http://localhost:8000/v1

    record --look--> frames or sound --Request--> model --reply--> checked --> the record's field

The paper's hints were written by Qwen2.5-VL-72B, its audio captions by Kimi-Audio. A hint is shown
with a prompt whose answers stay wrong (replay.py tells when); it must not give the answer away, so
each one is checked by `reveals`.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data import question_text
from formats.files import read_records
from formats.load import load_samples
from formats.sample import DataError, Sample, first_line
from judge import try_each, watch
from media.cache import load_media
from media.decode import MediaSettings
from media.errors import MediaError, record_name
from media.prompt_format import MIN_PIXELS
from media.workers import MEDIA_TIMEOUT, Decoders
from problems import places
from reading.number_words import NUMBER_WORDS
from reading.text import words_of
from rewards import accuracy_reward
from run.flags import Parser, check_place, number_in
from run.session import ends_in_a_sentence
from tools.chat import Endpoint, LocalModel, Request

REJECTED = ".rejected"  # behind the name of --out: hints that give the answer away
BAD_MEDIA = ".bad_media"  # and records whose media cannot be used
ENDINGS = (REJECTED, BAD_MEDIA)


# ------------------------------------------------------------------ what is asked
def hint_request(sample: Sample, frames: list[np.ndarray] | None) -> Request:
    solution = "The right answer is: " + sample.answer
    if sample.audio_caption:
        solution += "\nThe sound: " + sample.audio_caption
    text = "\n\n".join(
        [
            "These are frames of a video, in order. A student has to answer a question about the "
            "video and its sound and is stuck.",
            question_text(sample),
            solution,
            "Write a hint of one or two sentences: a strategy, such as what to look for or listen "
            "for first. Do not give the answer away, not even a part of it. Reply with the hint "
            "only.",
        ]
    )
    return Request(text, frames)


def caption_request(sample: Sample, sound: np.ndarray) -> Request:
    text = (
        "Describe what can be heard in this recording in one or two sentences: the sounds, what "
        "makes them, and when. Reply with the description only."
    )
    return Request(text, sound=sound)


def listen(sample: Sample) -> np.ndarray:
    """A sample's sounds one after another, (n,) float32 mono at 16 kHz. Raises MediaError when it
    has none."""
    settings = MediaSettings(fps=1.0, max_frames=2, max_pixels=MIN_PIXELS)  # few, small pictures
    media = load_media(sample, settings)
    sounds = [medium.sound for medium in media if medium.sound is not None]
    if not sounds:
        raise MediaError(
            record_name(sample),
            "there is no sound, neither a file of its own nor of a video, so there is nothing to "
            "caption",
        )
    return np.concatenate(sounds)


@dataclass(frozen=True)
class Task:
    """What is written: the record's field; what the model gets to see or hear (`look`, of a
    module's top level, since other processes call it); and how it is asked."""

    field: str
    look: Callable[[Sample], object]
    request: Callable[[Sample, object], Request]


TASKS = {
    "hint": Task("hint", watch, hint_request),
    "caption": Task("audio_caption", listen, caption_request),
}


# ------------------------------------------------------------------ what a hint must not say
def reveals(hint: str, sample: Sample) -> bool:
    """Does a hint hold the gold answer? It does when the answer's words stand in it one after the
    other, when a multiple-choice hint names the right option's letter or text, or when the hint
    as a whole would be scored as right.

    >>> options = ["A. red disc", "B. blue disc"]
    >>> sample = Sample("a", "Which?", "multiple choice", "B", options=options)
    >>> reveals("Look for the blue disc.", sample), reveals("Choose (B).", sample)
    (True, True)
    >>> reveals("Watch both discs.", sample)
    False
    """
    if names_letter(hint, right_letters(sample)):
        return True

    words = f" {words_of(hint)} "
    for phrase in gold_phrases(sample):
        if words_of(phrase) and f" {words_of(phrase)} " in words:
            return True
    return accuracy_reward(hint, sample.answer, sample.problem_type, sample.options) == 1


def right_letters(sample: Sample) -> set[str]:
    """The letters of the right options: {"A", "C"} of the answer "A, C"; none without options."""
    if sample.problem_type not in ("multiple choice", "multi-label"):
        return set()
    return {letter.strip() for letter in sample.answer.replace(";", ",").split(",")}


def names_letter(hint: str, letters: set[str]) -> bool:
    """Is an option called by its letter? A letter alone tells nothing: "A" is a word, too."""
    for letter in letters:
        for form in ("({})", " {})", " {}.", " option {} ", " answer is {}"):
            if form.format(letter) in f" {hint} ":
                return True
    return False


def gold_phrases(sample: Sample) -> list[str]:
    """The ways of writing the answer that must not stand in a hint."""
    letters = right_letters(sample)
    if letters:
        phrases = []
        for option in sample.options:
            letter, dot, text = option.partition(".")
            if letter.strip() in letters:
                phrases.append(text if dot else option)
        return phrases

    if sample.problem_type == "localisation":
        phrases = []
        for where, thing in places(sample.answer):
            phrases += [f"{where} {thing}", f"{thing} {where}"]
        return phrases

    phrases = [sample.answer]
    if sample.problem_type in ("numeric", "counting", "regression"):
        # "one" and "no" are too common to give anything away.
        phrases += [w for w, n in NUMBER_WORDS.items() if n > 1 and str(n) == sample.answer]
    return phrases


# ------------------------------------------------------------------ records in, records out
def read_own_records(data: str, media_root: str) -> tuple[list[dict], dict[str, Sample]]:
    """The records of a JSONL in this project's own format as they stand there, and as Samples by
    id. Raises DataError for another format, whose records could not be written back."""
    samples = {s.id: s for s in load_samples(data, media_root)}
    records = []
    if Path(data).suffix not in (".yaml", ".yml"):
        records = [record for _, record in read_records(Path(data))]
    if not samples.keys() <= {str(record.get("id")) for record in records}:
        raise DataError(
            f"{data}: hints and captions are written into this project's own JSONL; "
            f"make one by: python -m tools.check_data {data} --convert OUT.jsonl"
        )
    return records, samples


def finished_ids(out: Path, known: set[str]) -> set[str]:
    """The ids that a stopped run has written. The line that it was writing is cut off.

    Raises DataError, and changes nothing, where the file is not of such a run: every line but the
    last must be a record of ours, of an id that is known.
    """
    if not out.is_file():
        return set()
    lines = out.read_bytes().split(b"\n")
    ids: set[str] = set()
    for number, line in enumerate(lines[:-1], 1):
        record_id = id_of_line(line)
        if record_id not in known or record_id in ids:
            raise DataError(
                f"{out}:{number}: is no line of an earlier run on these records, so the file is "
                "left as it is; pass another --out"
            )
        ids.add(record_id)
    torn = lines[-1]
    if torn and not torn.startswith(b"{"):
        raise DataError(
            f"{out}: its end is no record, so the file is left as it is; pass another --out"
        )
    if torn:
        os.truncate(out, out.stat().st_size - len(torn))
    return ids


def id_of_line(line: bytes) -> str | None:
    """The id of a record, None for a line that is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return str(record["id"]) if isinstance(record, dict) and "id" in record else None


def append_jsonl(path: str, records: list[dict]) -> None:
    if records:
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in records)


# ------------------------------------------------------------------ the work
@dataclass
class BatchResult:
    """What became of the records whose field was asked for."""

    made: int = 0
    empty: int = 0  # replies without a word
    revealing: list[dict] = field(default_factory=list)  # hints that give the answer away
    unusable: list[dict] = field(default_factory=list)  # records whose media are


def annotate(
    kind: str,
    data: str,
    out: str,
    model: Endpoint | LocalModel,
    media_root: str = "",
    batch: int = 8,
    workers: int = 0,
) -> dict[str, int]:
    """Write `data` again as `out`, with each record's `hint` (kind "hint") or `audio_caption` (kind
    "caption") filled in. Returns counts of made, kept, revealing, empty and unusable ones.

    A run goes on where a stopped one ended. Records that have the field already are copied. It
    stays empty where a hint gives the answer away (listed in `<out>.rejected`), and where the media
    cannot be decoded or hold no sound to caption (listed in `<out>.bad_media`). Media paths stay as
    they are.

    workers: processes that decode, each record's media within MEDIA_TIMEOUT; 0: this process does,
    without a limit.
    """
    if Path(out).resolve() == Path(data).resolve():
        raise DataError(f"{out}: --out must be another file than --data")
    task = TASKS[kind]
    records, samples = read_own_records(data, media_root)
    done = finished_ids(Path(out), samples.keys())
    todo = [record for record in records if str(record["id"]) not in done]
    counts = {"made": 0, "kept": len(done), "revealing": 0, "empty": 0, "unusable": 0}

    with contextlib.ExitStack() as stack:
        decoders = None
        if workers:
            decoders = stack.enter_context(
                contextlib.closing(Decoders(workers, MEDIA_TIMEOUT, task.look))
            )
        for i in tqdm(range(0, len(todo), batch), desc=f"writing {task.field}s", disable=None):
            chunk = todo[i : i + batch]
            lacking = []
            for record in chunk:
                sample = samples.get(str(record["id"]))  # None: training would leave it out
                if sample and not record.get(task.field):
                    lacking.append((record, sample))
            result = fill_in(task, lacking, model, decoders)

            # The records last: an id in `out` means that its record is done.
            append_jsonl(f"{out}{BAD_MEDIA}", result.unusable)
            append_jsonl(f"{out}{REJECTED}", result.revealing)
            append_jsonl(out, chunk)

            counts["made"] += result.made
            counts["kept"] += len(chunk) - len(lacking)
            counts["revealing"] += len(result.revealing)
            counts["empty"] += result.empty
            counts["unusable"] += len(result.unusable)
    return counts


def fill_in(
    task: Task,
    lacking: list[tuple[dict, Sample]],
    model: Endpoint | LocalModel,
    decoders: Decoders | None,
) -> BatchResult:
    """Set the field of these records (each with its Sample), in place."""
    result = BatchResult()
    asked: list[tuple[dict, Sample]] = []
    requests: list[Request] = []
    looks = try_each(task.look, [sample for _, sample in lacking], decoders)
    for (record, sample), media in zip(lacking, looks, strict=True):
        if isinstance(media, MediaError):
            record[task.field] = ""
            reason = {"id": sample.id, "path": media.path, "reason": str(media)}
            result.unusable.append(reason)
        else:
            asked.append((record, sample))
            requests.append(task.request(sample, media))

    replies = model.ask(requests) if requests else []
    for (record, sample), reply in zip(asked, replies, strict=True):
        text = " ".join(reply.split())  # one line
        if task.field == "hint" and text and reveals(text, sample):
            result.revealing.append({"id": sample.id, "answer": sample.answer, "hint": text})
            text = ""
        elif text:
            result.made += 1
        else:
            result.empty += 1
        record[task.field] = text
    return result


# ------------------------------------------------------------------ the command
def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=tuple(TASKS))
    parser.add_argument("--data", required=True, help="records, JSONL")
    parser.add_argument(
        "--out",
        required=True,
        help="the same records with the field filled in; a stopped run goes on",
    )
    parser.add_argument(
        "--model", required=True, help="model folder or hub name, or the name a server knows it by"
    )
    parser.add_argument(
        "--endpoint",
        default="",
        help="address of an OpenAI-compatible server, e.g. http://localhost:8000/v1; "
        "empty: load the model here",
    )
    parser.add_argument(
        "--media_root",
        default="",
        help="folder that media paths are relative to; empty: the JSONL's own folder, which "
        "they then may not leave",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where a model that is loaded here runs",
    )
    parser.add_argument("--batch", type=number_in(int, 1), default=8, help="records per batch")
    parser.add_argument(
        "--workers",
        type=number_in(int, 0),
        default=2,
        help=f"processes that decode, each record within {MEDIA_TIMEOUT:g} s; "
        "0: this one does, without a limit",
    )
    return parser


def check_out(out: Path) -> None:
    """Raises DataError, or OSError, where replies could not be written: told before the first is
    asked for."""
    check_place(out, "--out", "annotated.jsonl")
    if os.path.lexists(out) and not out.is_file():
        raise DataError(f"{out}: is no file that replies can be written into; pass another --out")
    for ending in ENDINGS:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{out}{ending}").lstat()  # is the name too long?
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise DataError(f"{out}: cannot be written; see to its permissions, or pass another --out")


def check_device(name: str) -> None:
    """Raises DataError for what is no device of this machine."""
    try:
        torch.zeros(1, device=name).tolist()
    except (RuntimeError, AssertionError) as error:  # the latter where torch is built without CUDA
        raise DataError(
            f"--device {name}: cannot be used here ({first_line(error)[:100]}); pass cpu, or cuda "
            "where there is a GPU"
        ) from None


def main(argv: list[str]) -> None:
    args = make_parser().parse_args(argv)
    check_out(Path(args.out))
    if args.endpoint:
        model = Endpoint(args.endpoint, args.model)
    else:
        check_device(args.device)
        model = LocalModel(args.model, args.device, batch=args.batch)
    counts = annotate(
        args.kind, args.data, args.out, model, args.media_root, args.batch, args.workers
    )

    summary = f"{args.out}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items())
    if counts["revealing"]:
        summary += f"; the revealing ones are listed in {args.out}{REJECTED}"
    if counts["unusable"]:
        summary += f"; the unusable ones are listed in {args.out}{BAD_MEDIA}"
    print(summary)


if __name__ == "__main__":
    ends_in_a_sentence(main, sys.argv[1:])
