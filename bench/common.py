"""What the benchmarks share: a model with random weights, a clock, versions, and the printing of
both sides.

CPU figures are process CPU-seconds on one thread (wall time on shared cores says little), GPU
figures are seconds between two synchronisations. Every figure is the median of `--repeats` runs
after one that is not counted.
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
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import Prompt
from engine.families import DEFAULT_MODEL, load_tokenizer_and_config
from formats.sample import Sample
from model import Policy
from tools.tiny_model import token_fields


def arguments(description: str, **defaults: int) -> argparse.Namespace:
    """The arguments of a benchmark: those of `argument_parser`, read by `read_arguments`."""
    return read_arguments(argument_parser(description, **defaults))


def argument_parser(description: str, **defaults: int) -> argparse.ArgumentParser:
    """--size, --ours_only, --repeats, --json, and an integer flag for each of `defaults`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--size",
        choices=tuple(SHAPES),
        default="tiny",
        help="tiny: hidden 256, 4 layers, fp32; 3b, 7b: Qwen2.5-Omni's, bf16; random weights",
    )
    parser.add_argument(
        "--ours_only", action="store_true", help="without the other side, which may not fit"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", default="", help="also write the figures to this file")
    parser.add_argument("--side", default="", help=argparse.SUPPRESS)
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser


def read_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command's words. Also limits the CPU to one thread."""
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return args


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# ------------------------------------------------------------------------------ the model
# Weights of 1 / sqrt(256): those of 0.02 would make so small a model nearly mute, and any two runs
# would look equal
TINY_INIT = {"initializer_range": 0.06}
TINY = {
    **TINY_INIT,
    "text_config": {
        **TINY_INIT,
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
    "audio_config": {
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 192,
        "d_model": 96,
        "output_dim": 256,
    },
}

# Qwen2.5-Omni's published shapes: transformers' defaults are the 7B's but for its vision tower
VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
SHAPES = {
    "tiny": TINY,
    "3b": {
        "text_config": {
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "intermediate_size": 11_008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
        },
        "vision_config": {**VISION, "out_hidden_size": 2048},
        "audio_config": {"output_dim": 2048},
    },
    "7b": {"vision_config": {**VISION, "out_hidden_size": 3584}},
}


def make_policy(size: str, dtype: torch.dtype | None = None) -> Policy:
    """A thinker of these SHAPES with random weights, and the bundled tokenizer.

    dtype None: fp32 on a CPU, bf16 on a GPU.
    """
    tokenizer, _ = load_tokenizer_and_config(DEFAULT_MODEL)
    config = transformers.Qwen2_5OmniThinkerConfig(**token_fields(tokenizer), **SHAPES[size])
    if dtype is None:
        dtype = torch.float32 if device().type == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with device():
        model = transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)
    torch.set_default_dtype(before)
    policy = Policy(model, tokenizer)
    policy.eos_ids = []  # both sides run to the last token
    return policy


def text_prompt(policy: Policy, length: int, seed: int = 0) -> Prompt:
    """A prompt of random text tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 500, (length,), generator=generator)  # (P,)
    positions = torch.arange(length).expand(3, -1)  # (3, P)
    sample = Sample(f"bench{seed}", "?", "numeric", "0", videos=[f"none{seed}"])
    return Prompt(sample, False, ids, positions)


# ------------------------------------------------------------------------------ measuring
def clock() -> float:
    """CPU-seconds of this process, or on a GPU seconds after everything queued has run."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median and least seconds of work(), after one run that does not count."""
    work()
    seconds = []
    for _ in range(repeats):
        start = clock()
        work()
        seconds.append(clock() - start)
    return {"median": statistics.median(seconds), "min": min(seconds)}


def peak_extra(work: Callable[[], object]) -> float:
    """MB that work() needs at its peak beyond what was held before.

    On a CPU of resident memory (Linux); run it in a process of its own there, since memory once
    used may stay resident.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6

    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    before = process_status("VmRSS")
    work()
    return (process_status("VmHWM") - before) / 1e3


def copy_bandwidth() -> float:
    """Bytes per second of copies within this GPU: 2 GiB, each byte read once and written once."""
    source = torch.randn(2**30, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    seconds = timed(lambda: target.copy_(source), 10)
    return 2 * source.nbytes / seconds["median"]


def process_status(name: str) -> int:
    """A line of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status[name].split()[0])


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


# ------------------------------------------------------------------------------ the report
def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def versions() -> dict[str, str | int]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def format_cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_table(rows: list[dict]) -> str:
    """Rows as text, by the columns of the first; the first column on the left, others right."""
    names = list(rows[0])
    table = [names]
    for row in rows:
        table.append([format_cell(row.get(name)) for name in names])
    columns = zip(*table, strict=True)
    widths = [max(map(len, column)) for column in columns]

    lines = []
    for cells in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        padded[0] = cells[0].ljust(widths[0])
        lines.append("  ".join(padded))
    return "\n".join(lines)


def report(
    args: argparse.Namespace, title: str, rows: list[dict], extra: dict | None = None
) -> None:
    """Print the rows as a table, and with --json write them with the command, versions and
    hardware."""
    head = {**measured_with(), **(extra or {})}
    print(title)
    print(", ".join(f"{name} {value}" for name, value in head.items()))
    print(format_table(rows))
    write_rows(args, rows, head)


def measured_with() -> dict[str, str | int]:
    """The command, versions and hardware."""
    return {"command": " ".join(["python", *sys.argv]), **versions()}


def write_rows(args: argparse.Namespace, rows: list[dict], head: dict | None = None) -> None:
    """With --json, write the rows that there are; a program that is stopped leaves them behind."""
    if args.json:
        head = head or measured_with()
        Path(args.json).write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
