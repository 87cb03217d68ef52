"""model.py: the policy. A Qwen2.5-Omni thinker (or a Qwen2.5-VL, Qwen3-VL) in Hugging Face form that gives token log-probabilities.

    media --towers, once--> features --+                one packed row per prompt, no padding between or inside rows:
    text  --embedding-----> vectors   -+-->  stream     [prompt 1 | c1 | c2 | .. | cG][prompt 2 | c1 | .. ] ...

                 keys  prompt  c1  c2        All that works token by token (projections, MLPs, norms) runs once over the whole
    queries                                  stream. Attention alone knows the rows: the prompt is causal; a completion sees all
    prompt             causal                of its prompt (`part 1`) and itself, causally (`part 2`). The two parts are joined by
    c1                 all    causal         their log-sum-exps. Backward, each part gets the JOINED output and log-sum-exp, which
    c2                 all         causal    makes its gradient exact (the identity that ring attention uses, arXiv 2310.01889).

A completion's positions restart after the prompt, so log-probs and gradients are those of G repeated rows, while the prompt is computed
once: G (P + R) tokens become P + G R. Nothing carries on from a prompt but its keys and values and its last token's state, which
predicts every first completion token; so the last layer runs its queries and its MLP for that token and the completions only.

All contact with transformers' internals is in `FAMILIES`, `parts`, `prompt_format`, `block` and `run_towers`: it moved them between 5.17 and
5.23, and both work. What another family needs beyond a line in FAMILIES: Qwen2.5-VL its rate of positions; Qwen3-VL the norms of queries and keys (`block`),
the tower features added after the first layers (`deepstack`), and times in words (data.py).
Dimensions: B prompts, P prompt tokens, N completions in all, R completion tokens, T tokens of a stream, V vocabulary, D width,
H query heads, K key-value heads, d head width.
"""

import contextlib
import copy
import json
import shutil
from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import cached_file

from data import Prompt
from engine.attention import Layout, PackedAttention, lay_out_groups
from engine.batching import split_by_tokens
from engine.distributed import FSDPUnit
from engine.families import (
    FAMILIES,
    block,
    load_tokenizer_and_config,
    parts,
    pick_attention,
    prompt_format,
)
from engine.kv_cache import Prefill
from engine.logprobs import TokenLogprobs, fp32_logits
from formats.sample import DataError
from media.digest import media_digest
from media.features import audio_tokens
from media.prompt_format import MEAN, MERGE, PATCH, SAMPLE_RATE, STD, TEMPORAL_PATCH

FEATURE_CACHE_BYTES = 4 * 2**30  # host memory for the outputs of frozen towers
LORA_ALPHA = 32  # the product of two adapters is scaled by alpha / rank


def load_policy(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attn: str = "auto",
) -> "Policy":
    """Load a model and its tokenizer onto `device`. Raises DataError with one sentence when the folder does not hold one.

    attn: what the towers' attention runs on (one of ATTENTIONS). The decoder's is PyTorch's own flash kernel (`attend`).
    """
    tokenizer, config = load_tokenizer_and_config(path)
    device = torch.device(device)
    whole = getattr(transformers, FAMILIES[config.model_type][0])
    try:
        model, found = whole.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=pick_attention(device, attn),
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if "ignore_mismatched_sizes" in str(error):
            raise DataError(
                f"{path}: shapes of its weights are not those of its config.json; the checkpoint is of another class or size"
            ) from None
        raise DataError(
            f"{path}: no weights could be loaded ({str(error).splitlines()[0][:160]})"
        ) from None
    if missing := sorted(found["missing_keys"]):
        raise DataError(
            f"{path}: {len(missing)} weights of a {config.model_type} are missing, e.g. {missing[0]}; the checkpoint is of another class, "
            "or a file of it is"
        )
    return Policy(model.to(device), tokenizer, path)


