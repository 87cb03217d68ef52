"""run/diagnostics.py: what the log says of a micro-batch: how far the policy has moved from the
policies that wrote it, and whether sampler and trainer agree."""

from torch import Tensor

from groups import Batch
from run.logs import Log
from tas import completion_means

FOREVER = 10**9
AGES = ((1, 4), (5, 16), (17, 64), (65, FOREVER))  # steps since a replayed completion was written


def note_ratios(
    log: Log,
    batch: Batch,
    mask: Tensor,
    ratio: Tensor,
    clipped: Tensor,
    log_ratio: Tensor,
    kl_behaviour: Tensor,
    step: int,
) -> None:
    """How far the policy has moved from the policies that wrote the batch.

    mask, ratio, clipped, log_ratio (N, R); kl_behaviour (N,). ratio_mean, ratio_max and
    clip_fraction are over all trained tokens; clip_fraction_age_* and replayed_age_* tell replayed
    completions apart by their age in steps; kl_behaviour and log_ratio_squared are of replayed
    completions.
    """
    replayed_tokens = mask & batch.is_replayed[:, None]  # (N, R)
    log.note(
        ratio_mean=ratio[mask],
        ratio_max=ratio[mask],
        clip_fraction=clipped[mask],
        ratio_mean_replayed=ratio[replayed_tokens],
        ratio_squared_replayed=ratio[replayed_tokens] ** 2,
        log_ratio_squared=completion_means(log_ratio**2, mask)[batch.is_replayed],
        kl_behaviour=kl_behaviour[batch.is_replayed],
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


def note_sampler_mismatch(
    log: Log, logp: Tensor, behaviour_logps: Tensor, fresh_tokens: Tensor
) -> None:
    """How far the log-probs that the sampler has recorded are from the trainer's: rounding alone,
    if all is well. sampler_difference_max, and sampler_correlation (run/logs.py makes it of these
    means). All are (N, R)."""
    x = logp[fresh_tokens].double()  # (tokens,)
    y = behaviour_logps[fresh_tokens].double()  # (tokens,)
    log.note(
        sampler_difference_max=(x - y).abs(),
        mismatch_x=x,
        mismatch_y=y,
        mismatch_xx=x * x,
        mismatch_yy=y * y,
        mismatch_xy=x * y,
    )
