"""Kill a run at random, many times, and compare what it leaves with an undisturbed run.

    python bench/chaos.py                        # 20 SIGKILLs, one process; minutes
    python bench/chaos.py --kills 200
    python bench/chaos.py --processes 2

train.py runs with a checkpoint after every step. Every second kill comes while a checkpoint is
being written, the others by turns at a random moment of a step and within seconds of a start. The
killed run goes on by --resume until it is done. Then both are compared to the last bit: every
metrics line but for its times, every completion, the weights, and the whole state of every process
(optimiser, buffer, data cursor, random generators).
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
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent.parent))
from run.logs import without_clocks

REPO = Path(__file__).parent.parent
MOMENTS = ("running", "saving", "starting", "saving")  # of the kills, by turns


# ------------------------------------------------------------------------------ one run
@dataclass
class Runner:
    """Starts a run in `out`, or goes on with it."""

    out: Path
    processes: int
    steps: int

    def command(self) -> list[str]:
        words = [sys.executable]
        if self.processes > 1:
            words += ["-m", "torch.distributed.run", "--standalone"]
            words += [f"--nproc_per_node={self.processes}"]
        flags = {
            "--out": self.out,
            "--save_every": 1,
            "--steps": self.steps,
            "--eval_every": 0,
            "--data": "toy:8,2",
            "--prompts_per_step": 4,
            "--replay_min": 8,
            "--max_completion_tokens": 32,
            "--media_cache": "",
        }
        words += [str(REPO / "train.py"), "--resume"]
        for name, value in flags.items():
            words += [name, str(value)]
        return words

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(),
            cwd=self.out.parent,  # where the toy world is rendered, once for both runs
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def finish(self) -> None:
        code = self.start().wait()
        if code:
            raise RuntimeError(f"{' '.join(self.command())} ended with {code}")

    def newest(self) -> int:
        """The step of the newest whole checkpoint, 0 when there is none."""
        names = [folder.name for folder in (self.out / "checkpoints").glob("*")]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def is_saving(self) -> bool:
        """Is a checkpoint being written, or an older one removed? What a kill has left looks the
        same until the next start clears it."""
        return any((self.out / "checkpoints").glob("*.part"))


def run_state(out: Path) -> dict:
    """What a run has left in its folder, without its times."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rollouts = out / "rollouts.jsonl.gz"  # not of a stage 0
    trainer = out / "checkpoint" / "trainer"
    of_processes = sorted(trainer.glob("rank*.pt"))
    shared = torch.load(trainer / "shared.pt", weights_only=True)
    return {
        "metrics": [without_clocks(line) for line in lines],
        "rollouts": rollouts.read_bytes() if rollouts.is_file() else b"",
        "completions": (out / "completions.jsonl").read_text(),
        "weights": load_file(out / "checkpoint" / "model.safetensors"),
        "optimizer": torch.load(trainer / "optimizer.pt", weights_only=True),
        "states": [torch.load(path, weights_only=True) for path in of_processes],
        "advantages": shared["logs"]["advantages"],
    }


def equal(a, b) -> bool:
    """Equal to the last bit, whatever they are made of."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


# ------------------------------------------------------------------------------ kills
def kill_family(process: subprocess.Popen) -> None:
    """SIGKILL a process and all that it has started (torchrun starts each of its own in a session
    apart)."""
    os.kill(process.pid, signal.SIGSTOP)  # so that it starts no more
    family = []
    generation = [process.pid]
    while generation:
        family += generation
        parents = generation
        generation = []
        for pid in parents:
            generation += children_of(pid)
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def children_of(pid: int) -> list[int]:
    children: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        children += [int(child) for child in file.read_text().split()]
    return children


def kill_once(runner: Runner, moment: str, rng: random.Random) -> str:
    """Start the run and kill all of its processes at a moment.

    "starting": within 6 s of the start. "running": up to 0.6 s after its first or second
    checkpoint. "saving": while it writes its first, second or third. Returns when the kill really
    came, or "done" when the run was faster.
    """
    seconds = rng.uniform(0, 6 if moment == "starting" else 0.6)
    checkpoints = rng.choice([0, 1, 2] if moment == "saving" else [1, 2])
    before = runner.newest()
    leftover = runner.is_saving()  # of the last kill, until the start has cleared it
    process = runner.start()
    started = time.monotonic()
    reached = None  # when the run had written so many checkpoints
    while process.poll() is None:
        now = time.monotonic()
        is_saving = runner.is_saving()
        leftover = leftover and is_saving
        if reached is None and runner.newest() >= before + checkpoints:
            reached = now

        if moment == "starting":
            due = now - started > seconds
        elif moment == "running":
            due = reached is not None and now - reached > seconds
        else:
            due = reached is not None and is_saving and not leftover
        if due:
            kill_family(process)
            if runner.is_saving() and not leftover:
                return "saving"
            return "running" if runner.newest() > before else "starting"
        time.sleep(0.003)
    return "done"


def chaos(folder: Path, kills: int, processes: int, seed: int = 0) -> dict:
    """kills SIGKILLs over one run, which is then compared with an undisturbed one."""
    rng = random.Random(seed)
    steps = 2 * kills + 10
    undisturbed = Runner(folder / "undisturbed", processes, steps)
    killed = Runner(folder / "killed", processes, steps)
    undisturbed.finish()
    moments = []
    for i in range(kills):
        moments.append(kill_once(killed, MOMENTS[i % len(MOMENTS)], rng))
    killed.finish()

    state = run_state(killed.out)
    done = [line["step"] for line in state["metrics"] if "loss" in line]
    doubled = len(done) - len(set(done))
    lost = steps - len(set(done))
    return {
        "killed": sum(moment != "done" for moment in moments),
        "while_saving": moments.count("saving"),
        "while_starting": moments.count("starting"),
        "steps": steps,
        "processes": processes,
        "lost_or_doubled": doubled + lost,
        "equal": equal(run_state(undisturbed.out), state),
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
        figures = chaos(Path(folder), args.kills, args.processes)
    figures |= {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "command": " ".join(["python", *sys.argv]),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    print(
        f"{figures['killed']} kills over {figures['steps']} steps of {args.processes} process(es), "
        f"{figures['while_saving']} of them while saving, {figures['while_starting']} while "
        f"starting: {figures['lost_or_doubled']} steps lost or doubled; "
        f"{'equal to' if figures['equal'] else 'DIFFERENT from'} the undisturbed run to the last "
        f"bit ({figures['minutes']} minutes)"
    )
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(not figures["equal"])


if __name__ == "__main__":
    main()
