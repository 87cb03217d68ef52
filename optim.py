"""optim.py: AdamW for weights in bf16, its schedule, and the step that all processes take together.

A bf16 number holds 8 bits: near 0.02 its neighbours are 0.0001 away, and AdamW at the released learning rate of 5e-7 moves a weight by
0.0000005 a step. Rounded to the nearest, such a step is lost, every time: training would do nothing. Two ways around it, `--optim_dtype`:

    fp32   master weights and moments in fp32, the bf16 weights are their rounded copy     2 + 2 + 4 + 4 + 4 = 16 bytes per weight
    bf16   weights and moments in bf16, rounded up or down AT RANDOM, in proportion         2 + 2 + 2 + 2     =  8 bytes per weight
           to the distance, so that the mean of many steps is exact (arXiv 2010.06192)

Weights that are fp32 themselves need neither and use torch's own fused AdamW. This module imports nothing of ours.
"""
import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

SLICE = 2**26  # weights updated at a time, which bounds the fp32 scratch space to a few hundred MB


def round_at_random(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """fp32 -> bf16, up or down with the probabilities that make the mean x itself. A value that bf16 holds stays as it is."""
    noise = torch.randint(0, 2**16, x.shape, dtype=torch.int32, device=x.device, generator=generator)
    bits = (x.contiguous().view(torch.int32) + noise).bitwise_and_(-(2**16))       # the upper 16 bits of an fp32 number are a bf16 number
    return bits.view(torch.float32).to(torch.bfloat16)


class Bf16AdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) for bf16 parameters, with fp32 arithmetic. state_dtype: see the top of this file.

    seed must be the same on all processes: they round alike, and so keep the same weights.
    """

    def __init__(self, params, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
                 state_dtype: torch.dtype = torch.float32, seed: int = 0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.state_dtype, self.seed, self.generators = state_dtype, seed, {}

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(p, dtype=self.state_dtype),
                                 exp_avg_sq=torch.zeros_like(p, dtype=self.state_dtype))
                    if self.state_dtype == torch.float32:
                        state["master"] = p.float()
                state["step"] += 1
                columns = [x.view(-1).split(SLICE) for x in (p, p.grad, state["exp_avg"], state["exp_avg_sq"], state.get("master", p))]
                for w, g, m, v, master in zip(*columns, strict=True):
                    self._update(w, g.float(), m, v, master, int(state["step"]), group)

    def _update(self, w: Tensor, g: Tensor, m: Tensor, v: Tensor, master: Tensor, t: int, group: dict) -> None:
        (b1, b2), lr = group["betas"], group["lr"]
        m32, v32, w32 = m.float(), v.float(), master.float()                       # the tensors themselves where they are fp32
        m32.lerp_(g, 1 - b1)
        v32.mul_(b2).addcmul_(g, g, value=1 - b2)
        w32.mul_(1 - lr * group["weight_decay"]).addcdiv_(m32, (v32 / (1 - b2**t)).sqrt_().add_(group["eps"]), value=-lr / (1 - b1**t))
        if self.state_dtype == torch.float32:
            w.copy_(w32)
        else:
            for stored, exact in ((w, w32), (m, m32), (v, v32)):
                stored.copy_(round_at_random(exact, self._generator(w.device)))

    def state_dict(self) -> dict:
        return super().state_dict() | {"rounding": {str(device): g.get_state() for device, g in self.generators.items()}}

    def load_state_dict(self, state_dict: dict) -> None:
        """subtle: torch's own casts a state to its parameter's type, which would round masters and moments to bf16."""
        super().load_state_dict({k: state_dict[k] for k in ("state", "param_groups")})
        for i, p in enumerate(p for group in self.param_groups for p in group["params"]):
            if i in state_dict["state"]:
                self.state[p] = {k: v.to(p.device if k != "step" else "cpu", copy=True) for k, v in state_dict["state"][i].items()}
        for name, state in state_dict["rounding"].items():
            self._generator(torch.device(name)).set_state(state)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]


def make_optimizer(params: list[nn.Parameter], towers: list[nn.Parameter], lr: float, tower_share: float = 1.0, optim_dtype: str = "fp32", seed: int = 0,
                   **settings) -> torch.optim.Optimizer:
    """AdamW over what is trained; each group carries its `share` of the learning rate, 1 or for the towers `tower_share`."""
    groups = [g for g in ({"params": params, "share": 1.0}, {"params": towers, "share": tower_share}) if g["params"]]
    if (params or towers)[0].dtype == torch.float32:
        return torch.optim.AdamW(groups, lr=lr, fused=True, **settings)
    return Bf16AdamW(groups, lr=lr, state_dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[optim_dtype], seed=seed, **settings)


def learning_rate(peak: float, warmup: float, step: int, steps: int) -> float:
    """Linear warm-up over a share of the steps, then a cosine down to 5 % of the peak. step counts from 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))))


def sum_gradients(params: list[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in one message. Each process must have divided its loss by GLOBAL counts."""
    if not dist.is_initialized():
        return
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in params])
    dist.all_reduce(flat)
    for p, g in zip(params, flat.split([p.numel() for p in params]), strict=True):
        p.grad = g.view_as(p)


def optimiser_step(optimizer: torch.optim.Optimizer, lr: float, max_grad_norm: float = 0.0) -> float:
    """Sum gradients over processes, clip (0: not), step. Returns the gradient's norm before clipping."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    sum_gradients(params)
    norm = nn.utils.clip_grad_norm_(params, max_grad_norm or math.inf)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["share"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm.item()
