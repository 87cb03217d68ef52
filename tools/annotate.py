"""tools/annotate.py: hints and captions, written by another model."""

import argparse
import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.answers import words_of
from data import question_text
from formats.files import read_records, write_whole
from formats.load import load_samples
from formats.sample import DataError, Sample
from judge import Endpoint, LocalModel, Request, each, watch
from media.cache import load_media
from media.decode import MediaSettings
from media.errors import MediaError, record_name
from media.prompt_format import MIN_PIXELS
from media.workers import Decoders
from problems import NUMBER_WORDS, places
from rewards import accuracy_reward


def hint_prompt(sample: Sample) -> str:
    return "\n\n".join(
        [
            "These are frames of a video, in order. A student has to answer a question about the video and its sound and is stuck.",
            question_text(sample),
            "The right answer is: "
            + sample.answer
            + ("\nThe sound: " + sample.audio_caption if sample.audio_caption else ""),
            "Write a hint of one or two sentences: a strategy, such as what to look for or listen for first. Do not give the answer away, "
            "not even a part of it. Reply with the hint only.",
        ]
    )


def caption_prompt(sample: Sample) -> str:
    return "Describe what can be heard in this recording in one or two sentences: the sounds, what makes them, and when. Reply with the description only."


def reveals(hint: str, sample: Sample) -> bool:
    """Does a hint hold the gold answer? It does when the answer's words stand in it one after the other, when a multiple-choice hint names the
    right option's letter or text, or when the hint as a whole would be scored as right.

    >>> s = Sample("a", "Which?", "multiple choice", "B", options=["A. red disc", "B. blue disc"])
    >>> reveals("Look for the blue disc.", s), reveals("Choose (B).", s), reveals("Watch both discs.", s)
    (True, True, False)
    """
    said, gold = f" {words_of(hint)} ", [sample.answer]
    if sample.problem_type in ("multiple choice", "multi-label"):
        letters = {part.strip() for part in sample.answer.replace(";", ",").split(",")}
        gold = [
            o.split(".", 1)[-1] for o in sample.options if o.split(".", 1)[0].strip() in letters
        ]
        named = [
            form.format(letter)
            for letter in letters
            for form in ("({})", " {})", " {}.", " option {} ", " answer is {}")
        ]
        if any(form in f" {hint} " for form in named):
            return True
    if sample.problem_type == "localisation":
        gold = [
            f"{a} {b}"
            for place, thing in places(sample.answer)
            for a, b in ((place, thing), (thing, place))
        ]
    if sample.problem_type in ("numeric", "counting", "regression"):
        gold += [
            word for word, n in NUMBER_WORDS.items() if n > 1 and str(n) == sample.answer
        ]  # "one" and "no" are too common to tell
    return (
        any(words_of(g) and f" {words_of(g)} " in said for g in gold)
        or accuracy_reward(hint, sample.answer, sample.problem_type, sample.options) == 1
    )


