"""run/memory.py against the tensors of a real step, and against numbers worked out by hand."""

import pytest
import torch
import transformers

from config import parse
from engine.families import DEFAULT_MODEL, load_config, parameter_counts
from engine.optim import Optimizer
from model import Features, load_policy
from run import memory
from run.learner import prepare
from tests.reference import random_completions


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_computed_bytes_are_the_tensors_of_a_real_step(prompts, kind):
    """Weights, gradients, optimiser state and reference of the bundled model in bf16, counted
    tensor by tensor after one step."""
    cfg = parse(["--train_type", kind, "--beta", "0.1"])
    policy = load_policy(DEFAULT_MODEL, dtype=torch.bfloat16)
    learner, reference = prepare(cfg, policy)
    optimizer = Optimizer(*learner.named_trained(), 1e-3)
    completions = [random_completions(policy, [4, 2]) for _ in prompts]
    logps, _ = policy.completion_logps(prompts, Features(policy).of(prompts), completions)
    logps.sum().backward()
    counted = {
        "weights": sum(p.nbytes for p in policy.model.parameters()),
        "gradients": sum(p.grad.nbytes for p in optimizer.params.values()),
        "optimiser": 0,
        "reference": 0,
    }
    optimizer.step(1e-3, 1.0)
    for name, tensors in optimizer.state_dict().items():
        if optimizer.masters[name] is optimizer.params[name]:
            tensors.pop("weight")
        counted["optimiser"] += sum(t.nbytes for key, t in tensors.items() if key != "step")
    if kind == "full":
        for module in (reference.text, reference.head):
            counted["reference"] += sum(p.nbytes for p in module.parameters())

    counts = parameter_counts(policy.config, cfg.lora_rank, False)
    computed = memory.memory(cfg, counts, policy.config.text_config, 1)
    assert {name: computed[name] * 1e9 for name in counted} == pytest.approx(counted)


def test_the_command_prints_a_row_per_train_type_and_gpus(capsys):
    memory.main(["--lora_rank", "4"])
    out = capsys.readouterr().out
    rows = []
    for line in out.splitlines():
        if line.startswith("| ") and "train_type" not in line:
            rows.append(line.strip("| ").split(" | "))
    expected = [(kind, gpus) for kind in ("lora", "full") for gpus in ("1", "2", "4", "8")]
    assert [(row[0], row[1]) for row in rows] == expected
    assert "LoRA of rank 4" in out


def test_a_model_that_is_not_there_is_one_sentence():
    with pytest.raises(SystemExit, match="error: nowhere/x: not a model folder"):
        memory.ends_in_a_sentence(memory.main, ["--model", "nowhere/x"])


def test_counts_of_the_bundled_model_are_those_of_its_weights():
    counts = parameter_counts(load_config(DEFAULT_MODEL), 8, False)
    total = sum(p.numel() for p in load_policy(DEFAULT_MODEL).model.parameters())
    assert counts["decoder"] + counts["head"] + counts["towers"] == total


@pytest.fixture(scope="module")
def seven_b():
    """(counts, text config) of Qwen2.5-Omni-7B's shapes, transformers' defaults."""
    config = transformers.Qwen2_5OmniThinkerConfig()
    return parameter_counts(config, 8, False), config.text_config


def test_counts_of_the_7b_by_hand(seven_b):
    """7.6 billion weights in decoder, embedding and head. LoRA has rank x (in + out) weights per
    linear layer: q, k, v, o, gate, up, down of 28 layers."""
    counts, text = seven_b
    d, kv, mlp = 3584, 512, 18944
    one_layer = (d + d) + (d + kv) + (d + kv) + (d + d) + 3 * (d + mlp)
    assert counts["adapters"] == 8 * 28 * one_layer == 20_185_088
    layer = d * d + d + 2 * (d * kv + kv) + d * d + 3 * d * mlp + 2 * d
    assert counts["layer"] == layer
    assert counts["decoder"] == 28 * layer + text.vocab_size * d + d
    assert counts["decoder"] + counts["head"] == pytest.approx(7.6e9, rel=0.01)


def test_bytes_of_the_7b_by_hand(seven_b):
    """n = 7.615 billion in decoder and head; the towers' weights are held, in bf16, but not
    trained. Gathered beside the shards: 2 layers of 233 million, embedding and head of 545
    million."""
    counts, text = seven_b
    n, towers = counts["decoder"] + counts["head"], counts["towers"]
    held = 2 * (n + towers)

    def bytes_of(kind: str, world: int, *more: str) -> dict[str, float]:
        cfg = parse(["--model", "some/7b", "--train_type", kind, "--beta", "0.1", *more])
        return {k: v * 1e9 for k, v in memory.memory(cfg, counts, text, world).items()}

    one, eight = bytes_of("full", 1), bytes_of("full", 8)
    assert one["weights"] == pytest.approx(held)
    assert one["gradients"] == pytest.approx(2 * n)
    assert one["optimiser"] == pytest.approx(12 * n)
    assert one["reference"] == pytest.approx(2 * n)
    assert one["rollout, update or step"] == pytest.approx(2 * n)  # gradients in fp32
    gathered = 2 * (2 * 233_057_792 + 2 * 152_064 * 3584)
    assert eight["weights"] == pytest.approx(held + 4 * n / 8 + gathered)
    assert eight["gradients"] == pytest.approx(4 * n / 8)
    assert eight["optimiser"] == pytest.approx(8 * n / 8)
    assert eight["reference"] == pytest.approx(2 * n / 8)

    cold_start = bytes_of("full", 8, "--stage", "0")
    assert cold_start["reference"] == 0

    # towers are not sharded
    both = bytes_of("full", 8, "--train_towers", "true")
    assert both["gradients"] == pytest.approx(4 * n / 8 + 2 * towers)
    assert both["optimiser"] == pytest.approx(8 * n / 8 + 12 * towers)

    lora = bytes_of("lora", 8)
    assert lora["weights"] == pytest.approx(held + 2 * 20_185_088)
    assert lora["gradients"] == pytest.approx(2 * 20_185_088)
    assert lora["optimiser"] == pytest.approx(12 * 20_185_088)
    assert lora["reference"] == 0


def test_the_rollouts_cache_by_hand(seven_b):
    """8 prompts on 2 GPUs: 4 each of 1,000 + 2 x 500 tokens; 28 layers of 4 heads of 128 keys and
    as many values in bf16, 57 kB a token."""
    _, text = seven_b
    flags = ["--max_prompt_tokens", "1000", "--fresh", "2", "--max_completion_tokens", "500"]
    cfg = parse(["--model", "some/7b", "--prompts_per_step", "8", *flags])
    assert memory.rollout_bytes(cfg, text, 2) == 4 * 2000 * 57_344
    cfg.max_prompt_tokens = 10**6
    assert memory.rollout_bytes(cfg, text, 2) == 2**18 * 57_344
