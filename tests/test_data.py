"""data.py against transformers' own processors, and its errors. Media files are made on the spot."""
import json
import os
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as hf_smart_resize

import data
from data import (
    TYPE_INSTRUCTION,
    DataError,
    Media,
    MediaStore,
    PromptMaker,
    Sample,
    audio_tokens,
    build_prompt,
    chunks_by_time,
    decode,
    frame_indices,
    load_media,
    load_samples,
    log_mel,
    patchify,
    question_text,
    resize_frames,
    save_samples,
    smart_resize,
)
from rewards import LABELS

SETTINGS = {"fps": 2.0, "max_frames": 16, "min_pixels": 784, "max_pixels": 84 * 28}


def write_video(path, frames=16, fps=8, size=(56, 84), rate=None, seconds=2.0):
    """A small mp4: each frame one grey level (10 per frame); with `rate`, a sine as its sound track."""
    with av.open(str(path), "w") as box:
        video = box.add_stream("libx264", rate=fps, options={"crf": "10"})
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        audio = box.add_stream("aac", rate=rate, layout="mono") if rate else None
        for i in range(frames):
            box.mux(video.encode(av.VideoFrame.from_ndarray(np.full((*size, 3), 10 * i, np.uint8), format="rgb24")))
        box.mux(video.encode())
        if rate:
            wave = np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate).astype(np.float32)
            block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            block.sample_rate = rate
            box.mux(audio.encode(block))
            box.mux(audio.encode())
    return str(path)


# ------------------------------------------------------------------ pixels
@pytest.mark.parametrize("size", [(56, 168), (480, 640), (97, 33), (28, 28), (1080, 1920), (5, 900)])
def test_smart_resize_equals_transformers(size):
    for low, high in ((784, 2352), (56 * 56, 50_176), (128 * 784, 768 * 784)):
        assert smart_resize(*size, low, high) == hf_smart_resize(*size, factor=28, min_pixels=low, max_pixels=high)


