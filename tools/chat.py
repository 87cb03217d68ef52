"""tools/chat.py: other models that are asked and never trained, here or behind a server.

    Request(text, frames, sound)  --ask-->  reply (text)

    Endpoint    any server that speaks OpenAI's chat completions: vLLM, SGLang, a commercial one
    LocalModel  any Hugging Face language model, of text alone or with vision or audio, through
                transformers' own classes; no remote code is run

Both have one method, `ask(requests) -> replies`, in the order of the requests. judge.py asks about
completions, eval.py about open answers, tools/annotate.py for hints and captions.
"""

import base64
import contextlib
import http.client
import inspect
import io
import json
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from formats.fields import whole_characters
from formats.sample import Away, DataError
from media.prompt_format import SAMPLE_RATE

MAX_TOKENS = 512  # of a reply

# Endpoint
PARALLEL = 8  # requests under way at a time
TRIES = 5  # of each request
PAUSE = 1.0  # seconds between the first try and the second; before each other four times as long
LONGEST_PAUSE = 30.0  # seconds: a server that starts anew is waited for, about a minute in all
REPLY_SECONDS = 120.0  # for one reply, from the connection to its last byte
MAX_REPLY_BYTES = 4 * 2**20
REFUSED = (400, 413, 422)  # HTTP codes of a server that refuses a request for what it holds

# What can go wrong with a reply: the network, its bytes, its form
NO_REPLY = (
    OSError,
    http.client.HTTPException,
    ValueError,
    LookupError,
    TypeError,
    RecursionError,
)


@dataclass
class Request:
    """One question to another model.

    frames: (H, W, 3) uint8 each, or None. sound: (n,) float32, mono at 16 kHz, or None.
    """

    text: str
    frames: list[np.ndarray] | None = None
    sound: np.ndarray | None = None


# ------------------------------------------------------------------ a server
def check_endpoint(url: str) -> str:
    """A server's address without a closing slash.

    Raises DataError where it is none, or holds a secret, which would end up in logs.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError as error:
        raise DataError(
            f"the endpoint's address is none ({error}); write it as in http://localhost:8000/v1"
        ) from None
    if parts.username or parts.password or parts.query:
        raise DataError(
            "the endpoint's address holds a name, a password or a query; put the key into "
            "OPENAI_API_KEY and leave it out there"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url):
        raise DataError(f"endpoint {url}: is not an address such as http://localhost:8000/v1")
    return url.rstrip("/")


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: urllib would send the key along to wherever it leads."""

    def redirect_request(self, *args):
        return None


def cut_off(sock) -> None:
    """End a connection in the middle of whatever is read from it."""
    with contextlib.suppress(OSError):  # it has been closed meanwhile
        sock.shutdown(socket.SHUT_RDWR)


class BoundedConnection(http.client.HTTPConnection):
    """A connection that is cut off after REPLY_SECONDS.

    A socket's own time limit is for each read: a server that sends a line of its reply's head each
    second would be waited for until it has sent the hundred that Python reads.
    """

    def connect(self):
        super().connect()
        timer = threading.Timer(REPLY_SECONDS, cut_off, [self.sock])
        timer.daemon = True
        timer.start()


class BoundedTLSConnection(http.client.HTTPSConnection, BoundedConnection):
    """The same over TLS."""


