"""judge.py: other models that are asked and never trained. The judge of stage 3, and the writer of hints and audio captions.

    python judge.py hint    --data DATA.jsonl --out WITH_HINTS.jsonl --model Qwen/Qwen2.5-VL-72B-Instruct
    python judge.py caption --data DATA.jsonl --out WITH_CAPTIONS.jsonl --endpoint http://localhost:8000/v1 --model kimi-audio

The paper's judge is a frozen InternVL3-2B that scores four criteria in [0, 1]; its hints were written by Qwen2.5-VL-72B, its audio captions by
Kimi-Audio. Here any Hugging Face vision or audio language model serves (`LocalModel`, transformers' own classes, no remote code), or any
server that speaks OpenAI's chat completions (`Endpoint`: vLLM, SGLang, a commercial one).

    requests (text, frames, sound) --ask--> replies (text) --parse_verdict--> {criterion: score} or None = missing

How this differs from the released trainer:
 1. A verdict is found inside code fences and prose; one that cannot be used is asked for once more and then counts as missing, never as 0.
 2. The prompt is built by joining parts, so braces in it or in a completion cannot break it (the released judge dies at its first call).
 3. Completions are judged in batches, and the model may sit on another device (--judge_device).
"""

import base64
import http.client
import inspect
import io
import json
import math
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from formats.sample import DataError, Sample
from media.decode import MediaSettings, load_medium
from media.errors import MediaError
from media.prompt_format import SAMPLE_RATE
from media.workers import Decoders

DEFAULT_JUDGE = "OpenGVLab/InternVL3-2B-hf"

CRITERIA = {
    "audio": "audio-cue grounding: does the reasoning use the sounds that are there, and say rightly what they are and when?",
    "visual": "visual-object identification: are the objects that matter found and named rightly?",
    "location": "location accuracy: is each sounding object put in its right place?",
    "caption": "caption correctness: does the final answer agree with the gold answer?",
}

JUDGE_FRAMES, JUDGE_PIXELS = 8, 448 * 448

MAX_REPLY = 4 * 2**20  # bytes of an endpoint's reply

VERDICT_END = 20_000  # a verdict is looked for in the last characters of a reply


@dataclass
class Request:
    """One question to another model: text, frames, each (H, W, 3) uint8, or None, mono sound (n,) float32 at 16 kHz or None."""

    text: str
    frames: list[np.ndarray] | None = None
    sound: np.ndarray | None = None


class Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: urllib would send the key along to wherever it leads."""

    def redirect_request(self, *args):
        return None


def check_endpoint(url: str) -> str:
    """A server's address without a closing slash. Raises DataError where it is none, or holds a secret, which would end up in logs."""
    try:
        found = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise DataError(
            f"the endpoint's address is none ({error}); write it as in http://localhost:8000/v1"
        ) from None
    if found.username or found.password or found.query:
        raise DataError(
            "the endpoint's address holds a name, a password or a query; put the key into OPENAI_API_KEY and leave it out there"
        )
    if found.scheme not in ("http", "https") or not found.hostname:
        raise DataError(f"endpoint {url}: is not an address such as http://localhost:8000/v1")
    return url.rstrip("/")


