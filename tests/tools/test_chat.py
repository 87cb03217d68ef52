"""tools/chat.py: a local server that speaks OpenAI's chat completions, and tiny random models."""

import base64
import contextlib
import io
import itertools
import socket
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile
import torch
import transformers
from PIL import Image

import eval as eval_program
import train
from engine.families import DEFAULT_MODEL, load_tokenizer_and_config
from formats.sample import Away, DataError
from tests.chat_fakes import GOOD, Server, send
from tools import chat
from tools.chat import Endpoint, LocalModel, Request


@pytest.fixture
def impatient(monkeypatch):
    """Between two tries."""
    monkeypatch.setattr(chat, "PAUSE", 0.01)


# ------------------------------------------------------------------ a server
def test_endpoint_sends_frames_sound_and_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    frames = [np.full((28, 28, 3), 200, np.uint8)] * 2
    sound = np.sin(np.arange(1600) / 5).astype(np.float32) / 2
    assert Endpoint(server, "judge").ask([Request("Well?", frames, sound)]) == [GOOD]
    path, key, body = Server.seen[0]
    assert path == "/v1/chat/completions"
    assert key == "Bearer secret"
    assert body["model"] == "judge"

    *pictures, audio, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "Well?"}
    assert len(pictures) == 2
    jpeg = base64.b64decode(pictures[0]["image_url"]["url"].split(",")[1])
    sent = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert sent.shape == (28, 28, 3)
    assert abs(sent.astype(int) - 200).max() < 4
    wav = base64.b64decode(audio["input_audio"]["data"])
    heard, rate = soundfile.read(io.BytesIO(wav))
    assert rate == 16_000
    assert np.abs(heard - sound).max() < 1e-3


def test_endpoint_tries_again_and_then_says_what_is_wrong(server, impatient):
    Server.replies[:] = [500, 503, GOOD]
    assert Endpoint(server, "judge").ask([Request("?")]) == [GOOD]
    Server.replies[:] = [404]
    with pytest.raises(DataError, match=r"no usable reply from model 'judge'.*404"):
        Endpoint(server, "judge").ask([Request("?")])
    with pytest.raises(DataError, match="check the address"):
        Endpoint("http://127.0.0.1:9/v1", "judge").ask([Request("?")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"choices": [{"message": {"content": "' + b"x" * chat.MAX_REPLY_BYTES,
            r"more than 4,194,304 bytes",
        ),
        (b"<html>busy</html>", "JSONDecodeError"),
        (b"[" * 100_000, "RecursionError"),
        (b'{"error": "none"}', "the server says .none"),
        (b'{"choices": []}', "IndexError"),
        (b"[1]", "TypeError"),
        (b"\xff\xfe{", "Error"),
        (b'{"choices": [{"message": {"content": {"a": 1}}}]}', "is not a text"),
        (b'{"error": {"message": "out of credit"}}', "the server says .*out of credit"),
        (b"", "JSONDecodeError"),
    ],
)
def test_replies_that_are_none_end_in_a_sentence(server, impatient, content, message):
    Server.replies[:] = [send(content)] * chat.TRIES
    expected = rf"no usable reply from model 'judge' \(.*{message}.*\); check the address"
    with pytest.raises(DataError, match=expected):
        Endpoint(server, "judge").ask([Request("?")])


def test_a_reply_that_trickles_is_given_up(server, impatient, monkeypatch):
    """A byte every 50 ms keeps the connection alive for ever; the limit is for the whole reply."""
    monkeypatch.setattr(chat, "REPLY_SECONDS", 0.4)
    Server.replies[:] = [send(b" " * 1000, every=0.05)] * chat.TRIES
    start = time.monotonic()
    with pytest.raises(DataError, match=r"longer than 0\.4 s"):
        Endpoint(server, "judge").ask([Request("?")])
    assert 0.4 * chat.TRIES < time.monotonic() - start < 8


@pytest.mark.parametrize(("seconds", "reason"), [(0.02, r"longer than 0\.02 s"), (60, "reset")])
def test_a_reset_after_the_limit_is_called_too_long(impatient, monkeypatch, seconds, reason):
    """A server that goes on sending into a connection that was cut off resets it."""

    def reset(*args, **kwargs):
        time.sleep(0.05)
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", reset)
    monkeypatch.setattr(chat, "REPLY_SECONDS", seconds)
    monkeypatch.setattr(chat, "TRIES", 2)
    with pytest.raises(Away, match=reason):
        Endpoint("http://here/v1", "judge").ask([Request("?")])


@pytest.mark.parametrize("dripped", ["status line", "headers", "chunks"])
def test_a_head_that_trickles_is_given_up(impatient, monkeypatch, dripped):
    """A byte or a line at a time, for ever, before the reply or within a chunk's length."""
    monkeypatch.setattr(chat, "REPLY_SECONDS", 0.4)
    monkeypatch.setattr(chat, "TRIES", 2)
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip(connection):
        pieces = {
            "status line": itertools.repeat(b"H"),
            "headers": itertools.chain([b"HTTP/1.1 200 OK\r\n"], itertools.repeat(b"a: b\r\n")),
            "chunks": itertools.chain(
                [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], itertools.repeat(b"0")
            ),
        }[dripped]
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
                if stop.wait(0.05):
                    return

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=drip, args=[connection], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        start = time.monotonic()
        endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "judge")
        with pytest.raises(Away, match=r"longer than 0\.4 s"):
            endpoint.ask([Request("?")])
        assert 0.7 < time.monotonic() - start < 4
    finally:
        stop.set()
        listener.close()


@pytest.mark.parametrize(("code", "ends"), [(400, False), (413, False), (401, True), (404, True)])
def test_a_refused_request_costs_its_own_verdict_only(monkeypatch, code, ends):
    def refuse(opener, request, timeout):
        if b"bad" in request.data:
            raise urllib.error.HTTPError(request.full_url, code, "no", {}, None)
        return io.BytesIO(b'{"choices": [{"message": {"content": "fine"}}]}')

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
    endpoint = Endpoint("http://here/v1", "m")
    requests = [Request("good"), Request("bad")]
    if ends:
        with pytest.raises(DataError, match=f"HTTP Error {code}"):
            endpoint.ask(requests)
    else:
        assert endpoint.ask(requests) == ["fine", ""]


def test_the_key_goes_to_the_server_alone(server, monkeypatch):
    """Not along with a redirection, not into a message that quotes it."""
    monkeypatch.setenv("OPENAI_API_KEY", " sk-very-secret\n")
    Server.replies[:] = [send(b"", 302, Location=f"{server}/elsewhere")]
    with pytest.raises(DataError, match="302"):
        Endpoint(server, "judge").ask([Request("?")])
    assert [path for path, _, _ in Server.seen] == ["/v1/chat/completions"]
    assert Server.seen[0][1] == "Bearer sk-very-secret"
    Server.replies[:] = [send(b"", 401, reason="Bearer sk-very-secret is unknown")]
    with pytest.raises(DataError, match=r"401: Bearer \*\*\* is unknown") as error:
        Endpoint(server, "judge").ask([Request("?")])
    assert "secret" not in str(error.value)


def test_a_broken_key_is_not_printed(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very\nsecret")
    with pytest.raises(DataError, match="set it anew") as error:
        Endpoint("http://host/v1", "judge")
    assert "sk-" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@host/v1", "https://hunter2@host/v1", "https://host/v1?key=hunter2"]
)
def test_an_address_that_holds_a_secret_is_refused(url):
    with pytest.raises(DataError, match="put the key into OPENAI_API_KEY") as error:
        Endpoint(url, "judge")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "localhost:8000/v1", "ftp://host/v1", "", "http://ho st/v1"],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(DataError, match="is not an address such as http"):
        Endpoint(url, "judge")


