"""TMRoPE positions against transformers' get_rope_index of all families, and by hand."""

import math

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version

from data import build_prompt
from media.tmrope import chunks_by_time
from tests.families import QWEN3_OMNI
from tests.random_media import every_layout, grids_of, media_of, mixture, sample_of
from tests.transformers_rules import hf_omni_positions, hf_vision_positions


def cut_behind(ids, ends) -> list[torch.Tensor]:
    """Token ids cut behind each medium, at the indices of their closing tokens; the last piece is
    text."""
    return list(ids.tensor_split([int(end) + 1 for end in ends]))


def omni_ends(policy, ids) -> torch.Tensor:
    """Indices of the tokens that close a medium: <|vision_eos|>, and <|audio_eos|> where no
    <|vision_eos|> follows."""
    vision = ids == policy.config.vision_end_token_id
    audio = (ids == policy.form.audio_end) & ~vision.roll(-1)
    return (vision | audio).nonzero()[:, 0]


def text_from(start, n) -> torch.Tensor:
    """(3, n) positions of text."""
    return (torch.arange(n) + start).expand(3, -1)


OMNI_CASES = [("qwen2_5_omni_thinker", *case) for case in every_layout()]
OMNI_CASES += [(QWEN3_OMNI, *case) for case in every_layout(32)]


def check_positions(policy, ours, theirs):
    """Equal; of Qwen3-Omni, whose times are sums of fractions, to fp32's last digits."""
    if policy.form.by_token:
        torch.testing.assert_close(ours, theirs.float(), rtol=5e-7, atol=0)
    else:
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("family", "sample", "media"), OMNI_CASES)
def test_positions_equal_transformers_rope_index(policy, families, family, sample, media):
    """Of one medium and of several in mixed order, also a video with sound beside sounds of their
    own.

    get_rope_index has one flag use_audio_in_video for all videos of a prompt, so it cannot place
    one with sound beside a silent one (it takes the silent one's tokens for text, or fails). Such
    prompts are compared medium by medium, each from the text before it to its end, one after the
    other; where the whole prompt can be compared, both are.
    """
    policy = families.get(family, policy)
    prompt = build_prompt(sample, media, policy.tokenizer, policy.form)
    if len({m.mel is not None for m in media if m.kind == "video"}) < 2:
        images = grids_of(prompt, media, "image")
        videos = grids_of(prompt, media, "video")
        whole = hf_omni_positions(policy, prompt.ids, media, images, videos)
        check_positions(policy, prompt.positions, whole)
        assert prompt.next_position == pytest.approx(whole.max().item() + 1)

    start = 0
    expected = []
    grids = iter(prompt.grids)
    *pieces, tail = cut_behind(prompt.ids, omni_ends(policy, prompt.ids))
    for piece, m in zip(pieces, media, strict=True):
        grid = [next(grids)] if m.frames is not None else []
        images, videos = (grid, []) if m.kind == "image" else ([], grid)
        expected.append(hf_omni_positions(policy, piece, [m], images, videos) + start)
        start = expected[-1].max().item() + 1
    expected.append(text_from(start, len(tail)))
    check_positions(policy, prompt.positions, torch.cat(expected, dim=1))


@pytest.mark.parametrize("letters", ["i", "v", "ii", "iv", "i v i", "vv", "v i i v"])
def test_qwen3_vl_positions_equal_transformers_rope_index(families, letters):
    """Pictures, and videos whose frame groups are pictures of their own between their times in
    words."""
    policy = families["qwen3_vl"]
    sample, media = mixture(letters, 32)
    prompt = build_prompt(sample, media, policy.tokenizer, policy.form)
    images = grids_of(prompt, media, "image")
    videos = grids_of(prompt, media, "video")
    expected = hf_vision_positions(policy, prompt.ids, media, images, videos)
    assert torch.equal(prompt.positions, expected)
    assert len(prompt.grids) == len(media)


@pytest.mark.parametrize("letters", ["i", "v", "ii", "iv", "i v i", "vv", "v i i v"])
def test_qwen2_5_vl_positions_equal_transformers_rope_index(families, letters):
    """Each medium with the text before it, one after the other; the token behind a medium is
    expected one past its last position.

    That is what the docstring of transformers' get_rope_index says, what its code did when the
    model was trained, and what vLLM does. transformers 5.17 to 5.23 let the text behind a VIDEO
    start at max(h, w) of its frames instead, which may lie before the video's last time position;
    so there only the positions up to the video's end are compared with its code. 5.17 also cuts the
    seconds per frame group to a whole number.
    """
    policy = families["qwen2_5_vl"]
    sample, media = mixture(letters)
    if Version(transformers.__version__) < Version("5.23"):
        for m in media:
            m.seconds_per_group = float(math.ceil(m.seconds_per_group))
    prompt = build_prompt(sample, media, policy.tokenizer, policy.form)

    start = 0
    expected = []
    ends = (prompt.ids == policy.config.vision_end_token_id).nonzero()[:, 0]
    *pieces, tail = cut_behind(prompt.ids, ends)
    for piece, m, grid in zip(pieces, media, prompt.grids, strict=True):
        images, videos = ([grid], []) if m.kind == "image" else ([], [grid])
        theirs = hf_vision_positions(policy, piece, [m], images, videos)
        after = theirs[:, :-1].max() + 1
        assert m.kind == "video" or torch.equal(theirs[:, -1], after.expand(3))
        expected.append(torch.cat([theirs[:, :-1], after.expand(3, 1)], dim=1) + start)
        start = int(expected[-1].max()) + 1
    expected.append(text_from(start, len(tail)))
    assert torch.equal(prompt.positions, torch.cat(expected, dim=1))
    if "v" not in letters:
        whole = hf_vision_positions(policy, prompt.ids, media, prompt.grids, [])
        assert torch.equal(prompt.positions, whole)


def test_sound_and_picture_stand_at_the_same_time(policy):
    """16 frames over 60 s: the last frame group lies at 52.5 s, next to the sound of that moment,
    not at 7 s."""
    media = media_of("video+sound", 16, 60.0, 7.5)
    prompt = build_prompt(sample_of("video+sound"), media, policy.tokenizer, policy.form)
    temporal = prompt.positions[0]
    start = int(temporal[prompt.ids == policy.form.audio].min())
    video = temporal[prompt.ids == policy.form.video] - start
    assert video.unique().tolist() == [int(7.5 * 25 * i) for i in range(8)]


def test_chunks_by_time_by_hand():
    close = chunks_by_time(np.array([0, 0, 25, 50, 75]), 50)
    assert [chunk.tolist() for chunk in close] == [[0, 1, 2], [3, 4]]
    far_apart = chunks_by_time(np.array([0, 0, 187, 187, 375, 375]), 50)
    assert [chunk.tolist() for chunk in far_apart] == [[0, 1], [2], [3], [4], [5]]
