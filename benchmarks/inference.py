"""benchmarks/inference.py: a model answers the items of a benchmark, a judge scores open answers.

    items -> batches -> prompts -> completions -> answers read -> scores -> results.jsonl

A result is a dict, one line of results.jsonl:

    id, benchmark, video, labels    of the item; the bootstrap draws videos, labels make the splits
    prompt, completion              as texts; where it could not be asked, its question and ""
    answer, gold                    the answer read from the completion ("": none), the right one
    parts, score                    the item's scores by name, most often {"score": ..}, and the
                                    first of them; None until a judge has scored an open answer
    failure, reason                 why there is no answer or no verdict, in general and in detail
    tokens, reasoning_tokens        lengths of the completion, and of its reasoning
    finished, sound, seconds        ended by EOS; was the sound heard; time of the batch / its items
    judge                           who scored an open answer

eval.py decides which batches a process answers and what becomes of the results; `cfg` is its
Config. It imports this file only after the flags were read, because torch and transformers take
seconds to import.
"""

import time
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.base import Benchmark, Item, ask, read_answer
from benchmarks.results import (
    BAD_MEDIA,
    NO_ANSWER,
    NO_VERDICT,
    TOO_LONG,
    append_results,
    contents,
    refuse_failures,
)
from benchmarks.table import BENCHMARKS
from data import Prompt, PromptBuilder, TooLong, prompt_builder, question_text
from engine.distributed import weight_dtype
from engine.families import DEFAULT_MODEL, load_config, prompt_format
from formats.sample import DataError, Sample
from model import Policy, load_policy
from rewards import split_completion
from rollout import Completion, Sampling, sample_answers
from tools.chat import Endpoint, LocalModel, Request

WAITING_BATCH = 64  # open answers of an earlier run that are judged and written at a time


def can_hear(model: str) -> bool:
    """Does a model, by its folder or hub name, read sound? "" is the bundled one."""
    return prompt_format(load_config(model or DEFAULT_MODEL)).n_mels is not None


# ------------------------------------------------------------------------------ the model's answers
def batches_of(items: list[Item], size: int) -> list[list[Item]]:
    """Items cut into batches. Items about the same media are neighbours, and share their prefill;
    media come in the order in which they are first asked about.
    """
    by_media: dict[str, list[Item]] = {}
    for item in items:
        by_media.setdefault(item.sample.media_key, []).append(item)

    ordered = []
    for about_same_media in by_media.values():
        ordered += about_same_media
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def answer_batches(
    cfg,
    device: torch.device,
    todo: list[tuple[int, list[Item]]],
    done: set[str],
    judge: Endpoint | LocalModel | None,
    file: Path,
    show_progress: bool,
) -> None:
    """Answer the batches of `todo`, (number, items) each, and append their results to `file`.

    A batch that an earlier run has begun is answered whole, so that it decodes in the same company
    and rounds in the same way; the results of items in `done` are then dropped.
    """
    benchmark = BENCHMARKS[cfg.benchmark]
    policy = load_policy(cfg.model or DEFAULT_MODEL, device, weight_dtype(device))
    policy.freeze_towers()
    policy.max_tokens = cfg.max_tokens
    builder = prompt_builder(cfg, policy, max_sound=cfg.max_sound)

    total = sum(len(items) for _, items in todo)
    with tqdm(
        total=total, desc=cfg.benchmark, disable=not show_progress, dynamic_ncols=True
    ) as bar:
        for i, (number, items) in enumerate(todo):
            # The media of this batch and of the next are decoded while this one is answered
            for _, coming in todo[i : i + 2]:
                builder.prefetch([ask(item, benchmark, cfg.prompt) for item in coming])

            results = answer_batch(cfg, policy, builder, items, number)
            results = [result for result in results if result["id"] not in done]
            judge_open_answers(judge, cfg.judge, benchmark, items, results)
            append_results(file, results)
            if cfg.strict:
                refuse_failures(results)
            bar.update(len(items))


