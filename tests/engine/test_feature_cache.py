"""engine/feature_cache.py: how much it keeps."""

import torch

from engine.feature_cache import FeatureCache


def test_feature_cache_is_bounded():
    cache = FeatureCache(max_bytes=100)
    for i in range(10):
        cache.put(str(i), {"vision": torch.zeros(10)})  # 40 bytes each
    cache.put("large", {"vision": torch.zeros(30)})  # would push out all others and still not fit
    assert list(cache.outputs) == ["8", "9"]
    assert cache.bytes == 80
    assert cache.get("0") is None


def test_what_was_used_last_stays():
    cache = FeatureCache(max_bytes=100)
    for name in ("a", "b"):
        cache.put(name, {"vision": torch.zeros(10)})
    cache.get("a")
    cache.put("c", {"vision": torch.zeros(10)})
    assert list(cache.outputs) == ["a", "c"]


def test_an_output_is_kept_without_the_batch_that_it_was_cut_from():
    cache = FeatureCache(max_bytes=100)
    first, _ = torch.arange(1000.0).split([10, 990])
    cache.put("first", {"vision": first})
    kept = cache.get("first")["vision"]
    assert torch.equal(kept, first)
    assert kept.untyped_storage().nbytes() == 40
