"""optim.py: AdamW for weights in bf16, its schedule, and the step that all processes take together.

A bf16 number holds 8 bits: near 0.02 its neighbours are 0.0001 away, and AdamW at the released learning rate of 5e-7 moves a weight by
0.0000005 a step. Rounded to the nearest, such a step is lost, every time: training would do nothing. Two ways around it, `--optim_dtype`:

    fp32   master weights and moments in fp32, the bf16 weights are their rounded copy     2 + 2 + 4 + 4 + 4 = 16 bytes per weight
    bf16   weights and moments in bf16, rounded up or down AT RANDOM, in proportion         2 + 2 + 2 + 2     =  8 bytes per weight
           to the distance, so that the mean of many steps is exact (arXiv 2010.06192)

Weights that are fp32 themselves need neither and use torch's own fused AdamW.

Among several processes the optimiser's state is sharded (ZeRO stage 1, Rajbhandari et al., arXiv 1910.02054): every parameter has one owner, to which
its gradients are summed, which steps it, and which sends it to all. Where FSDP2 has split a parameter itself (a DTensor) each process owns its part.
Of ours it imports only the function that fills lists up to a size.
"""

import math
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from engine.batching import split_by_tokens

BUCKET = 2**26  # gradients or weights sent in one message

SLICE = 2**26  # weights updated at a time, which bounds the fp32 scratch space to a few hundred MB


