"""A long run of the tiny model: does memory, the number of open files, threads and processes, or
the time of a step grow?

    python bench/soak.py                  # 1,500 steps: an hour on a CPU
    python bench/soak.py --steps 10000

The buffer holds as many completions as a fifth of the steps writes, so that for most of the run it
is full and evicts. train.py runs as a process of its own and is watched from outside. Slopes are
least-squares lines over the last two thirds of the run; the two figures of a step's time are those
of the middle and of the last third.
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
SAMPLES = 60  # how often the process is looked at, over the whole run
GROWING = ("memory_mb", "files", "threads", "processes")


def watch(pid: int) -> dict[str, float]:
    """Resident memory in MB, open files, threads and child processes of a process, and the
    CPU-seconds that it has used (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    # Behind the program's name in brackets, fields 11 and 12 are user and system time
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    return {
        "memory_mb": int(status["VmRSS"].split()[0]) / 1e3,
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
        "processes": len(children),
        "cpu_s": ticks / os.sysconf("SC_CLK_TCK"),
    }


def train_command(out: Path, steps: int) -> list[str]:
    flags = {
        "--out": out,
        "--steps": steps,
        "--eval_every": steps // 5,
        "--save_every": steps // 10,
        "--data": "toy:64,8",
        "--prompts_per_step": 4,
        "--replay_min": 16,
        "--capacity": max(32, 16 * steps // 5),
        "--max_completion_tokens": 32,
        "--workers": 1,
        "--media_cache": out.parent / "media",
    }
    command = [sys.executable, str(REPO / "train.py")]
    for name, value in flags.items():
        command += [name, str(value)]
    return command


def watched_run(folder: Path, steps: int) -> tuple[list[dict], list[dict]]:
    """A whole run in `folder`: (what it used at SAMPLES moments, the steps' lines of its log)."""
    out = folder / "run"
    metrics = out / "metrics.jsonl"
    process = subprocess.Popen(
        train_command(out, steps),
        cwd=folder,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    samples: list[dict] = []
    next_step = 1
    while process.poll() is None:
        step = metrics.read_bytes().count(b'"loss"') if metrics.is_file() else 0
        if step >= next_step:
            try:
                samples.append({"step": step, **watch(process.pid)})
            except (FileNotFoundError, ProcessLookupError):
                break  # it has just ended
            next_step = step + max(1, steps // SAMPLES)
        time.sleep(0.2)
    if process.wait():
        sys.exit("the run failed")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return samples, [line for line in lines if "loss" in line]


def slope_per_1000_steps(samples: list[dict], name: str) -> float:
    steps = [sample["step"] for sample in samples]
    values = [sample[name] for sample in samples]
    return round(float(np.polyfit(steps, values, 1)[0] * 1000), 3)


def cpu_per_step(first: dict, last: dict) -> float:
    """CPU-seconds of a step between two samples."""
    return round((last["cpu_s"] - first["cpu_s"]) / (last["step"] - first["step"]), 4)


def figures(samples: list[dict], steps: list[dict]) -> dict:
    """What is printed and written."""
    late = [sample for sample in samples if sample["step"] > len(steps) / 3]
    middle = late[len(late) // 2]
    seconds = np.array([step["time_rollout"] + step["time_update"] for step in steps])
    third = len(seconds) // 3
    thirds = (seconds[third : 2 * third], seconds[2 * third :])
    return {
        "steps": len(steps),
        "minutes": round(seconds.sum() / 60, 1),
        "buffer": [steps[third]["buffer_size"], steps[-1]["buffer_size"]],
        "per_1000_steps": {name: slope_per_1000_steps(late, name) for name in GROWING},
        "first": late[0],
        "last": late[-1],
        "median_step_s": [round(float(np.median(times)), 4) for times in thirds],
        "cpu_s_per_step": [cpu_per_step(late[0], middle), cpu_per_step(middle, late[-1])],
        "command": " ".join(["python", *sys.argv]),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--json", default="", help="also write the figures to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples, steps = watched_run(Path(folder), args.steps)
    text = json.dumps(figures(samples, steps), indent=1)
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
