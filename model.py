"""model.py: the policy. A Qwen2.5-Omni or Qwen3-Omni thinker (or a Qwen2.5-VL, Qwen3-VL) in Hugging
Face form, and the log-probs that it gives to completions.

    media --towers, once per step--> features --+
    text  --embedding--------------> vectors  --+--> packed rows --decoder--> states --> log-probs

    one row per prompt, all rows in one stream without padding:
        [ prompt 1 | c1 | c2 | .. | cG ][ prompt 2 | c1 | .. | cG ] ..

All that works token by token (projections, MLPs, norms) runs once over the whole stream. Attention
alone knows the rows: a completion sees its prompt and itself, but no other completion
(engine/packed_rows.py, with a worked example). The positions of each completion start right behind
the prompt. So log-probs and gradients are exactly those of G repeated rows [prompt | completion],
while the prompt is computed once: G (P + R) tokens become P + G R.

What is elsewhere: transformers' modules and names in engine/families.py, LoRA in
engine/adapters.py, FSDP2 in engine/distributed.py, the loss in tas.py and train.py.

Dimensions: B prompts, G completions of a prompt, N completions of all prompts, P prompt tokens, R
completion tokens, T tokens of a stream, n tokens with a query in the last layer, V vocabulary, D
width, H query heads, K key-value heads, d head width.
"""

import copy
import itertools
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from data import Prompt
from engine import adapters, families
from engine.adapter_folder import base_of, is_adapter_folder, root_of
from engine.attention import attend, join
from engine.batching import split_by_tokens
from engine.checksums import check_model_files
from engine.distributed import FSDPUnit
from engine.feature_cache import FeatureCache
from engine.flops import update_flops
from engine.kv_cache import Prefill, PrefillPieces
from engine.logprobs import TokenLogprobs, fp32_logits
from engine.packed_rows import (
    Layout,
    PackedAttention,
    PackedRows,
    as_batch,
    one_row,
    packed_layouts,
    row_lengths,
)
from formats.sample import DataError
from media.decode import MediaSettings
from media.digest import media_digest

FEATURE_CACHE_BYTES = 4 * 2**30  # host memory for the outputs of frozen towers
MAX_TOKENS = 16_384  # of one pass of the towers, or of a prefill


