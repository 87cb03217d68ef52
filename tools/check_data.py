"""tools/check_data.py: walk a data set as training would, and say what is there and what is broken.

    python -m tools.check_data DATA                       # what would be dropped, and why
    python -m tools.check_data DATA --show 2              # the first prompts, as the model reads
    python -m tools.check_data DATA --convert OURS.jsonl  # write the records in our own form

DATA is a file of any form that formats/load.py reads.
"""

import argparse
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from config import Config
from data import Prompt, PromptBuilder, TooLong, question_text
from engine.families import DEFAULT_MODEL, load_tokenizer_and_config, prompt_format
from formats.confine import Confinement
from formats.load import load_samples
from formats.own import save_samples
from formats.sample import DataError, LeftOut, RepeatedRecord, Sample
from media.decode import MediaSettings
from run.flags import Parser, check_place, number_in, number_like
from run.session import ends_in_a_sentence


@dataclass
class Findings:
    """What a walk over a data set brought up."""

    lengths: list[int] = field(default_factory=list)  # tokens of every prompt that can be used
    unreadable: list[str] = field(default_factory=list)  # sentences on records, as below
    repeated: list[str] = field(default_factory=list)
    unrewardable: list[str] = field(default_factory=list)
    bad_media: list[str] = field(default_factory=list)
    too_long: list[str] = field(default_factory=list)
    bad_traces: list[str] = field(default_factory=list)  # of records that are used without them
    silent: list[str] = field(default_factory=list)  # paths of videos without a sound track


def walk(
    samples: list[Sample],
    builder: PromptBuilder,
    problems: list[str],
    left_out: list[LeftOut],
    batch: int = 64,
) -> Findings:
    """Build the prompt of every sample. Each medium is decoded, as training would.

    problems, left_out: what load_samples says on the records that are no sample.
    """
    findings = Findings(unreadable=list(problems))
    findings.bad_traces = [sample.bad_trace for sample in samples if sample.bad_trace]
    for error in left_out:
        repeats = isinstance(error, RepeatedRecord)
        (findings.repeated if repeats else findings.unrewardable).append(str(error))
    bar = tqdm(total=len(samples), desc="decoding")
    for i in range(0, len(samples), batch):
        # Two batches ahead, so that workers decode the next one while this one is built.
        builder.prefetch(samples[i : i + 2 * batch])
        for prompt in builder.build(samples[i : i + batch]):
            if isinstance(prompt, Prompt):
                findings.lengths.append(len(prompt.ids))
            elif isinstance(prompt, TooLong):
                findings.too_long.append(str(prompt))
            else:
                findings.bad_media.append(str(prompt))
            bar.update()
    bar.close()
    findings.silent = sorted(builder.silent)
    return findings


def report(samples: list[Sample], findings: Findings, most: int = 20) -> str:
    """The findings in words: records by type, media by kind, prompt lengths in tokens, and what
    training would leave out and why. most: sentences that are written out per reason."""
    n_records = len(samples) + len(findings.unreadable)
    n_records += len(findings.repeated) + len(findings.unrewardable)
    lines = [f"{n_records:,} records, {len(findings.lengths):,} of them usable"]

    # What is there.
    counts = {
        "by problem type": Counter(s.problem_type for s in samples),
        "by media": Counter(media_kinds(s) for s in samples),
        "by stage": Counter(str(s.stage) for s in samples if s.stage is not None),
        "with a hint": Counter("yes" for s in samples if s.hint),
        "with a trace for stage 0": Counter("yes" for s in samples if s.trace),
    }
    for title, counter in counts.items():
        if counter:
            items = [f"{name} {n:,}" for name, n in counter.most_common()]
            lines.append(f"{title}: {', '.join(items)}")

    # How long the prompts are.
    if findings.lengths:
        least, median, p95, most_tokens = np.percentile(findings.lengths, [0, 50, 95, 100])
        lines.append(
            f"tokens per prompt: least {int(least):,}, median {int(median):,}, "
            f"95 % below {int(p95):,}, most {int(most_tokens):,}; {sum(findings.lengths):,} in all"
        )
    if findings.silent:
        lines.append(
            "videos without a sound track, asked without sound: "
            f"{len(findings.silent):,}, e.g. {findings.silent[0]}"
        )

    # What ends training before it starts, and what it leaves out.
    reasons = {
        "record cannot be read, so training does not start": findings.unreadable,
        "left out, no reply can match the gold answer": findings.unrewardable,
        "left out, repeats another record": findings.repeated,
        "left out in stage 0 alone, its trace cannot be imitated": findings.bad_traces,
        "left out, media missing or unusable": findings.bad_media,
        "left out, prompt too long": findings.too_long,
    }
    for reason, sentences in reasons.items():
        if sentences:
            lines.append(f"{reason}: {len(sentences):,}")
            lines += [f"  {sentence}" for sentence in sentences[:most]]
        if len(sentences) > most:
            lines.append(f"  .. and {len(sentences) - most:,} more")
    return "\n".join(lines)