def answer_batch(
    cfg, policy: Policy, builder: PromptBuilder, items: list[Item], number: int
) -> list[dict]:
    """One batch of items -> their results. The score of an open answer is still None.

    The random stream depends on the batch's number alone: it does not matter which process answers
    the batch, nor what was answered before.
    """
    started = time.perf_counter()
    benchmark = BENCHMARKS[cfg.benchmark]
    samples = [ask(item, benchmark, cfg.prompt) for item in items]

    # seeds are a million batches apart, so that no two of them share a stream
    generator = torch.Generator(policy.device).manual_seed(cfg.seed * 1_000_003 + number)
    sampling = Sampling(cfg.max_completion_tokens, cfg.temperature, generator)
    answers = sample_answers(policy, builder, samples, sampling)
    seconds = (time.perf_counter() - started) / len(items)

    # `make_result` knows nothing of the tokenizer, so what needs it is added here
    results = []
    for item, sample, (prompt, completion) in zip(items, samples, answers, strict=True):
        result = make_result(item, sample, prompt, completion, benchmark)
        result["benchmark"] = cfg.benchmark
        result["seconds"] = round(seconds, 3)
        reasoning = split_completion(result["completion"])[0]
        tokens = policy.tokenizer(reasoning, add_special_tokens=False)["input_ids"]
        result["reasoning_tokens"] = len(tokens)
        results.append(result)
    return results


def make_result(
    item: Item,
    sample: Sample,
    prompt: Prompt | DataError,
    completion: Completion | None,
    benchmark: Benchmark,
) -> dict:
    """The result of one item, scored by the benchmark's rule. completion None: it could not be
    asked, and `prompt` is the error that says why; it is wrong.
    """
    text = completion.text if completion else ""
    answer = read_answer(item, text, benchmark.several)

    # an item that could not be asked is a failure for that reason, not for its missing answer
    failure = None if answer else NO_ANSWER
    reason = None
    if completion is None:
        failure = TOO_LONG if isinstance(prompt, TooLong) else BAD_MEDIA
        reason = str(prompt)

    scores = benchmark.score(item, answer if completion else None)
    headline = next(iter(scores.values()))
    return {
        "id": sample.id,
        "video": item.video,
        "labels": item.labels,
        "prompt": question_text(sample) if completion is None else prompt.text,
        "completion": text,
        "answer": answer,
        "gold": item.sample.answer,
        "score": headline,
        "parts": scores,
        "failure": failure,
        "reason": reason,
        "tokens": len(completion.tokens) if completion else 0,
        "finished": completion is not None and completion.finished,
        "sound": prompt.sound if completion else "off",
        **contents(item),
    }


# ------------------------------------------------------------------------------ the judge's scores
def open_judge(cfg, device: torch.device) -> Endpoint | LocalModel:
    """The --judge: a model behind a server, or one that is loaded onto `device`."""
    if cfg.judge_endpoint:
        return Endpoint(cfg.judge_endpoint, cfg.judge)
    return LocalModel(cfg.judge, device)


def judge_waiting(
    cfg, judge: Endpoint | LocalModel, items: list[Item], waiting: list[dict], file: Path
) -> None:
    """Score open answers that an earlier run has left without a judge; append them to `file`."""
    for start in range(0, len(waiting), WAITING_BATCH):
        results = waiting[start : start + WAITING_BATCH]
        judge_open_answers(judge, cfg.judge, BENCHMARKS[cfg.benchmark], items, results)
        append_results(file, results)


def judge_open_answers(
    judge: Endpoint | LocalModel | None,
    name: str,
    benchmark: Benchmark,
    items: list[Item],
    results: list[dict],
) -> list[dict]:
    """Put the judge's scores, and its name, into the results that wait for them. Returns these.

    An empty answer is wrong without asking. So is, by reason, one on which the judge gives no
    verdict that can be read.
    """
    unscored = [result for result in results if None in result["parts"].values()]
    if judge is None:
        return []
    answered = [result for result in unscored if result["answer"]]
    verdicts = ask_judge(judge, benchmark, items, answered)

    for result in unscored:
        verdict = verdicts.get(result["id"], 0.0)
        if verdict is None:
            result["failure"] = NO_VERDICT
            verdict = 0.0
        result |= {"parts": {"score": verdict}, "score": verdict, "judge": name}
    return unscored


def ask_judge(
    judge: Endpoint | LocalModel, benchmark: Benchmark, items: list[Item], results: list[dict]
) -> dict[str, float | None]:
    """{id: verdict} of open answers. What cannot be read is asked for once more, and then None."""
    if not results:
        return {}
    item_of = {item.sample.id: item for item in items}
    questions = {}
    for result in results:
        question = benchmark.judge.question(item_of[result["id"]], result["answer"])
        questions[result["id"]] = Request(question)

    verdicts: dict[str, float | None] = dict.fromkeys(questions)
    for _ in range(2):
        unread = [name for name, verdict in verdicts.items() if verdict is None]
        if unread:
            replies = judge.ask([questions[name] for name in unread])
            for name, reply in zip(unread, replies, strict=True):
                verdicts[name] = benchmark.judge.verdict(reply)
    return verdicts
