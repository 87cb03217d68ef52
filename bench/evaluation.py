"""Answering several questions about each video: shared prefill and batched decoding.

Against one question at a time; greedy, on the same weights.

    python bench/evaluation.py      # one CPU thread: 4 videos of 1,024 tokens, 4 questions of 64
                                    # tokens about each, answers of 32 tokens
    python bench/evaluation.py --size 7b --prompt 8192 --questions 15 --tokens 128

`generate` is called once per question, as the released evaluation does. All sides give the same
tokens (counted as `same_tokens`).
"""

from functools import partial

import torch
from common import arguments, make_policy, report, text_prompt, timed

import rollout
from data import Prompt


def main() -> None:
    args = arguments(
        __doc__.split("\n")[0], videos=4, questions=4, prompt=1024, question=64, tokens=32
    )
    policy = make_policy(args.size)
    policy.model.eval()
    prompts = make_prompts(policy, args)
    one_by_one = [[p] for p in prompts]
    sides = {
        "ours, shared prefill": partial(run_ours, policy, args, [prompts], True),
        "ours, batched": partial(run_ours, policy, args, [prompts], False),
        "ours, one at a time": partial(run_ours, policy, args, one_by_one, False),
        "generate, one at a time": partial(run_transformers, policy, args, prompts),
    }

    rows = []
    answers: dict[str, list[list[int]]] = {}  # the tokens of every question's answer, by side
    for name, run in sides.items():
        seconds = timed(partial(keep_answers, answers, name, run), args.repeats)
        rows.append(
            {
                "side": name,
                "seconds": seconds["median"],
                "min": seconds["min"],
                "s_per_question": seconds["median"] / len(prompts),
            }
        )
    expected = torch.tensor(answers["generate, one at a time"])  # (questions, R)
    for row in rows:
        row["ours_is_faster_by"] = row["seconds"] / rows[0]["seconds"]
        same = torch.tensor(answers[row["side"]]) == expected  # (questions, R)
        row["same_tokens"] = same.double().mean().item()

    title = (
        f"evaluation: {args.videos} videos of {args.prompt} tokens, {args.questions} questions of "
        f"{args.question} tokens about each, {args.tokens} tokens of answer, {args.size}"
    )
    report(args, title, rows)


def make_prompts(policy, args) -> list[Prompt]:
    """Questions as random ids behind the random ids of their video, in the order of the videos."""
    prompts = []
    for video in range(args.videos):
        beginning = text_prompt(policy, args.prompt, video)
        for i in range(args.questions):
            generator = torch.Generator().manual_seed(1000 * video + i)
            question = torch.randint(0, 500, (args.question,), generator=generator)
            ids = torch.cat([beginning.ids, question])  # (P,)
            positions = torch.arange(len(ids)).expand(3, -1)  # (3, P)
            prompts.append(Prompt(beginning.sample, False, ids, positions))
    return prompts


def keep_answers(answers: dict, name: str, run) -> None:
    answers[name] = run()


def run_ours(policy, args, batches: list[list[Prompt]], share_prefill: bool) -> list[list[int]]:
    sampling = rollout.Sampling(args.tokens, temperature=0)
    answers = []
    for batch in batches:
        features = [{}] * len(batch)  # text alone
        groups = rollout.generate(policy, batch, features, 1, sampling, share_prefill)
        answers += [completion.tokens for (completion,) in groups]
    return answers


def run_transformers(policy, args, prompts: list[Prompt]) -> list[list[int]]:
    banned = torch.nonzero(policy.banned).squeeze(-1).tolist()
    answers = []
    for prompt in prompts:
        ids = prompt.ids[None].to(policy.device)  # (1, P)
        out = policy.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=args.tokens,
            min_new_tokens=args.tokens,
            eos_token_id=None,
            pad_token_id=0,
            suppress_tokens=banned,
        )  # (1, P + R)
        answers.append(out[0, len(prompt.ids) :].tolist())
    return answers


if __name__ == "__main__":
    main()
