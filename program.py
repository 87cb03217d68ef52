"""program.py: what train.py and eval.py have in common as programs: flags from a dataclass, processes, a policy and its prompts set up from flags."""

import argparse
import contextlib
import ctypes
import fcntl
import json
import math
import os
import signal
import socket
import sys
import time
from dataclasses import field, fields
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from data import MERGE, MediaStore, PromptMaker
from model import Policy
from records import DataError


# ---------------------------------------------------------------------------------------------- flags
def flag(default, help: str, low=None, high=None, known: tuple = ()):
    """A Config field with its --help text, its range, and the values that it may have (empty: any)."""
    return field(default=default, metadata={"help": help, "range": (low, high), "known": known})


def read_flags(config: type, title: str, argv: list[str]):
    """(argv as an instance of a dataclass of `flag`s, the parser, whose error() ends the program with one sentence). One option per field; fields may be
    int, float, str, bool or a tuple of words, each or None. Unknown flags, and values that are unknown or out of range, end the program so."""
    parser = argparse.ArgumentParser(
        description=title,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    for f in fields(config):
        kind = (
            str(f.type).split(" ")[0]
            if isinstance(f.type, str)
            else getattr(f.type, "__name__", str(f.type).split(" ")[0])
        )
        convert = {"int": int, "float": float, "str": str, "bool": to_bool, "tuple": str}[kind]
        several = {"bool": {"nargs": "?", "const": True}, "tuple": {"nargs": "+"}}.get(
            kind, {}
        )  # --flag is --flag true
        parser.add_argument(
            f"--{f.name}",
            type=convert,
            default=f.default,
            help=f.metadata["help"],
            metavar=kind.upper(),
            **several,
        )
    cfg = config(**vars(parser.parse_args(argv)))
    for f in fields(cfg):
        value, (low, high), known = getattr(cfg, f.name), f.metadata["range"], f.metadata["known"]
        if value is not None and (
            (low is not None and value < low) or (high is not None and value > high)
        ):
            parser.error(
                f"--{f.name} {value}: must be "
                + (f"between {low} and {high}" if high is not None else f"at least {low}")
            )
        if known and value not in (None, *known):
            parser.error(f"--{f.name} {value}: known are {', '.join(map(str, known))}")
    return cfg, parser


def fill(cfg, defaults: dict) -> None:
    """Put defaults where flags were left None."""
    for name, value in defaults.items():
        if getattr(cfg, name) is None:
            setattr(cfg, name, value)


def to_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return text.lower() == "true"


def is_tiny(model: str) -> bool:
    """Does this --model name a model of the bundled one's size (decoder width 512 or less)? Empty means the bundled one."""
    file = Path(model) / "config.json"
    if not model or not file.is_file():
        return not model
    config = json.loads(file.read_text())
    return (
        config.get("thinker_config", config).get("text_config", {}).get("hidden_size", math.inf)
        <= 512
    )


# ---------------------------------------------------------------------------------------------- processes
def wants_cuda(cfg) -> bool:
    return cfg.device.startswith("cuda") if cfg.device else torch.cuda.is_available()


def start_processes(cfg) -> tuple[int, int, torch.device]:
    """(rank, world size, device). Under torchrun every process joins the group (nccl on GPUs, gloo on CPUs); alone, rank 0 of 1."""
    end_with_parent()
    cuda = wants_cuda(cfg)
    if cuda and not torch.cuda.is_available():
        raise DataError("--device cuda: PyTorch sees no GPU here; pass --device cpu")
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    )
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.use_deterministic_algorithms(
            True
        )  # gradients of gathered rows are otherwise added up in whatever order the threads run
        torch.utils.deterministic.fill_uninitialized_memory = (
            False  # a debugging aid that costs 5 %
        )
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=cfg.timeout))
    elif not cuda and not dist.is_initialized() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    return (
        (dist.get_rank(), dist.get_world_size(), device)
        if dist.is_initialized()
        else (0, 1, device)
    )