class BoundedHTTP(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(BoundedConnection, request)


class BoundedHTTPS(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(BoundedTLSConnection, request, context=self._context)


class Endpoint:
    """A server that speaks OpenAI's chat completions.

    The key is read from the environment variable OPENAI_API_KEY when it is set; it goes to this
    address alone and into no message.
    """

    def __init__(self, url: str, model: str):
        self.url = check_endpoint(url)
        self.model = model
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise DataError(
                "the environment variable OPENAI_API_KEY holds characters that no key has; "
                "set it anew"
            )
        self.opener = urllib.request.build_opener(NoRedirect, BoundedHTTP, BoundedHTTPS)

    def ask(self, requests: list[Request]) -> list[str]:
        """A reply to each request; "" to one that the server refuses for what it holds.

        Raises Away when no usable reply comes after TRIES tries: none, an error, more than
        MAX_REPLY_BYTES, or not the protocol's.
        """
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(self._ask_one, requests))

    def _ask_one(self, request: Request) -> str:
        body = {
            "model": self.model,
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "messages": [{"role": "user", "content": chat_content(request)}],
        }
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        message = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), headers
        )

        for attempt in range(TRIES):
            try:
                return self._send(message)
            except NO_REPLY as error:
                code = error.code if isinstance(error, urllib.error.HTTPError) else None
                if code in REFUSED:
                    return ""  # this request alone; the others go on

                # Another try helps where the server is busy or down, not where it says no.
                says_no = code is not None and code < 500 and code != 429
                if says_no or attempt == TRIES - 1:
                    raise self._no_usable_reply(error) from None
            time.sleep(min(PAUSE * 4**attempt, LONGEST_PAUSE))
        raise AssertionError("unreachable")

    def _send(self, message: urllib.request.Request) -> str:
        """The text of one reply."""
        deadline = time.monotonic() + REPLY_SECONDS
        try:
            content = self._receive(message)
        except (OSError, http.client.HTTPException):
            # A connection that was cut off may end in any of these, "reset by peer" among them
            check_deadline(deadline)
            raise
        check_deadline(deadline)

        reply = json.loads(content)
        if "choices" not in reply and "error" in reply:
            raise ValueError(f"the server says {json.dumps(reply['error'])}")
        text = reply["choices"][0]["message"]["content"]
        if not isinstance(text, str | None):
            raise TypeError("the reply's content is not a text")
        return whole_characters(text or "")

    def _receive(self, message: urllib.request.Request) -> bytes:
        """The bytes of one reply, as many as came before its connection ended."""
        content = b""
        with self.opener.open(message, timeout=REPLY_SECONDS) as reply:
            while chunk := reply.read1(2**16):
                content += chunk
                if len(content) > MAX_REPLY_BYTES:
                    raise ValueError(f"the reply has more than {MAX_REPLY_BYTES:,} bytes")
        return content

    def _no_usable_reply(self, error: Exception) -> Away:
        """The error as one sentence. A server may quote the key in its own message: hide it."""
        reason = f"{type(error).__name__}: {error}"
        if self.key:
            reason = reason.replace(self.key, "***")
        return Away(
            f"{self.url}/chat/completions: no usable reply from model '{self.model}' "
            f"({reason[:300]}); check the address, the model's name and OPENAI_API_KEY"
        )


def check_deadline(deadline: float) -> None:
    """Raises TimeoutError past a reply's deadline, of time.monotonic()."""
    if time.monotonic() > deadline:
        raise TimeoutError(f"the reply took longer than {REPLY_SECONDS:g} s")


def chat_content(request: Request) -> list[dict]:
    """A Request as the content of an OpenAI chat message: frames as JPEG data URLs, sound as
    base64 WAV, then the text."""
    content: list[dict] = []
    for frame in request.frames or ():
        url = "data:image/jpeg;base64," + jpeg_base64(frame)
        content.append({"type": "image_url", "image_url": {"url": url}})
    if request.sound is not None:
        audio = {"data": wav_base64(request.sound), "format": "wav"}
        content.append({"type": "input_audio", "input_audio": audio})
    content.append({"type": "text", "text": request.text})
    return content


def jpeg_base64(frame: np.ndarray) -> str:
    """A frame (H, W, 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=90)
    return base64.b64encode(file.getvalue()).decode()


def wav_base64(sound: np.ndarray) -> str:
    """A sound (n,) float32 at 16 kHz."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, sound, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


