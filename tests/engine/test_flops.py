"""engine/flops.py against numbers worked by hand."""

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from engine.flops import peak_flops, update_flops


@pytest.fixture
def model():
    """One layer of width 8 with 2 heads of width 4 over 1 key-value head, MLP of 16, 10 ids."""
    config = Qwen2Config(
        vocab_size=10,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    return Qwen2ForCausalLM(config)


# q and its bias, k and v and theirs, o; gate, up, down; two norms
LAYER = (8 * 8 + 8) + 2 * (8 * 4 + 4) + 8 * 8 + 3 * 8 * 16 + 2 * 8
HEAD = 80


def test_operations_of_an_update_by_hand(model):
    """A row of 5 prompt tokens with completions of 2 and 3. Pairs: 12.5 within the prompt, 10 and
    15 to it, 2 and 4.5 within the completions; 12 operations for each of 8 query widths."""
    expected = 6 * LAYER * 10 + 6 * HEAD * 5 + 12 * 8 * (12.5 + 25 + 6.5)
    assert update_flops(model.model, model.lm_head, [5], [[2, 3]]) == expected
    two_rows = update_flops(model.model, model.lm_head, [5, 5], [[2, 3], [2, 3]])
    assert two_rows == 2 * expected


def test_weights_that_are_not_trained_cost_no_gradient_of_their_own(model):
    model.requires_grad_(False)
    expected = 4 * LAYER * 10 + 4 * HEAD * 5 + 12 * 8 * 44
    assert update_flops(model.model, model.lm_head, [5], [[2, 3]]) == expected


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
    ],
)
def test_peaks_by_the_names_of_devices(name, teraflops):
    assert peak_flops(name) == teraflops * 1e12


def test_a_device_that_is_not_known_has_no_peak():
    assert peak_flops("x86_64") is None
    assert peak_flops("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None


def test_a_token_passes_some_of_the_experts():
    """One layer of width 8: q, k, v, o of 8, 4, 4, 8 rows of 8, norms of 4 for q and k and of 8 for
    the layer, a router of 4 x 8, and of 4 experts of 3 x 8 x 6 one."""
    config = Qwen3MoeConfig(
        vocab_size=10,
        hidden_size=8,
        moe_intermediate_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        num_experts=4,
        num_experts_per_tok=1,
        tie_word_embeddings=False,
    )
    model = Qwen3MoeForCausalLM(config)
    attention = 8 * (8 + 4 + 4 + 8) + 2 * 4
    layer = attention + 2 * 8 + 4 * 8 + 3 * 8 * 6
    expected = 6 * layer * 10 + 6 * HEAD * 5 + 12 * 8 * 44
    assert update_flops(model.model, model.lm_head, [5], [[2, 3]]) == expected
