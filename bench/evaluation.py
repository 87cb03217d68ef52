"""Answering several questions about each video: shared prefill and batched decoding against one question at a time, greedy, on the same weights.

    python bench/evaluation.py                       # one CPU thread: 4 videos of 1,024 tokens, 4 questions of 64 tokens each, answers of 32 tokens
    python bench/evaluation.py --size 7b --prompt 8192 --questions 15 --tokens 128

`generate` is called once per question, as the released evaluation does. All sides give the same tokens (counted as `same_tokens`).
"""

import torch
from common import arguments, make_policy, report, text_prompt, timed

import rollout
from data import Prompt


def main() -> None:
    args = arguments(
        __doc__.split("\n")[0], videos=4, questions=4, prompt=1024, question=64, tokens=32
    )
    policy = make_policy(args.size)
    prompts = []
    for video in range(args.videos):
        shared = text_prompt(policy, args.prompt, video)
        for i in range(args.questions):
            ids = torch.cat(
                [
                    shared.ids,
                    torch.randint(
                        0,
                        500,
                        (args.question,),
                        generator=torch.Generator().manual_seed(1000 * video + i),
                    ),
                ]
            )
            prompts.append(Prompt(shared.sample, False, ids, torch.arange(len(ids)).expand(3, -1)))
    answers: dict[str, list] = {}

    def ours(name, some, share):
        def run():
            done = [
                rollout.generate(
                    policy, part, [{}] * len(part), 1, args.tokens, temperature=0, share=share
                )
                for part in some
            ]
            answers[name] = [c.tokens for part in done for (c,) in part]

        return run

    def theirs():
        answers["generate, one at a time"] = []
        banned = torch.nonzero(policy.banned).squeeze(-1).tolist()
        for p in prompts:
            ids = p.ids[None].to(policy.device)
            out = policy.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=args.tokens,
                min_new_tokens=args.tokens,
                eos_token_id=None,
                pad_token_id=0,
                suppress_tokens=banned,
            )
            answers["generate, one at a time"].append(out[0, len(p.ids) :].tolist())

    policy.model.eval()
    sides = {
        "ours, shared prefill": ours("ours, shared prefill", [prompts], True),
        "ours, batched": ours("ours, batched", [prompts], False),
        "ours, one at a time": ours("ours, one at a time", [[p] for p in prompts], False),
        "generate, one at a time": theirs,
    }
    rows = []
    for name, run in sides.items():
        seconds = timed(run, args.repeats)
        rows.append(
            {
                "side": name,
                "seconds": seconds["median"],
                "min": seconds["min"],
                "s_per_question": seconds["median"] / len(prompts),
            }
        )
    for row in rows:
        row["ours_is_faster_by"] = row["seconds"] / rows[0]["seconds"]
        row["same_tokens"] = sum(
            a == b
            for one, other in zip(
                answers[row["side"]], answers["generate, one at a time"], strict=True
            )
            for a, b in zip(one, other, strict=True)
        ) / (len(prompts) * args.tokens)
    report(
        args,
        f"evaluation: {args.videos} videos of {args.prompt} tokens, {args.questions} questions of {args.question} tokens about each, "
        f"{args.tokens} tokens of answer, {args.size}",
        rows,
    )


if __name__ == "__main__":
    main()
