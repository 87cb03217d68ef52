"""What the benchmarks share: a model with random weights, a clock, versions, and the printing of both sides.

CPU figures are process CPU-seconds on one thread (wall time on shared cores says little), GPU figures are seconds between two synchronisations.
Every figure is the median of `--repeats` runs after one that is not counted.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import Prompt
from engine.families import DEFAULT_MODEL, load_tokenizer_and_config
from formats.sample import Sample
from model import Policy
from tools.tiny_model import token_fields


def arguments(description: str, **defaults) -> argparse.Namespace:
    """--size, --repeats, --json, and an integer flag for each of `defaults`. Also limits the CPU to one thread."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--size",
        choices=("tiny", "7b"),
        default="tiny",
        help="tiny: hidden 256, 4 layers, fp32; 7b: Qwen2.5-Omni-7B, bf16, random weights",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", default="", help="also write the figures to this file")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return args


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def shapes(size: str) -> dict:
    """Arguments of a thinker's config. tiny: the text decoder of Qwen2.5's form with hidden 256, intermediate 1024, 4 layers, 8 query and 2 key-value
    heads, V = 4096. 3b, 7b: Qwen2.5-Omni's published shapes (transformers' defaults are the 7B's but for the width of the vision tower)."""
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    if size == "7b":
        return {"vision_config": {**vision, "out_hidden_size": 3584}}
    if size == "3b":
        return {
            "text_config": {
                "vocab_size": 151_936,
                "hidden_size": 2048,
                "intermediate_size": 11_008,
                "num_hidden_layers": 36,
                "num_attention_heads": 16,
                "num_key_value_heads": 2,
            },
            "vision_config": {**vision, "out_hidden_size": 2048},
            "audio_config": {"output_dim": 2048},
        }
    wide = {
        "initializer_range": 0.06
    }  # 1 / sqrt(256): weights of 0.02 would make so small a model nearly mute, and any two runs alike
    return {
        "text_config": {
            **wide,
            "vocab_size": 4096,
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [8, 4, 4],
            },
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 4,
            "out_hidden_size": 256,
        },
        **wide,
        "audio_config": {
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 192,
            "d_model": 96,
            "output_dim": 256,
        },
    }


def make_policy(size: str, dtype: torch.dtype | None = None) -> Policy:
    """A thinker of these `shapes` with random weights, of `dtype` or else fp32 on a CPU and bf16 on a GPU. Its tokenizer is the bundled one."""
    tokenizer, _ = load_tokenizer_and_config(DEFAULT_MODEL)
    config = transformers.Qwen2_5OmniThinkerConfig(**token_fields(tokenizer), **shapes(size))
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or (torch.float32 if device().type == "cpu" else torch.bfloat16))
    with device():
        model = transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)
    torch.set_default_dtype(before)
    policy = Policy(model, tokenizer)
    policy.eos_ids = []  # both sides run to the last token
    return policy


def text_prompt(policy: Policy, length: int, seed: int = 0) -> Prompt:
    """A prompt of random text tokens."""
    ids = torch.randint(0, 500, (length,), generator=torch.Generator().manual_seed(seed))
    return Prompt(
        Sample(f"bench{seed}", "?", "numeric", "0", videos=[f"none{seed}"]),
        False,
        ids,
        torch.arange(length).expand(3, -1),
    )


def clock() -> float:
    """CPU-seconds of this process, or on a GPU seconds after everything queued has run."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(work, repeats: int) -> dict[str, float]:
    """Median and least seconds of work(), after one run that does not count."""
    work()
    seconds = []
    for _ in range(repeats):
        start = clock()
        work()
        seconds.append(clock() - start)
    return {"median": statistics.median(seconds), "min": min(seconds)}


def peak_extra(work) -> float:
    """MB that work() needs at its peak beyond what was held before. On the CPU: of resident memory; run it in a process of its own, since
    memory once used may stay resident."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # Linux: start the peak anew
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    before = int(status["VmRSS"].split()[0])
    work()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return (int(status["VmHWM"].split()[0]) - before) / 1e3


def in_own_process(side: str) -> dict:
    """Run this very command with --side in a new process and read the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, *sys.argv, "--side", side],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def versions() -> dict[str, str]:
    name = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.processor(),
        )
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def report(
    args: argparse.Namespace, title: str, rows: list[dict], extra: dict | None = None
) -> None:
    """Print the rows as a table, and with --json write them with the command, versions and hardware."""
    head = {"command": " ".join(["python", *sys.argv]), **versions(), **(extra or {})}
    print(title)
    print(", ".join(f"{k} {v}" for k, v in head.items()))
    names = list(rows[0])
    cells = [
        names,
        *[
            [
                f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v)
                for v in (row.get(n) for n in names)
            ]
            for row in rows
        ],
    ]
    wide = [max(len(row[i]) for row in cells) for i in range(len(names))]
    print(
        "\n".join(
            "  ".join(
                cell.rjust(w) if i else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, wide, strict=True))
            )
            for row in cells
        )
    )
    if args.json:
        Path(args.json).write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