def round_at_random(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """fp32 -> bf16, up or down with the probabilities that make the mean x itself. A value that bf16 holds stays as it is."""
    noise = torch.randint(
        0, 2**16, x.shape, dtype=torch.int32, device=x.device, generator=generator
    )
    bits = (x.contiguous().view(torch.int32) + noise).bitwise_and_(
        -(2**16)
    )  # the upper 16 bits of an fp32 number are a bf16 number
    return bits.view(torch.float32).to(torch.bfloat16)


class Bf16AdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) for bf16 parameters, with fp32 arithmetic. state_dtype: see the top of this file.

    seed: of the rounding. Each parameter is stepped by one process, so processes need not round alike.
    """

    def __init__(
        self,
        params,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        state_dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )
        self.state_dtype, self.seed, self.generators = state_dtype, seed, {}

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(
                        step=torch.zeros(()),
                        exp_avg=torch.zeros_like(p, dtype=self.state_dtype),
                        exp_avg_sq=torch.zeros_like(p, dtype=self.state_dtype),
                    )
                    if self.state_dtype == torch.float32:
                        state["master"] = p.float()
                state["step"] += 1
                columns = [
                    local(x).view(-1).split(SLICE)
                    for x in (
                        p,
                        p.grad,
                        state["exp_avg"],
                        state["exp_avg_sq"],
                        state.get("master", p),
                    )
                ]
                for w, g, m, v, master in zip(*columns, strict=True):
                    self._update(w, g.float(), m, v, master, int(state["step"]), group)

    def _update(
        self, w: Tensor, g: Tensor, m: Tensor, v: Tensor, master: Tensor, t: int, group: dict
    ) -> None:
        (b1, b2), lr = group["betas"], group["lr"]
        m32, v32, w32 = (
            m.float(),
            v.float(),
            master.float(),
        )  # the tensors themselves where they are fp32
        m32.lerp_(g, 1 - b1)
        v32.mul_(b2).addcmul_(g, g, value=1 - b2)
        w32.mul_(1 - lr * group["weight_decay"]).addcdiv_(
            m32, (v32 / (1 - b2**t)).sqrt_().add_(group["eps"]), value=-lr / (1 - b1**t)
        )
        if self.state_dtype == torch.float32:
            w.copy_(w32)
        else:
            for stored, exact in ((w, w32), (m, m32), (v, v32)):
                stored.copy_(round_at_random(exact, self._generator(w.device)))

    def state_dict(self) -> dict:
        return super().state_dict() | {"rounding": self.rounding()}

    def load_state_dict(self, state_dict: dict) -> None:
        """subtle: torch's own casts a state to its parameter's type, which would round masters and moments to bf16."""
        super().load_state_dict({k: state_dict[k] for k in ("state", "param_groups")})
        for i, p in enumerate(p for group in self.param_groups for p in group["params"]):
            if i in state_dict["state"]:
                self.state[p] = {
                    k: v.to(p.device if k != "step" else "cpu", copy=True)
                    for k, v in state_dict["state"][i].items()
                }
        self.set_rounding(state_dict["rounding"])

    def rounding(self) -> dict[str, Tensor]:
        """The random states of the rounding, by device."""
        return {str(device): g.get_state() for device, g in self.generators.items()}

    def set_rounding(self, states: dict[str, Tensor]) -> None:
        for name, state in states.items():
            self._generator(torch.device(name)).set_state(state)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]


def deal(sizes: list[int], world: int) -> list[int]:
    """An owner for each of these sizes, so that the processes' sums are about equal: the largest first, each to whom has least.

    >>> deal([5, 9, 4, 4], 2)
    [1, 0, 1, 0]
    """
    held, owners = [0] * world, [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owners[i] = held.index(min(held))
        held[owners[i]] += sizes[i]
    return owners


class Trained:
    """What is trained and who steps it. optimizer: AdamW over the parameters that this process owns, and over its parts of DTensors; each of its groups
    carries its `share` of the learning rate: 1, or for the towers `tower_share`. Also owners and names of the whole parameters, alike on all processes."""

    def __init__(
        self,
        params: dict[str, nn.Parameter],
        towers: dict[str, nn.Parameter],
        lr: float,
        tower_share: float = 1.0,
        optim_dtype: str = "fp32",
        seed: int = 0,
        **settings,
    ):
        self.named = params | towers
        self.rank, self.world = (
            (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        )
        self.split = [p for p in self.named.values() if isinstance(p, DTensor)]
        self.whole = [p for p in self.named.values() if not isinstance(p, DTensor)]
        self.owners = deal([p.numel() for p in self.whole], self.world)
        mine = {id(p) for p in self.split} | {
            id(p) for p, owner in zip(self.whole, self.owners, strict=True) if owner == self.rank
        }
        groups = [
            {"params": [p for p in side.values() if id(p) in mine], "share": share}
            for side, share in ((params, 1.0), (towers, tower_share))
            if side
        ]
        if all(p.dtype == torch.float32 for p in self.named.values()):
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                groups, lr=lr, fused=True, **settings
            )
        else:
            self.optimizer = Bf16AdamW(
                groups,
                lr=lr,
                state_dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[optim_dtype],
                seed=seed,
                **settings,
            )

    def messages(self, params: list[nn.Parameter]) -> Iterator[tuple[int, list[nn.Parameter]]]:
        """Some of the whole parameters in the order in which all processes speak of them: (owner, parameters of one message)."""
        owner_of = {id(p): owner for p, owner in zip(self.whole, self.owners, strict=True)}
        for owner in range(self.world):
            some = [p for p in params if owner_of[id(p)] == owner]
            for batch in split_by_tokens(some, [p.numel() for p in some], BUCKET):
                yield owner, batch

    def sum_gradients(self) -> None:
        """Add up the gradients of all processes at their parameters' owners; elsewhere they are dropped. Each process must have divided its loss by GLOBAL
        counts. A parameter without a gradient on any process keeps none. (FSDP2 has done it for DTensors.)"""
        if self.world == 1:
            return
        has = torch.tensor(
            [p.grad is not None for p in self.whole], dtype=torch.uint8, device=self.device
        )
        dist.all_reduce(has, dist.ReduceOp.MAX)
        for owner, batch in self.messages(
            [p for p, h in zip(self.whole, has.tolist(), strict=True) if h]
        ):
            flat = torch.cat(
                [
                    (p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1).float()
                    for p in batch
                ]
            )
            dist.reduce(flat, owner)
            for p, g in zip(batch, flat.split([p.numel() for p in batch]), strict=True):
                p.grad = g.view_as(p).to(p.dtype) if owner == self.rank else None

    def send_weights(self) -> None:
        """Every process gets the parameters that the others have stepped."""
        if self.world == 1:
            return
        for owner, batch in self.messages(self.whole):
            flat = torch.cat([p.detach().reshape(-1) for p in batch])
            dist.broadcast(flat, owner)
            for p, w in zip(batch, flat.split([p.numel() for p in batch]), strict=True):
                p.data.copy_(w.view_as(p))

    def clip(self, max_norm: float) -> float:
        """Scale the owned gradients so that the norm of all processes' together is at most max_norm (0: do not). Returns the norm before."""
        own = [
            local(p.grad)
            for group in self.optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        total = (
            torch.stack([g.float().square().sum() for g in own]).sum()
            if own
            else torch.zeros((), device=self.device)
        )
        if self.world > 1:
            dist.all_reduce(total)
        norm = total.sqrt()
        if max_norm:
            for g in own:
                g.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm.item()

    def step(self, lr: float, max_grad_norm: float = 0.0) -> float:
        """Sum gradients, clip (0: not), step, send. Returns the gradient's norm before clipping, which all processes share; where it is no finite number
        none of them steps, and weights and state stay as they are."""
        self.sum_gradients()
        norm = self.clip(max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["share"]
        if finite := math.isfinite(norm):
            self.optimizer.step()
        for p in self.named.values():
            p.grad = None
        if not finite:
            return norm
        self.send_weights()
        return norm

    @property
    def device(self) -> torch.device:
        return next(iter(self.named.values())).device

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The optimiser's tensors that this process owns, by parameter name."""
        names = {id(p): name for name, p in self.named.items()}
        return {
            names[id(p)]: {k: local(v) for k, v in state.items()}
            for p, state in self.optimizer.state.items()
        }

    def load(self, states: list[dict[str, dict[str, Tensor]]]) -> None:
        """Go on from this process's own `state` alone, or when the number of processes has changed, from those of all that there were, in rank order."""
        for name, p in self.named.items():
            pieces = [s[name] for s in states if name in s]
            owned = isinstance(p, DTensor) or any(
                p is q for group in self.optimizer.param_groups for q in group["params"]
            )
            if pieces and owned:
                self.optimizer.state[p] = {
                    k: self._own(p, [piece[k] for piece in pieces]) for k in pieces[0]
                }

    def _own(self, p: nn.Parameter, pieces: list[Tensor]) -> Tensor:
        """One tensor of a parameter's state: of a whole parameter its owner's; of a DTensor this process's rows, its own or of all processes' pieces."""
        if pieces[0].ndim == 0 or not isinstance(p, DTensor):
            return pieces[0].clone() if pieces[0].ndim == 0 else pieces[0].to(p.device, copy=True)
        rows, n = pieces[0].to(p.device, copy=True), len(local(p))
        if len(pieces) > 1 or len(rows) != n:  # FSDP2 splits along the rows, as torch.chunk does
            whole = torch.cat([piece.to(p.device) for piece in pieces])
            start = sum(
                len(part)
                for part in torch.empty(len(whole), device="meta").chunk(self.world)[: self.rank]
            )
            rows = whole[start : start + n].clone()
        return DTensor.from_local(
            rows, p.device_mesh, p.placements, shape=p.shape, stride=p.stride()
        )


def local(x: Tensor) -> Tensor:
    """This process's part of a DTensor; any other tensor itself."""
    return x.to_local() if isinstance(x, DTensor) else x


def learning_rate(peak: float, warmup: float, step: int, steps: int) -> float:
    """Linear warm-up over a share of the steps, then a cosine down to 5 % of the peak. step counts from 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (
        0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
    )