@pytest.mark.parametrize("size", [(56, 168), (97, 133), (240, 426)])
def test_resize_and_patches_equal_the_slow_image_processor(size):
    """Each frame alone through transformers' PIL processor (which repeats it in time) against its slot in our video patches."""
    frames = np.random.default_rng(0).integers(0, 256, (4, *size, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": 50_176})
    patches, (t, h, w) = patchify(resize_frames(frames, 784, 50_176))
    ours = patches.reshape(t, h * w, 3, 2, 14, 14)
    for i, frame in enumerate(frames):
        theirs = processor(Image.fromarray(frame), return_tensors="pt")
        assert theirs["image_grid_thw"].tolist() == [[1, h, w]]
        expected = theirs["pixel_values"].reshape(h * w, 3, 2, 14, 14)[:, :, 0]
        torch.testing.assert_close(ours[i // 2, :, :, i % 2], expected, atol=2e-6, rtol=0)


def test_an_odd_number_of_frames_repeats_the_last():
    frames = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    patches, grid = patchify(frames)
    assert grid == (2, 2, 2) and torch.equal(patches, patchify(np.concatenate([frames, frames[-1:]]))[0])


# ------------------------------------------------------------------ sound
@pytest.mark.parametrize("samples", [64_000, 4_801, 399, 160, 161, 1_000_003])
@pytest.mark.parametrize("n_mels", [64, 128])
def test_log_mel_equals_whisper_feature_extractor(samples, n_mels):
    rng = np.random.default_rng(samples)
    sound = (0.3 * rng.standard_normal(samples) * np.linspace(0, 1, samples)).astype(np.float32)
    extractor = WhisperFeatureExtractor(feature_size=n_mels, return_attention_mask=True, chunk_length=300)
    theirs = extractor(sound, sampling_rate=16_000, return_tensors="pt", padding="max_length", return_attention_mask=True)
    valid = int(theirs["attention_mask"].sum())
    ours = log_mel(sound, n_mels)
    assert ours.shape == (n_mels, valid)
    torch.testing.assert_close(ours, theirs["input_features"][0, :, :valid], atol=1e-4, rtol=0)


def test_audio_token_count_equals_the_towers(policy):
    for length in (3, 40, 99, 100, 101, 199, 200, 201, 400, 1234):
        assert audio_tokens(length) == int(policy.audio_tower._get_feat_extract_output_lengths(torch.tensor(length))[1])


# ------------------------------------------------------------------ time
@pytest.mark.parametrize(("total", "video_fps", "fps", "most", "n", "seconds"), [
    (32, 8.0, 2.0, 16, 8, 0.5), (1800, 30.0, 2.0, 16, 16, 3.75), (240, 24.0, 1.0, 16, 10, 1.0), (90, 30.0, 2.0, 16, 6, 0.5), (1, 25.0, 2.0, 16, 2, 0.5),
    (100, 25.0, 2.0, 16, 8, 0.5)])
def test_frames_carry_their_true_seconds(total, video_fps, fps, most, n, seconds):
    index, step = frame_indices(total, video_fps, fps, most)
    assert len(index) == n and step == pytest.approx(seconds) and index.max() < total
    if total > 1:   # the sampled frames really are `step` seconds apart, to within one frame of rounding
        assert np.abs(np.diff(index) / video_fps - step).max() < 1 / video_fps


def test_frames_come_from_the_right_times(tmp_path):
    sample = Sample("a", "q", "numeric", "1", video=write_video(tmp_path / "v.mp4", frames=16, fps=8))
    media = load_media(sample, **SETTINGS, use_audio=False)
    assert media.seconds_per_group == 1.0
    assert media.frames.mean(axis=(1, 2, 3)) == pytest.approx([0, 40, 80, 120], abs=4)      # frames 0, 4, 8, 12 of grey 10 i


def test_sound_track_is_resampled_to_16_khz_mono(tmp_path):
    sample = Sample("a", "q", "numeric", "1", video=write_video(tmp_path / "v.mp4", rate=44_100))
    sound = load_media(sample, **SETTINGS).sound
    assert sound.ndim == 1 and 2.0 <= len(sound) / 16_000 < 2.2
    spectrum = np.abs(np.fft.rfft(sound[4000:20_000]))
    assert spectrum.argmax() == pytest.approx(440, abs=2)                                    # 1 Hz bins


def test_sidecar_sound_is_read_mixed_and_resampled(tmp_path):
    t = np.arange(48_000) / 48_000
    stereo = np.stack([np.sin(2 * np.pi * 300 * t), np.zeros_like(t)], axis=1)
    for name in ("s.wav", "s.flac"):
        soundfile.write(tmp_path / name, stereo, 48_000)
        media = load_media(Sample("a", "q", "numeric", "1", audio=str(tmp_path / name)), **SETTINGS)
        assert len(media.sound) == 16_000 and media.frames is None
        assert np.abs(media.sound[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)         # the mean of the two channels


# ------------------------------------------------------------------ token ids and positions
def media_of(kind, frames=8, seconds=4.0, seconds_per_group=1.0, size=(28, 84)):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (frames, *size, 3), dtype=np.uint8)
    mel = log_mel((0.1 * rng.standard_normal(int(seconds * 16_000))).astype(np.float32), 64)
    return {"video": Media(pixels, None, seconds_per_group), "video+sound": Media(pixels, None, seconds_per_group, False, mel),
            "image": Media(pixels[:1], is_image=True), "image+sound": Media(pixels[:1], is_image=True, mel=mel), "sound": Media(mel=mel)}[kind]


LAYOUTS = [("video+sound", {}), ("video+sound", {"seconds_per_group": 0.37, "frames": 14}), ("video+sound", {"seconds_per_group": 7.5, "seconds": 60.0}),
           ("video+sound", {"seconds_per_group": 2.0, "seconds": 3.1}), ("video+sound", {"seconds_per_group": 0.25, "seconds": 9.0, "size": (56, 56)}),
           ("video", {}), ("video", {"seconds_per_group": 3.3}), ("image", {"size": (56, 84)}), ("image+sound", {}), ("sound", {"seconds": 0.3})]


@pytest.mark.parametrize(("kind", "shape"), LAYOUTS)
def test_positions_equal_transformers_rope_index(policy, kind, shape):
    media = media_of(kind, **shape)
    prompt = build_prompt(Sample("a", "How many?", "numeric", "1"), media, policy.tokenizer, policy.config)
    ids, grid = prompt.ids[None], torch.tensor([prompt.grid]) if prompt.grid else None
    still = kind.startswith("image")
    theirs, delta = policy.model.get_rope_index(
        ids, image_grid_thw=grid if still else None, video_grid_thw=grid if not still else None, attention_mask=torch.ones_like(ids),
        use_audio_in_video=kind == "video+sound", audio_seqlens=torch.tensor([prompt.mel.shape[1]]) if prompt.mel is not None else None,
        second_per_grids=torch.tensor([media.seconds_per_group]))
    assert torch.equal(prompt.positions, theirs[:, 0])
    assert prompt.next_position == len(prompt.ids) + int(delta)


@pytest.mark.parametrize("shape", [shape for kind, shape in LAYOUTS if kind == "video+sound"])
def test_interleaving_equals_transformers_processor(policy, shape):
    """The processor itself needs torchvision; the method that writes the placeholders does not."""
    if not hasattr(Qwen2_5OmniProcessor, "replace_video_with_audio_token"):
        pytest.skip("transformers 5.17 keeps this inside a method that needs torchvision")
    tok, media = policy.tokenizer, media_of("video+sound", **shape)
    prompt = build_prompt(Sample("a", "How many?", "numeric", "1"), media, tok, policy.config)
    stub = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2), audio_bos_token=tok.audio_bos_token, audio_eos_token=tok.audio_eos_token,
        video_token=tok.video_token, audio_token=tok.audio_token,
        get_chunked_index=lambda indices, per_chunk: Qwen2_5OmniProcessor.get_chunked_index(None, indices, per_chunk))
    text = Qwen2_5OmniProcessor.replace_video_with_audio_token(
        stub, {"video_grid_thw": [np.array(prompt.grid)], "video_second_per_grid": [media.seconds_per_group]}, 0,
        {"num_audio_tokens": [audio_tokens(prompt.mel.shape[1])]}, 0, position_id_per_seconds=25, seconds_per_chunk=2.0)
    start = (prompt.ids == policy.config.audio_start_token_id).nonzero()[0, 0]
    expected = tok(text, add_special_tokens=False)["input_ids"]
    assert prompt.ids[start: start + len(expected)].tolist() == expected


def test_sound_and_picture_stand_at_the_same_time(policy):
    """16 frames over 60 s: the last frame group lies at 52.5 s, next to the sound of that moment, not at 7 s."""
    prompt = build_prompt(Sample("a", "q", "numeric", "1"), media_of("video+sound", 16, 60.0, 7.5), policy.tokenizer, policy.config)
    start = int(prompt.positions[0, prompt.ids == policy.config.audio_token_id].min())
    video = prompt.positions[0, prompt.ids == policy.config.video_token_id] - start
    assert video.unique().tolist() == [int(7.5 * 25 * i) for i in range(8)]


def test_chunks_by_time_by_hand():
    assert [c.tolist() for c in chunks_by_time(np.array([0, 0, 25, 50, 75]), 50)] == [[0, 1, 2], [3, 4]]
    assert [c.tolist() for c in chunks_by_time(np.array([0, 0, 187, 187, 375, 375]), 50)] == [[0, 1], [2], [3], [4], [5]]


def test_hint_goes_into_the_user_turn_and_keeps_the_system_prompt(policy, samples, make):
    plain, hinted = make(samples[0]), make(samples[0], hinted=True)
    a, b = policy.tokenizer.decode(plain.ids), policy.tokenizer.decode(hinted.ids)
    assert samples[0].hint not in a and samples[0].hint in b
    assert a.split("<|im_start|>user")[0] == b.split("<|im_start|>user")[0] and "system" in a.split("<|im_start|>user")[0]
    assert plain.sample.id == hinted.sample.id and plain.sample.media_key == hinted.sample.media_key
    assert "Sound:" not in question_text(samples[0]) and samples[0].audio_caption in question_text(samples[0], audio_caption=True)


# ------------------------------------------------------------------ bad input
def write_lines(path, *records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


GOOD = {"id": "a", "question": "q", "problem_type": "numeric", "answer": "1"}


@pytest.mark.parametrize(("record", "message"), [
    ({k: v for k, v in GOOD.items() if k != "answer"}, "d.jsonl:2: field 'answer' is missing"),
    (GOOD | {"problem_type": "essay"}, "d.jsonl:2: field 'problem_type' of record 'a': unknown"),
    (GOOD | {"vidoe": "x.mp4"}, "d.jsonl:2: unknown field 'vidoe'"), ("{", "d.jsonl:2: not a JSON object"), ("[1]", "d.jsonl:2: expected a JSON object"),
    (GOOD | {"id": "first"}, "id 'first' was used at"),
])
def test_bad_records_are_named(tmp_path, record, message):
    with pytest.raises(DataError) as error:
        load_samples(write_lines(tmp_path / "d.jsonl", GOOD | {"id": "first"}, record))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_every_problem_type_has_its_instruction():
    assert set(TYPE_INSTRUCTION) == set(LABELS)


def test_missing_data_file_and_empty_stage(tmp_path):
    with pytest.raises(DataError, match="no such data file"):
        load_samples(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no record of stage 3"):
        load_samples(write_lines(tmp_path / "d.jsonl", GOOD | {"stage": 2}), stage=3)


def broken(tmp_path, name, content=b"not a media file at all"):
    (tmp_path / name).write_bytes(content)
    return str(tmp_path / name)


@pytest.mark.parametrize(("field", "make_file", "message"), [
    ("video", lambda p: str(p / "none.mp4"), "does not exist"), ("video", lambda p: str(p), "does not exist or is not a file"),
    ("video", lambda p: broken(p, "b.mp4"), "as a video"), ("video", lambda p: broken(p, "e.mp4", b""), "as a video"),
    ("video", lambda p: write_video(p / "silent.mp4"), "has no sound track"), ("audio", lambda p: broken(p, "b.wav"), "cannot be read as sound"),
    ("image", lambda p: broken(p, "b.png"), "as a picture"),
])
def test_bad_media_are_named(tmp_path, field, make_file, message):
    """One sentence with the record's place, its id, the field and the file."""
    path = make_file(tmp_path)
    with pytest.raises(DataError) as error:
        load_media(Sample("clip7-q1", "q", "numeric", "1", where="d.jsonl:3", **{field: path}), **SETTINGS)
    text = str(error.value)
    assert "d.jsonl:3 ('clip7-q1')" in text and f"field '{field}'" in text and path in text and message in text and "\n" not in text


def test_a_silent_video_is_fine_without_sound(tmp_path):
    media = load_media(Sample("a", "q", "numeric", "1", video=write_video(tmp_path / "silent.mp4")), **SETTINGS, use_audio=False)
    assert media.sound is None and len(media.frames) == 4


def test_records_survive_a_round_trip(tmp_path, samples):
    save_samples(tmp_path / "copy.jsonl", samples)
    again = load_samples(tmp_path / "copy.jsonl")
    assert [(s.id, s.question, s.answer, s.video, s.scene) for s in again] == [(s.id, s.question, s.answer, s.video, s.scene) for s in samples]


# ------------------------------------------------------------------ the store on disk, and the workers
@pytest.fixture
def clip(tmp_path):
    return Sample("a", "?", "numeric", "1", video=write_video(tmp_path / "a.mp4", rate=16_000), where="x.jsonl:1")


def same(a: Media, b: Media) -> bool:
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("frames", "sound", "seconds_per_group", "is_image"))


def test_stored_media_are_what_was_decoded(tmp_path, clip, monkeypatch):
    store, fresh = MediaStore(tmp_path / "cache", 2**30), load_media(clip, **SETTINGS)
    assert same(decode(clip, SETTINGS, store), fresh)
    picture = tmp_path / "p.png"
    Image.fromarray(np.arange(56 * 56 * 3, dtype=np.uint8).reshape(56, 56, 3)).save(picture)
    still = Sample("b", "?", "numeric", "1", image=str(picture))
    first = decode(still, SETTINGS, store)
    monkeypatch.setattr(data, "load_media", lambda *a, **k: pytest.fail("decoded again"))
    assert same(decode(clip, SETTINGS, store), fresh)
    again = decode(still, SETTINGS, store)
    assert same(again, first) and again.is_image and again.sound is None


def test_stored_media_are_not_used_for_another_file_or_other_settings(tmp_path, clip):
    store = MediaStore(tmp_path / "cache", 2**30)
    few = len(decode(clip, SETTINGS, store).frames)
    assert len(decode(clip, SETTINGS | {"fps": 4.0}, store).frames) == 2 * few
    write_video(clip.video, frames=24, rate=16_000, seconds=3.0)               # the same name, another clip: 3 s instead of 2
    assert few == 4 and len(decode(clip, SETTINGS, store).frames) == 6


def test_a_damaged_cache_file_is_said_and_made_anew(tmp_path, clip):
    store = MediaStore(tmp_path / "cache", 2**30)
    fresh, path = decode(clip, SETTINGS, store), store.path(clip, SETTINGS)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="damaged cache file"):
        assert same(decode(clip, SETTINGS, store), fresh)
    assert same(decode(clip, SETTINGS, store), fresh)


def test_the_store_is_bounded_and_drops_the_oldest(tmp_path):
    store = MediaStore(tmp_path / "cache", 3000)
    for i in range(5):
        store.save(store.folder / f"{i}.npz", Media(np.zeros((1, 10, 10, 3), np.uint8)))
        os.utime(store.folder / f"{i}.npz", (i, i))
    size = (store.folder / "0.npz").stat().st_size
    store.trim()
    assert sorted(f.name for f in store.folder.iterdir()) == [f"{i}.npz" for i in range(5 - 3000 // size, 5)] and 600 < size < 1500


def test_workers_give_the_same_prompts_and_the_same_errors(tmp_path, policy, clip):
    broken = Sample("b", "?", "numeric", "1", video=str(tmp_path / "b.mp4"), where="x.jsonl:2")
    Path(broken.video).write_bytes(b"no video at all")
    one, other = (PromptMaker(policy.tokenizer, policy.config, workers=n, store=MediaStore(tmp_path / str(n), 2**30), **SETTINGS) for n in (0, 1))
    other.ahead([clip, broken])
    assert set(other.coming) == {clip.media_key, broken.media_key}
    a, b = one(clip), other(clip)
    assert torch.equal(a.ids, b.ids) and torch.equal(a.patches, b.patches) and torch.equal(a.mel, b.mel)
    assert clip.media_key not in other.coming and torch.equal(other(clip).mel, a.mel)
    for make in (one, other):
        with pytest.raises(DataError, match=r"x.jsonl:2 \('b'\): field 'video': cannot read"):
            make(broken)
    missing = Sample("c", "?", "numeric", "1", image=str(tmp_path / "none.png"), where="x.jsonl:3")
    with pytest.raises(DataError, match=r"x.jsonl:3 .*does not exist"):
        other(missing)
    other.workers.shutdown()


def test_a_dead_worker_is_one_sentence(policy, clip):
    make = PromptMaker(policy.tokenizer, policy.config, workers=1, **SETTINGS)
    make.coming[clip.media_key] = make.workers.submit(os._exit, 1)
    with pytest.raises(DataError, match="a worker process died"):
        make(clip)
