"""Kill a run at random, many times, and compare what it leaves with an undisturbed run.

    python bench/chaos.py                        # 20 SIGKILLs, one process; minutes
    python bench/chaos.py --kills 200
    python bench/chaos.py --processes 2

train.py runs with a checkpoint after every step. Every second kill comes while a checkpoint is being written, the others by turns at a random moment of a
step and within seconds of a start. The killed run goes on by --resume until it is done. Then both are compared to the last bit: every metrics line but for
its times, every completion, the weights, and the whole state of every process (optimiser, buffer, data cursor, random generators).
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

REPO = Path(__file__).parent.parent
TIMES = {"time_rollout", "time_update", "time_cpu", "seconds"}


def told(out: Path) -> dict:
    """What a run has left, without its times."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    states = [
        torch.load(path, weights_only=True)
        for path in sorted((out / "checkpoint" / "trainer").glob("rank*.pt"))
    ]
    return {
        "metrics": [{k: v for k, v in row.items() if k not in TIMES} for row in rows],
        "completions": (out / "completions.jsonl").read_text(),
        "weights": load_file(out / "checkpoint" / "model.safetensors"),
        "states": states,
        "optimizer": torch.load(out / "checkpoint" / "trainer" / "optimizer.pt", weights_only=True),
        "advantages": torch.load(out / "checkpoint" / "trainer" / "shared.pt", weights_only=True)[
            "logs"
        ]["advantages"],
    }


def alike(a, b) -> bool:
    """Equal to the last bit, whatever they are made of."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b


def command(out: Path, processes: int, steps: int) -> list[str]:
    start = (
        [sys.executable]
        if processes == 1
        else [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={processes}",
        ]
    )
    return [
        *start,
        str(REPO / "train.py"),
        "--out",
        str(out),
        "--resume",
        "--save_every",
        "1",
        "--steps",
        str(steps),
        "--eval_every",
        "0",
        "--toy_clips",
        "8",
        "--toy_heldout",
        "2",
        "--prompts_per_step",
        "4",
        "--replay_min",
        "8",
        "--max_completion_tokens",
        "32",
        "--toy_dir",
        str(out.parent / "toy"),
        "--media_cache",
        "",
        "--device",
        "cpu",
    ]


def newest(out: Path) -> int:
    """The step of the newest whole checkpoint, 0 when there is none."""
    return max(
        (int(f.name) for f in (out / "checkpoints").glob("*") if f.name.isdigit()), default=0
    )


def saving(out: Path) -> bool:
    """Whether a checkpoint is being written (or an older one removed). What a kill has left is cleared at the next start."""
    return any((out / "checkpoints").glob("*.part"))


def end(process: subprocess.Popen) -> None:
    """SIGKILL a process and all that it has started (torchrun starts each of its own in a session apart)."""
    os.kill(process.pid, signal.SIGSTOP)  # so that it starts no more
    family, new = [], [process.pid]
    while new:
        family += new
        new = [
            int(child)
            for pid in new
            for children in Path(f"/proc/{pid}/task").glob("*/children")
            for child in children.read_text().split()
        ]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def kill_once(
    out: Path, processes: int, steps: int, rng: random.Random, moment: str, env: dict
) -> str:
    """Start the run and kill all of its processes at a moment: "starting" (within 6 s of the start), "running" (up to 0.6 s after its first or second
    checkpoint) or "saving" (while it writes its first, second or third). Returns when the kill really came, or "done" when the run was faster."""
    left = saving(out)
    process = subprocess.Popen(
        command(out, processes, steps),
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    begin, last, since = time.monotonic(), newest(out), None
    wait, behind = (
        rng.uniform(0, 6 if moment == "starting" else 0.6),
        rng.choice([0, 1, 2] if moment == "saving" else [1, 2]),
    )
    while process.poll() is None:
        now, writes = time.monotonic(), saving(out)
        left &= writes
        if since is None and newest(out) >= last + behind:
            since = now
        after = now - begin if moment == "starting" else now - since if since else -1
        if (since and writes and not left) if moment == "saving" else after > wait:
            end(process)
            return (
                "saving"
                if saving(out) and not left
                else "running"
                if newest(out) > last
                else "starting"
            )
        time.sleep(0.003)
    return "done"


def chaos(folder: Path, kills: int, processes: int, seed: int = 0) -> dict:
    """kills SIGKILLs over one run; {"killed", "while_saving", "while_starting", "steps", "processes", "lost_or_doubled", "equal"}."""
    rng, steps, env = random.Random(seed), 2 * kills + 10, os.environ | {"OMP_NUM_THREADS": "1"}
    whole, cut = folder / "whole", folder / "cut"
    subprocess.run(
        command(whole, processes, steps),
        env=env,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found = [
        kill_once(
            cut, processes, steps, rng, ("running", "saving", "starting", "saving")[i % 4], env
        )
        for i in range(kills)
    ]
    subprocess.run(
        command(cut, processes, steps),
        env=env,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    a, b = told(whole), told(cut)
    done = [row["step"] for row in b["metrics"] if "loss" in row]
    return {
        "killed": sum(f != "done" for f in found),
        "while_saving": found.count("saving"),
        "while_starting": found.count("starting"),
        "steps": steps,
        "processes": processes,
        "lost_or_doubled": len(done) - len(set(done)) + steps - len(set(done)),
        "equal": all(alike(a[k], b[k]) for k in a),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", default="", help="also write the figures to this file")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = chaos(Path(folder), args.kills, args.processes)
    found |= {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "command": " ".join(["python", *sys.argv]),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    print(
        f"{found['killed']} kills over {found['steps']} steps of {args.processes} process(es), {found['while_saving']} of them while saving, "
        f"{found['while_starting']} while starting: "
        f"{found['lost_or_doubled']} steps lost or doubled; {'equal to' if found['equal'] else 'DIFFERENT from'} the undisturbed run to the last bit "
        f"({found['minutes']} minutes)"
    )
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(not found["equal"])


if __name__ == "__main__":
    main()
