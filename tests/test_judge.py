"""judge.py: verdicts from canned replies, a tiny random InternVL, a local server that speaks OpenAI's chat completions."""

import base64
import io
import json
import threading
import time
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
import soundfile
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version
from PIL import Image

import eval as eval_program
import judge
import train
from engine.families import DEFAULT_MODEL, load_tokenizer_and_config
from formats.load import load_samples
from formats.own import save_samples
from formats.sample import DataError, Sample
from judge import Endpoint, Judge, LocalModel, Request, judge_prompt, parse_verdict, watch
from tests.corpus import patched, write_clip
from tests.test_data import SEVERAL, write_video
from tools.annotate import annotate, listen, main, reveals

GOOD = '{"audio": 1, "visual": 0.5, "location": 0, "caption": 0.25}'
SCORES = {"audio": 1.0, "visual": 0.5, "location": 0.0, "caption": 0.25}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (GOOD, SCORES),
        (f"```json\n{GOOD}\n```", SCORES),
        (f"My verdict, as asked: {GOOD} Best wishes.", SCORES),
        ('{"audio": 1} then ' + GOOD, SCORES),
        (GOOD[:-1] + ', "why": {"x": [1]}}', SCORES),
        (GOOD[:-1], None),
        ("", None),
        ("all fine", None),
        (GOOD.replace("0.25", "25"), None),
        (GOOD.replace("0.25", "-1"), None),
        (GOOD.replace("0.25", "true"), None),
        (GOOD.replace("0.25", '"high"'), None),
        (GOOD.replace("0.25", "NaN"), None),
        ("[1, 2]", None),
        ("{" * 5000, None),
    ],
)
def test_verdicts(reply, expected):
    assert parse_verdict(reply) == expected


@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from([*list('{}[]",:01.'), '"audio"', "1"]), max_size=60).map("".join),
    )
)
def test_any_reply_is_read_or_missing(text):
    found = parse_verdict(text)
    assert found is None or (set(found) == set(SCORES) and all(0 <= v <= 1 for v in found.values()))


def test_prompt_holds_everything_and_survives_braces():
    text = judge_prompt("Where {is} it?", "left: dog", "a bark", "I {see} a dog", "left: {dog}")
    assert all(
        part in text
        for part in (
            "Where {is} it?",
            "left: dog",
            "a bark",
            "I {see} a dog",
            "left: {dog}",
            '"location"',
        )
    )


class Canned:
    """A model that gives prepared replies and remembers what it was asked."""

    def __init__(self, *rounds):
        self.rounds, self.asked = list(rounds), []

    def ask(self, requests):
        self.asked.append(requests)
        return self.rounds.pop(0)


def test_unusable_verdicts_are_asked_once_more_and_then_missing(samples):
    model = Canned([GOOD, "hm", "no"], [f"```{GOOD}```", "still no"])
    rate = Judge(model)
    verdicts = rate([(samples[0], "a", "b"), (samples[0], "c", "d"), (samples[2], "e", "f")])
    assert verdicts == [SCORES, SCORES, None] and (rate.asked, rate.missing) == (3, 1)
    assert [len(r) for r in model.asked] == [3, 2]  # one batch, then only the unusable ones
    first = model.asked[0][0]
    assert (
        samples[0].question in first.text
        and samples[0].audio_caption in first.text
        and [f.shape for f in first.frames] == [(56, 168, 3)] * 8
    )
    assert len(rate.frames) == 2  # one decoding per clip


@pytest.fixture
def several(tmp_path):
    """Two pictures (grey 50 and 250), a video with sound (16 frames of grey 100 + 10 i, 2 s) and a sound of 1 s, named in the question in mixed order."""
    for name, grey, size in (("i.png", 50, (28, 56)), ("j.png", 250, (2000, 1000))):
        Image.fromarray(np.full((*size, 3), grey, np.uint8)).save(tmp_path / name)
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.25), 16_000)
    write_video(tmp_path / "v.mp4", rate=16_000, grey=100)
    return Sample(
        "a",
        SEVERAL,
        "yes/no",
        "no",
        **{
            f"{kind}s": [str(tmp_path / n) for n in names]
            for kind, names in (
                ("image", ["i.png", "j.png"]),
                ("video", ["v.mp4"]),
                ("audio", ["a.wav"]),
            )
        },
    )


