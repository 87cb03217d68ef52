"""Prompts: token ids, timestamps and features against transformers' own processors, the chat form,
and the builder that turns records into prompts or errors."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import (
    Qwen3OmniMoeProcessor,
    _get_feat_extract_output_lengths,
)

import data
from data import (
    Prompt,
    PromptBuilder,
    TooLong,
    build_prompt,
    question_text,
    share_prefixes,
)
from formats.sample import DataError, Sample
from media.cache import MediaCache, load_media
from media.decode import MediaSettings
from media.errors import MediaError
from media.features import with_mel
from media.prompt_format import MEAN, STD
from tests.families import QWEN3_OMNI
from tests.media_files import (
    SETTINGS,
    sample_of_file,
    write_broken,
    write_picture,
    write_video,
)
from tests.random_media import SEVERAL, every_layout, media_of
from tests.transformers_rules import (
    hf_omni_text,
    hf_qwen3_vl_video_text,
    hf_sample_frames,
    template_text,
)


# ------------------------------------------------------------------ against transformers
def hf_token_ids(omni, policy, sample, media, grids, lengths) -> list[int]:
    """The ids of transformers' own expansion of the prompt."""
    text = template_text(sample, media, policy.tokenizer)
    expanded = hf_omni_text(omni, policy.tokenizer, text, media, grids, lengths)
    return policy.tokenizer(expanded, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(("sample", "media"), every_layout())
def test_token_ids_equal_transformers_processor(policy, sample, media):
    """The whole prompt, with sound and picture of videos interleaved."""
    prompt = build_prompt(sample, media, policy.tokenizer, policy.form)
    lengths = []
    for m in media:
        if m.mel is not None:
            mel_frames = torch.tensor(m.mel.shape[1])
            _, n = policy.audio_tower._get_feat_extract_output_lengths(mel_frames)
            lengths.append(int(n))
    expected = hf_token_ids(Qwen2_5OmniProcessor, policy, sample, media, prompt.grids, lengths)
    assert prompt.ids.tolist() == expected


@pytest.mark.parametrize(("sample", "media"), every_layout(32))
def test_token_ids_of_qwen3_omni_equal_transformers_processor(families, sample, media):
    """Likewise, token by token."""
    policy = families[QWEN3_OMNI]
    prompt = build_prompt(sample, media, policy.tokenizer, policy.form)
    heard = [m for m in media if m.mel is not None]
    lengths = [_get_feat_extract_output_lengths(m.mel.shape[1]) for m in heard]
    expected = hf_token_ids(Qwen3OmniMoeProcessor, policy, sample, media, prompt.grids, lengths)
    assert prompt.ids.tolist() == expected


def test_several_files_become_the_right_pixels_and_sounds(tmp_path, policy):
    """Two pictures, a video with its sound and a sound of its own from files: each stands at its
    place, with the features that transformers gives it."""
    rng = np.random.default_rng(0)
    pictures = []
    for name, size in (("i.png", (97, 133)), ("j.png", (60, 41))):
        picture = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        picture.save(tmp_path / name)
        pictures.append(picture)
    wave = (0.3 * rng.standard_normal(4800)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    sample = Sample(
        "a",
        SEVERAL,
        "numeric",
        "1",
        images=[str(tmp_path / "i.png"), str(tmp_path / "j.png")],
        videos=[write_video(tmp_path / "v.mp4", rate=16_000, grey=100)],
        audios=[str(tmp_path / "a.wav")],
    )
    prompt = PromptBuilder(policy.tokenizer, policy.form, SETTINGS)(sample)
    first, clip, second = prompt.patches.split([math.prod(grid) for grid in prompt.grids])

    # pictures
    size = {"shortest_edge": SETTINGS.min_pixels, "longest_edge": SETTINGS.max_pixels}
    processor = Qwen2VLImageProcessorPil(size=size)
    picture_grids = (prompt.grids[0], prompt.grids[2])
    for ours, grid, picture in zip((first, second), picture_grids, pictures, strict=True):
        theirs = processor(picture, return_tensors="pt")
        assert theirs["image_grid_thw"].tolist() == [list(grid)]
        torch.testing.assert_close(ours, theirs["pixel_values"], atol=2e-6, rtol=0)

    # frames 0, 4, 8, 12 of 16
    mean = torch.tensor(MEAN)[:, None, None]
    std = torch.tensor(STD)[:, None, None]
    pixels = clip.reshape(2, -1, 3, 2, 14 * 14) * std + mean
    greys = (255 * pixels).mean(dim=(1, 2, 4)).flatten().tolist()
    assert greys == pytest.approx([100, 140, 180, 220], abs=4)

    # sounds
    extractor = WhisperFeatureExtractor(feature_size=64, chunk_length=300)
    track = load_media(sample, SETTINGS)[1].sound
    for ours, sound in zip(prompt.mels, (track, wave), strict=True):
        theirs = extractor(sound, sampling_rate=16_000, return_tensors="pt")["input_features"]
        assert ours.shape == (64, -(-len(sound) // 160))
        torch.testing.assert_close(ours, theirs[0, :, : ours.shape[1]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    ("frames", "video_fps", "fps"),
    [
        (24, 6, 2.0),
        (24, 6, 4.0),
        (24, 6, 1.0),
        (61, 30, 2.0),
        (45, 24, 2.0),
        (100, 25, 0.5),
        (1, 8, 2.0),
    ],
)
def test_vision_token_ids_and_timestamps_equal_transformers(
    families, tmp_path, name, frames, video_fps, fps
):
    """A picture, a video from a file, and a picture behind it.

    Qwen3-VL's times are those of transformers' own frames, written by Qwen3VLProcessor's own
    method. They replace <|vision_start|><|video_pad|><|vision_end|> as the processor did when the
    model came out, and as vLLM does; the processor of transformers 5.17 to 5.23 leaves a second
    pair of bounds around the video.
    """
    policy = families[name]
    side = policy.form.patch * 2
    path = write_video(tmp_path / "v.mp4", frames, video_fps, (side, 2 * side))
    question = "Is <image> in <video>, or is <image>?"
    sample = Sample("a", question, "yes/no", "no", images=["i", "j"], videos=[path])
    settings = MediaSettings(
        fps=fps, max_frames=16, max_pixels=10**5, use_audio=False, patch=policy.form.patch
    )
    (video,) = load_media(sample_of_file(path), settings)
    (one_token,) = media_of("image", size=(side, side))
    (three_tokens,) = media_of("image", size=(side, 3 * side))
    media = [one_token, video, three_tokens]
    prompt = build_prompt(sample, media, policy.tokenizer, policy.form)

    # transformers' own text of the video, and one and three tokens for the pictures
    index = hf_sample_frames(frames, video_fps, fps, 16) if frames > 1 else [0, 0]
    groups = len(index) // 2
    clip = "<|vision_start|>" + "<|video_pad|>" * (2 * groups) + "<|vision_end|>"
    if name == "qwen3_vl":
        clip = hf_qwen3_vl_video_text(video_fps, index)
    text = template_text(sample, media, policy.tokenizer)
    before, between, after = text.split("<|image_pad|>")
    text = before + "<|image_pad|>" + between + "<|image_pad|>" * 3 + after
    text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", clip)
    assert prompt.ids.tolist() == policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt.grids == [(1, 2, 2), (groups, 2, 4), (1, 2, 6)]
    assert len(prompt.patches) == sum(map(math.prod, prompt.grids))
    if name == "qwen3_vl" and (frames, fps) == (24, 2.0):
        assert re.findall(r"<([\d.]+) seconds>", text) == ["0.2", "1.2", "2.2", "3.2"]


# ------------------------------------------------------------------ the chat form
def test_a_system_turn_stands_in_place_of_the_templates_own(samples, builder, monkeypatch):
    monkeypatch.setattr(data, "SYSTEM", "You hear well.")
    text = builder(samples[0], False).text
    assert text.startswith("<|im_start|>system\nYou hear well.<|im_end|>\n<|im_start|>user")

    # a sample's own wins
    text = builder(replace(samples[0], system="Be brief."), False).text
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")


def test_hint_goes_into_the_user_turn_and_keeps_the_system_prompt(policy, samples, builder):
    sample = samples[0]
    plain = builder(sample)
    hinted = builder(sample, hinted=True)
    plain_text = policy.tokenizer.decode(plain.ids)
    hinted_text = policy.tokenizer.decode(hinted.ids)
    assert sample.hint not in plain_text
    assert sample.hint in hinted_text
    system, _ = plain_text.split("<|im_start|>user")
    assert "system" in system
    assert hinted_text.split("<|im_start|>user")[0] == system
    assert plain.sample.id == hinted.sample.id
    assert plain.sample.media_key == hinted.sample.media_key
    assert "Sound:" not in question_text(sample)
    assert sample.audio_caption in question_text(sample, audio_caption=True)


# ------------------------------------------------------------------ shared prefixes
def test_a_masked_copy_shares_no_prefix_with_its_original(policy, samples, builder):
    """Two questions about one clip do; a copy with other patches or another sound does not, though
    it names the same files."""
    a, b = builder.build_or_raise(samples[:2])
    assert a.sample.media_key == b.sample.media_key
    (shared,) = share_prefixes([a, b], policy.form)
    n = len(shared.prefix.ids)
    assert [shared.prefix.ids.tolist() + s for s in shared.suffixes] == [
        a.ids.tolist(),
        b.ids.tolist(),
    ]
    assert n > (a.ids == policy.form.video).nonzero().max()
    black = replace(b, patches=torch.zeros_like(b.patches))
    silent = replace(b, mels=[torch.zeros_like(mel) for mel in b.mels])
    for masked in (black, silent):
        alone = share_prefixes([a, masked], policy.form)
        assert [(s.prefix is p, s.suffixes) for s, p in zip(alone, (a, masked), strict=True)] == [
            (True, [[]]),
            (True, [[]]),
        ]


# ------------------------------------------------------------------ the builder
def test_a_model_that_hears_nothing_leaves_sound_out(families, tmp_path):
    """A video's track is not asked for; a sound of its own makes the record unusable."""
    policy = families["qwen2_5_vl"]
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16_000)
    video = sample_of_file(write_video(tmp_path / "v.mp4", rate=16_000))
    sound = sample_of_file(tmp_path / "a.wav", "audio")
    builder = PromptBuilder(policy.tokenizer, policy.form, SETTINGS)
    prompt, error = builder.build([video, sound])
    assert not prompt.mels
    assert prompt.grids == [(2, 2, 4)]
    assert not builder.silent
    assert isinstance(error, MediaError)
    message = "x.jsonl:1 ('a'): field 'audio': this model hears nothing"
    assert str(error).startswith(message)


def test_a_silent_video_is_asked_without_sound_and_noted(tmp_path, policy):
    """The prompt is that of a builder that wants no sound, and differs from that of the same clip
    with sound."""
    silent = sample_of_file(write_video(tmp_path / "s.mp4"))
    loud = sample_of_file(write_video(tmp_path / "l.mp4", rate=16_000))
    (media,) = load_media(silent, SETTINGS)
    assert media.sound is None
    assert len(media.frames) == 4
    hearing = PromptBuilder(policy.tokenizer, policy.form, SETTINGS)
    deaf = PromptBuilder(policy.tokenizer, policy.form, replace(SETTINGS, use_audio=False))
    silent_heard, loud_heard = hearing.build_or_raise([silent, loud])
    silent_seen, loud_seen = deaf.build_or_raise([silent, loud])
    assert hearing.silent == set(silent.videos)
    assert not deaf.silent
    assert torch.equal(silent_heard.ids, silent_seen.ids)
    assert torch.equal(silent_heard.positions, silent_seen.positions)
    assert torch.equal(silent_heard.patches, silent_seen.patches)
    assert not silent_heard.mels
    assert len(loud_heard.mels) == 1
    assert len(loud_heard.ids) > len(loud_seen.ids) == len(silent_seen.ids)


@pytest.mark.parametrize(
    "question",
    [
        "Is <|VIDEO|> here?",
        "Is this <image> an <|IMAGE|>?",
        "<|AUDIO|>",
        "<|vision_bos|><|VIDEO|><|vision_eos|>?",
    ],
)
def test_a_media_token_in_the_text_is_named_and_the_others_go_on(tmp_path, policy, question):
    """Also as a hint; `build` gives the error in its place and the right prompt beside it,
    `build_or_raise` raises it."""
    path = write_picture(tmp_path / "p.png")
    good = replace(sample_of_file(path, "image"), question="Is <image> here?")
    in_question = replace(good, id="b", question=question)
    in_hint = replace(good, id="c", hint=question)
    builder = PromptBuilder(policy.tokenizer, policy.form, SETTINGS)
    built = builder.build([good, in_question, in_hint], [False, False, True])
    prompt, *errors = built
    for error, name in zip(errors, "bc", strict=True):
        message = (
            f"x.jsonl:1 ('{name}'): its text holds a media token of the model's (<|IMAGE|>, ..)"
        )
        assert isinstance(error, MediaError)
        assert message in str(error)
    expected = build_prompt(good, load_media(good, SETTINGS), policy.tokenizer, policy.form)
    assert torch.equal(prompt.ids, expected.ids)
    with pytest.raises(MediaError, match="holds a media token"):
        builder.build_or_raise([good, in_question])


def test_a_prompt_that_is_too_long_is_refused_never_cut(tmp_path, policy):
    """With the number of its tokens. One of just the limit is whole."""
    path = write_picture(tmp_path / "p.png")
    sample = replace(sample_of_file(path, "image"), question="Is <image> here?")

    def build(limit):
        return PromptBuilder(policy.tokenizer, policy.form, SETTINGS, limit).build([sample])[0]

    whole = build(0)
    n = len(whole.ids)
    assert torch.equal(build(n).ids, whole.ids)
    error = build(n - 1)
    assert isinstance(error, TooLong)
    assert str(error).startswith(
        f"x.jsonl:1 ('a'): its prompt has {n:,} tokens, more than --max_prompt_tokens {n - 1:,}; "
    )


def test_workers_give_the_same_prompts_and_the_same_errors(tmp_path, policy):
    """A batch with a broken and a missing file and a text with a media token in it: the prompts
    beside them are right, and `prefetch` changes nothing."""
    clip = sample_of_file(write_video(tmp_path / "a.mp4", rate=16_000))
    broken = replace(sample_of_file(write_broken(tmp_path / "b.mp4"), id="b"), where="x.jsonl:2")
    missing = replace(sample_of_file(tmp_path / "c.png", "image", "c"), where="x.jsonl:3")
    token = replace(clip, id="d", question="<|VIDEO|>?", where="x.jsonl:4")
    picture = write_picture(tmp_path / "p.png")
    several = replace(clip, id="e", question="<image>?", images=[picture], where="x.jsonl:5")
    same_file = replace(broken, id="f")
    batch = [clip, broken, several, missing, token, same_file]
    threads, processes = (
        PromptBuilder(
            policy.tokenizer,
            policy.form,
            SETTINGS,
            cache=MediaCache(tmp_path / f"cache{workers}"),
            workers=workers,
        )
        for workers in (0, 1)
    )
    processes.prefetch(batch)
    keys = {sample.media_key for sample in (clip, broken, several, missing)}
    assert set(processes.loader.pending) == keys
    for _ in range(2):
        both = zip(batch, threads.build(batch), processes.build(batch), strict=True)
        for sample, from_thread, from_process in both:
            if sample in (clip, several):
                media = with_mel(load_media(sample, SETTINGS), 64)
                expected = build_prompt(sample, media, policy.tokenizer, policy.form)
                check_equal(from_thread, expected)
                check_equal(from_process, expected)
            else:
                assert type(from_thread) is type(from_process) is MediaError
                assert str(from_thread) == str(from_process)
                assert str(from_thread).startswith(f"{sample.where} ('{sample.id}'): ")
    assert not processes.loader.pending
    for builder in (threads, processes):
        with pytest.raises(DataError, match=r"x.jsonl:2 \('b'\): field 'video': cannot read"):
            builder(broken)
    processes.loader.close()


def check_equal(prompt: Prompt, expected: Prompt) -> None:
    """A prompt with one sound."""
    assert torch.equal(prompt.ids, expected.ids)
    assert torch.equal(prompt.patches, expected.patches)
    assert prompt.grids == expected.grids
    assert len(prompt.mels) == 1
    assert torch.equal(prompt.mels[0], expected.mels[0])