# ------------------------------------------------------------------ a model of our own machine
class LocalModel:
    """A language model, of text alone or with vision or audio, asked greedily.

    Raises DataError when the folder or hub name holds none. Requests of one call must all have
    frames or none, and sound or none.
    """

    def __init__(
        self,
        path: str,
        device: torch.device | str = "cpu",
        max_tokens: int = MAX_TOKENS,
        batch: int = 8,
    ):
        self.path = path
        self.device = torch.device(device)
        self.max_tokens = max_tokens
        self.batch = batch
        try:
            self._load()
        except (MemoryError, torch.OutOfMemoryError):
            raise
        # transformers raises almost anything on a broken folder
        except Exception as error:
            from engine.families import what_was_wrong  # here: it imports transformers

            reason = what_was_wrong(error)
            raise DataError(
                f"{path}: no language model could be loaded ({reason}); "
                "pass a model folder, a hub name, or an endpoint"
            ) from None

    def _load(self) -> None:
        import transformers  # takes seconds; an Endpoint does without it
        from transformers.models.auto import modeling_auto

        multimodal = modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
        model_type = transformers.AutoConfig.from_pretrained(
            self.path, trust_remote_code=False
        ).model_type
        self.text_only = model_type not in multimodal
        if self.text_only:
            self.processor = transformers.AutoTokenizer.from_pretrained(
                self.path, trust_remote_code=False
            )
            self.tokenizer = self.processor
            model_class = transformers.AutoModelForCausalLM
        else:
            self.processor = load_processor(self.path)
            self.tokenizer = self.processor.tokenizer
            model_class = transformers.AutoModelForMultimodalLM

        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        model = model_class.from_pretrained(
            self.path, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
        self.model = model.to(self.device).eval()

    @torch.no_grad()
    def ask(self, requests: list[Request]) -> list[str]:
        """A reply to each request, `batch` of them at a time."""
        replies: list[str] = []
        for i in range(0, len(requests), self.batch):
            inputs = self.inputs(requests[i : i + self.batch]).to(self.device)
            if "pixel_values" in inputs:
                inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
            ids = self.model.generate(
                **inputs, max_new_tokens=self.max_tokens, do_sample=False
            )  # (batch, P + R)
            new_ids = ids[:, inputs["input_ids"].shape[1] :]  # (batch, R)
            replies += self.tokenizer.batch_decode(new_ids, skip_special_tokens=True)
        return replies

    def inputs(self, requests: list[Request]):
        """The processor's batch of tensors, padded on the left."""
        padding = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
        if self.text_only:
            if any(r.frames or r.sound is not None for r in requests):
                raise DataError(
                    f"{self.path}: this model reads text alone, and is asked about pictures or "
                    "sound; use a model that sees and hears them"
                )
            texts = [self._chat_text(r.text) for r in requests]
            return self.processor(texts, add_special_tokens=False, **padding)

        # all pictures and sounds of the batch in one list each; the texts say where they belong
        texts: list[str] = []
        images: list[Image.Image] = []
        sounds: list[np.ndarray] = []
        for request in requests:
            frames = request.frames or []
            content = [{"type": "image"} for _ in frames]  # a placeholder per frame
            images += [Image.fromarray(frame) for frame in frames]
            if request.sound is not None:
                content.append({"type": "audio"})
                sounds.append(request.sound)
            content.append({"type": "text", "text": request.text})
            texts.append(self._chat_text(content))

        media: dict = {}
        if images:
            media["images"] = images
            # InternVL's processor would cut a large frame into tiles
            if "crop_to_patches" in dir(self.processor.image_processor):
                media["crop_to_patches"] = False
        if sounds:
            media |= {"audio": sounds, "sampling_rate": SAMPLE_RATE}
        return self.processor(text=texts, **media, **padding)

    def _chat_text(self, content: str | list[dict]) -> str:
        """One user turn in the model's chat form, up to where its reply begins."""
        turn = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)


def load_processor(path: str):
    """transformers' AutoProcessor, also without torchvision.

    With some models it wants torchvision for their video processor, which is not needed here. The
    same class is then put together from the parts that Pillow serves.
    """
    import transformers

    try:
        return transformers.AutoProcessor.from_pretrained(path, trust_remote_code=False)
    except (ImportError, ValueError) as error:
        if "torchvision" not in str(error).lower():
            raise

    # the class that AutoProcessor would have taken
    model_type = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False).model_type
    name = transformers.models.auto.processing_auto.PROCESSOR_MAPPING_NAMES.get(model_type)
    if name is None:
        raise ValueError(f"transformers has no processor for model type '{model_type}'")
    processor_class = getattr(transformers, name)

    # it checks the types of its parts, and None is no video processor
    class WithoutVideo(processor_class):
        def check_argument_for_proper_class(self, argument_name, argument):
            if argument_name == "video_processor":
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    # its parts, and those of its saved settings that it accepts
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    arguments = {
        "tokenizer": tokenizer,
        "video_processor": None,
        "image_processor": transformers.AutoImageProcessor.from_pretrained(
            path, backend="pil", trust_remote_code=False
        ),
    }
    accepted = inspect.signature(processor_class.__init__).parameters.keys() - arguments.keys()
    saved = processor_class.get_processor_dict(path)[0]
    settings = {"chat_template": tokenizer.chat_template}
    settings |= {key: value for key, value in saved.items() if key in accepted}
    return WithoutVideo(**arguments, **settings)
