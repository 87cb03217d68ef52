"""All that is measured on a GPU, in one command: parts in order of worth, each with a deadline.

    python bench/gpu.py --minutes 25
    python bench/gpu.py --minutes 6 --only agreement decode-1x8-P8192
    python bench/gpu.py --dry              # every program at a tiny size, with or without a GPU,
                                           # into runs/gpu-dry

A part is one of the other programs, in a process of its own. What it writes is there as soon as it
ends, in bench/results/gpu/: PART.json the figures, PART.log what it printed, and summary.json how
long each part took and how it ended. A part that fails or outlives its deadline does not stop the
others; the exit status says whether all went well. When less time is left than a part's deadline,
it gets what is left.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parent.parent
SHORT = 20  # seconds in which no part can do anything


@dataclass
class Part:
    """One program. minutes: its deadline; command: its words on a GPU; dry: its words in a dry run,
    "" where another part tries the program there. writes_json: does it take --json FILE?"""

    name: str
    minutes: float
    command: str
    dry: str = ""
    writes_json: bool = True


OURS = "--repeats 2 --ours_only"
TINY = "--prompt 40 --group 2 --tokens 4 --repeats 1"
SMALL_RUN = (
    "--data toy:8,4 --prompts_per_step 4 --fresh 2 --max_completion_tokens 32 --eval_every 0"
)
TORCHRUN = "-m torch.distributed.run --nproc_per_node=1 train.py --train_type full"
MEMORY = "--prompts 4 --group 8 --frames 50 --seconds 60 --tokens 512"  # prompts of 8,000 tokens

# Shapes of the 7B: P = 8,192 or 2,048 prompt tokens and 8 completions. `step-32` is the goal of
# docs/speed.md: 256 completions of 256 tokens behind prompts of 4,600.
PARTS = [
    Part("agreement", 2, "bench/agreement.py --size 7b", "bench/agreement.py"),
    Part("decode-1x8-P8192", 1, f"bench/rollout.py --size 7b --prompt 8192 --tokens 256 {OURS}"),
    Part("update-P8192", 1.5, f"bench/update.py --size 7b --prompt 8192 --tokens 256 {OURS}"),
    Part(
        "step-32",
        4,
        "bench/step.py --size 7b --prompts 32 --frames 24 --seconds 60 --tokens 256 --repeats 1 "
        "--ours_only",
    ),
    Part(
        "quickstart",
        3,
        "train.py --lr 2e-4 --steps 30 --eval_every 0 --out {folder}/runs/quickstart",
        writes_json=False,
    ),
    Part("memory-7b", 2, f"bench/memory.py --size 7b --train_types lora {MEMORY}"),
    Part(
        "torchrun",
        2,
        f"{TORCHRUN} --steps 4 --eval_every 0 --out {{folder}}/runs/torchrun",
        f"{TORCHRUN} --steps 2 {SMALL_RUN} --out {{folder}}/runs/torchrun",
        writes_json=False,
    ),
    Part(
        "memory-3b",
        3,
        f"bench/memory.py --size 3b {MEMORY}",
        "bench/memory.py --group 2 --train_types full",
    ),
    Part(
        "step-peers",
        4,
        "bench/step.py --size 7b --prompts 2 --frames 8 --seconds 15 --tokens 128 --repeats 1",
        "bench/step.py --prompts 2 --group 4 --tokens 4 --repeats 1",
    ),
    Part(
        "decode-4x8-P2048",
        4,
        "bench/rollout.py --size 7b --prompts 4 --prompt 2048 --tokens 128 --repeats 1",
        f"bench/rollout.py {TINY} --prompts 2",
    ),
    Part(
        "update-P2048",
        2,
        "bench/update.py --size 7b --prompt 2048 --tokens 256 --repeats 2",
        f"bench/update.py {TINY} --ours_only",
    ),
]


def run_part(part: Part, folder: Path, dry: bool, seconds: float) -> dict:
    """Run a part for at most so many seconds: its line of summary.json."""
    words = (part.dry if dry else part.command).format(folder=folder).split()
    if part.writes_json:
        words += ["--json", str(folder / f"{part.name}.json")]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    log = folder / f"{part.name}.log"
    started = time.monotonic()
    with log.open("w") as file:
        # a session of its own, so that a signal reaches its children, too
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=REPO,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
            outcome = "done" if status == 0 else f"failed with {status}"
        except subprocess.TimeoutExpired:
            outcome = f"stopped after {seconds:.0f} s"
        finally:
            stop(process)
    return {
        "part": part.name,
        "command": " ".join(["python", *words]),
        "outcome": outcome,
        "seconds": round(time.monotonic() - started, 1),
    }


def stop(process: subprocess.Popen) -> None:
    """End a process that runs; torchrun needs a moment to end its workers."""
    for sign, grace in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--minutes", type=float, default=25, help="for all parts together")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART")
    parser.add_argument("--dry", action="store_true", help="every program at a tiny size")
    parser.add_argument("--out", type=Path, help="bench/results/gpu; of a dry run runs/gpu-dry")
    args = parser.parse_args()
    default = REPO / "runs" / "gpu-dry" if args.dry else REPO / "bench" / "results" / "gpu"
    folder = (args.out or default).resolve()
    folder.mkdir(parents=True, exist_ok=True)

    end = time.monotonic() + 60 * args.minutes
    summary = []
    for part in PARTS:
        left = end - time.monotonic()
        if part.name not in args.only or (args.dry and not part.dry):
            continue
        if left < SHORT:
            summary.append({"part": part.name, "outcome": "no time was left"})
        else:
            summary.append(run_part(part, folder, args.dry, min(left, 60 * part.minutes)))
        (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(f"\n{'=' * 60}\n{summary[-1]}", flush=True)
        log = folder / f"{part.name}.log"
        if log.is_file():
            print("\n".join(log.read_text(errors="replace").splitlines()[-25:]), flush=True)
    if any(line["outcome"] != "done" for line in summary):
        sys.exit("not all parts are done")


if __name__ == "__main__":
    main()
