"""tools/check_data.py: walk a data set: what is there, what is broken, what would be dropped."""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data import Prompt, PromptBuilder, TooLong, question_text
from formats.load import load_samples
from formats.own import save_samples
from formats.sample import DataError, Sample
from media.decode import MediaSettings


def check(
    samples: list[Sample],
    builder: PromptBuilder,
    problems: list[str],
    batch: int = 64,
    show: int = 20,
) -> str:
    """A report on a data set: records by type, media by kind, prompt lengths in tokens, and what would be dropped and why. problems: sentences on
    records that could not be read (load_samples). Every medium is decoded, as training would."""
    lengths, dropped = [], {"record cannot be read": list(problems)}
    for i in tqdm(range(0, len(samples), batch), desc="decoding", unit_scale=batch):
        builder.prefetch(samples[i : i + 2 * batch])
        for prompt in builder.build(samples[i : i + batch]):
            if isinstance(prompt, Prompt):
                lengths.append(len(prompt.ids))
            else:
                dropped.setdefault(
                    "prompt too long"
                    if isinstance(prompt, TooLong)
                    else "media missing or unusable",
                    [],
                ).append(str(prompt))
    lines = [f"{len(samples) + len(problems):,} records, {len(lengths):,} of them usable"]
    for title, names in (
        ("by problem type", [s.problem_type for s in samples]),
        ("by media", [" + ".join(k for k, _ in s.media) or "text" for s in samples]),
        ("by stage", [str(s.stage) for s in samples if s.stage is not None]),
        ("with a hint", ["yes" for s in samples if s.hint]),
        ("with a trace for stage 0", ["yes" for s in samples if s.trace]),
    ):
        if names:
            lines.append(
                f"{title}: "
                + ", ".join(f"{name} {n:,}" for name, n in Counter(names).most_common())
            )
    if lengths:
        low, middle, high, top = np.percentile(lengths, [0, 50, 95, 100]).astype(int)
        lines.append(
            f"tokens per prompt: least {low:,}, median {middle:,}, 95 % below {high:,}, most {top:,}; {sum(lengths):,} in all"
        )
    if builder.silent:
        lines.append(
            f"videos without a sound track, asked without sound: {len(builder.silent):,}, e.g. {min(builder.silent)}"
        )
    for reason, sentences in dropped.items():
        if sentences:
            lines.append(f"dropped, {reason}: {len(sentences):,}")
            lines += [f"  {sentence}" for sentence in sentences[:show]] + (
                [f"  .. and {len(sentences) - show:,} more"] if len(sentences) > show else []
            )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    from engine.families import DEFAULT_MODEL, load_tokenizer_and_config, prompt_format

    parser = argparse.ArgumentParser(
        description="Look at a data set as the model will.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data", help="records of any format of records.py")
    parser.add_argument(
        "--check",
        action="store_true",
        help="walk the whole data set and report; without: print the first prompts",
    )
    parser.add_argument(
        "--convert",
        default="",
        help="write the records to this file in this project's own JSONL, media paths in full",
    )
    parser.add_argument(
        "--model",
        default=str(DEFAULT_MODEL),
        help="model folder or hub name; only its tokenizer and config are read",
    )
    parser.add_argument(
        "--media_root",
        default="",
        help="folder that media paths are relative to; empty: the data file's own folder",
    )
    parser.add_argument(
        "--allow_outside",
        action="store_true",
        help="trust the data set to name files outside of its media folder",
    )
    parser.add_argument("-n", type=int, default=2, help="how many prompts to print")
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--max_frames", type=int, default=16)
    parser.add_argument("--max_pixels", type=int, default=50_176)
    parser.add_argument("--max_prompt_tokens", type=int, default=16_384)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    if args.convert:
        samples = load_samples(
            args.data,
            Path(args.media_root).absolute() if args.media_root else None,
            allow_outside=args.allow_outside,
        )
        for s in samples:
            for paths in (s.videos, s.images, s.audios):
                paths[:] = [os.path.abspath(p) for p in paths]
            s.soundtrack = s.soundtrack and os.path.abspath(s.soundtrack)
        save_samples(Path(args.convert), samples)
        print(f"{args.convert}: {len(samples):,} records")
        return
    tokenizer, config = load_tokenizer_and_config(args.model)
    builder = PromptBuilder(
        tokenizer,
        prompt_format(config),
        MediaSettings(fps=args.fps, max_frames=args.max_frames, max_pixels=args.max_pixels),
        max_prompt_tokens=args.max_prompt_tokens,
        workers=args.workers if args.check else 0,
    )
    if args.check:
        problems: list[str] = []
        print(
            check(
                load_samples(
                    args.data, args.media_root, problems=problems, allow_outside=args.allow_outside
                ),
                builder,
                problems,
            )
        )
        return
    for sample in load_samples(args.data, args.media_root, allow_outside=args.allow_outside)[
        : args.n
    ]:
        made = builder(sample)
        print(
            f"--- {sample.id}: {len(made.ids)} tokens, grids {made.grids}, mel frames {[m.shape[1] for m in made.mels]}, "
            f"last position {made.next_position - 1}, gold {sample.answer!r}"
        )
        print(question_text(sample))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DataError as error:
        sys.exit(f"error: {error}")