@pytest.mark.parametrize("url", ["http://[::1/v1", "http://host:abc/v1", "http://host:70000/v1"])
def test_an_address_that_cannot_be_parsed_is_refused(url):
    with pytest.raises(DataError, match="address is none"):
        Endpoint(url, "judge")


def test_half_an_emoji_in_a_reply_is_replaced(server):
    """A file in UTF-8 could not hold it."""
    Server.replies[:] = [send(b'{"choices": [{"message": {"content": "Look \\ud83d here"}}]}')]
    reply = Endpoint(server, "judge").ask([Request("?")])[0]
    assert reply.encode() == "Look \ufffd here".encode()


@pytest.mark.parametrize("command", [train.main, eval_program.main])
def test_an_address_with_a_secret_is_refused_before_it_is_written_down(tmp_path, command):
    flags = ["--out", str(tmp_path / "run"), "--judge_endpoint", "https://me:hunter2@host/v1"]
    with pytest.raises(DataError, match="put the key into"):
        command(flags)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ a model of our own machine
def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="no language model could be loaded"):
        LocalModel(str(tmp_path))


def test_a_tiny_local_model_hears(tiny_qwen2_audio):
    model = LocalModel(str(tiny_qwen2_audio))
    inputs = model.inputs(
        [
            Request("What sounds?", sound=np.zeros(16_000, np.float32)),
            Request("And what sounds here?", sound=np.ones(32_000, np.float32)),
        ]
    )
    heard = inputs["input_ids"] == model.processor.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    assert heard.sum(1).tolist() == [25, 50]  # one token per 40 ms


def test_a_model_of_text_alone_answers(tmp_path):
    """A tiny random Qwen2 with the bundled tokenizer: the replies are those of transformers' own
    greedy generation one by one; pictures are refused."""
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
        generated = local.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
        )
        expected.append(tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True))
    assert local.ask([Request(text) for text in texts]) == expected
    assert any(expected)
    with pytest.raises(DataError, match="reads text alone"):
        local.ask([Request("What?", [np.zeros((28, 28, 3), np.uint8)])])