class Endpoint:
    """A server that speaks OpenAI's chat completions. ask() sends `parallel` requests at a time and tries each up to three times, `pause` and 4 x `pause`
    seconds apart; the reply to a request that the server refuses for what it holds is "".

    timeout: seconds for a reply, from the connection to its last byte. The key is read from the environment variable OPENAI_API_KEY when it is set; it goes
    to this address alone and into no message. Raises DataError when no usable reply comes: none, an error, more than MAX_REPLY bytes, or not the protocol's.
    """

    def __init__(
        self,
        url: str,
        model: str,
        max_tokens: int = 512,
        timeout: float = 120.0,
        parallel: int = 8,
        pause: float = 1.0,
    ):
        self.url, self.model, self.max_tokens, self.timeout, self.parallel, self.pause = (
            check_endpoint(url),
            model,
            max_tokens,
            timeout,
            parallel,
            pause,
        )
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise DataError(
                "the environment variable OPENAI_API_KEY holds characters that no key has; set it anew"
            )
        self.opener = urllib.request.build_opener(Stay)

    def ask(self, requests: list[Request]) -> list[str]:
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(self._ask_one, requests))

    def _ask_one(self, request: Request) -> str:
        body = {
            "model": self.model,
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "messages": [{"role": "user", "content": chat_content(request)}],
        }
        head = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self.key}"} if self.key else {}
        )
        wanted = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), head
        )
        for attempt in range(3):
            try:
                return self._send(wanted)
            except (
                OSError,
                http.client.HTTPException,
                ValueError,
                LookupError,
                TypeError,
                RecursionError,
            ) as error:  # the net, the reply's bytes, its form
                code = error.code if isinstance(error, urllib.error.HTTPError) else None
                if code in (
                    400,
                    413,
                    422,
                ):  # this one request is refused: no verdict on it, but the others go on
                    return ""
                if attempt == 2 or (code is not None and code < 500 and code != 429):
                    said = f"{type(error).__name__}: {error}"
                    said = said.replace(self.key, "***") if self.key else said
                    raise DataError(
                        f"{self.url}/chat/completions: no usable reply from model '{self.model}' ({said[:300]}); "
                        "check the address, the model's name and OPENAI_API_KEY"
                    ) from None
            time.sleep(self.pause * 4**attempt)
        raise AssertionError("unreachable")

    def _send(self, wanted: urllib.request.Request) -> str:
        """The text of one reply."""
        end, content = time.monotonic() + self.timeout, b""
        with self.opener.open(wanted, timeout=self.timeout) as reply:
            while chunk := reply.read1(2**16):
                content += chunk
                if len(content) > MAX_REPLY:
                    raise ValueError(f"the reply has more than {MAX_REPLY:,} bytes")
                if time.monotonic() > end:
                    raise TimeoutError(f"the reply took longer than {self.timeout:g} s")
        text = json.loads(content)["choices"][0]["message"]["content"]
        if not isinstance(text, str | None):
            raise TypeError("the reply's content is not a text")
        return text or ""