def test_the_judge_sees_all_pictures_and_eight_frames_of_each_video(several):
    """In the order of the question; the large picture has at most 448 x 448 pixels; the sounds stay out, also where the question names one."""
    frames = watch(several)
    assert [f.mean() for f in frames] == pytest.approx([50, *range(100, 260, 20), 250], abs=4)
    assert frames[0].shape == (28, 56, 3) and frames[-1].shape == (
        616,
        308,
        3,
    )  # 2000 x 1000 at 448 x 448 pixels, sides in multiples of 28
    assert (
        watch(Sample("b", "What is <audio>?", "yes/no", "no", audios=several.audios)) is None
        and watch(Sample("c", "?", "yes/no", "no")) is None
    )


def test_all_sounds_are_heard_in_order(several, tmp_path):
    sound = listen(several)
    assert (
        3.0 <= len(sound) / 16_000 < 3.2
        and sound[-16_000:] == pytest.approx(0.25, abs=1e-3)
        and abs(sound[:16_000].mean()) < 0.01
    )
    silent = Sample(
        "s", "?", "yes/no", "no", videos=[write_video(tmp_path / "s.mp4")], where="x.jsonl:1"
    )
    with pytest.raises(DataError, match=r"x.jsonl:1 \('s'\): there is no sound, neither"):
        listen(silent)


# ------------------------------------------------------------------ a tiny InternVL
@pytest.fixture(scope="module")
def tiny_internvl(tmp_path_factory, policy):
    """InternVL from config with random weights, saved as a folder: 56-pixel tiles of 4 tokens, the bundled tokenizer with InternVL's tokens."""
    import copy

    import transformers

    if (
        Version(transformers.__version__) < Version("5.23")
        and not transformers.utils.is_torchvision_available()
    ):
        pytest.skip("in transformers 5.17 the image processor itself wants torchvision")
    folder = tmp_path_factory.mktemp("internvl")
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    policy.tokenizer.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, extra_special_tokens=names)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% for c in m.content %}{% if c.type == 'image' %}"
        "{{ '<IMG_CONTEXT>\n' }}{% else %}{{ c.text }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{{ '<|im_start|>assistant\n' }}"
    )
    tokenizer.save_pretrained(folder)
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = transformers.InternVLConfig(
        vision_config=small | {"image_size": [56, 56], "patch_size": [14, 14]},
        downsample_ratio=0.5,
        text_config=small
        | {
            "model_type": "qwen2",
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    transformers.InternVLForConditionalGeneration(copy.deepcopy(config)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "GotOcr2ImageProcessor",
                "processor_class": "InternVLProcessor",
                "size": {"height": 56, "width": 56},
                "crop_to_patches": False,
                "do_resize": True,
                "do_rescale": True,
                "do_normalize": True,
                "do_convert_rgb": True,
                "image_mean": [0.485, 0.456, 0.406],
                "image_std": [0.229, 0.224, 0.225],
            }
        )
    )
    (folder / "processor_config.json").write_text(
        json.dumps({"image_seq_length": 4, "processor_class": "InternVLProcessor"})
    )
    return folder


def test_a_tiny_internvl_judges_end_to_end(tiny_internvl, samples):
    model = LocalModel(str(tiny_internvl), max_tokens=6, batch=2)
    rate = Judge(model)
    verdicts = rate([(s, "I looked", "B") for s in samples[:3]])
    assert (
        verdicts == [None] * 3 and rate.missing == 3
    )  # random weights do not write JSON: missing, never 0
    inputs = model.inputs(
        [
            Request(text, frames)
            for text, frames in zip(
                ("What?", "What is it then?"), rate.see([samples[0], samples[2]]), strict=True
            )
        ]
    )
    assert inputs["pixel_values"].shape == (16, 3, 56, 56)
    context = model.processor.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert (inputs["input_ids"] == context).sum(1).tolist() == [32, 32]  # 8 frames x 4 tokens
    replies = model.ask([Request("What?", rate.see(samples[:1])[0])] * 3)
    assert len(set(replies)) == 1  # greedy; batches of 2 and 1 agree


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="no language model could be loaded"):
        LocalModel(str(tmp_path))


