"""engine/distributed.py: processes, what they tell each other, and how weights are spread.

    torchrun --nproc_per_node=8 train.py ..    8 processes that run the same program, one GPU each

What must be one over all of them goes through `gather` (small Python values: counts, rewards,
errors) or through the optimiser (gradients, optim.py). Weights are held in one of two ways:

    replicated    every process holds all of them: LoRA, the towers, and any run of one process
    sharded       a twin of the policy, made by `shard`: FSDP2 splits its decoder and head over the
                  processes, in fp32, and gathers one layer at a time while it is computed

With sharding there are two policies. The sharded twin learns. The whole one samples (a decoding
step of one token must not wait for a gather of every layer) and gets the new weights after each
step by `gather_weights`.
"""

import copy
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

TIMEOUT_SECONDS = 1800  # a process that waits longer than this for another one ends the run


def start_processes(timeout_seconds: int | None = None) -> tuple[int, int, torch.device]:
    """(rank, world size, device). Under torchrun every process joins the group; alone it is rank 0.

    The device is this process's GPU (messages go by NCCL) or, where PyTorch sees none, the CPU (by
    gloo). timeout_seconds: how long a process waits for another one; None: TIMEOUT_SECONDS.
    """
    end_with_parent()
    gpu = torch.cuda.is_available()
    device = torch.device("cpu")

    if gpu:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    else:
        # Else gradients of gathered rows are added up in whatever order the threads run.
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid: costs 5 %

    # torchrun sets WORLD_SIZE. Without it, alone on a CPU, all cores are for this process.
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        timeout = timedelta(seconds=timeout_seconds or TIMEOUT_SECONDS)
        dist.init_process_group("nccl" if gpu else "gloo", timeout=timeout)
    elif not gpu and not dist.is_initialized() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    return *rank_and_world(), device


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) when no group was started."""
    if dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def usable_cores() -> int:
    """The cores that this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """Under torchrun on Linux: have this process get SIGTERM when torchrun is gone.

    Killed outright (kill -9, out of memory) torchrun leaves its processes behind, and they would go
    on writing beside those of the next start.
    """
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG


def gather(value) -> list:
    """`value` of every process, in rank order, on every process. All must call it. For small Python
    objects."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather_lists(values: list) -> list:
    """The lists of all processes joined, in rank order, on every process."""
    joined = []
    for values_of_rank in gather(values):
        joined += values_of_rank
    return joined


def name_rank() -> str:
    """The beginning of an error message of this process: its rank under torchrun, else nothing."""
    return f"[rank {os.environ['RANK']}] " if "RANK" in os.environ else ""


# What gloo says when the other side is gone. It raises plain RuntimeErrors, so the words must tell.
LOST_CONTACT = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "timed out",
    "socket closed",
)


def lost_contact(error: Exception) -> bool:
    """Is this error that of a collective whose other side is gone or late?"""
    if "WORLD_SIZE" not in os.environ:
        return False
    message = str(error).lower()
    return isinstance(error, dist.DistNetworkError) or any(w in message for w in LOST_CONTACT)


def weight_dtype(device: torch.device) -> torch.dtype:
    """The type of a policy's weights: bf16 on a GPU, fp32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


class FSDPUnit(nn.Module):
    """Modules whose weights FSDP2 gathers and frees together; its forward calls any function.

    FSDP2 gathers weights when the FORWARD of a wrapped module begins, frees them when it ends, and
    scatters gradients when its backward is done. But a packed row does not go through the forward
    of a transformers layer: `block` (families.py) calls its projections and norms one by one, with
    attention of our own between. So the modules are put under a unit, and the unit's forward runs
    what it is given: `unit(function, x)` is `function(x)` with the weights there.
    """

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.below = nn.ModuleList(modules)

    def forward(self, function: Callable, *args):
        """function(*args), while FSDP2 holds the gathered weights."""
        return function(*args)


def shard(policy, train: bool = True):
    """A twin of a `model.Policy` whose decoder and head FSDP2 has split over all processes.

    train=True: the learner, with fp32 shards; they are gathered, and computed with, in the type of
    the policy's own weights, and gradients are summed in fp32. train=False: a frozen reference,
    with shards of the policy's own type. The policy itself stays whole; its towers and tokenizer
    are shared with the twin. Every process must call the twin's completion_logps, and backward,
    equally often: each call is a message to all others.
    """
    twin = copy.copy(policy)
    mesh = init_device_mesh(policy.device.type, (dist.get_world_size(),))
    compute_dtype = policy.head.weight.dtype

    # The twin's decoder is the same module, but with children of its own. They are copied and split
    # one at a time, so that never more than one is there as a whole fp32 copy.
    twin.text = copy.copy(policy.text)
    twin.text._modules = dict(policy.text._modules)
    twin.text.layers = nn.ModuleList()
    twin.fsdp_layers = []
    for layer in policy.text.layers:
        layer_copy = copy_for_shards(layer, train)
        twin.text.layers.append(layer_copy)
        twin.fsdp_layers.append(split(FSDPUnit(layer_copy), mesh, compute_dtype))

    # What is left is one unit, the root, which must be above the others. One `memo` keeps a tied
    # head tied.
    memo = {}
    twin.text.embed_tokens = copy_for_shards(policy.text.embed_tokens, train, memo)
    twin.text.norm = copy_for_shards(policy.text.norm, train, memo)
    twin.head = copy_for_shards(policy.head, train, memo)
    root = FSDPUnit(twin.text.embed_tokens, twin.text.norm, twin.head, *twin.fsdp_layers)
    twin.fsdp_root = split(root, mesh, compute_dtype)
    return twin


def copy_for_shards(module: nn.Module, train: bool, memo: dict | None = None) -> nn.Module:
    """A copy that is trained, in fp32, or that is frozen, as it is."""
    module = copy.deepcopy(module, memo).requires_grad_(train)
    return module.float() if train else module


def split(unit: FSDPUnit, mesh: DeviceMesh, compute_dtype: torch.dtype) -> FSDPUnit:
    """Split a unit's parameters over the processes: each becomes a DTensor, here with some rows."""
    # imported here, because it takes a second that only sharded runs need to wait
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    fully_shard(unit, mesh=mesh, mp_policy=precision)
    # Sums instead of means: each process has divided its loss by global counts.
    unit.set_gradient_divide_factor(1.0)
    unit.set_force_sum_reduction_for_comms(True)  # gloo cannot multiply while it sums
    return unit


@torch.no_grad()
def gather_weights(policy, learner) -> None:
    """Copy the weights of a sharded twin into the whole policy. Every process must call it."""
    for whole, sharded in ((policy.text, learner.text), (policy.head, learner.head)):
        for p, shard_of_p in zip(whole.parameters(), sharded.parameters(), strict=True):
            # rounded first: a bf16 message is half of an fp32 one
            p.copy_(shard_of_p.to(p.dtype).full_tensor())
