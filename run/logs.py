"""logs.py: what a training run leaves behind: metrics.jsonl, completions.jsonl, bad_media.jsonl and dropped.jsonl while it runs, curves.png at its end.
Nothing here branches the loop."""

import json
import math
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm import tqdm

from data import TooLong
from engine.distributed import gather
from formats.sample import DataError
from media.errors import MediaError
from run.checkpoint import Saved, sync
from tas import effective_sample_share

matplotlib.use("Agg")

BINS = np.linspace(
    -2.5, 2.5, 42
)  # of the advantages' histogram; what lies outside is put into the outermost

FILES = ("metrics.jsonl", "completions.jsonl", "bad_media.jsonl", "dropped.jsonl")


class Logger:
    """Writes metrics.jsonl, completions.jsonl and curves.png from rank 0; every process must call every method (they gather)."""

    def __init__(self, cfg, rank: int, steps: int, saved: Saved | None = None):
        self.cfg, self.main, self.out = cfg, rank == 0, Path(cfg.out)
        self.rows: list[dict] = []
        self.evals: list[tuple[int, int, float]] = []  # step, generated, accuracy
        self.advantages = {
            kind: np.zeros(len(BINS) - 1, dtype=int) for kind in ("fresh", "replayed")
        }
        self.reported: set[str] = set()  # ids of dropped records that this process has named
        self.bar = tqdm(
            total=steps,
            initial=saved.step if saved else 0,
            disable=not self.main,
            dynamic_ncols=True,
        )
        if saved:
            self.evals = [tuple(e) for e in saved.logs["evals"]]
            self.advantages = {
                kind: np.array(counts) for kind, counts in saved.logs["advantages"].items()
            }
        if self.main:
            for (
                name
            ) in FILES:  # a new run's are empty; one that goes on has its own up to the checkpoint
                with (self.out / name).open("ab") as file:
                    file.truncate(saved.logs["files"][name] if saved else 0)
        if saved:
            lines = (
                [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]
                if self.main
                else []
            )
            self.rows = [row for row in lines if "eval_accuracy" not in row]

    def state(self) -> dict:
        """What `saved.logs` is for a run that goes on; the files are safe on the disk when this returns."""
        if self.main:
            for name in FILES:
                sync(self.out / name)
        return {
            "files": {name: (self.out / name).stat().st_size for name in FILES}
            if self.main
            else {},
            "evals": [list(e) for e in self.evals],
            "advantages": {kind: counts.tolist() for kind, counts in self.advantages.items()},
        }

    def write(self, name: str, row: dict) -> None:
        with (self.out / name).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def dropped(self, dropped: dict[str, DataError]) -> dict[str, int]:
        """Names the records that were dropped since the last call, in bad_media.jsonl with the file, and in dropped.jsonl those that are too long; how many
        there are of each now."""
        new = [
            ("bad_media.jsonl", {"id": i, "path": why.path, "reason": str(why)})
            if isinstance(why, MediaError)
            else ("dropped.jsonl", {"id": i, "reason": str(why)})
            for i, why in dropped.items()
            if i not in self.reported
        ]
        self.reported.update(dropped)
        for name, row in [pair for part in gather(new) for pair in part]:
            if self.main:
                self.write(name, row)
        counts = gather(
            [
                sum(isinstance(why, kind) for why in dropped.values())
                for kind in (MediaError, TooLong)
            ]
        )
        return {"bad_media": sum(c[0] for c in counts), "too_long": sum(c[1] for c in counts)}

    def step(
        self,
        step,
        generated,
        groups,
        examples,
        log,
        buffer,
        norm,
        lr,
        time_rollout,
        time_update,
        time_cpu,
        dropped,
    ) -> None:
        """One line of metrics.jsonl. Means are over the fresh completions of all processes; ratios over all trained tokens; staleness over
        the replayed completions (`replayed_by_age`: per age in steps their number and the share of their tokens that were clipped). Times are those of this
        process, in seconds; time_cpu: CPU-seconds of all processes, without those that decode."""
        cfg = self.cfg
        part = {
            "examples": [
                [e[k] for k in ("reward", "format", "accuracy", "self", "judge")] for e in examples
            ],
            "log": log,
            "stats": buffer.stats(),
            "cpu": time_cpu,
            "tokens": sum(e["tokens"] for e in examples),
            "hinted": buffer.hinted_prompts(),
            "zero": [not bool(g.advantages.any()) for g in groups],
            "age": [step - s for g in groups if g.replayed for s in g.steps],
            "adv": {
                "fresh": [a for g in groups if not g.replayed for a in g.advantages.tolist()],
                "replayed": [a for g in groups if g.replayed for a in g.advantages.tolist()],
            },
        }
        parts = gather(part)
        table = [e for p in parts for e in p["examples"]]
        joined = {k: [v for p in parts for v in p["log"][k]] for k in log}
        age = [a for p in parts for a in p["age"]]
        stale = joined["stale"]
        for kind, counts in self.advantages.items():
            counts += np.histogram(
                np.clip([a for p in parts for a in p["adv"][kind]], BINS[0], BINS[-1]), BINS
            )[0]

        def mean(values):
            known = [v for v in values if v is not None]
            return round(float(np.mean(known)), 6) if known else None

        missing = sum(e[4] is None for e in table) if cfg.stage == 3 else 0
        reward, fmt, acc, agree, judge = (mean(column) for column in zip(*table, strict=True))
        row = {
            "step": step,
            "stage": cfg.stage,
            "generated": generated,
            "reward": reward,
            "reward_format": fmt,
            "reward_accuracy": acc,
            "reward_self": agree,
            "reward_judge": judge,
            "judge_missing": missing,
            "accuracy": mean([float(e[2] >= 1 - 1e-6) for e in table]),
            "loss": finite(sum(joined["loss"])),
            "kl": mean(joined["kl"]) if cfg.beta else None,
            "ratio_mean": mean(joined["ratio"]),
            "ratio_max": max(joined["ratio"], default=None),
            "ratio_mean_replayed": mean(joined["stale_ratio"]),
            "clip_fraction": mean(joined["clipped"]),
            "groups": sum(len(p["zero"]) for p in parts),
            "zero_advantage_groups": sum(sum(p["zero"]) for p in parts),
            **{k: sum(p["stats"][k] for p in parts) for k in part["stats"]},
            "hinted_prompts": [i for p in parts for i in p["hinted"]],
            "replay_age": mean(age),
            "replayed": len(age),
            "replayed_left_out": sum(row[6] for row in stale),
            "effective_sample_share": round(
                effective_sample_share(torch.tensor(joined["stale_ratio"])), 4
            )
            if joined["stale_ratio"]
            else None,
            "log_ratio_squared": mean([row[4] for row in stale]),
            "kl_behaviour": mean([row[5] for row in stale]),
            "replayed_by_age": by_age(stale),
            **gradient(norm),
            "lr": lr,
            "completion_tokens": sum(p["tokens"] for p in parts),
            "time_rollout": round(time_rollout, 4),
            "time_update": round(time_update, 4),
            "time_cpu": round(sum(p["cpu"] for p in parts), 4),
            **self.dropped(dropped),
        }
        self.rows.append(row)
        if self.main:
            self.write("metrics.jsonl", row)
        self.bar.set_postfix(
            reward=f"{reward:.2f}", accuracy=f"{row['accuracy']:.2f}", generated=generated
        )
        self.bar.update()

    def completions(self, step: int, examples: list[dict]) -> None:
        """Append full samples (prompt, completion, reward parts, advantage) to completions.jsonl."""
        if self.main:
            for e in examples:
                self.write("completions.jsonl", {"step": step, **e})

    def sft_step(self, step, loss, norm, lr, tokens, seconds, dropped) -> None:
        row = {
            "step": step,
            "stage": 0,
            "generated": 0,
            "loss": finite(loss),
            **gradient(norm),
            "lr": lr,
            "completion_tokens": tokens,
            "time_update": round(seconds, 4),
            **self.dropped(dropped),
        }
        self.rows.append(row)
        if self.main:
            self.write("metrics.jsonl", row)
        self.bar.set_postfix(loss=f"{loss:.3f}")
        self.bar.update()

    def evaluation(self, step, generated, scores, examples, started) -> None:
        """An evaluation after `step` steps: a metrics line of its own with eval_accuracy, and a few full completions."""
        if scores["n"] == 0:
            return
        self.evals.append((step, generated, scores["correct"]))
        if self.main:
            self.write(
                "metrics.jsonl",
                {
                    "step": step,
                    "stage": self.cfg.stage,
                    "generated": generated,
                    "eval_accuracy": scores["correct"],
                    "eval_format": scores["format"],
                    "eval_reward": scores["reward"],
                    "eval_questions": scores["n"],
                    "eval_unusable": scores["unusable"],
                    "eval_completion_tokens": scores["tokens"],
                    "seconds": round(time.perf_counter() - started, 1),
                },
            )
            self.completions(step, examples)
            self.bar.write(
                f"step {step}: held-out accuracy {scores['correct']:.3f} on {scores['n']} questions, {generated:,} completions so far"
            )

    def finish(self) -> dict:
        self.bar.close()
        if self.main:
            plot(self)
        return {"evals": self.evals, "rows": self.rows}


