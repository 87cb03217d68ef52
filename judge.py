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

import argparse
import base64
import contextlib
import http.client
import inspect
import io
import json
import math
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data import SAMPLE_RATE, Decoders, MediaError, load_media, load_medium, place, question_text
from records import DataError, Sample, load_samples, read_records, write_whole
from replies import words_of
from rewards import NUMBER_WORDS, accuracy_reward, places

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


# ---------------------------------------------------------------------------------------------- asking
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


# ---------------------------------------------------------------------------------------------- the judge
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
    media = [
        load_medium(
            kind,
            path,
            None,
            place(sample),
            fps=math.inf,
            max_frames=frames,
            min_pixels=28 * 28,
            max_pixels=JUDGE_PIXELS,
            use_audio=False,
        )
        for kind, path in sample.media
        if kind != "audio"
    ]
    return [frame for m in media for frame in m.frames] or None


# ---------------------------------------------------------------------------------------------- hints and captions
def hint_prompt(sample: Sample) -> str:
    return "\n\n".join(
        [
            "These are frames of a video, in order. A student has to answer a question about the video and its sound and is stuck.",
            question_text(sample),
            "The right answer is: "
            + sample.answer
            + ("\nThe sound: " + sample.audio_caption if sample.audio_caption else ""),
            "Write a hint of one or two sentences: a strategy, such as what to look for or listen for first. Do not give the answer away, "
            "not even a part of it. Reply with the hint only.",
        ]
    )


def caption_prompt(sample: Sample) -> str:
    return "Describe what can be heard in this recording in one or two sentences: the sounds, what makes them, and when. Reply with the description only."


def reveals(hint: str, sample: Sample) -> bool:
    """Does a hint hold the gold answer? It does when the answer's words stand in it one after the other, when a multiple-choice hint names the
    right option's letter or text, or when the hint as a whole would be scored as right.

    >>> s = Sample("a", "Which?", "multiple choice", "B", options=["A. red disc", "B. blue disc"])
    >>> reveals("Look for the blue disc.", s), reveals("Choose (B).", s), reveals("Watch both discs.", s)
    (True, True, False)
    """
    said, gold = f" {words_of(hint)} ", [sample.answer]
    if sample.problem_type in ("multiple choice", "multi-label"):
        letters = {part.strip() for part in sample.answer.replace(";", ",").split(",")}
        gold = [
            o.split(".", 1)[-1] for o in sample.options if o.split(".", 1)[0].strip() in letters
        ]
        named = [
            form.format(letter)
            for letter in letters
            for form in ("({})", " {})", " {}.", " option {} ", " answer is {}")
        ]
        if any(form in f" {hint} " for form in named):
            return True
    if sample.problem_type == "localisation":
        gold = [
            f"{a} {b}"
            for place, thing in places(sample.answer)
            for a, b in ((place, thing), (thing, place))
        ]
    if sample.problem_type in ("numeric", "counting", "regression"):
        gold += [
            word for word, n in NUMBER_WORDS.items() if n > 1 and str(n) == sample.answer
        ]  # "one" and "no" are too common to tell
    return (
        any(words_of(g) and f" {words_of(g)} " in said for g in gold)
        or accuracy_reward(hint, sample.answer, sample.problem_type, sample.options) == 1
    )


