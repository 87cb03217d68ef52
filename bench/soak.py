"""A long run of the tiny model: does memory, the number of open files, threads and processes, or the time of a step grow?

    python bench/soak.py                         # 1,500 steps; in a fifth of them as many completions are written as the buffer holds
    python bench/soak.py --steps 10000

train.py runs as a process of its own and is watched from outside. Slopes are least-squares lines over the last two thirds of the run; the two
figures of a step's time are the middle and the last third's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

REPO = Path(__file__).parent.parent


def watch(pid: int) -> dict[str, float]:
    """Resident memory in MB, open files, threads and child processes of a process, and the CPU seconds that it has used (Linux)."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    return {
        "memory_mb": int(status["VmRSS"].split()[0]) / 1e3,
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
        "processes": len(children),
        "cpu_s": ticks / os.sysconf("SC_CLK_TCK"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--json", default="", help="also write the figures to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        process = subprocess.Popen(
            [
                sys.executable,
                str(REPO / "train.py"),
                "--out",
                str(out),
                "--steps",
                str(args.steps),
                "--eval_every",
                str(args.steps // 5),
                "--save_every",
                str(args.steps // 10),
                "--toy_clips",
                "64",
                "--toy_heldout",
                "8",
                "--prompts_per_step",
                "4",
                "--replay_min",
                "16",
                "--capacity",
                str(max(32, 16 * args.steps // 5)),
                "--max_completion_tokens",
                "32",
                "--workers",
                "1",
                "--toy_dir",
                f"{folder}/toy",
                "--media_cache",
                f"{folder}/media",
                "--device",
                "cpu",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seen: list[dict] = []
        while process.poll() is None:
            file = out / "metrics.jsonl"
            steps = file.read_bytes().count(b'"loss"') if file.is_file() else 0
            if steps and (not seen or steps >= seen[-1]["step"] + args.steps // 60):
                try:
                    seen.append({"step": steps, **watch(process.pid)})
                except (FileNotFoundError, ProcessLookupError):
                    break
            time.sleep(0.2)
        if process.wait():
            sys.exit("the run failed")
        rows = [
            row
            for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
            if "loss" in row
        ]
    late = [row for row in seen if row["step"] > args.steps / 3]
    slopes = {
        name: float(
            np.polyfit([row["step"] for row in late], [row[name] for row in late], 1)[0] * 1000
        )
        for name in ("memory_mb", "files", "threads", "processes")
    }
    half = late[len(late) // 2]
    cpu = [
        (b["cpu_s"] - a["cpu_s"]) / (b["step"] - a["step"])
        for a, b in ((late[0], half), (half, late[-1]))
    ]
    times = np.array([row["time_rollout"] + row["time_update"] for row in rows])
    third = len(times) // 3
    found = {
        "steps": len(rows),
        "minutes": round(times.sum() / 60, 1),
        "buffer": [rows[third]["buffer_size"], rows[-1]["buffer_size"]],
        "per_1000_steps": {k: round(v, 3) for k, v in slopes.items()},
        "first": late[0],
        "last": late[-1],
        "median_step_s": [
            round(float(np.median(part)), 4)
            for part in (times[third : 2 * third], times[2 * third :])
        ],
        "cpu_s_per_step": [round(c, 4) for c in cpu],
        "command": " ".join(["python", *sys.argv]),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(found, indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