def finite(x: float) -> float | None:
    """A number that JSON knows."""
    return x if math.isfinite(x) else None


def gradient(norm: float) -> dict:
    """The gradient's norm, and whether the step was skipped because it was no finite number."""
    return {"grad_norm": finite(norm), "skipped": int(not math.isfinite(norm))}


def by_age(stale: list[tuple]) -> dict[str, list[float]]:
    """{"1-4": [completions, share of clipped tokens], ...} of update_step's `stale` rows, by age in steps."""
    out = {}
    for low, high in ((1, 4), (5, 16), (17, 64), (65, math.inf)):
        rows = [row for row in stale if low <= row[1] <= high]
        if rows:
            out[f"{low}-{high}" if high < math.inf else f"{low}+"] = [
                len(rows),
                round(sum(r[3] for r in rows) / max(1, sum(r[2] for r in rows)), 4),
            ]
    return out


def plot(logger: Logger) -> None:
    """curves.png: held-out accuracy against completions, reward parts, advantages fresh against replayed, tier occupancy."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    rows, sft = logger.rows, logger.cfg.stage == 0
    x = [r["step"] for r in rows] if sft else [r["generated"] for r in rows]
    label = "step" if sft else "completions generated"
    axes[0, 0].plot(
        [e[0] if sft else e[1] for e in logger.evals], [e[2] for e in logger.evals], "o-"
    )
    axes[0, 0].set(title="held-out accuracy", xlabel=label, ylim=(0, 1))
    if sft:
        axes[0, 1].semilogy(x, [r["loss"] or math.nan for r in rows])
        axes[0, 1].set(title="cross-entropy per token", xlabel=label)
    else:
        for key in ("reward", "reward_format", "reward_accuracy", "reward_self", "reward_judge"):
            if any(r[key] is not None for r in rows):
                axes[0, 1].plot(x, [r[key] for r in rows], label=key.replace("reward_", ""))
        axes[0, 1].set(title="rewards of fresh completions", xlabel=label, ylim=(0, 1.02))
        axes[0, 1].legend()
        for kind, counts in logger.advantages.items():
            if counts.any():
                axes[1, 0].hist(
                    BINS[:-1],
                    BINS,
                    weights=counts,
                    alpha=0.6,
                    density=True,
                    label=f"{kind} ({counts.sum():,})",
                )
        axes[1, 0].set(title="advantages", xlabel="A")
        axes[1, 0].legend()
        tiers = ("tier_hard", "tier_medium", "tier_easy")
        axes[1, 1].stackplot(
            x, [[r[t] for r in rows] for t in tiers], labels=[t[5:] for t in tiers], alpha=0.8
        )
        axes[1, 1].set(title="completions in the buffer, by tier", xlabel=label)
        axes[1, 1].legend(loc="upper left")
    figure.suptitle(f"stage {logger.cfg.stage}, {logger.cfg.method}, seed {logger.cfg.seed}")
    figure.savefig(logger.out / "curves.png", dpi=100)
    plt.close(figure)


def plot_curriculum(table: dict[str, dict[str, float]], path: Path) -> None:
    """summary.png: held-out accuracy after each stage, a bar per kind of questions, of {"after stage 1": {"stage 1": 0.7, ..}, ..}."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    kinds = list(next(iter(table.values())))
    for i, kind in enumerate(kinds):
        axes.bar(
            [x + i * 0.8 / len(kinds) for x in range(len(table))],
            [row[kind] for row in table.values()],
            0.8 / len(kinds),
            label=f"{kind} questions",
        )
    axes.set(
        xticks=range(len(table)), xticklabels=list(table), ylabel="held-out accuracy", ylim=(0, 1)
    )
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)