@contextlib.contextmanager
def only_run(out: Path, rank: int, patience: float = 30.0):
    """Within, this is the only run that writes into a folder; all of its processes enter together. Raises DataError on rank 0 when another one still does after
    `patience` seconds (it may have been told to stop, and be saving). The system gives the folder free when a run ends, however it ends."""
    if rank:
        gather(None)
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a+") as file:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    file.seek(0)
                    raise DataError(
                        f"{out}: another run writes here ({file.read()}); stop that one, or pass another --out"
                    ) from None
                time.sleep(0.2)
            except OSError as error:
                print(
                    f"{out}: this file system cannot be locked ({error}); see to it that no other run writes here",
                    file=sys.stderr,
                )
                break
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        gather(None)
        yield


def end_with_parent() -> None:
    """Under torchrun on Linux: this process gets SIGTERM when torchrun is gone. Killed outright (kill -9, out of memory) torchrun leaves its processes behind,
    and they would go on writing beside those of the next start."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG


def gather(value) -> list:
    """`value` of every process, in rank order, on every process."""
    if not dist.is_initialized():
        return [value]
    out = [None] * dist.get_world_size()
    dist.all_gather_object(out, value)
    return out


def name_rank() -> str:
    return f"[rank {os.environ['RANK']}] " if "RANK" in os.environ else ""


def lost_contact(error: Exception) -> bool:
    """Is this error that of a collective whose other side is gone or late? (gloo raises plain RuntimeErrors.)"""
    said = str(error).lower()
    return "WORLD_SIZE" in os.environ and (
        isinstance(error, dist.DistNetworkError)
        or any(
            words in said
            for words in (
                "connection closed by peer",
                "connection reset by peer",
                "broken pipe",
                "timed out",
                "socket closed",
            )
        )
    )


def ends_in_a_sentence(main, argv: list[str]) -> None:
    """Run main(argv) and end the program with one sentence for bad input, a full GPU and a lost process; other errors keep their traceback."""
    try:
        main(argv)
    except DataError as error:
        raise SystemExit(f"error: {name_rank()}{error}") from None
    except torch.OutOfMemoryError as error:
        raise SystemExit(
            f"error: {name_rank()}out of GPU memory: {str(error).split('. ')[0][:160]}; lower --max_tokens, --max_cache_tokens, --max_frames or "
            "--max_pixels"
        ) from None
    except (dist.DistError, RuntimeError) as error:
        if not lost_contact(error):
            raise
        raise SystemExit(
            f"error: {name_rank()}another process has died or has not come within --timeout, so this one ends, too; why, is in the "
            f"output of the process that ended first ({str(error).splitlines()[0][:160]})"
        ) from None
    if dist.is_initialized():
        dist.destroy_process_group()


# ---------------------------------------------------------------------------------------------- policy and prompts
def weight_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def bound_memory(cfg, policy: Policy) -> None:
    """Give a policy the flags that say how much it may hold at a time."""
    policy.max_tokens, policy.max_cache_tokens = cfg.max_tokens, cfg.max_cache_tokens
    policy.cache.max_bytes = int(cfg.feature_cache_gb * 2**30)


def prompt_maker(
    cfg, policy: Policy, audio_caption: bool = False, max_sound: float = 0.0
) -> PromptMaker:
    """The run's way from a sample to the model's inputs."""
    store = (
        MediaStore(cfg.media_cache, int(cfg.media_cache_gb * 2**30)) if cfg.media_cache else None
    )
    return PromptMaker(
        policy.tokenizer,
        policy.form,
        store=store,
        workers=cfg.workers,
        timeout=cfg.media_timeout,
        max_prompt_tokens=cfg.max_prompt_tokens,
        fps=cfg.fps,
        max_frames=cfg.max_frames,
        min_pixels=(policy.form.patch * MERGE) ** 2,
        max_pixels=cfg.max_pixels,
        use_audio=cfg.use_audio,
        audio_caption=audio_caption,
        max_sound=max_sound,
    )