# ------------------------------------------------------------------ a server
class Server(BaseHTTPRequestHandler):
    replies: ClassVar[list] = []
    seen: ClassVar[list] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers.get("Authorization"), body))
        reply = self.replies.pop(0) if self.replies else GOOD
        if callable(reply):
            reply(self)
        elif isinstance(reply, int):
            send(b"", reply)(self)
        else:
            send(json.dumps({"choices": [{"message": {"content": reply}}]}).encode())(self)

    def do_GET(self):
        self.seen.append((self.path, self.headers.get("Authorization"), None))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Server.replies.clear()
    Server.seen.clear()
    http = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()


def test_endpoint_sends_frames_sound_and_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    frames, sound = (
        np.full((2, 28, 28, 3), 200, np.uint8),
        np.sin(np.arange(1600) / 5).astype(np.float32) / 2,
    )
    assert Endpoint(server, "judge").ask([Request("Well?", frames, sound)]) == [GOOD]
    path, key, body = Server.seen[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret" and body["model"] == "judge"
    *pictures, audio, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "Well?"} and len(pictures) == 2
    seen = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(pictures[0]["image_url"]["url"].split(",")[1])))
    )
    assert seen.shape == (28, 28, 3) and abs(seen.astype(int) - 200).max() < 4
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["input_audio"]["data"])))
    assert rate == 16_000 and np.abs(heard - sound).max() < 1e-3


def test_endpoint_tries_again_and_then_says_what_is_wrong(server):
    Server.replies[:] = [500, 503, GOOD]
    assert Endpoint(server, "judge", pause=0.01).ask([Request("?")]) == [GOOD]
    Server.replies[:] = [404]
    with pytest.raises(DataError, match=r"no usable reply from model 'judge'.*404"):
        Endpoint(server, "judge").ask([Request("?")])
    with pytest.raises(DataError, match="check the address"):
        Endpoint("http://127.0.0.1:9/v1", "judge", timeout=2, pause=0.01).ask([Request("?")])


def send(content: bytes, code: int = 200, every: float = 0.0, reason: str | None = None, **head):
    """A reply of these bytes, at once or one by one."""

    def reply(handler):
        handler.send_response(code, reason)
        for name, value in head.items():
            handler.send_header(name, value)
        handler.end_headers()
        try:
            for byte in [content] if not every else [bytes([b]) for b in content]:
                handler.wfile.write(byte)
                handler.wfile.flush()
                time.sleep(every)
        except OSError:
            return  # the client has hung up

    return reply


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"choices": [{"message": {"content": "' + b"x" * judge.MAX_REPLY,
            r"more than 4,194,304 bytes",
        ),
        (b"<html>busy</html>", "JSONDecodeError"),
        (b"[" * 100_000, "RecursionError"),
        (b'{"error": "none"}', "KeyError"),
        (b'{"choices": []}', "IndexError"),
        (b"[1]", "TypeError"),
        (b"\xff\xfe{", "Error"),
        (b'{"choices": [{"message": {"content": {"a": 1}}}]}', "is not a text"),
        (b"", "JSONDecodeError"),
    ],
)
def test_replies_that_are_none_end_in_a_sentence(server, content, message):
    Server.replies[:] = [send(content)] * 3
    with pytest.raises(
        DataError, match=rf"no usable reply from model 'judge' \(.*{message}.*\); check the address"
    ):
        Endpoint(server, "judge", pause=0.01).ask([Request("?")])


def test_a_reply_that_trickles_is_given_up(server):
    """A byte every 50 ms keeps the connection alive for ever; the limit is for the whole reply."""
    Server.replies[:] = [send(b" " * 1000, every=0.05)] * 3
    start = time.monotonic()
    with pytest.raises(DataError, match=r"longer than 0\.4 s"):
        Endpoint(server, "judge", timeout=0.4, pause=0.01).ask([Request("?")])
    assert 1.2 < time.monotonic() - start < 6


