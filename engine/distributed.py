"""engine/distributed.py: processes, what they tell each other, and how weights are spread over them."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from formats.sample import DataError


class Call(nn.Module):
    """A module that runs what it is given: the handle by which FSDP gathers the weights of `below` before and scatters their gradients after."""

    def __init__(self, *below: nn.Module):
        super().__init__()
        self.below = nn.ModuleList(below)

    def forward(self, function: Callable, *args):
        return function(*args)


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


def weight_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32