def load_policy(
    path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> "Policy":
    """Load a model folder, or a hub name, with its tokenizer. A folder of adapters alone is the
    model that they belong to, with them added in.

    Raises DataError, in one sentence, when it holds no model that runs here, or is a checkpoint of
    ours with a damaged file.
    """
    # A link, as a run's `checkpoint`, is followed once: it may move on while files are read.
    if Path(path).is_dir():
        path = Path(path).resolve()
        check_model_files(path)
    if is_adapter_folder(path):
        root_of(path)  # raises where adapters belong to themselves
        policy = load_policy(base_of(path), device, dtype)
        adapters.merge_adapters(policy.model, path)
        check_finite(policy.model, path)
        policy.source = path
        return policy
    tokenizer, config = families.load_tokenizer_and_config(path)
    model = families.load_model(path, config, torch.device(device), dtype)
    check_finite(model, path)
    return Policy(model, tokenizer, path)


def check_finite(model: nn.Module, path: str | Path) -> None:
    """Raises DataError where a weight is infinite or no number: its replies would be noise."""
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise DataError(
                f"{path}: weight {name} holds numbers that are infinite or not a number; take "
                "another checkpoint"
            )


class Policy:
    """A model with its tokenizer. The parameters are those of transformers' own modules.

    visual, audio_tower, text, head: the parts of `model` (`families.ModelParts`). form: how the
    family reads media. source: the folder or hub name that it came from. shown: how a run shows it
    its media, which a checkpoint records; None: not known. eos_ids: the ids that end a completion.
    banned: (V,) bool, the ids that a completion may not hold. Sampling and training mask them
    alike, so that both speak of one distribution.
    """

    def __init__(self, model: nn.Module, tokenizer, source: str | Path | None = None):
        self.model = model
        self.tokenizer = tokenizer
        self.config = model.config
        self.source = source
        self.shown: MediaSettings | None = None
        self.visual, self.audio_tower, self.text, self.head = families.parts(model)
        families.attend_windows_at_once([self.visual, self.audio_tower])
        self.form = families.prompt_format(model.config)
        self.device = self.head.weight.device
        self.eos_ids = families.eos_ids(tokenizer)
        banned = families.banned_ids(tokenizer, self.eos_ids, len(self.head.weight))  # (V,)
        self.banned = banned.to(self.device)

        self.cache = FeatureCache(FEATURE_CACHE_BYTES)
        self.max_tokens = MAX_TOKENS
        # On a GPU a layer's input is kept in place of its activations, and the layer is computed
        # again in the backward pass: less memory for a third more arithmetic.
        self.checkpoint_layers = self.device.type == "cuda"
        self.adapters_off = False  # a reference under LoRA: compute as if there were no adapters

        # Set by `distributed.shard`, on the twin that learns under FSDP2. Each unit gathers its
        # weights while it runs a function: the root for embedding, last norm and head, and one unit
        # per decoder layer.
        self.fsdp_root: FSDPUnit | None = None
        self.fsdp_layers: list[FSDPUnit] = []

    @property
    def is_sharded(self) -> bool:
        return self.fsdp_root is not None

    # ------------------------------------------------------------------ weights
    def named_parts(self) -> list[tuple[str, nn.Module]]:
        """Towers, decoder and head, with the prefix that their weights have in checkpoints."""
        modules = families.ModelParts(self.visual, self.audio_tower, self.text, self.head)
        return families.named_parts(self.config, modules)

    def weights(self, names: Iterable[str]) -> dict[str, nn.Parameter]:
        """The parameters of these names, which are those of a checkpoint."""
        asked_names = set(names)
        parameters = {}
        for prefix, module in self.named_parts():
            for name, parameter in module.named_parameters():
                full_name = f"{prefix}.{name}"
                if full_name in asked_names:
                    parameters[full_name] = parameter
        return parameters

    def named_trained(self) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        """The trained parameters of decoder and head, and those of the towers, by their names in a
        checkpoint. A head that is tied to the embedding is named once."""
        decoder: dict[str, nn.Parameter] = {}
        towers: dict[str, nn.Parameter] = {}
        already_named = set()
        for prefix, module in self.named_parts():
            group = towers if module in (self.visual, self.audio_tower) else decoder
            for name, parameter in module.named_parameters():
                # A tied head and the embedding are one Parameter, to be stepped once.
                if parameter.requires_grad and parameter not in already_named:
                    group[f"{prefix}.{name}"] = parameter
                    already_named.add(parameter)
        return decoder, towers

    def tower_parameters(self) -> list[nn.Parameter]:
        """All parameters of the vision tower (its merger is the aligner) and of the audio tower."""
        parameters: list[nn.Parameter] = []
        for tower in (self.visual, self.audio_tower):
            if tower is not None:  # a Qwen-VL has no audio tower
                parameters += tower.parameters()
        return parameters

    @property
    def trains_towers(self) -> bool:
        return any(parameter.requires_grad for parameter in self.tower_parameters())

    def freeze_towers(self) -> None:
        """No gradient through the towers. From now on their outputs are kept across steps."""
        for parameter in self.tower_parameters():
            parameter.requires_grad_(False)

    def reference(self) -> "Policy":
        """The policy as it is now, frozen: under LoRA the same weights without adapters, else a
        copy of the decoder.

        It shares the towers: give it the features of this policy. Only for a policy that is whole:
        in a sharded run the reference is `distributed.shard(policy, train=False)`.
        """
        twin = copy.copy(self)  # a second Policy over the same modules
        if self.has_adapters:
            twin.adapters_off = True
            return twin
        memo = {}  # one for both copies, so that a head tied to the embedding stays so
        twin.text = copy.deepcopy(self.text, memo).requires_grad_(False)
        twin.head = copy.deepcopy(self.head, memo).requires_grad_(False)
        return twin

    # ------------------------------------------------------------------ LoRA
    @property
    def has_adapters(self) -> bool:
        return adapters.has_adapters(self.model)

    def add_adapters(self, rank: int, towers: bool, seed: int = 0) -> None:
        """LoRA on all linear layers of the decoder and, with `towers`, of the towers; all else is
        frozen. All processes must pass the same seed."""
        modules = [self.text, self.visual, self.audio_tower] if towers else [self.text]
        # in place: peft exchanges layers inside of the parts, and the parts stay the same modules
        adapters.add_adapters(self.model, families.linear_layers(modules), rank, seed)

    # ------------------------------------------------------------------ saving
    def save(self, folder: str | Path) -> None:
        """Write the policy in the form of the hub's checkpoints, which transformers and vLLM load.

        Adapters are merged into the weights, and also written alone to folder/adapter. A thinker
        is written in the full form of an Omni (`thinker.` in names and config), without talker.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        families.save_weights(self.merged_weights(), folder)
        families.save_config(self.config, folder)
        families.save_processor_files(folder, self.source, self.form, self.shown)
        self.tokenizer.save_pretrained(folder)
        if self.has_adapters:
            adapters.save_adapters(self.model, folder / "adapter", str(self.source or ""))
        families.make_readable(folder)

    def merged_weights(self) -> dict[str, Tensor]:
        """All weights by their names in a checkpoint, adapters added in."""
        tied = self.head.weight is self.text.embed_tokens.weight
        return families.merged_weights(self.named_parts(), tied)

    # ------------------------------------------------------------------ packed rows
    def run_towers(self, prompts: list[Prompt]) -> list[dict[str, Tensor]]:
        """Features of each prompt, always computed. (`Features` computes them once per step.)"""
        return families.run_towers(self.visual, self.audio_tower, prompts, self.form)

    def embed(self, prompt: Prompt, features: dict[str, Tensor]) -> Tensor:
        """(P, D): word embeddings, with the towers' features in place of the media tokens."""
        ids = prompt.ids.to(self.device)  # (P,)
        vectors = self.text.embed_tokens(ids)  # (P, D)

        # Media tokens of one kind take its features in their order. Several pictures need no more
        # than that: tokens and features are both in the order of the media.
        for name, mask in (("vision", self.is_vision(ids)), ("audio", ids == self.form.audio)):
            if name in features:
                media = features[name].to(vectors.dtype)  # (media tokens, D)
                vectors = vectors.masked_scatter(mask[:, None], media)  # (P, D)
        return vectors

    def is_vision(self, ids: Tensor) -> Tensor:
        """Bool of the shape of ids: which stand for a piece of a picture or a video."""
        return (ids == self.form.image) | (ids == self.form.video)

    def pack(
        self,
        prompts: list[Prompt],
        features: list[dict[str, Tensor]],
        suffixes: list[list[list[int]]],
    ) -> PackedRows:
        """One row per prompt: the prompt, and behind it its suffixes (token ids)."""
        vectors: list[Tensor] = []  # (tokens, D) each
        positions: list[Tensor] = []  # (3, tokens) each
        suffix_lengths: list[list[int]] = []  # of each prompt
        for prompt, prompt_features, row_suffixes in zip(prompts, features, suffixes, strict=True):
            # All suffixes of the row, one behind the other. Each counts its positions on from the
            # prompt, as if it stood right behind it.
            ids: list[int] = []
            positions_behind: list[int] = []
            for suffix in row_suffixes:
                ids += suffix
                positions_behind += range(len(suffix))
            suffix_ids = torch.tensor(ids, dtype=torch.long, device=self.device)  # (tokens,)
            offsets = torch.tensor(positions_behind, dtype=torch.long)  # (tokens,)
            suffix_positions = prompt.next_position + offsets  # (tokens,)

            # A suffix is text, whose time, height and width positions are equal.
            vectors += [self.embed(prompt, prompt_features), self.text.embed_tokens(suffix_ids)]
            positions += [prompt.positions, suffix_positions.expand(3, -1)]
            suffix_lengths.append([len(suffix) for suffix in row_suffixes])

        # where everything stands in the stream
        prompt_lengths = [len(prompt.ids) for prompt in prompts]
        deepstack = families.deepstack(features)
        vision_tokens = None
        if deepstack:
            vision_tokens = self.vision_tokens(prompts, row_lengths(prompts, suffixes))
        return PackedRows(
            prompt_lengths,
            suffix_lengths,
            torch.cat(vectors),
            torch.cat(positions, dim=1).to(self.device),
            packed_layouts(prompt_lengths, suffix_lengths, self.device),
            vision_tokens,
            deepstack,
        )

    def vision_tokens(self, prompts: list[Prompt], lengths: list[int]) -> Tensor:
        """(m,) where the vision tokens stand in a stream of rows of these lengths."""
        in_stream = []
        row_start = 0
        for prompt, length in zip(prompts, lengths, strict=True):
            in_prompt = self.is_vision(prompt.ids).nonzero().squeeze(-1)  # (tokens,)
            in_stream.append(row_start + in_prompt)
            row_start += length
        return torch.cat(in_stream).to(self.device)  # (m,)

    # ------------------------------------------------------------------ decoder
    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (T, 1, d) of positions (3, T), for `families.rotate`."""
        return families.rotary_table(self.text, positions, self.head.weight.dtype)

    def run_decoder(
        self, rows: PackedRows, kv: list[tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        """The decoder over packed rows: states (n, D) of the tokens with a query in the last layer.

        Those are each prompt's last token and all suffix tokens (engine/packed_rows.py). kv: a list
        that gets each layer's keys and values, (T, K, d) each.
        """
        layers = self.text.layers
        rotary = self.rotary(rows.positions)
        x = rows.vectors  # (T, D)
        for i in range(len(layers)):
            is_last = i + 1 == len(layers)
            layout = rows.layouts.last_layer if is_last else rows.layouts.all_but_last_layer
            x = self._run_layer(i, x, rotary, layout, kv)  # (T, D); of the last layer (n, D)

            # Qwen3-VL: what lower layers of the tower saw is added after the first decoder layers.
            if i < len(rows.deepstack):
                x = x.index_add(0, rows.vision_tokens, rows.deepstack[i].to(x.dtype))  # (T, D)
        return families.rms_norm(self.text.norm, x)  # (n, D)

    def _run_layer(
        self,
        i: int,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        layout: Layout,
        kv: list[tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        """Layer i, under checkpointing and FSDP where they are in use."""

        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if kv is not None:
                kv.append((k, v))
            return PackedAttention.apply(q, k, v, layout)

        def compute(x: Tensor) -> Tensor:
            return families.block(self.text.layers[i], x, rotary, attention, layout.asked)

        # trap: under checkpointing `compute` runs a second time in the backward pass. A prefill,
        # which fills kv, runs without gradients and is never checkpointed.
        if self.checkpoint_layers and torch.is_grad_enabled():
            compute = partial(checkpoint, compute, use_reentrant=False)
        # FSDP outside, checkpoint inside: the unit gathers its weights again before the backward
        # pass, so the second computation finds them.
        if self.is_sharded:
            return self.fsdp_layers[i](compute, x)
        return compute(x)

    @torch.no_grad()
    def prefill(
        self,
        prompts: list[Prompt],
        features: list[dict[str, Tensor]],
        questions: list[list[list[int]]] | None = None,
    ) -> Prefill:
        """Run the decoder over the prompts, once each, and keep what decoding needs.

        questions: token ids of the questions that go on from each prompt (`data.share_prefixes`:
        several about one clip read it once). None: every prompt is a question itself.
        """
        # A prompt that is a question itself is a row with one suffix, which is empty.
        questions = questions or [[[]] for _ in prompts]
        lengths = row_lengths(prompts, questions)

        # in batches, since the activations of all prompts at a time may not fit
        pieces = PrefillPieces(len(self.text.layers))
        for batch in split_by_tokens(list(range(len(prompts))), lengths, self.max_tokens):
            rows = self.pack(
                [prompts[i] for i in batch],
                [features[i] for i in batch],
                [questions[i] for i in batch],
            )
            kv: list[tuple[Tensor, Tensor]] = []
            hidden = self.run_decoder(rows, kv)  # (n, D)

            # The first token to sample follows from the state of a question's last token.
            last_states = hidden[rows.layouts.suffix_end]  # (questions, D)
            pieces.add(kv, last_states, rows.prompt_lengths, rows.suffix_lengths)
        return pieces.pad([prompt.next_position for prompt in prompts])

    @torch.no_grad()
    def prefill_more(self, prefix: Prefill, ids: list[int]) -> Prefill:
        """A question more about a prompt that is prefilled: only its own tokens are computed.

        prefix: the prefill of that prompt alone. ids: the Q tokens that the question has behind it,
        one or more, all text. The result shares the prompt's keys and values with `prefix`.
        """
        tokens = torch.tensor(ids, device=self.device)  # (Q,)
        positions = prefix.position + torch.arange(len(ids), device=self.device)  # (Q,)
        rotary = self.rotary(positions.expand(3, -1))  # text: three equal positions
        keys: list[Tensor] = []  # (1, Q, K, d) of each layer
        values: list[Tensor] = []

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            """q (Q, H, d) against all of the prompt, and causally against k and v (Q, K, d)."""
            keys.append(k[None])
            values.append(v[None])
            q, k, v = one_row(q), one_row(k), one_row(v)  # (1, heads, Q, d)
            of_prompt = attend(q, as_batch(prefix.keys[layer]), as_batch(prefix.values[layer]))
            of_question = attend(q, k, v, causal=True)
            out, _ = join(*of_prompt, *of_question)  # (1, H, Q, d)
            return out[0].transpose(0, 1)

        x = self.text.embed_tokens(tokens)  # (Q, D)
        for i, layer in enumerate(self.text.layers):
            x = families.block(layer, x, rotary, partial(attention, i))  # (Q, D)
        return replace(
            prefix,
            question_lengths=prefix.question_lengths + len(ids),
            question_keys=keys,
            question_values=values,
            hidden=families.rms_norm(self.text.norm, x[-1:]),  # (1, D)
            position=prefix.position + len(ids),
        )

    # ------------------------------------------------------------------ log-probs
    def update_flops(self, prompts: list[Prompt], completions: list[list[list[int]]]) -> float:
        """Floating-point operations of `completion_logps` and its backward pass."""
        prompt_lengths = [len(prompt.ids) for prompt in prompts]
        lengths = [[len(completion) for completion in group] for group in completions]
        return update_flops(self.text, self.head, prompt_lengths, lengths)

    def log_distribution(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """States (n, D) -> fp32 log-probs (n, V) at `temperature`, over the ids not banned."""
        logits = fp32_logits(hidden, self.head.weight, self.banned, temperature)  # (n, V)
        return F.log_softmax(logits, dim=-1)

    def completion_logps(
        self,
        prompts: list[Prompt],
        features: list[dict[str, Tensor]],
        completions: list[list[list[int]]],
        temperature: float = 1.0,
        with_entropy: bool = False,
    ) -> tuple[Tensor, ...]:
        """Log-probs of each prompt's completions, by one packed row per prompt.

        features: of each prompt (`Features.of`). completions: token ids of each prompt's
        completions, EOS included; an empty one gives a row without tokens.

        Returns logp (N, R) fp32, 0 on padding, and mask (N, R) bool. Rows are in the order of the
        prompts and of their completions. Gradients flow to whatever requires them. with_entropy:
        also the entropy (N, R) in nats of each token's distribution, without gradient.
        """
        compute = partial(
            self._completion_logps, prompts, features, completions, temperature, with_entropy
        )
        if self.adapters_off:
            with adapters.without_adapters(self.model):
                return compute()
        return self.fsdp_root(compute) if self.is_sharded else compute()

    def _completion_logps(
        self,
        prompts: list[Prompt],
        features: list[dict[str, Tensor]],
        completions: list[list[list[int]]],
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, ...]:
        # the completions as a padded block
        flat = list(itertools.chain.from_iterable(completions))  # N lists of ids
        ids = [torch.tensor(completion, dtype=torch.long) for completion in flat]
        tokens = pad_sequence(ids, batch_first=True).to(self.device)  # (N, R)
        lengths = torch.tensor([len(completion) for completion in flat], device=self.device)  # (N,)
        mask = torch.arange(tokens.shape[1], device=self.device) < lengths[:, None]  # (N, R)
        logp = torch.zeros(mask.shape, device=self.device)  # (N, R)
        if not mask.any():
            return (logp, mask, logp) if with_entropy else (logp, mask)

        # The last token of a completion predicts nothing that is asked for, so the decoder does not
        # read it.
        suffixes: list[list[list[int]]] = []  # of each prompt
        for group in completions:
            suffixes.append([completion[:-1] for completion in group])
        rows = self.pack(prompts, features, suffixes)
        hidden = self.run_decoder(rows)  # (n, D)

        # Each token is predicted by the state before it: the first one by the prompt's last token,
        # the others by the completion's token before. source: the row of hidden that predicts each.
        # The mask picks tokens completion by completion, which is the order of suffix_q.
        source = torch.zeros(mask.shape, dtype=torch.long, device=self.device)  # (N, R)
        source[:, 0] = rows.layouts.prompt_end
        source[:, 1:][mask[:, 1:]] = rows.layouts.last_layer.suffix_q
        predicting = hidden[source[mask]]  # (tokens, D)

        flat_logp, flat_entropy = TokenLogprobs.apply(
            predicting, self.head.weight, tokens[mask], self.banned, temperature, with_entropy
        )  # (tokens,) each
        outputs = (logp.masked_scatter(mask, flat_logp), mask)
        if with_entropy:
            outputs += (logp.masked_scatter(mask, flat_entropy),)
        return outputs


class Features:
    """The towers' outputs for the prompts of one step. Equal media pass the towers once.

        features = Features(policy)
        generate(policy, prompts, features.of(prompts), ..)           # the rollout runs the towers
        policy.completion_logps(prompts, features.of(prompts), ..)    # the update finds the outputs
        features.backward()                                           # after the last micro-batch

    Media are told apart by `media_digest`, that is by their content, never by paths: a copy of a
    prompt with masked or shuffled patches or mels, or a prompt edited in place, has features of its
    own.

    Frozen towers: outputs carry no gradient, and stay in `policy.cache` for later steps. Trained
    towers: outputs are leaves, in which the gradients of all micro-batches add up until `backward`.
    """

    def __init__(self, policy: Policy):
        self.policy = policy
        self.outputs: dict[str, dict[str, Tensor]] = {}  # by digest
        self.prompts: dict[str, Prompt] = {}  # by digest: what `backward` runs through the towers

    def of(self, prompts: list[Prompt]) -> list[dict[str, Tensor]]:
        """Features of each prompt: vision (n, D), audio (m, D), of Qwen3-VL deepstack0 .. (n, D).

        A prompt without pictures has no entry vision, one without sound no entry audio.
        """
        trained = self.policy.trains_towers
        digests = [media_digest(prompt) for prompt in prompts]

        # Trained towers have other outputs after each step, so nothing of an earlier step is taken.
        missing: dict[str, Prompt] = {}
        for digest, prompt in zip(digests, prompts, strict=True):
            if digest not in self.outputs and (trained or not self._from_cache(digest)):
                missing[digest] = prompt
        self._run_towers(missing, trained)
        return [self.outputs[digest] for digest in digests]

    def _from_cache(self, digest: str) -> bool:
        """Take what an earlier step left in the policy's cache. Was there anything?"""
        cached = self.policy.cache.get(digest)
        if cached is None:
            return False
        device = self.policy.device
        self.outputs[digest] = {name: tensor.to(device) for name, tensor in cached.items()}
        return True

    @torch.no_grad()
    def _run_towers(self, prompts: dict[str, Prompt], trained: bool) -> None:
        """Run the towers on these prompts, in passes of at most `policy.max_tokens`.

        Without gradients even where the towers are trained: `backward` runs them a second time.
        """
        lengths = [len(prompt.ids) for prompt in prompts.values()]
        for batch in split_by_tokens(list(prompts), lengths, self.policy.max_tokens):
            outputs = self.policy.run_towers([prompts[digest] for digest in batch])
            for digest, output in zip(batch, outputs, strict=True):
                self.outputs[digest] = output
                if not trained:
                    self.policy.cache.put(digest, output)
                    continue

                # a leaf: its .grad adds up what all micro-batches send back
                self.prompts[digest] = prompts[digest]
                for leaf in output.values():
                    leaf.requires_grad_()

    def backward(self) -> None:
        """Carry the gradients that the outputs hold into trained towers. Call it before the
        optimiser's step; with frozen towers there is nothing to do.

        The towers run again, one prompt at a time, as under checkpointing, so that a step keeps
        none of their activations. Then the outputs are forgotten, because the optimiser is about to
        change the towers: the next `of` computes them anew. Raises ValueError where a prompt was
        edited in place in between: its gradient would be that of other media.
        """
        for digest, prompt in self.prompts.items():
            # The digest was made in the forward pass: another one now means other media.
            if media_digest(prompt) != digest:
                raise ValueError(
                    f"media of prompt '{prompt.sample.id}' were edited in place between the "
                    "forward and the backward pass; edit a copy (dataclasses.replace)"
                )

            # An output that no loss has used (all advantages 0) has no gradient to carry on.
            leaves = self.outputs[digest]
            grads = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
            if grads:
                (outputs,) = self.policy.run_towers([prompt])
                torch.autograd.backward([outputs[name] for name in grads], list(grads.values()))
        if self.prompts:
            self.outputs.clear()
            self.prompts.clear()