def test_the_key_goes_to_the_server_alone(server, monkeypatch):
    """Not along with a redirection, not into a message that quotes it, not out of an address; and a broken one is not printed."""
    monkeypatch.setenv("OPENAI_API_KEY", " sk-very-secret\n")
    Server.replies[:] = [send(b"", 302, Location=f"{server}/elsewhere")]
    with pytest.raises(DataError, match="302"):
        Endpoint(server, "judge").ask([Request("?")])
    assert [path for path, _, _ in Server.seen] == ["/v1/chat/completions"] and Server.seen[0][
        1
    ] == "Bearer sk-very-secret"
    Server.replies[:] = [send(b"", 401, reason="Bearer sk-very-secret is unknown")]
    with pytest.raises(DataError, match=r"401: Bearer \*\*\* is unknown") as error:
        Endpoint(server, "judge").ask([Request("?")])
    assert "secret" not in str(error.value)
    for url in (
        "https://me:hunter2@host/v1",
        "https://hunter2@host/v1",
        "https://host/v1?key=hunter2",
    ):
        with pytest.raises(DataError, match="put the key into OPENAI_API_KEY") as error:
            Endpoint(url, "judge")
        assert "hunter2" not in str(error.value)
    for url in ("file:///etc/passwd", "localhost:8000/v1", "ftp://host/v1", ""):
        with pytest.raises(DataError, match="is not an address such as http"):
            Endpoint(url, "judge")
    with pytest.raises(DataError, match="address is none"):
        Endpoint("http://[::1/v1", "judge")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very\nsecret")
    with pytest.raises(DataError, match="set it anew") as error:
        Endpoint(server, "judge")
    assert "sk-" not in str(error.value)


def test_an_address_with_a_secret_is_refused_before_it_is_written_down(tmp_path):
    for command in (train.main, eval_program.main):
        with pytest.raises(DataError, match="put the key into"):
            command(
                ["--out", str(tmp_path / "run"), "--judge_endpoint", "https://me:hunter2@host/v1"]
            )
    assert not (tmp_path / "run").exists()


def test_nested_braces_are_read_in_linear_time():
    start = time.process_time()
    assert (
        parse_verdict('{"a":' * 20_000) is None
        and parse_verdict("{" * 10**6) is None
        and parse_verdict('{"a":' * 20_000 + GOOD) == SCORES
    )
    assert time.process_time() - start < 5


# ------------------------------------------------------------------ hints and captions
@pytest.mark.parametrize(
    ("hint", "kind", "answer", "options", "told"),
    [
        (
            "Look at the blue disc first.",
            "multiple choice",
            "B",
            ["A. red disc", "B. blue disc"],
            True,
        ),
        ("The answer is B", "multiple choice", "B", ["A. x", "B. y"], True),
        ("Choose (B) here.", "multiple choice", "B", ["A. x", "B. y"], True),
        (
            "A shape moves in step; find it.",
            "multiple choice",
            "A",
            ["A. red disc", "B. blue disc"],
            False,
        ),
        ("Count the flashes, then the tones.", "numeric", "2", [], False),
        ("It flashes 2 times.", "numeric", "2", [], True),
        ("It flashes two times.", "numeric", "2", [], True),
        ("Watch 12 frames.", "numeric", "2", [], False),
        ("Listen, then find the red one.", "free-form", "red", [], True),
        ("Listen for the tone, then look.", "free-form", "red", [], False),
        ("Look left: red square.", "localisation", "left: red square", [], True),
        ("Look at each place in turn.", "localisation", "left: red square", [], False),
    ],
)
def test_hints_that_hold_the_answer_are_found(hint, kind, answer, options, told):
    assert reveals(hint, Sample("a", "q?", kind, answer, options=options)) == told


@pytest.fixture
def records(tmp_path, samples):
    """Six records without hints and captions, in a file of their own, away from their media."""
    bare = [
        Sample(**vars(s) | {"hint": "", "audio_caption": "" if i else "kept as it is"})
        for i, s in enumerate(samples[:6])
    ]
    save_samples(tmp_path / "bare.jsonl", bare)
    return tmp_path / "bare.jsonl"


