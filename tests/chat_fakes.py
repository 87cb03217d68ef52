"""Stand-ins for the models that are asked: canned replies, a local server, tiny random models."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile
import transformers
from packaging.version import Version
from PIL import Image

from formats.sample import Sample
from tests.media_files import write_clip

GOOD = '{"audio": 1, "visual": 0.5, "location": 0, "caption": 0.25}'
SCORES = {"audio": 1.0, "visual": 0.5, "location": 0.0, "caption": 0.25}


class Canned:
    """A model that gives prepared replies and remembers what it was asked."""

    def __init__(self, *rounds):
        self.rounds = list(rounds)
        self.asked = []

    def ask(self, requests):
        self.asked.append(requests)
        return self.rounds.pop(0)


class Server(BaseHTTPRequestHandler):
    """Speaks OpenAI's chat completions. replies: what comes next, a text, an HTTP code or a
    function of the handler; GOOD when there is nothing left. seen: (path, key, body)."""

    replies: ClassVar[list] = []
    seen: ClassVar[list] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers.get("Authorization"), body))
        reply = self.replies.pop(0) if self.replies else GOOD
        if isinstance(reply, int):
            reply = send(b"", reply)
        elif isinstance(reply, str):
            reply = send(json.dumps({"choices": [{"message": {"content": reply}}]}).encode())
        reply(self)

    def do_GET(self):
        self.seen.append((self.path, self.headers.get("Authorization"), None))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Within, a `Server` runs: its address."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()


def send(content: bytes, code: int = 200, every: float = 0.0, reason: str | None = None, **head):
    """A reply of these bytes, at once, or one by one with `every` seconds between them."""

    def reply(handler):
        handler.send_response(code, reason)
        for name, value in head.items():
            handler.send_header(name, value)
        handler.end_headers()
        pieces = [bytes([byte]) for byte in content] if every else [content]
        try:
            for piece in pieces:
                handler.wfile.write(piece)
                handler.wfile.flush()
                time.sleep(every)
        except OSError:
            return  # the client has hung up

    return reply


def mixed_media(folder: Path) -> Sample:
    """Two pictures (grey 50 and 250), a video with sound (16 frames whose lower right quarter is a
    grey of 10 i, 2 s) and a sound of 1 s, named in the question in mixed order."""
    for name, grey, size in (("i.png", 50, (28, 56)), ("j.png", 250, (2000, 1000))):
        Image.fromarray(np.full((*size, 3), grey, np.uint8)).save(folder / name)
    soundfile.write(folder / "a.wav", np.full(16_000, 0.25), 16_000)
    write_clip(folder / "v.mp4", frames=16)
    return Sample(
        "a",
        "Compare <image> and <video>, then <audio>: <image>?",
        "yes/no",
        "no",
        images=[str(folder / "i.png"), str(folder / "j.png")],
        videos=[str(folder / "v.mp4")],
        audios=[str(folder / "a.wav")],
    )


def save_tiny_internvl(folder: Path, tokenizer) -> None:
    """InternVL from config with random weights: 56-pixel tiles of 4 tokens, the bundled tokenizer
    with InternVL's tokens."""
    if (
        Version(transformers.__version__) < Version("5.23")
        and not transformers.utils.is_torchvision_available()
    ):
        pytest.skip("in transformers 5.17 the image processor itself wants torchvision")
    tokenizer.save_pretrained(folder)
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, extra_special_tokens=names)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% for c in m.content %}{% if c.type == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
        "{% else %}{{ c.text }}{% endif %}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}"
    )
    tokenizer.save_pretrained(folder)

    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {
        "model_type": "qwen2",
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = transformers.InternVLConfig(
        vision_config=small | {"image_size": [56, 56], "patch_size": [14, 14]},
        downsample_ratio=0.5,
        text_config=small | text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    transformers.InternVLForConditionalGeneration(config).save_pretrained(folder)
    image_processor = {
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
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor))
    processor = {"image_seq_length": 4, "processor_class": "InternVLProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(processor))


def save_tiny_qwen2_audio(folder: Path, tokenizer) -> None:
    """Qwen2-Audio from config with random weights and the bundled tokenizer, whose audio markers
    are Qwen's."""
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
    processor = transformers.Qwen2AudioProcessor(
        extractor, tokenizer, chat_template=tokenizer.chat_template
    )
    processor.save_pretrained(folder)