def media_kinds(sample: Sample) -> str:
    """The kinds of a sample's media in reading order: "video + audio"."""
    return " + ".join(kind for kind, _ in sample.media) or "text"


def show(samples: list[Sample], builder: PromptBuilder) -> None:
    """Print prompts: their text, their tokens, and how their media are cut up."""
    for sample in samples:
        prompt = builder(sample)
        mel_frames = [mel.shape[1] for mel in prompt.mels]
        print(
            f"--- {sample.id}: {len(prompt.ids)} tokens, grids {prompt.grids}, "
            f"mel frames {mel_frames}, last position {prompt.next_position - 1:g}, "
            f"gold {sample.answer!r}"
        )
        print(question_text(sample))


def convert(data: str, out: Path, media_root: str) -> None:
    """Write the records in this project's own form, media paths relative to the folder of `out`
    where they lie inside of it, else to the folder of the data.

    Raises DataError where `out` exists: it may be anything.
    """
    check_place(out, "--convert", "ours.jsonl")
    if os.path.lexists(out):
        raise DataError(f"{out}: exists already; pass another name to --convert, or move it away")
    samples = load_samples(data, media_root or None)
    root = Path(media_root or Path(data).parent)
    inside = Confinement(out.parent).holds(root)
    base = out.parent if inside else root
    for sample in samples:
        for paths in (sample.videos, sample.images, sample.audios):
            paths[:] = [os.path.relpath(path, base) for path in paths]
        if sample.soundtrack:
            sample.soundtrack = os.path.relpath(sample.soundtrack, base)
    save_samples(out, samples)
    flag = "" if inside else f"; its media lie elsewhere: pass --media_root {base} with it"
    n_bad = sum(bool(sample.bad_trace) for sample in samples)
    traces = f", {n_bad:,} of them without their trace, which cannot be imitated" if n_bad else ""
    print(f"{out}: {len(samples):,} records{traces}{flag}")


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        description="Look at a data set as the model will.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data", help="records of any form that formats/load.py reads")
    parser.add_argument(
        "--show",
        type=number_in(int, 0),
        default=0,
        metavar="N",
        help="print the first N prompts in place of the report",
    )
    parser.add_argument(
        "--convert",
        default="",
        metavar="FILE",
        help="write the records to FILE in our own form, media paths relative to its folder, and "
        "stop",
    )
    parser.add_argument(
        "--model",
        default=str(DEFAULT_MODEL),
        help="model folder or hub name; only its tokenizer and config are read",
    )
    parser.add_argument(
        "--media_root",
        default="",
        help="folder that media paths are relative to and stay in; empty: the data file's own",
    )
    # the ranges are those of train.py, which would refuse what was checked with others
    parser.add_argument("--fps", type=number_like(Config, "fps"), default=2.0)
    parser.add_argument("--max_frames", type=number_like(Config, "max_frames"), default=16)
    parser.add_argument("--max_pixels", type=number_like(Config, "max_pixels"), default=50_176)
    parser.add_argument(
        "--max_prompt_tokens", type=number_like(Config, "max_prompt_tokens"), default=16_384
    )
    parser.add_argument(
        "--workers",
        type=number_like(Config, "workers"),
        default=os.cpu_count() or 1,
        help="processes that decode; 0: this one does, without a time limit",
    )
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = arguments(argv)
    if args.convert:
        convert(args.data, Path(args.convert), args.media_root)
        return

    tokenizer, config = load_tokenizer_and_config(args.model)
    builder = PromptBuilder(
        tokenizer,
        prompt_format(config),
        MediaSettings(fps=args.fps, max_frames=args.max_frames, max_pixels=args.max_pixels),
        max_prompt_tokens=args.max_prompt_tokens,
        workers=0 if args.show else args.workers,
    )
    if args.show:
        show(load_samples(args.data, args.media_root)[: args.show], builder)
        return
    problems: list[str] = []
    left_out: list[LeftOut] = []
    samples = load_samples(args.data, args.media_root, problems=problems, left_out=left_out)
    print(report(samples, walk(samples, builder, problems, left_out)))


if __name__ == "__main__":
    ends_in_a_sentence(main, sys.argv[1:])