def test_hints_are_written_checked_and_continued(records, tmp_path, monkeypatch):
    out, gold = (
        str(tmp_path / "hinted.jsonl"),
        [s.answer for s in load_samples(records, allow_outside=True)],
    )
    telling = [f"Easy: the answer is ({g}) {g}." for g in gold]
    model = Canned(["Look first.", telling[1]], ["Listen first.", ""])
    with pytest.raises(IndexError):  # the third batch finds no reply: the run dies
        annotate("hint", str(records), out, model, batch=2, progress=False, allow_outside=True)
    with open(out, "a") as file:
        file.write('{"id": "torn')
    counts = annotate(
        "hint",
        str(records),
        out,
        Canned(["Line them up.", "Wait."]),
        batch=2,
        progress=False,
        allow_outside=True,
    )
    assert counts == {"made": 2, "kept": 4, "revealing": 0, "empty": 0, "unusable": 0}
    made = load_samples(out, allow_outside=True)
    assert [s.hint for s in made] == [
        "Look first.",
        "",
        "Listen first.",
        "",
        "Line them up.",
        "Wait.",
    ]
    assert [s.id for s in made] == [s.id for s in load_samples(records, allow_outside=True)] and [
        s.answer for s in made
    ] == gold
    rejected = [
        json.loads(line) for line in (tmp_path / "hinted.jsonl.rejected").read_text().splitlines()
    ]
    assert [r["id"] for r in rejected] == [made[1].id]
    assert all(gold[0] in r.text and r.frames is not None for r in model.asked[0][:1])


def test_captions_are_made_from_the_sound_by_the_command(records, tmp_path, server, capsys):
    Server.replies[:] = ["A low tone sounds twice."] * 5
    out = tmp_path / "captioned.jsonl"
    main(
        [
            "caption",
            "--data",
            str(records),
            "--out",
            str(out),
            "--model",
            "kimi",
            "--endpoint",
            server,
            "--batch",
            "4",
            "--allow_outside",
            "--workers",
            "0",
        ]
    )
    made = load_samples(out, allow_outside=True)
    assert [s.audio_caption for s in made] == ["kept as it is"] + ["A low tone sounds twice."] * 5
    assert (
        all(
            body["messages"][0]["content"][0]["type"] == "input_audio" for _, _, body in Server.seen
        )
        and len(Server.seen) == 5
    )
    assert "5 made, 1 kept" in capsys.readouterr().out


def test_a_tiny_local_model_writes_hints(records, tmp_path, tiny_internvl):
    out = tmp_path / "local.jsonl"
    counts = annotate(
        "hint",
        str(records),
        str(out),
        LocalModel(str(tiny_internvl), max_tokens=5),
        progress=False,
        allow_outside=True,
    )
    assert sum(counts.values()) == 6 and len(load_samples(out, allow_outside=True)) == 6


def test_media_that_are_broken_cost_their_own_records(tmp_path, several, capsys):
    """One that ends its decoder by an abort, one that is no video, a silent one: no caption, counted and listed; the other gets its own."""
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    write_video(tmp_path / "w.mp4")
    patched(
        write_clip(tmp_path / "whole.avi", codec="mpeg4", tone=False),
        tmp_path / "crash.avi",
        b"strh",
        36,
        "<I",
        2**31 - 1,
    )
    records = [
        Sample(name, "What?", "free-form", "red", videos=[str(tmp_path / name)])
        for name in ("noise.mp4", "crash.avi", "v.mp4", "w.mp4")
    ]
    save_samples(tmp_path / "d.jsonl", records)
    counts = annotate(
        "caption",
        str(tmp_path / "d.jsonl"),
        str(tmp_path / "out.jsonl"),
        Canned(["A tone."]),
        progress=False,
        workers=1,
        timeout=30,
    )
    assert counts == {"made": 1, "kept": 0, "revealing": 0, "empty": 0, "unusable": 3}
    assert [s.audio_caption for s in load_samples(tmp_path / "out.jsonl")] == [
        "",
        "",
        "A tone.",
        "",
    ]
    noise, crash, silent = map(
        json.loads, (tmp_path / "out.jsonl.bad_media").read_text().splitlines()
    )
    assert (noise["id"], noise["path"]) == (
        "noise.mp4",
        str(tmp_path / "noise.mp4"),
    ) and "cannot read" in noise["reason"]
    assert (
        crash["id"] == "crash.avi"
        and "crash twice" in crash["reason"]
        and silent["id"] == "w.mp4"
        and "there is no sound" in silent["reason"]
    )

    rate = Judge(Canned([GOOD]))
    assert rate([(records[0], "a", "b"), (records[2], "a", "b"), (records[0], "c", "d")]) == [
        None,
        SCORES,
        None,
    ] and (rate.asked, rate.missing) == (3, 2)
    assert capsys.readouterr().err.count("not judged: ") == 1