class FeatureCache:
    """Tower outputs by the digest of their media, in the host's memory: at most `max_bytes`, the least recently used
    out first. Only valid while the towers are frozen."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.bytes = 0
        self.outputs: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def get(self, digest: str) -> dict[str, Tensor] | None:
        if digest in self.outputs:
            self.outputs.move_to_end(digest)
        return self.outputs.get(digest)

    def put(self, digest: str, output: dict[str, Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in output.values())
        if digest in self.outputs or size > self.max_bytes:
            return
        self.outputs[digest] = {name: tensor.detach().cpu() for name, tensor in output.items()}
        self.bytes += size
        while self.bytes > self.max_bytes:
            _, oldest = self.outputs.popitem(last=False)
            self.bytes -= sum(tensor.nbytes for tensor in oldest.values())


class Policy:
    """A model with its tokenizer: features, prefix, log-probs. Parameters are the module's own, in `self.model`.

    banned: (V,) bool, the ids a completion may not hold: media and chat markers and the rows past the tokenizer. Sampler and
    training mask them alike, so both speak of one distribution. eos_ids: the ids that end a completion. source: the folder it came from.
    """

    def __init__(self, model: nn.Module, tokenizer, source: str | Path | None = None):
        self.model, self.tokenizer, self.config, self.source = (
            model,
            tokenizer,
            model.config,
            source,
        )
        self.visual, self.audio_tower, self.text, self.head = parts(model)
        self.form = prompt_format(model.config)
        self.eos_ids = sorted(
            {
                tokenizer.eos_token_id,
                *tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]),
            }
            - {None}
        )
        vocab = self.head.weight.shape[0]
        banned = torch.zeros(vocab, dtype=torch.bool)
        banned[len(tokenizer) :] = True
        banned[
            [
                i
                for i, token in tokenizer.added_tokens_decoder.items()
                if token.special and i < vocab
            ]
        ] = True
        banned[self.eos_ids] = False
        self.device = self.head.weight.device
        self.banned = banned.to(self.device)
        self.cache = FeatureCache(FEATURE_CACHE_BYTES)
        self.checkpoint_layers = (
            self.device.type == "cuda"
        )  # keep each layer's input instead of its activations: less memory, a third more arithmetic
        self.max_tokens, self.max_cache_tokens = (
            16_384,
            2**18,
        )  # per pass of towers or prefill; of keys and values held while decoding
        self.adapters_off = False  # run as if there were no LoRA
        # Of a policy that `distributed.shard` made: decoder and head, and each layer, as units whose weights are gathered
        # while they run a function. Weights of a whole policy are always there.
        self.fsdp_root: FSDPUnit | None = None
        self.fsdp_layers: list[FSDPUnit] = []

    @property
    def is_sharded(self) -> bool:
        return self.fsdp_root is not None

    def towers(self) -> Iterable[nn.Parameter]:
        """The parameters of the vision tower (its merger is the aligner) and of the audio tower."""
        for tower in (self.visual, self.audio_tower):
            yield from tower.parameters() if tower is not None else ()

    def _named_parts(self) -> list[tuple[str, nn.Module]]:
        """The towers, decoder and head that there are, with what checkpoints call them."""
        modules = zip(
            FAMILIES[self.config.model_type][1],
            (self.visual, self.audio_tower, self.text, self.head),
            strict=True,
        )
        return [(name, module) for name, module in modules if module is not None]

    def named_trained(self) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        """The parameters that are trained, by their names in a checkpoint: of the decoder and head, and of the towers. A tied head is named once."""
        towers, sides, seen = {id(p) for p in self.towers()}, ({}, {}), set()
        for prefix, module in self._named_parts():
            for name, p in module.named_parameters():
                if p.requires_grad and id(p) not in seen:
                    sides[id(p) in towers][f"{prefix}.{name}"] = p
                    seen.add(id(p))
        return sides

    def weights(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some of the weights by their names in a checkpoint (`named_trained`)."""
        wanted = set(names)
        return {
            name: p
            for prefix, module in self._named_parts()
            for leaf, p in module.named_parameters()
            if (name := f"{prefix}.{leaf}") in wanted
        }

    def freeze_towers(self) -> None:
        """No gradient through the towers; their outputs are kept in the cache from now on."""
        for p in self.towers():
            p.requires_grad_(False)

    def reference(self) -> "Policy":
        """The policy as it is now, frozen: with LoRA the same weights without adapters, else a copy of the decoder.

        It has no towers of its own: give it the features of this policy. (Of a sharded run: `distributed.shard`.)
        """
        twin = copy.copy(self)
        if self.has_adapters:
            twin.adapters_off = True
            return twin
        memo = {}  # one for both copies: a head tied to the embedding stays so
        twin.text = copy.deepcopy(self.text, memo).requires_grad_(False)
        twin.head = copy.deepcopy(self.head, memo).requires_grad_(False)
        return twin

    # ------------------------------------------------------------------ LoRA
    @property
    def has_adapters(self) -> bool:
        return hasattr(self.model, "peft_config")

    def add_adapters(self, rank: int, towers: bool, seed: int = 0) -> None:
        """LoRA (Hu et al., arXiv 2106.09685) on all linear layers of the decoder, and with `towers` on theirs, too.

        All else is frozen. Adapters are fp32 whatever the weights are: at the learning rates in use a step of theirs
        would be lost in bf16 (engine/optim.py). Their product B A is scaled by LORA_ALPHA / rank. All processes must
        pass the same seed.
        """
        import peft

        for p in self.model.parameters():
            p.requires_grad_(False)

        # peft wants names; the head is no part of the decoder, and gets no adapter
        adapted = [self.text, self.visual, self.audio_tower] if towers else [self.text]
        linear = set()
        for module in adapted:
            if module is not None:
                linear |= {m for m in module.modules() if isinstance(m, nn.Linear)}
        names = [name for name, m in self.model.named_modules() if m in linear]

        torch.manual_seed(seed)
        config = peft.LoraConfig(r=rank, lora_alpha=LORA_ALPHA, target_modules=names)
        peft.inject_adapter_in_model(config, self.model)
        for p in self.model.parameters():
            if p.requires_grad:
                p.data = p.data.float()
        self.visual, self.audio_tower, self.text, self.head = parts(self.model)

    @contextlib.contextmanager
    def _adapters(self):
        """Within, adapters are off if this is a reference."""
        if not self.adapters_off:
            yield
            return
        from peft.tuners.tuners_utils import BaseTunerLayer

        # peft's own switch also sets requires_grad, to False for adapters that it turns off. What was trained before
        # must be trained after, so that is put back by hand.
        layers = [m for m in self.model.modules() if isinstance(m, BaseTunerLayer)]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)
            for p in trained:
                p.requires_grad_(True)

    # ------------------------------------------------------------------ towers
    @property
    def trains_towers(self) -> bool:
        return any(p.requires_grad for p in self.towers())

    def features(self, prompts: list[Prompt]) -> list[dict[str, Tensor]]:
        """Features of one batch. (Use `Features` where several batches share media.)"""
        return Features(self).of(prompts)

    def run_towers(self, prompts: list[Prompt]) -> list[dict[str, Tensor]]:
        """One call of each tower for all prompts: patches and mel frames are concatenated, as the towers expect."""
        out: list[dict[str, Tensor]] = [{} for _ in prompts]
        seen, heard = (
            [i for i, p in enumerate(prompts) if p.grids],
            [i for i, p in enumerate(prompts) if p.mels],
        )
        if seen:
            grids = torch.tensor(
                [grid for i in seen for grid in prompts[i].grids], device=self.device
            )  # (n, 3)
            made = self.visual(
                torch.cat([prompts[i].patches for i in seen]).to(self.device, self.visual.dtype),
                grid_thw=grids,
            )
            layers = {"vision": made.pooler_output} | {
                f"deepstack{i}": x for i, x in enumerate(getattr(made, "deepstack_features", []))
            }
            for name, merged in layers.items():
                for i, part in zip(
                    seen,
                    merged.split([len(prompts[i].patches) // MERGE**2 for i in seen]),
                    strict=True,
                ):
                    out[i][name] = part
        if heard:
            lengths = [[mel.shape[1] for mel in prompts[i].mels] for i in heard]
            mel = torch.cat([mel for i in heard for mel in prompts[i].mels], dim=1).to(
                self.device, self.audio_tower.dtype
            )  # (M, sum L)
            states = self.audio_tower(
                mel,
                feature_lens=torch.tensor(
                    [n for some in lengths for n in some], device=self.device
                ),
            ).last_hidden_state
            for i, part in zip(
                heard, states.split([sum(map(audio_tokens, some)) for some in lengths]), strict=True
            ):
                out[i]["audio"] = part
        return out

    def embed(self, prompt: Prompt, features: dict[str, Tensor]) -> Tensor:
        """(P, D): word embeddings with the media tokens replaced by the towers' features."""
        ids = prompt.ids.to(self.device)
        x = self.text.embed_tokens(ids)
        for name, where in (("vision", self._is_vision(ids)), ("audio", ids == self.form.audio)):
            if name in features:
                x = x.masked_scatter(where[:, None], features[name].to(x.dtype))
        return x

    def _is_vision(self, ids: Tensor) -> Tensor:
        return (ids == self.form.image) | (ids == self.form.video)

    def deepstack(
        self, prompts: list[Prompt], features: list[dict[str, Tensor]], lengths: list[int]
    ) -> list[tuple[Tensor, Tensor]]:
        """Qwen3-VL: what is added to a stream after each of its first layers, as (tokens, values (n, D)). lengths: tokens of each prompt's row."""
        count = max((sum(name.startswith("deepstack") for name in f) for f in features), default=0)
        if not count:
            return []
        with_vision = [
            (p, f, at)
            for p, f, at in zip(
                prompts, features, np.cumsum([0, *lengths[:-1]]).tolist(), strict=True
            )
            if "vision" in f
        ]
        where = torch.cat(
            [
                self._is_vision(p.ids.to(self.device)).nonzero().squeeze(-1) + at
                for p, _, at in with_vision
            ]
        )
        return [
            (where, torch.cat([f[f"deepstack{i}"] for _, f, _ in with_vision]))
            for i in range(count)
        ]

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (T, 1, d) of positions (3, T), for `rotate`."""
        cos, sin = (
            x[0, :, None]
            for x in self.text.rotary_emb(
                self.banned.new_empty(0, dtype=self.head.weight.dtype), positions[:, None]
            )
        )
        half = cos.shape[-1] // 2
        return cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)

    def run(
        self,
        x: Tensor,
        positions: Tensor,
        body: Layout,
        end: Layout,
        deepstack: list[tuple[Tensor, Tensor]] = (),
        keep: list | None = None,
    ) -> Tensor:
        """The decoder over a stream x (T, D) at positions (3, T). Returns the states (n, D) of the tokens that `end` asks. deepstack: see there.
        keep: a list that gets each layer's keys and values."""
        rotary = self.rotary(positions)

        def layer_of(layer, x, lay):
            def attention(q, k, v):
                if keep is not None:
                    keep.append((k, v))
                return PackedAttention.apply(q, k, v, lay)

            return block(layer, x, rotary, attention, lay.rows)

        for i, layer in enumerate(self.text.layers):
            lay = end if i + 1 == len(self.text.layers) else body
            work = (
                partial(checkpoint, layer_of, use_reentrant=False)
                if self.checkpoint_layers and torch.is_grad_enabled()
                else layer_of
            )
            if self.is_sharded:
                x = self.fsdp_layers[i](work, layer, x, lay)
            else:
                x = work(layer, x, lay)
            if i < len(deepstack):
                x = x.index_add(0, deepstack[i][0], deepstack[i][1].to(x.dtype))
        return self.text.norm(x)

    @torch.no_grad()
    def prefill(
        self,
        prompts: list[Prompt],
        features: list[dict[str, Tensor]],
        rests: list[list[list[int]]] | None = None,
    ) -> Prefill:
        """Run the decoder over the prompts, once each, without gradients. rests: what follows on each prompt, as token ids (`data.share_prefixes`):
        several questions about one clip read it once. None: every prompt is one question."""
        rests = rests or [[[]] for _ in prompts]
        lengths, rest_lengths = (
            [len(p.ids) for p in prompts],
            [[len(r) for r in some] for some in rests],
        )
        tokens = [n + sum(some) for n, some in zip(lengths, rest_lengths, strict=True)]
        keys, values, rest_keys, rest_values = ([[] for _ in self.text.layers] for _ in range(4))
        last: list[Tensor] = []
        for part in split_by_tokens(list(range(len(prompts))), tokens, self.max_tokens):
            stream, positions = [], []
            for i in part:
                ids = torch.tensor(
                    [t for r in rests[i] for t in r], dtype=torch.long, device=self.device
                )
                stream += [self.embed(prompts[i], features[i]), self.text.embed_tokens(ids)]
                steps = (
                    torch.tensor([at for n in rest_lengths[i] for at in range(n)], dtype=torch.long)
                    + prompts[i].next_position
                )
                positions += [prompts[i].positions, steps.expand(3, -1)]
            some, after, kept = [lengths[i] for i in part], [rest_lengths[i] for i in part], []
            body, end, first = lay_out_groups(some, after, self.device)
            deepstack = self.deepstack(
                [prompts[i] for i in part], [features[i] for i in part], [tokens[i] for i in part]
            )
            states = self.run(
                torch.cat(stream),
                torch.cat(positions, dim=1).to(self.device),
                body,
                end,
                deepstack,
                kept,
            )
            flat = [n for one in after for n in one]
            ends = np.cumsum(flat) - 1  # the last token of each rest among all of theirs
            last.append(
                states[
                    torch.stack(
                        [
                            end.own[at] if n else first[row]
                            for row, (n, at) in enumerate(zip(flat, ends, strict=True))
                        ]
                    )
                ]
            )
            cuts = [n for p, one in zip(some, after, strict=True) for n in (p, *one)]
            of_prompt = [kind for one in after for kind in (True, *[False] * len(one))]
            for layer, pair in enumerate(kept):
                for whole, mine, stream in zip(
                    (keys, values), (rest_keys, rest_values), pair, strict=True
                ):
                    for piece, prompt in zip(stream.split(cuts), of_prompt, strict=True):
                        (whole if prompt else mine)[layer].append(
                            piece
                        )  # (P, K, d) of a prompt, (S, K, d) of a rest
        pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
        return Prefill(
            lengths,
            *(
                [pad(layer).transpose(1, 2).contiguous() for layer in side]
                for side in (keys, values)
            ),
            torch.arange(len(prompts), device=self.device).repeat_interleave(
                torch.tensor([len(some) for some in rests], device=self.device)
            ),
            torch.tensor([n for some in rest_lengths for n in some], device=self.device),
            *(
                [pad(layer, padding_side="left").transpose(1, 2) for layer in side]
                for side in (rest_keys, rest_values)
            ),
            torch.cat(last),
            torch.tensor(
                [
                    p.next_position + n
                    for p, some in zip(prompts, rest_lengths, strict=True)
                    for n in some
                ],
                device=self.device,
            ),
        )

    def log_distribution(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """(n, D) -> fp32 log-probs (n, V) at `temperature`, over the ids a completion may hold."""
        return F.log_softmax(
            fp32_logits(hidden, self.head.weight, self.banned, temperature), dim=-1
        )

    def completion_logps(self, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """`_completion_logps`, with FSDP's and LoRA's preparations."""
        with self._adapters():
            work = partial(self._completion_logps, *args, **kwargs)
            return self.fsdp_root(work) if self.is_sharded else work()

    def _completion_logps(
        self,
        prompts: list[Prompt],
        features: list[dict[str, Tensor]],
        completions: list[list[list[int]]],
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Log-probs of each prompt's completions (completions[b] = list of token-id lists, EOS included), by one packed row per prompt.

        Returns logp (N, R) fp32, 0 on padding, and mask (N, R) bool, rows in the order of the prompts and their completions.
        An empty completion gives an all-False row. Gradients flow to whatever requires them.
        """
        flat = [c for group in completions for c in group]
        tokens = nn.utils.rnn.pad_sequence(
            [torch.tensor(c, dtype=torch.long) for c in flat], batch_first=True
        ).to(self.device)  # (N, R)
        lengths = torch.tensor([len(c) for c in flat], device=self.device)
        mask = torch.arange(tokens.shape[1], device=self.device) < lengths[:, None]  # (N, R)
        if not mask.any():
            return torch.zeros(mask.shape, device=self.device), mask
        stream, positions = [], []
        for prompt, seen, group in zip(
            prompts, features, completions, strict=True
        ):  # a completion's last token predicts nothing: left out
            ids = torch.tensor(
                [t for c in group for t in c[:-1]], dtype=torch.long, device=self.device
            )
            stream += [self.embed(prompt, seen), self.text.embed_tokens(ids)]
            steps = (
                torch.tensor([i for c in group for i in range(len(c) - 1)], dtype=torch.long)
                + prompt.next_position
            )
            positions += [prompt.positions, steps.expand(3, -1)]
        body, end, first = lay_out_groups(
            [len(p.ids) for p in prompts],
            [[max(0, len(c) - 1) for c in group] for group in completions],
            self.device,
        )
        rows = [
            len(p.ids) + sum(max(0, len(c) - 1) for c in group)
            for p, group in zip(prompts, completions, strict=True)
        ]
        deepstack = self.deepstack(prompts, features, rows)
        states = self.run(
            torch.cat(stream), torch.cat(positions, dim=1).to(self.device), body, end, deepstack
        )  # (n, D)
        # the state that predicts each token: of the prompt's last token for a first one, of the token before for the others
        index = torch.zeros(mask.shape, dtype=torch.long, device=self.device)
        index[:, 0] = first
        index[:, 1:][mask[:, 1:]] = end.own
        picked = TokenLogprobs.apply(
            states[index[mask]], self.head.weight, tokens[mask], self.banned, temperature
        )
        return torch.zeros(mask.shape, device=self.device).masked_scatter(mask, picked), mask

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors, 5 GB a file), config, tokenizer and preprocessor settings in the form of the hub's checkpoints, which
        transformers and vLLM load as it is. Of a Qwen2.5-Omni that is the full form, `thinker.` keys and config, without the talker. LoRA adapters
        are merged into the weights, and written on their own to folder/adapter in peft's form, too."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_torch_state_dict(
            self.merged_weights(), folder, max_shard_size="5GB", metadata={"format": "pt"}
        )
        config = self.config.to_dict()
        if self.config.model_type == "qwen2_5_omni_thinker":
            config = {
                "architectures": ["Qwen2_5OmniForConditionalGeneration"],
                "model_type": "qwen2_5_omni",
                "enable_audio_output": False,
                "transformers_version": transformers.__version__,
                "thinker_config": config,
            }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        self.tokenizer.save_pretrained(folder)
        for name in (
            "preprocessor_config.json",
            "video_preprocessor_config.json",
            "processor_config.json",
            "generation_config.json",
            "spk_dict.pt",
        ):
            if self.source and (
                found := cached_file(
                    str(self.source), name, _raise_exceptions_for_missing_entries=False
                )
            ):
                if Path(found).resolve() != (folder / name).resolve():
                    shutil.copyfile(found, folder / name)
            elif name == "preprocessor_config.json":
                (folder / name).write_text(
                    json.dumps(self.preprocessor_settings(), indent=2) + "\n"
                )
        if self.has_adapters:
            import peft

            (folder / "adapter").mkdir(exist_ok=True)
            save_file(
                {
                    f"base_model.model.{k}": v.detach().contiguous().cpu()
                    for k, v in peft.get_peft_model_state_dict(self.model).items()
                },
                folder / "adapter" / "adapter_model.safetensors",
                metadata={"format": "pt"},
            )
            self.model.peft_config["default"].save_pretrained(folder / "adapter")

    def merged_weights(self) -> dict[str, Tensor]:
        """All weights by their names in a checkpoint, adapters added in."""
        out = {}
        for prefix, module in self._named_parts():
            if (
                module is self.head and self.head.weight is self.text.embed_tokens.weight
            ):  # tied: named with the embedding
                continue
            layers = dict(module.named_modules())
            for name, value in module.state_dict().items():
                owner, _, leaf = name.rpartition(".base_layer.")
                if "lora_" in name:
                    continue
                if owner:
                    name = f"{owner}.{leaf}"
                    if leaf == "weight":
                        value = (
                            value.float() + layers[owner].get_delta_weight("default").float()
                        ).to(value.dtype)
                out[f"{prefix}.{name}"] = value.detach()
        return out

    def preprocessor_settings(self) -> dict:
        """What transformers' processors need to know, for a model that was not loaded from a folder that says it."""
        from transformers import WhisperFeatureExtractor

        audio = {}
        if self.form.n_mels:
            audio = WhisperFeatureExtractor(
                feature_size=self.form.n_mels, sampling_rate=SAMPLE_RATE, return_attention_mask=True
            ).to_dict()
            audio.pop("mel_filters", None)
        return audio | {
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": PATCH,
            "merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
            "image_mean": list(MEAN),
            "image_std": list(STD),
        }


class Features:
    """The towers' outputs for the prompts of one step. Each distinct content passes the towers once.

        features = Features(policy)
        generate(policy, prompts, features.of(prompts), ..)               # the rollout runs the towers
        policy.completion_logps(prompts, features.of(prompts), ..)        # the update does not run them again
        features.backward()                                               # after the last micro-batch

    Contents are told apart by `media_digest`, never by paths: a prompt whose patches or mels were masked, shuffled or
    edited in place (also a copy by `dataclasses.replace`) has features of its own.

    Frozen towers: outputs carry no gradient, and stay in `policy.cache` for later steps. Trained towers: the outputs
    are leaves, in which the gradients of all micro-batches add up until `backward`.
    """

    def __init__(self, policy: Policy):
        self.policy = policy
        self.outputs: dict[str, dict[str, Tensor]] = {}  # by digest
        self.prompts: dict[str, Prompt] = {}  # by digest: what `backward` runs through the towers

    def of(self, prompts: list[Prompt]) -> list[dict[str, Tensor]]:
        """Features of each prompt: {"vision": (n, D), "audio": (m, D)}, of Qwen3-VL "deepstack0" .. (n, D), too."""
        digests = [media_digest(prompt) for prompt in prompts]
        missing: dict[str, Prompt] = {}
        for digest, prompt in zip(digests, prompts, strict=True):
            if digest not in self.outputs and not self._from_cache(digest):
                missing.setdefault(digest, prompt)
        self._run(missing)
        return [self.outputs[digest] for digest in digests]

    def _from_cache(self, digest: str) -> bool:
        """Take what an earlier step has left in the policy's cache. Returns whether there was anything."""
        if self.policy.trains_towers:  # the towers have changed since
            return False
        cached = self.policy.cache.get(digest)
        if cached is None:
            return False
        self.outputs[digest] = {name: t.to(self.policy.device) for name, t in cached.items()}
        return True

    def _run(self, prompts: dict[str, Prompt]) -> None:
        """Run the towers without gradients, in passes of at most `policy.max_tokens`."""
        trained = self.policy.trains_towers
        lengths = [len(prompt.ids) for prompt in prompts.values()]
        for batch in split_by_tokens(list(prompts), lengths, self.policy.max_tokens):
            with torch.no_grad():
                outputs = self.policy.run_towers([prompts[digest] for digest in batch])
            for digest, output in zip(batch, outputs, strict=True):
                self.outputs[digest] = output
                if trained:
                    self.prompts[digest] = prompts[digest]
                    for leaf in output.values():
                        leaf.requires_grad_()
                else:
                    self.policy.cache.put(digest, output)

    def backward(self) -> None:
        """Carry the gradients that the features hold into trained towers. With frozen towers there is nothing to do.

        The towers run again, one prompt at a time, as under checkpointing: a step keeps none of their activations. The
        outputs are forgotten, because the optimiser is about to change the towers: the next `of` runs them anew.
        """
        for digest, prompt in self.prompts.items():
            grads = {
                name: leaf.grad
                for name, leaf in self.outputs[digest].items()
                if leaf.grad is not None
            }
            if grads:
                outputs = self.policy.run_towers([prompt])[0]
                torch.autograd.backward([outputs[name] for name in grads], list(grads.values()))
        if self.prompts:
            self.outputs.clear()
            self.prompts.clear()


def bound_memory(cfg, policy: Policy) -> None:
    """Give a policy the flags that say how much it may hold at a time."""
    policy.max_tokens = cfg.max_tokens
    policy.max_cache_tokens = cfg.max_cache_tokens