def annotate(
    kind: str,
    data: str,
    out: str,
    model: Endpoint | LocalModel,
    media_root: str = "",
    batch: int = 8,
    progress: bool = True,
    allow_outside: bool = False,
    workers: int = 0,
    timeout: float = 120.0,
) -> dict[str, int]:
    """Write `data` again as `out` with the field `hint` or `audio_caption` filled in; returns counts of made, kept, revealing, empty and unusable ones.

    Goes on where a stopped run ended: ids already in `out` are kept, a torn last line is dropped. Records that have the field already are
    copied. Left empty: a hint that gives the answer away, listed in `<out>.rejected`, and records whose media cannot be decoded, or hold no sound to
    caption, listed in `<out>.bad_media`. workers: processes that decode, each record's media within `timeout` seconds; 0: this process does, without a
    limit. Media paths stay as they were.
    """
    name, look = {"hint": ("hint", watch), "caption": ("audio_caption", listen)}[kind]
    if Path(out).resolve() == Path(data).resolve():
        raise DataError(f"{out}: --out must be another file than --data")
    samples = {s.id: s for s in load_samples(data, media_root, allow_outside=allow_outside)}
    raw = (
        []
        if Path(data).suffix in (".yaml", ".yml")
        else [record for _, record in read_records(Path(data))]
    )
    if {str(record.get("id")) for record in raw} != samples.keys():
        raise DataError(
            f"{data}: hints and captions are written into this project's own JSONL; make one by: python data.py {data} --convert OUT.jsonl"
        )
    done, kept = set(), []
    if Path(out).is_file():
        for line in Path(out).read_bytes().split(b"\n"):
            try:
                done.add(str(json.loads(line)["id"]))
                kept.append(line + b"\n")
            except (ValueError, KeyError):
                break  # the line a stopped run was writing, or the end
        write_whole(Path(out), b"".join(kept))
    counts = {"made": 0, "kept": len(done), "revealing": 0, "empty": 0, "unusable": 0}
    todo = [r for r in raw if str(r["id"]) not in done]
    with (
        open(out, "a", encoding="utf-8") as file,
        open(f"{out}.rejected", "a", encoding="utf-8") as rejected,
        open(f"{out}.bad_media", "a", encoding="utf-8") as bad,
        contextlib.closing(Decoders(workers, timeout, look))
        if workers
        else contextlib.nullcontext() as decoders,
    ):
        for i in tqdm(range(0, len(todo), batch), desc=f"writing {name}s", disable=not progress):
            some = todo[i : i + batch]
            empty = [(r, samples[str(r["id"])]) for r in some if not r.get(name)]
            ask: list[tuple[dict, Sample, Request]] = []
            for (record, sample), media in zip(
                empty, each(look, [s for _, s in empty], decoders), strict=True
            ):
                if isinstance(media, MediaError):
                    counts["unusable"] += 1
                    bad.write(
                        json.dumps({"id": sample.id, "path": media.path, "reason": str(media)})
                        + "\n"
                    )
                    record[name] = ""
                else:
                    ask.append(
                        (
                            record,
                            sample,
                            Request(hint_prompt(sample), media)
                            if kind == "hint"
                            else Request(caption_prompt(sample), sound=media),
                        )
                    )
            for (record, sample, _), reply in zip(
                ask, model.ask([r for _, _, r in ask]) if ask else [], strict=True
            ):
                text = " ".join(reply.split())
                if kind == "hint" and text and reveals(text, sample):
                    counts["revealing"] += 1
                    rejected.write(
                        json.dumps({"id": sample.id, "answer": sample.answer, "hint": text}) + "\n"
                    )
                    text = ""
                elif not text:
                    counts["empty"] += 1
                else:
                    counts["made"] += 1
                record[name] = text
            counts["kept"] += len(some) - len(empty)
            file.write("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in some))
            for one in (bad, rejected, file):
                one.flush()
    return counts


def listen(sample: Sample) -> np.ndarray:
    """A sample's sounds one after another, (n,) float32 mono at 16 kHz. Raises MediaError when it has none."""
    sounds = [
        m.sound
        for m in load_media(sample, fps=1.0, max_frames=2, min_pixels=28 * 28, max_pixels=28 * 28)
        if m.sound is not None
    ]
    if not sounds:
        raise MediaError(
            place(sample),
            "there is no sound, neither a file of its own nor of a video, so there is nothing to caption",
        )
    return np.concatenate(sounds)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=("hint", "caption"))
    parser.add_argument("--data", required=True, help="records, JSONL")
    parser.add_argument(
        "--out",
        required=True,
        help="the same records with the field filled in; a stopped run goes on",
    )
    parser.add_argument(
        "--model", required=True, help="model folder or hub name, or the name a server knows it by"
    )
    parser.add_argument(
        "--endpoint",
        default="",
        help="address of an OpenAI-compatible server, e.g. http://localhost:8000/v1; empty: load the model here",
    )
    parser.add_argument(
        "--media_root",
        default="",
        help="folder that media paths are relative to; empty: the JSONL's own folder",
    )
    parser.add_argument(
        "--allow_outside",
        action="store_true",
        help="trust the data set to name files outside of its media folder",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where a model that is loaded here runs",
    )
    parser.add_argument("--batch", type=int, default=8, help="records per batch")
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="processes that decode; 0: this one does, without --media_timeout",
    )
    parser.add_argument(
        "--media_timeout",
        type=float,
        default=120.0,
        help="seconds that decoding a record's media may take",
    )
    args = parser.parse_args(argv)
    model = (
        Endpoint(args.endpoint, args.model)
        if args.endpoint
        else LocalModel(args.model, args.device, batch=args.batch)
    )
    counts = annotate(
        args.kind,
        args.data,
        args.out,
        model,
        args.media_root,
        args.batch,
        allow_outside=args.allow_outside,
        workers=args.workers,
        timeout=args.media_timeout,
    )
    print(
        f"{args.out}: "
        + ", ".join(f"{n:,} {what}" for what, n in counts.items())
        + (f"; the revealing ones are listed in {args.out}.rejected" if counts["revealing"] else "")
        + (f"; the unusable ones are listed in {args.out}.bad_media" if counts["unusable"] else "")
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DataError as error:
        sys.exit(f"error: {error}")