@pytest.fixture(scope="module")
def tiny_qwen2_audio(tmp_path_factory, policy):
    """Qwen2-Audio from config with random weights, saved as a folder with the bundled tokenizer, whose audio markers are Qwen's."""
    import transformers

    folder, tokenizer = tmp_path_factory.mktemp("qwen2audio"), policy.tokenizer
    config = transformers.Qwen2AudioConfig(
        audio_config={
            "d_model": 32,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "num_mel_bins": 64,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    transformers.Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor(feature_size=64)
    transformers.Qwen2AudioProcessor(
        extractor, tokenizer, chat_template=tokenizer.chat_template
    ).save_pretrained(folder)
    return folder


def test_a_tiny_local_model_captions_sound(records, tmp_path, tiny_qwen2_audio):
    out, model = tmp_path / "local.jsonl", LocalModel(str(tiny_qwen2_audio), max_tokens=5)
    inputs = model.inputs(
        [
            Request("What sounds?", sound=np.zeros(16_000, np.float32)),
            Request("And what sounds here?", sound=np.ones(32_000, np.float32)),
        ]
    )
    heard = inputs["input_ids"] == model.processor.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    assert heard.sum(1).tolist() == [25, 50]  # one token per 40 ms
    counts = annotate("caption", str(records), str(out), model, progress=False, allow_outside=True)
    assert (
        counts["kept"] == 1
        and sum(counts.values()) == 6
        and load_samples(out, allow_outside=True)[0].audio_caption == "kept as it is"
    )


def test_annotating_in_place_is_refused(records):
    with pytest.raises(DataError, match="another file"):
        annotate("hint", str(records), str(records), Canned())


@pytest.mark.parametrize(
    "text",
    [
        '[{"problem": "?", "problem_type": "numerical", "path": "x.mp4", "data_type": "video", "solution": "<answer>1</answer>"}]',
        '{"messages": [{"role": "user", "content": "?"}], "problem_type": "numeric", "solution": "<answer>1</answer>"}',
    ],
)
def test_annotating_a_downloaded_format_is_one_sentence(tmp_path, text):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(
        DataError, match=r"this project's own JSONL; make one by: python data.py .* --convert"
    ):
        annotate("hint", str(tmp_path / "d.json"), str(tmp_path / "out.jsonl"), Canned())


def test_a_model_of_text_alone_judges_answers(tmp_path):
    """A tiny random Qwen2 with the bundled tokenizer: the replies are those of transformers' own greedy generation one by one; pictures are refused."""
    tokenizer, _ = load_tokenizer_and_config(DEFAULT_MODEL)
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    local = LocalModel(str(tmp_path), max_tokens=6)
    texts = ["Is it right?", "Is this longer question about a red disc and a blue square right?"]
    expected = []
    for text in texts:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )["input_ids"]
        made = local.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
        )
        expected.append(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    assert local.ask([Request(text) for text in texts]) == expected and any(expected)
    with pytest.raises(DataError, match="reads text alone"):
        local.ask([Request("What?", [np.zeros((28, 28, 3), np.uint8)])])


@pytest.mark.parametrize(("code", "ends"), [(400, False), (413, False), (401, True), (404, True)])
def test_a_refused_request_costs_its_own_verdict_only(monkeypatch, code, ends):
    def refuse(opener, request, timeout):
        if b"bad" in request.data:
            raise urllib.error.HTTPError(request.full_url, code, "no", {}, None)
        return io.BytesIO(b'{"choices": [{"message": {"content": "fine"}}]}')

    monkeypatch.setattr(judge.urllib.request.OpenerDirector, "open", refuse)
    ask = Endpoint("http://here/v1", "m").ask
    if ends:
        with pytest.raises(DataError, match=f"HTTP Error {code}"):
            ask([Request("good"), Request("bad")])
    else:
        assert ask([Request("good"), Request("bad")]) == ["fine", ""]
