"""Bad input of five kinds, ten minutes each: does anything end in a traceback, hang, or go
unnoticed?

    python bench/fuzz.py                               # all five: 50 minutes on one core
    python bench/fuzz.py --only records --minutes 1
    python bench/fuzz.py --json bench/results/fuzz.json

    replies      what a model may write: read and scored by every problem type and benchmark
    verdicts     what a judge may write
    records      files of records of every form, with odd values, types and bytes
    checkpoints  the files of a small run, damaged, and then --resume
    media        the files of tests/corpus.py and tests/odd_media.py, then good files with changed
                 bytes, each in a process of its own with bounded memory and a deadline

What must not happen is a "find": it is printed with its input, and the exit status is 1. Replies,
verdicts and records are made by hypothesis, which shrinks what it finds.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from common import format_table, versions  # puts the project's folder on the path
from fuzz_files import fuzz_checkpoints, fuzz_media
from fuzz_text import fuzz_records, fuzz_replies, fuzz_verdicts

TARGETS = {
    "replies": fuzz_replies,
    "verdicts": fuzz_verdicts,
    "records": fuzz_records,
    "checkpoints": fuzz_checkpoints,
    "media": fuzz_media,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    args = parser.parse_args()

    rows = []
    finds = {}
    for target in args.only:
        tally = TARGETS[target](time.monotonic() + 60 * args.minutes)
        rows += tally.rows(target)
        finds[target] = tally.finds
        print(format_table(tally.rows(target)), flush=True)

    n_tried = sum(row["tried"] for row in rows)
    n_finds = sum(map(len, finds.values()))
    print(f"{n_tried:,} bad inputs, {n_finds} finds")
    if args.json:
        head = {"command": " ".join(["python", *sys.argv]), **versions(), "tried": n_tried}
        content = {**head, "rows": rows, "finds": finds}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(n_finds > 0)


if __name__ == "__main__":
    main()