def chat_content(request: Request) -> list[dict]:
    """A Request as the content of an OpenAI chat message: frames as JPEG data URLs, sound as base64 WAV, then the text."""
    parts: list[dict] = []
    for frame in request.frames if request.frames is not None else ():
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=90)
        parts.append(
            {
                "type": "image_url",
                "image_url": {
                    "url": "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
                },
            }
        )
    if request.sound is not None:
        import soundfile

        file = io.BytesIO()
        soundfile.write(file, request.sound, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        parts.append(
            {
                "type": "input_audio",
                "input_audio": {
                    "data": base64.b64encode(file.getvalue()).decode(),
                    "format": "wav",
                },
            }
        )
    return [*parts, {"type": "text", "text": request.text}]


class LocalModel:
    """A language model, of text alone or with vision or audio, through transformers' own classes, greedy.

    Raises DataError when the folder or hub name holds none. Requests of one call must all have frames or none, and sound or none.
    """

    def __init__(
        self, path: str, device: torch.device | str = "cpu", max_tokens: int = 512, batch: int = 8
    ):
        self.path, self.max_tokens, self.batch = path, max_tokens, batch
        self.device = torch.device(device)
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        import transformers

        names = transformers.models.auto.modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
        try:
            self.text_only = transformers.AutoConfig.from_pretrained(path).model_type not in names
            self.processor = (
                transformers.AutoTokenizer.from_pretrained(path)
                if self.text_only
                else load_processor(path)
            )
            kind = (
                transformers.AutoModelForCausalLM
                if self.text_only
                else transformers.AutoModelForMultimodalLM
            )
            self.model = kind.from_pretrained(path, dtype=dtype).to(self.device).eval()
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise DataError(
                f"{path}: no language model could be loaded ({str(error).strip().splitlines()[0][:160]}); "
                "pass a model folder, a hub name, or an endpoint"
            ) from None

    @torch.no_grad()
    def ask(self, requests: list[Request]) -> list[str]:
        replies: list[str] = []
        for i in range(0, len(requests), self.batch):
            some = requests[i : i + self.batch]
            inputs = self.inputs(some).to(self.device)
            if "pixel_values" in inputs:
                inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
            made = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
            tokenizer = self.processor if self.text_only else self.processor.tokenizer
            replies += tokenizer.batch_decode(
                made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
        return replies

    def inputs(self, requests: list[Request]):
        """The processor's batch of tensors, padded on the left, with one image placeholder per frame."""
        if self.text_only:
            if any(r.frames or r.sound is not None for r in requests):
                raise DataError(
                    f"{self.path}: this model reads text alone, and is asked about pictures or sound; use a model that sees and hears them"
                )
            texts = [
                self.processor.apply_chat_template(
                    [{"role": "user", "content": r.text}],
                    tokenize=False,
                    add_generation_prompt=True,
                )
                for r in requests
            ]
            return self.processor(
                texts,
                padding=True,
                padding_side="left",
                add_special_tokens=False,
                return_tensors="pt",
            )
        texts, images, sounds = [], [], []
        for request in requests:
            frames = [] if request.frames is None else [Image.fromarray(f) for f in request.frames]
            content = [{"type": "image"} for _ in frames] + (
                [{"type": "audio"}] if request.sound is not None else []
            )
            texts.append(
                self.processor.apply_chat_template(
                    [
                        {
                            "role": "user",
                            "content": [*content, {"type": "text", "text": request.text}],
                        }
                    ],
                    tokenize=False,
                    add_generation_prompt=True,
                )
            )
            images += frames
            sounds += [request.sound] if request.sound is not None else []
        media = ({"images": images} if images else {}) | (
            {"audio": sounds, "sampling_rate": SAMPLE_RATE} if sounds else {}
        )
        crop = (
            {"crop_to_patches": False}
            if images and "crop_to_patches" in dir(self.processor.image_processor)
            else {}
        )
        return self.processor(
            text=texts, **media, **crop, padding=True, padding_side="left", return_tensors="pt"
        )


def load_processor(path: str):
    """AutoProcessor; where that wants torchvision and there is none (video processors, which we do not need) the same class is put together
    from its Pillow parts."""
    import transformers

    try:
        return transformers.AutoProcessor.from_pretrained(path)
    except (ImportError, ValueError) as error:
        if "torchvision" not in str(error).lower():
            raise
    model_type = transformers.AutoConfig.from_pretrained(path).model_type
    name = transformers.models.auto.processing_auto.PROCESSOR_MAPPING_NAMES.get(model_type)
    if name is None:
        raise ValueError(f"transformers has no processor for model type '{model_type}'")
    whole = getattr(transformers, name)

    class WithoutVideo(whole):
        def check_argument_for_proper_class(self, argument_name, argument):
            return (
                None
                if argument_name == "video_processor"
                else super().check_argument_for_proper_class(argument_name, argument)
            )

    parts = {
        "tokenizer": transformers.AutoTokenizer.from_pretrained(path),
        "video_processor": None,
        "image_processor": transformers.AutoImageProcessor.from_pretrained(path, backend="pil"),
    }
    known = inspect.signature(whole.__init__).parameters.keys() - parts.keys()
    settings = {
        key: value for key, value in whole.get_processor_dict(path)[0].items() if key in known
    }
    return WithoutVideo(**parts, **{"chat_template": parts["tokenizer"].chat_template} | settings)


def judge_prompt(question: str, gold: str, audio_caption: str, reasoning: str, answer: str) -> str:
    """The text shown to the judge with the frames. Joined, never formatted: a completion may hold braces."""
    asked = "\n".join(f'- "{name}": {what}' for name, what in CRITERIA.items())
    example = json.dumps(dict.fromkeys(CRITERIA, 0.5))
    return "\n\n".join(
        [
            "These are frames of a video, in order. A model was asked about the video and its sound. Score its reply.",
            "Question: " + question,
            "Sound of the video: " + (audio_caption or "not described"),
            "Gold answer: " + gold,
            "The model's reasoning: " + (reasoning or "none"),
            "The model's answer: " + (answer or "none"),
            "Score each criterion from 0 (wrong) to 1 (right):\n" + asked,
            "Reply with one JSON object and nothing else, in the form " + example,
        ]
    )


def parse_verdict(text: str) -> dict[str, float] | None:
    """The four scores from a judge's reply: the last JSON object, in fences or prose, that has all four as numbers in [0, 1]; None when
    there is none in its last VERDICT_END characters.

    >>> parse_verdict('Sure! ```json\\n{"audio": 1, "visual": 0.5, "location": 0, "caption": 1.0}\\n```')
    {'audio': 1.0, 'visual': 0.5, 'location': 0.0, 'caption': 1.0}
    >>> parse_verdict('{"audio": 7, "visual": 0.5, "location": 0, "caption": 1}'), parse_verdict("good"), parse_verdict('{"audio": 1}')
    (None, None, None)
    """
    text = text[-VERDICT_END:]
    decoder, end = json.JSONDecoder(), len(text)
    while (start := text.rfind("{", 0, end)) >= 0:
        end = start
        try:
            found, _ = decoder.raw_decode(
                text[start : start + 2000]
            )  # a verdict is short; a bounded window keeps this linear
        except (json.JSONDecodeError, RecursionError):
            continue
        scores = {name: found.get(name) for name in CRITERIA}
        if all(
            isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1
            for v in scores.values()
        ):
            return {name: float(v) for name, v in scores.items()}
    return None


@dataclass
class Judge:
    """Scores completions with another model. `missing` counts the verdicts that stayed unusable after one more try or whose media could not be decoded,
    `asked` all of them.

    decoders: processes that do `watch` under a deadline; None: this process does, without one. The frames of a clip are decoded once and kept while
    `frame_cache` has room (clips).
    """

    model: Endpoint | LocalModel
    decoders: Decoders | None = None
    asked: int = 0
    missing: int = 0
    frame_cache: int = 256
    frames: dict[str, list[np.ndarray] | MediaError | None] = field(default_factory=dict)

    def __call__(self, items: list[tuple[Sample, str, str]]) -> list[dict[str, float] | None]:
        """items (sample, reasoning, answer) -> {criterion: score in [0, 1]} of each, None where the verdict is missing."""
        verdicts: list[dict[str, float] | None] = [None] * len(items)
        seen = self.see([s for s, _, _ in items])
        requests = {
            i: Request(
                judge_prompt(s.question, s.answer, s.audio_caption, reasoning, answer), seen[i]
            )
            for i, (s, reasoning, answer) in enumerate(items)
            if not isinstance(seen[i], MediaError)
        }
        for more in ("", "\n\nOnly the JSON object."):
            ask = [i for i in requests if verdicts[i] is None]
            replies = (
                self.model.ask([Request(requests[i].text + more, requests[i].frames) for i in ask])
                if ask
                else []
            )
            for i, reply in zip(ask, replies, strict=True):
                verdicts[i] = parse_verdict(reply)
        self.asked += len(items)
        self.missing += sum(v is None for v in verdicts)
        return verdicts

    def see(self, samples: list[Sample]) -> list[list[np.ndarray] | MediaError | None]:
        """Eight frames of each sample's video (or its picture), spread over the whole clip; None when it has neither; or why there are none."""
        new = {s.media_key: s for s in samples if s.media_key not in self.frames}
        found = dict(zip(new, each(watch, list(new.values()), self.decoders), strict=True))
        for error in [f for f in found.values() if isinstance(f, MediaError)]:
            print(f"not judged: {error}", file=sys.stderr)
        known = self.frames | found
        self.frames = dict(list(known.items())[-self.frame_cache :])
        return [known[s.media_key] for s in samples]


def each(function: Callable, samples: list[Sample], decoders: Decoders | None) -> list:
    """function(sample) of each sample, done by `decoders` where there are any, or the MediaError that it ended with."""
    futures = [decoders.submit(s) for s in samples] if decoders else []
    found = []
    for i, sample in enumerate(samples):
        try:
            found.append(futures[i].result() if decoders else function(sample))
        except MediaError as error:
            found.append(error)
    return found


def watch(sample: Sample, frames: int = JUDGE_FRAMES) -> list[np.ndarray] | None:
    """At most `frames` frames (H, W, 3) of each of a sample's videos, evenly spread, and its pictures, at most 448 x 448 pixels each; None without either."""
    settings = MediaSettings(
        fps=math.inf, max_frames=frames, max_pixels=JUDGE_PIXELS, use_audio=False
    )
    media = [
        load_medium(kind, path, sample, settings) for kind, path in sample.media if kind != "audio"
    ]
    return [frame for m in media for frame in m.frames] or None
