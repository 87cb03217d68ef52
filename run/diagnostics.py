"""run/diagnostics.py: what the log says of how far the policy has moved, from the tensors of a
micro-batch."""

from torch import Tensor

from groups import Batch
from run.logs import Log

FOREVER = 10**9
AGES = ((1, 4), (5, 16), (17, 64), (65, FOREVER))  # steps since a replayed completion was written


def note_ratios(
    log: Log, batch: Batch, mask: Tensor, ratio: Tensor, clipped: Tensor, step: int
) -> None:
    """How far the policy has moved from the policies that wrote the batch, over its tokens.

    ratio_mean, ratio_max and clip_fraction are over all trained tokens; clip_fraction_age_* and
    replayed_age_* tell replayed completions apart by their age in steps.
    """
    replayed_tokens = mask & batch.is_replayed[:, None]  # (N, R)
    log.note(
        ratio_mean=ratio[mask],
        ratio_max=ratio[mask],
        clip_fraction=clipped[mask],
        ratio_mean_replayed=ratio[replayed_tokens],
        ratio_squared_replayed=ratio[replayed_tokens] ** 2,
    )

    # is it the old completions that the policy has left?
    age = step - batch.written  # (N,)
    for low, high in AGES:
        chosen = batch.is_replayed & (age >= low) & (age <= high)  # (N,)
        name = f"{low}_{high}" if high < FOREVER else f"{low}_on"
        log.note(
            **{
                f"replayed_age_{name}_sum": chosen,
                f"clip_fraction_age_{name}": clipped[mask & chosen[:, None]],
            }
        )


def note_drift(log: Log, log_ratio: Tensor, logp: Tensor, fresh_tokens: Tensor) -> None:
    """How far the log-probs that the sampler has recorded are from the trainer's: rounding alone,
    if all is well. sampler_difference_max, and sampler_correlation (run/logs.py makes it of these
    means)."""
    x = logp[fresh_tokens].double()  # (tokens,)
    y = x - log_ratio[fresh_tokens]  # (tokens,) as recorded
    log.note(
        sampler_difference_max=(x - y).abs(),
        drift_x=x,
        drift_y=y,
        drift_xx=x * x,
        drift_yy=y * y,
        drift_xy=x * y,
    )
