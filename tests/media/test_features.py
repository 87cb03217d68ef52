"""Patches and mel features against transformers' own processors."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from media.features import audio_tokens, log_mel, patchify
from media.frames import Resize
from media.prompt_format import MEAN, STD
from tests.families import QWEN3_OMNI


# ------------------------------------------------------------------ patches
@pytest.mark.parametrize("size", [(56, 168), (97, 133), (30, 500), (1080, 1920)])
@pytest.mark.parametrize(("patch", "mean", "std"), [(14, MEAN, STD), (16, (0.5,) * 3, (0.5,) * 3)])
def test_resize_and_patches_equal_the_slow_image_processor(size, patch, mean, std):
    """Each frame alone through transformers' PIL processor (which repeats it in time) against its
    slot in our video patches: of Qwen2.5 and of Qwen3-VL."""
    n_frames = 4 if size[0] < 1000 else 2
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (n_frames, *size, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 784, "longest_edge": 50_176},
        patch_size=patch,
        **({} if patch == 14 else {"image_mean": mean, "image_std": std}),
    )
    resize = Resize(784, 50_176, patch)
    resized = np.stack([resize(frame) for frame in frames])
    patches, (t, h, w) = patchify(resized, patch, mean, std)
    ours = patches.reshape(t, h * w, 3, 2, patch, patch)
    for i, frame in enumerate(frames):
        theirs = processor(Image.fromarray(frame), return_tensors="pt")
        assert theirs["image_grid_thw"].tolist() == [[1, h, w]]
        expected = theirs["pixel_values"].reshape(h * w, 3, 2, patch, patch)[:, :, 0]
        torch.testing.assert_close(ours[i // 2, :, :, i % 2], expected, atol=2e-6, rtol=0)


def test_an_odd_number_of_frames_repeats_the_last():
    frames = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    patches, grid = patchify(frames)
    filled_up = np.concatenate([frames, frames[-1:]])
    assert grid == (2, 2, 2)
    assert torch.equal(patches, patchify(filled_up)[0])


# ------------------------------------------------------------------ sound
@pytest.mark.parametrize("samples", [64_000, 4_800, 4_801, 399, 160, 161, 1_000_003])
@pytest.mark.parametrize("n_mels", [64, 128])
def test_log_mel_equals_whisper_feature_extractor(samples, n_mels):
    rng = np.random.default_rng(samples)
    sound = (0.3 * rng.standard_normal(samples) * np.linspace(0, 1, samples)).astype(np.float32)
    extractor = WhisperFeatureExtractor(
        feature_size=n_mels, return_attention_mask=True, chunk_length=300
    )
    theirs = extractor(
        sound,
        sampling_rate=16_000,
        return_tensors="pt",
        padding="max_length",
        return_attention_mask=True,
    )
    valid = int(theirs["attention_mask"].sum())
    ours = log_mel(sound, n_mels)
    assert ours.shape == (n_mels, valid)
    torch.testing.assert_close(ours, theirs["input_features"][0, :, :valid], atol=1e-4, rtol=0)


def test_long_sound_is_not_cut():
    """310 s: all 31,000 mel frames, as the extractor gives them when it is told the length. By
    default it cuts at 30 s, and Qwen2.5-Omni's at 300 s."""
    second = np.sin(np.arange(16_000) ** 2 / 30_000).astype(np.float32)
    sound = np.tile(second, 310) * np.linspace(0.1, 1, 310 * 16_000, dtype=np.float32)
    ours = log_mel(sound, 16)
    assert ours.shape == (16, 31_000)
    for seconds in (30, 300, 311):
        extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=seconds)
        theirs = extractor(sound, sampling_rate=16_000, return_tensors="pt")["input_features"][0]
        assert theirs.shape[1] == 100 * seconds
    torch.testing.assert_close(ours, theirs[:, :31_000], atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 30, 97, 99, 100, 101, 109, 200, 1234, 30_001])
def test_audio_token_count_of_qwen3_omni_is_what_its_tower_gives(families, length):
    policy = families[QWEN3_OMNI]
    mel = torch.randn(64, length)
    with torch.no_grad():
        output = policy.audio_tower(mel, feature_lens=torch.tensor([length])).last_hidden_state
    assert audio_tokens(length, policy.form.mel_chunk) == len(output)


def test_audio_token_count_equals_the_towers(policy):
    for length in (3, 40, 99, 100, 101, 199, 200, 201, 400, 1234):
        _, expected = policy.audio_tower._get_feat_extract_output_lengths(torch.tensor(length))
        assert audio_tokens(length) == int(expected)