def annotate(
    kind: str,
    data: str,
    out: str,
    model: Endpoint | LocalModel,
    media_root: str = "",
    batch: int = 8,
    progress: bool = True,
    allow_outside: bool = False,
    workers: int = 0,
    timeout: float = 120.0,
) -> dict[str, int]:
    """Write `data` again as `out` with the field `hint` or `audio_caption` filled in; returns counts of made, kept, revealing, empty and unusable ones.

    Goes on where a stopped run ended: ids already in `out` are kept, a torn last line is dropped. Records that have the field already are
    copied. Left empty: a hint that gives the answer away, listed in `<out>.rejected`, and records whose media cannot be decoded, or hold no sound to
    caption, listed in `<out>.bad_media`. workers: processes that decode, each record's media within `timeout` seconds; 0: this process does, without a
    limit. Media paths stay as they were.
    """
    name, look = {"hint": ("hint", watch), "caption": ("audio_caption", listen)}[kind]
    if Path(out).resolve() == Path(data).resolve():
        raise DataError(f"{out}: --out must be another file than --data")
    samples = {s.id: s for s in load_samples(data, media_root, allow_outside=allow_outside)}
    raw = (
        []
        if Path(data).suffix in (".yaml", ".yml")
        else [record for _, record in read_records(Path(data))]
    )
    if {str(record.get("id")) for record in raw} != samples.keys():
        raise DataError(
            f"{data}: hints and captions are written into this project's own JSONL; make one by: python data.py {data} --convert OUT.jsonl"
        )
    done, kept = set(), []
    if Path(out).is_file():
        for line in Path(out).read_bytes().split(b"\n"):
            try:
                done.add(str(json.loads(line)["id"]))
                kept.append(line + b"\n")
            except (ValueError, KeyError):
                break  # the line a stopped run was writing, or the end
        write_whole(Path(out), b"".join(kept))
    counts = {"made": 0, "kept": len(done), "revealing": 0, "empty": 0, "unusable": 0}
    todo = [r for r in raw if str(r["id"]) not in done]
    with (
        open(out, "a", encoding="utf-8") as file,
        open(f"{out}.rejected", "a", encoding="utf-8") as rejected,
        open(f"{out}.bad_media", "a", encoding="utf-8") as bad,
        contextlib.closing(Decoders(workers, timeout, look))
        if workers
        else contextlib.nullcontext() as decoders,
    ):
        for i in tqdm(range(0, len(todo), batch), desc=f"writing {name}s", disable=not progress):
            some = todo[i : i + batch]
            empty = [(r, samples[str(r["id"])]) for r in some if not r.get(name)]
            ask: list[tuple[dict, Sample, Request]] = []
            for (record, sample), media in zip(
                empty, each(look, [s for _, s in empty], decoders), strict=True
            ):
                if isinstance(media, MediaError):
                    counts["unusable"] += 1
                    bad.write(
                        json.dumps({"id": sample.id, "path": media.path, "reason": str(media)})
                        + "\n"
                    )
                    record[name] = ""
                else:
                    ask.append(
                        (
                            record,
                            sample,
                            Request(hint_prompt(sample), media)
                            if kind == "hint"
                            else Request(caption_prompt(sample), sound=media),
                        )
                    )
            for (record, sample, _), reply in zip(
                ask, model.ask([r for _, _, r in ask]) if ask else [], strict=True
            ):
                text = " ".join(reply.split())
                if kind == "hint" and text and reveals(text, sample):
                    counts["revealing"] += 1
                    rejected.write(
                        json.dumps({"id": sample.id, "answer": sample.answer, "hint": text}) + "\n"
                    )
                    text = ""
                elif not text:
                    counts["empty"] += 1
                else:
                    counts["made"] += 1
                record[name] = text
            counts["kept"] += len(some) - len(empty)
            file.write("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in some))
            for one in (bad, rejected, file):
                one.flush()
    return counts


def listen(sample: Sample) -> np.ndarray:
    """A sample's sounds one after another, (n,) float32 mono at 16 kHz. Raises MediaError when it has none."""
    sounds = [
        m.sound
        for m in load_media(sample, MediaSettings(fps=1.0, max_frames=2, max_pixels=MIN_PIXELS))
        if m.sound is not None
    ]
    if not sounds:
        raise MediaError(
            record_name(sample),
            "there is no sound, neither a file of its own nor of a video, so there is nothing to caption",
        )
    return np.concatenate(sounds)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=("hint", "caption"))
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
        help="address of an OpenAI-compatible server, e.g. http://localhost:8000/v1; empty: load the model here",
    )
    parser.add_argument(
        "--media_root",
        default="",
        help="folder that media paths are relative to; empty: the JSONL's own folder",
    )
    parser.add_argument(
        "--allow_outside",
        action="store_true",
        help="trust the data set to name files outside of its media folder",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where a model that is loaded here runs",
    )
    parser.add_argument("--batch", type=int, default=8, help="records per batch")
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="processes that decode; 0: this one does, without --media_timeout",
    )
    parser.add_argument(
        "--media_timeout",
        type=float,
        default=120.0,
        help="seconds that decoding a record's media may take",
    )
    args = parser.parse_args(argv)
    model = (
        Endpoint(args.endpoint, args.model)
        if args.endpoint
        else LocalModel(args.model, args.device, batch=args.batch)
    )
    counts = annotate(
        args.kind,
        args.data,
        args.out,
        model,
        args.media_root,
        args.batch,
        allow_outside=args.allow_outside,
        workers=args.workers,
        timeout=args.media_timeout,
    )
    print(
        f"{args.out}: "
        + ", ".join(f"{n:,} {what}" for what, n in counts.items())
        + (f"; the revealing ones are listed in {args.out}.rejected" if counts["revealing"] else "")
        + (f"; the unusable ones are listed in {args.out}.bad_media" if counts["unusable"] else "")
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DataError as error:
        sys.exit(f"error: {error}")
