"""sft.py: stage 0, the supervised cold start.

Cross-entropy on the reasoning traces of the training records. Prompt tokens carry no loss.
Questions about one clip share one packed row, so that the clip is read once:

    [ clip | question 1 + trace 1 | question 2 + trace 2 | .. ]        loss on the traces only
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from config import Config
from data import Prompt, PromptBuilder, share_prefixes
from engine.batching import split_by_tokens
from engine.distributed import gather
from groups import filler, missing_batches
from model import Features, Policy
from run.heldout import evaluate
from run.learner import make_optimizer, optimizer_step, prepare
from run.session import Run
from run.stream import PromptStream

BETAS = (0.9, 0.95)  # of AdamW
WEIGHT_DECAY = 0.01


@dataclass
class TraceRow:
    """One packed row: what questions about one clip share, and each question with its trace."""

    prompt: Prompt
    texts: list[list[int]]  # question + trace, token ids
    skipped: list[int]  # how many tokens of each text are the question's: no loss on them

    @property
    def tokens(self) -> int:
        return len(self.prompt.ids) + sum(len(text) for text in self.texts)


def train_sft(cfg: Config, run: Run, policy: Policy, builder: PromptBuilder) -> None:
    """Stage 0, from the first step (or the checkpoint's) to the last."""
    learner, _ = prepare(cfg, policy)
    optimizer = make_optimizer(cfg, learner, betas=BETAS, weight_decay=WEIGHT_DECAY)
    stream = PromptStream(run.samples, builder, run.seed, by_clip=True)
    state = {"stream": stream}

    log = run.announce()
    run.restore(policy, learner, optimizer, state)

    for step in range(run.start, run.steps):
        log.start_step()
        run.begin_step(step, policy, optimizer, state)
        features = Features(policy)

        # a hint is shown wherever there is one, so that the model learns to use hints
        prompts = stream.take(run.per_rank, hinted=lambda prompt_id: True)
        run.agree()
        rows, n_tokens = trace_rows(prompts, policy)
        total = sum(gather(n_tokens))  # trace tokens over all processes

        # cross-entropy, a mean over all trace tokens of the step
        loss_sum = 0.0
        for batch in trace_batches(rows, cfg.max_tokens, learner):
            clips = [row.prompt for row in batch]
            texts = [row.texts for row in batch]
            logp, mask = learner.completion_logps(clips, features.of(clips), texts)  # (N, R) each
            loss = -logp[on_traces(batch, mask)].sum() / total  # ()
            loss.backward()
            loss_sum += loss.item()
        features.backward()

        norm, lr = optimizer_step(cfg, policy, learner, optimizer, step, run.steps)
        log.lap("update")
        log.sft_step(step, sum(gather(loss_sum)), total, [norm], lr, stream.dropped)
        run.check(step, [], [norm], stream.dropped)
        if run.evaluates(step + 1):
            log.evaluation(step + 1, 0, *evaluate(cfg, policy, builder, run.heldout))
        if run.save_or_stop(step + 1, policy, optimizer, state):
            break
    log.finish()


def trace_rows(prompts: list[Prompt], policy: Policy) -> tuple[list[TraceRow], int]:
    """Prompts -> packed rows with their traces, and the number of trace tokens."""
    traces = []
    for prompt in prompts:
        ids = policy.tokenizer(prompt.sample.trace, add_special_tokens=False)["input_ids"]
        traces.append([*ids, policy.tokenizer.eos_token_id])

    rows = []
    in_order = iter(traces)
    for prefix, questions in share_prefixes(prompts, policy.form):
        texts = [question + next(in_order) for question in questions]
        rows.append(TraceRow(prefix, texts, [len(question) for question in questions]))
    return rows, sum(len(trace) for trace in traces)


def trace_batches(rows: list[TraceRow], max_tokens: int, learner: Policy) -> list[list[TraceRow]]:
    """Rows in micro-batches of at most max_tokens tokens.

    Where the learner is sharded all processes get equally many; see groups.micro_batches.
    """
    batches = split_by_tokens(rows, [row.tokens for row in rows], max_tokens)
    if learner.is_sharded:
        blank = filler(learner.device)
        text = blank.completions[0][0]
        row = TraceRow(blank.prompts[0], [text], skipped=[len(text)])  # nothing of it has a loss
        batches += [[row]] * missing_batches(len(batches))
    return batches


def on_traces(batch: list[TraceRow], mask: Tensor) -> Tensor:
    """The tokens with a loss: mask (N, R) without the questions' tokens."""
    skipped: list[int] = []
    for row in batch:
        skipped += row.skipped
    start = torch.tensor(skipped, device=mask.device)[:, None]  # (N, 1)
    t = torch.arange(mask.shape[1], device=mask.device)  # (R,)
    return mask & (t >= start)  # (N, R)
