"""run/learner.py: what is trained, by --train_type, and one step of its optimiser.

policy      samples, always whole
learner     is trained: the policy itself, or its twin that FSDP2 has spread over the processes,
            whose weights the policy gets after each step
reference   the stage's starting weights, frozen; only with --beta
"""

from config import Config
from engine.distributed import gather_weights, rank_and_world, shard
from engine.optim import Optimizer, learning_rate
from model import Policy

TOWER_LR = 1.0  # learning rate of the towers as a fraction of --lr
MAX_GRAD_NORM = 1.0


def prepare(cfg: Config, policy: Policy) -> tuple[Policy, Policy | None]:
    """(learner, reference or None) of a policy that holds the stage's starting weights."""
    if cfg.train_type == "lora":
        policy.add_adapters(cfg.lora_rank, cfg.train_towers, cfg.seed)
    elif not cfg.train_towers:
        policy.freeze_towers()
    _, world = rank_and_world()
    sharded = cfg.train_type == "full" and world > 1

    # the KL's reference, copied before anything is trained
    reference = None
    if cfg.beta and cfg.stage:
        reference = shard(policy, train=False) if sharded else policy.reference()
    if not sharded:
        return policy, reference

    learner = shard(policy)
    for module in (policy.text, policy.head):  # the twin's are trained in their place
        module.requires_grad_(False)
    return learner, reference


def make_optimizer(cfg: Config, learner: Policy, **settings) -> Optimizer:
    """AdamW over what is trained. settings: betas, weight_decay."""
    return Optimizer(*learner.named_trained(), cfg.lr, TOWER_LR, **settings)


def optimizer_step(
    cfg: Config, policy: Policy, learner: Policy, optimizer: Optimizer, step: int, steps: int
) -> tuple[float, float]:
    """One step of the optimiser: (gradient norm before clipping, learning rate).

    A norm that is no finite number has changed nothing.
    """
    lr = learning_rate(cfg.lr, step, steps)
    norm = optimizer.step(lr, MAX_GRAD_NORM)
    if learner is not policy:
        gather_weights(policy, learner)
    return norm, lr
