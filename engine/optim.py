"""engine/optim.py: AdamW with fp32 master weights, its schedule, and the step of all processes.

A bf16 number holds 8 bits: near 0.02 its neighbours are 0.0001 away, and AdamW at the released
learning rate of 5e-7 moves a weight by 0.0000005 a step. Rounded to the nearest bf16 number such a
step is lost, every time: training would do nothing. So AdamW (torch's own) steps an fp32 master of
every trained weight, as in mixed-precision training (Micikevicius et al., arXiv 1710.03740). Where
the master is depends on the parameter:

    trained parameter        fp32 master             gradients are summed        bytes per weight
    -----------------------  ----------------------  --------------------------  ----------------
    fp32 (on a CPU)          the parameter itself    by step(), an all-reduce    4 + 4 + 8
    bf16 (LoRA; one GPU;     a copy, kept here       by step(), an all-reduce    2 + 2 + 4 + 8
      towers)
    FSDP2 shard (DTensor)    the parameter itself    by FSDP2, in backward       4 + 4 + 8, split

The bytes are those of the weight, its gradient, the copy if there is one, and AdamW's two fp32
moments.

Parameters of the first two kinds are replicated: every process holds all of them and takes the same
step. They stay equal to the last bit, because an all-reduce gives every process the same sums and
all that follows is the same arithmetic on them.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from engine.batching import split_by_tokens
from engine.distributed import gather, rank_and_world

BUCKET = 2**26  # numbers in one message of an all-reduce: 256 MB

WARMUP = 0.05  # fraction of the steps in which the learning rate rises


class Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) over all processes.

    decoder_params, tower_params: what is trained, by name; either may be empty. Towers get
    `tower_lr_fraction` of the learning rate. `params` maps the names to the parameters of the
    model, `masters` to the fp32 tensors that are stepped.
    """

    def __init__(
        self,
        decoder_params: dict[str, nn.Parameter],
        tower_params: dict[str, nn.Parameter],
        lr: float,
        tower_lr_fraction: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ):
        self.params = decoder_params | tower_params
        self.masters = {name: fp32_master(p) for name, p in self.params.items()}
        self.sharded = [m for m in self.masters.values() if isinstance(m, DTensor)]
        self.replicated = [m for m in self.masters.values() if not isinstance(m, DTensor)]

        # AdamW steps the masters, in up to two groups that differ in their learning rate
        groups = []
        for params, fraction in ((decoder_params, 1.0), (tower_params, tower_lr_fraction)):
            if params:
                masters = [self.masters[name] for name in params]
                groups.append({"params": masters, "lr_fraction": fraction})
        self.adamw = torch.optim.AdamW(
            groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=True
        )

    @torch.no_grad()
    def step(self, lr: float, max_grad_norm: float) -> float:
        """Sum the gradients over processes, clip them to `max_grad_norm`, step, and clear them.

        Every process must have divided its loss by GLOBAL counts, so that gradients are summed and
        not averaged. Returns the norm of the summed gradient before clipping, which all processes
        share. Where it is not a finite number, no process steps: weights and state stay as they
        are.
        """
        self._move_gradients_to_masters()
        self._sum_replicated_gradients()
        norm = self._gradient_norm()

        # All processes have the same norm, so all step or none does.
        if torch.isfinite(norm):
            for kind in (self.sharded, self.replicated):  # torch scales no mixture of them
                clip_grads_with_norm_(kind, max_grad_norm, norm)
            for group in self.adamw.param_groups:
                group["lr"] = lr * group["lr_fraction"]
            self.adamw.step()
            self._copy_masters_to_params()

        for master in self.masters.values():
            master.grad = None
        return norm.item()

    def _move_gradients_to_masters(self) -> None:
        """Give each master the gradient of its parameter, in fp32."""
        # one parameter after the other, so that only one gradient is held in both types at a time
        for name, p in self.params.items():
            master = self.masters[name]
            if master is not p:
                master.grad = None if p.grad is None else p.grad.float()
                p.grad = None

    def _copy_masters_to_params(self) -> None:
        """Bring the model's parameters to what their masters are now."""
        for name, p in self.params.items():
            if self.masters[name] is not p:
                p.copy_(self.masters[name])  # rounds to the nearest bf16 number

    def _sum_replicated_gradients(self) -> None:
        """All-reduce the gradients of what every process holds. (FSDP2 has summed the shards'.)"""
        _, world = rank_and_world()
        if world == 1 or not self.replicated:
            return

        # trap: all processes must send the same tensors in the same order, or they wait in vain.
        # But a parameter may have a gradient on some processes only: the audio tower where prompts
        # have sound. One that has none anywhere keeps none, so that AdamW passes over it as it does
        # in a run of one process.
        has_gradient = torch.tensor([float(m.grad is not None) for m in self.replicated])
        has_gradient = has_gradient.to(self.replicated[0].device)
        dist.all_reduce(has_gradient, dist.ReduceOp.MAX)
        gradients = []
        for master, anywhere in zip(self.replicated, has_gradient.tolist(), strict=True):
            if anywhere and master.grad is None:
                master.grad = torch.zeros_like(master)
            if anywhere:
                gradients.append(master.grad)

        # a few large messages instead of one for each of hundreds of tensors
        for bucket in split_by_tokens(gradients, [g.numel() for g in gradients], BUCKET):
            flat = torch.cat([g.flatten() for g in bucket])  # (numbers,)
            dist.all_reduce(flat)
            for g, total in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                g.copy_(total.view_as(g))

    def _gradient_norm(self) -> Tensor:
        """The L2 norm of the whole gradient: of all shards, and of replicated gradients once."""
        norms = [torch.zeros((), device=next(iter(self.masters.values())).device)]
        for kind in (self.sharded, self.replicated):
            gradients = [m.grad for m in kind if m.grad is not None]
            if gradients:
                norms.append(whole(get_total_norm(gradients)))  # of shards: an all-reduce
        return torch.linalg.vector_norm(torch.stack(norms))

    @torch.no_grad()
    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """{name of a parameter: {"weight": its fp32 master, and AdamW's state once there is one}}.

        AdamW's state is "step", "exp_avg" and "exp_avg_sq". The tensors are whole and on the CPU,
        so that the state does not depend on the number of processes. Every process must call this
        (shards are gathered); rank 0 gets the state, the others an empty dict.
        """
        rank, _ = rank_and_world()
        state = {}
        for name, master in self.masters.items():
            tensors = {"weight": master, **self.adamw.state.get(master, {})}
            full = {key: whole(t) for key, t in tensors.items()}
            if rank == 0:
                state[name] = {key: t.detach().cpu() for key, t in full.items()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Go on from a `state_dict` that any number of processes may have made.

        Restores masters, the model's parameters and AdamW's state. Rank 0 passes the state, and
        hands every process its part; the others pass an empty dict. Raises ValueError on every
        process when the state is not one of these parameters.
        """
        shapes = {}
        for name, tensors in state.items():
            shapes[name] = {k: tuple(t.shape) for k, t in tensors.items()}
        saved = gather(shapes)[0]  # what rank 0 has
        for name in sorted(saved.keys() | self.masters.keys()):
            ours = tuple(self.masters[name].shape) if name in self.masters else None
            theirs = saved[name]["weight"] if name in saved else None
            if ours != theirs:
                raise ValueError(f"{name} has the shape {theirs} there, and {ours} here")

        # tensor by tensor, in the same order on all processes: each hand_out is a message
        for name, master in self.masters.items():
            tensors = state.get(name, {})
            master.copy_(hand_out(tensors.get("weight"), master))
            if "step" in saved[name]:
                self.adamw.state[master] = {
                    "step": hand_out(tensors.get("step"), torch.zeros((), device=master.device)),
                    "exp_avg": hand_out(tensors.get("exp_avg"), master),
                    "exp_avg_sq": hand_out(tensors.get("exp_avg_sq"), master),
                }
        self._copy_masters_to_params()


def fp32_master(p: nn.Parameter) -> nn.Parameter:
    """What AdamW steps in place of a parameter: itself where it is fp32, else an fp32 copy."""
    return p if p.dtype == torch.float32 else nn.Parameter(p.detach().float())


def whole(x: Tensor) -> Tensor:
    """All of a DTensor, gathered from the processes; any other tensor as it is."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def hand_out(full: Tensor | None, like: Tensor) -> Tensor:
    """A tensor of rank 0 on every process: a new one with the device, type and shards of `like`.

    full: the whole tensor on rank 0, None elsewhere. All processes must call it together.
    """
    rank, world = rank_and_world()
    if rank == 0:
        full = full.to(like.device, like.dtype, copy=True)
    else:
        full = torch.empty(like.shape, dtype=like.dtype, device=like.device)  # receives it
    if isinstance(like, DTensor):
        return distribute_tensor(full, like.device_mesh, like.placements)
    if world > 1:
        dist.broadcast(full, 0)
    return full


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Linear warm-up over a fraction WARMUP of the steps, then a cosine to 5 % of the peak.

    step counts from 0:

    >>> [round(learning_rate(1.0, step, 100), 3) for step in (0, 4, 5, 52, 99)]
    [0.2, 1.0, 1.0, 0.533, 0.05]
    """
    warmup_steps = max(1, round(WARMUP * steps))
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)  # 0 to 1
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
