"""model.py: the policy. A Qwen2.5-Omni thinker that is loaded and saved in Hugging Face form and gives token log-probabilities.

    prompt   --towers, once-->  media features --+
             --embedding------>  text           -+--> decoder --> prefix KV, last hidden state     (`prefill`, once per prompt)
                                                                     |  shared by the G completions
    completions [c1 .. cG] ------------------------------> decoder --+--> log-probs (G, R)         (`completion_logps`)

The prompt's keys and values are computed once and selected for each of its completions, with gradients flowing back
through the selection: log-probs and gradients are those of G repeated rows, without repeating the prompt.

All contact with transformers' internals is in `parts`: it moved them between 5.17 and 5.23, and both work.
Dimensions: B prompts, P prompt tokens, N completions in all, R completion tokens, V vocabulary, D width.
"""
import copy
import json
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoTokenizer, DynamicCache, Qwen2_5OmniThinkerForConditionalGeneration

from data import MEAN, MERGE, PATCH, SAMPLE_RATE, STD, TEMPORAL_PATCH, DataError, Prompt, audio_tokens

DEFAULT_MODEL = Path(__file__).parent / "assets" / "tiny-omni"
THINKER_TYPES = ("qwen2_5_omni_thinker", "qwen2_5_omni")
LOGIT_CHUNK = 4096  # completion tokens per fp32 logits block, so that no (tokens, V) tensor of a whole batch exists


# ---------------------------------------------------------------------------------------------- loading and saving
def load_config(path: str | Path):
    """The thinker's config of a model folder (or hub name); of a full omni checkpoint, its thinker part."""
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a model folder ({str(error).splitlines()[0][:160]}); pass --model with a folder "
                        "that holds config.json, or a hub name") from None
    if config.model_type not in THINKER_TYPES:
        raise DataError(f"{path}: config.json says model_type '{config.model_type}'; this code runs Qwen2.5-Omni ({', '.join(THINKER_TYPES)})")
    return getattr(config, "thinker_config", config)


def load_tokenizer_and_config(path: str | Path):
    """(tokenizer, thinker config) of a model folder. Raises DataError when the tokenizer lacks the media tokens."""
    config = load_config(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no tokenizer could be loaded ({str(error).splitlines()[0][:160]})") from None
    for name in ("image_token_id", "video_token_id", "audio_token_id", "audio_start_token_id", "audio_end_token_id"):
        if getattr(config, name) >= len(tokenizer):
            raise DataError(f"{path}: the config's {name} = {getattr(config, name)} is not in the tokenizer ({len(tokenizer)} tokens)")
    return tokenizer, config


def pick_attention(device: torch.device) -> str:
    """flash-attn when it is installed and a GPU is used, PyTorch's SDPA otherwise."""
    from transformers.utils import is_flash_attn_2_available
    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"


def load_policy(path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> "Policy":
    """Load a thinker and its tokenizer onto `device`. Raises DataError with one sentence when the folder does not hold one."""
    tokenizer, config = load_tokenizer_and_config(path)
    device = torch.device(device)
    try:
        model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(path, config=config, dtype=dtype,
                                                                           attn_implementation=pick_attention(device))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no weights could be loaded ({str(error).splitlines()[0][:160]})") from None
    return Policy(model.to(device), tokenizer)


def parts(model: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """(vision tower, audio tower, text decoder, lm_head) of a thinker: the one place that knows where transformers keeps them."""
    inner = model.model if hasattr(model.model, "language_model") else model     # 5.23: thinker.model.*, 5.17: thinker.*
    text = inner.language_model if inner is model.model else model.model
    return inner.visual, inner.audio_tower, text, model.lm_head


# ---------------------------------------------------------------------------------------------- the policy
class FeatureCache:
    """Tower outputs by media key, oldest out first, at most `max_bytes`. Only valid while the towers are frozen."""

    def __init__(self, max_bytes: int):
        self.max_bytes, self.bytes, self.store = max_bytes, 0, OrderedDict()

    def get(self, key: str) -> dict[str, Tensor] | None:
        if key in self.store:
            self.store.move_to_end(key)
        return self.store.get(key)

    def put(self, key: str, value: dict[str, Tensor]) -> None:
        self.store[key] = value
        self.bytes += sum(t.nbytes for t in value.values())
        while self.bytes > self.max_bytes and len(self.store) > 1:
            self.bytes -= sum(t.nbytes for t in self.store.popitem(last=False)[1].values())


class Policy:
    """A thinker with its tokenizer: features, prefix, log-probs. Parameters are the module's own, in `self.model`.

    banned: (V,) bool, the ids a completion may not hold: media and chat markers and the rows past the tokenizer. Sampler and
    training mask them alike, so both speak of one distribution. eos_ids: the ids that end a completion.
    """

    def __init__(self, model: nn.Module, tokenizer, cache_bytes: int = 2**30):
        self.model, self.tokenizer, self.config = model, tokenizer, model.config
        self.visual, self.audio_tower, self.text, self.head = parts(model)
        self.eos_ids = sorted({tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])} - {None})
        vocab = self.head.weight.shape[0]
        banned = torch.zeros(vocab, dtype=torch.bool)
        banned[len(tokenizer):] = True
        banned[[i for i, token in tokenizer.added_tokens_decoder.items() if token.special and i < vocab]] = True
        banned[self.eos_ids] = False
        self.banned = banned.to(self.device)
        self.cache = FeatureCache(cache_bytes)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def towers(self) -> Iterable[nn.Parameter]:
        """The parameters of the vision tower (its merger is the aligner) and of the audio tower."""
        yield from self.visual.parameters()
        yield from self.audio_tower.parameters()

    def freeze_towers(self) -> None:
        """No gradient through the towers; their outputs are kept in the cache from now on."""
        for p in self.towers():
            p.requires_grad_(False)

    def reference(self) -> "Policy":
        """A frozen copy of the decoder as it is now. It has no towers of its own: give it the features of this policy."""
        twin = copy.copy(self)
        twin.text, twin.head = (copy.deepcopy(part).requires_grad_(False) for part in (self.text, self.head))
        return twin

    def features(self, prompts: list[Prompt]) -> list[dict[str, Tensor]]:
        """Tower outputs of each prompt: {"vision": (n, D), "audio": (m, D)}, run once per distinct media.

        With frozen towers there is no gradient and results are cached across calls.
        """
        frozen = not any(p.requires_grad for p in self.towers())
        found: dict[str, dict[str, Tensor]] = {}
        fresh: dict[str, Prompt] = {}
        for p in prompts:
            key = p.sample.media_key
            hit = self.cache.get(key) if frozen else None
            if hit is not None:
                found[key] = hit
            elif key not in found:
                fresh[key] = p
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            for key, value in zip(fresh, self._run_towers(list(fresh.values())), strict=True):
                found[key] = value
                if frozen:
                    self.cache.put(key, value)
        return [found[p.sample.media_key] for p in prompts]

    def _run_towers(self, prompts: list[Prompt]) -> list[dict[str, Tensor]]:
        """One call of each tower for all prompts: patches and mel frames are concatenated, as the towers expect."""
        out: list[dict[str, Tensor]] = [{} for _ in prompts]
        seen, heard = [i for i, p in enumerate(prompts) if p.patches is not None], [i for i, p in enumerate(prompts) if p.mel is not None]
        if seen:
            grid = torch.tensor([prompts[i].grid for i in seen], device=self.device)             # (n, 3)
            merged = self.visual(torch.cat([prompts[i].patches for i in seen]).to(self.device), grid_thw=grid).pooler_output
            for i, part in zip(seen, merged.split((grid.prod(1) // MERGE**2).tolist()), strict=True):
                out[i]["vision"] = part
        if heard:
            lengths = [prompts[i].mel.shape[1] for i in heard]
            mel = torch.cat([prompts[i].mel for i in heard], dim=1).to(self.device)              # (M, sum L)
            states = self.audio_tower(mel, feature_lens=torch.tensor(lengths, device=self.device)).last_hidden_state
            for i, part in zip(heard, states.split([audio_tokens(n) for n in lengths]), strict=True):
                out[i]["audio"] = part
        return out

    def embed(self, prompt: Prompt, features: dict[str, Tensor]) -> Tensor:
        """(P, D): word embeddings with the media tokens replaced by the towers' features."""
        ids = prompt.ids.to(self.device)
        x = self.text.embed_tokens(ids)
        vision_id = self.config.image_token_id if prompt.is_image else self.config.video_token_id
        for name, token in (("vision", vision_id), ("audio", self.config.audio_token_id)):
            if name in features:
                x = x.masked_scatter((ids == token)[:, None], features[name].to(x.dtype))
        return x

    def prefill(self, prompts: list[Prompt], features: list[dict[str, Tensor]]) -> tuple[DynamicCache, Tensor, Tensor, Tensor]:
        """Run the decoder over the prompts, once each. Returns their KV cache, the last hidden states (B, D), the mask (B, P)
        of real tokens (prompts are padded on the right; nothing attends to the padding) and the next positions (B,)."""
        rows = [self.embed(p, f) for p, f in zip(prompts, features, strict=True)]
        lengths = torch.tensor([len(r) for r in rows], device=self.device)
        embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True)                               # (B, P, D)
        mask = torch.arange(embeds.shape[1], device=self.device) < lengths[:, None]              # (B, P)
        positions = torch.stack([F.pad(p.positions, (0, embeds.shape[1] - len(p.ids))) for p in prompts], dim=1)   # (3, B, P)
        cache = DynamicCache()
        hidden = self.text(inputs_embeds=embeds, attention_mask=mask.long(), position_ids=positions.to(self.device),
                           past_key_values=cache, use_cache=True).last_hidden_state
        last = hidden[torch.arange(len(rows), device=self.device), lengths - 1]                  # (B, D)
        return cache, last, mask, torch.tensor([p.next_position for p in prompts], device=self.device)

    def step(self, tokens: Tensor, positions: Tensor, cache: DynamicCache, mask: Tensor) -> Tensor:
        """Decoder over `tokens` (N, S) at text positions (N, S), after `cache`; mask (N, past + S). Returns hidden (N, S, D)."""
        return self.text(inputs_embeds=self.text.embed_tokens(tokens), attention_mask=mask.long(),
                         position_ids=positions.expand(3, -1, -1), past_key_values=cache, use_cache=True).last_hidden_state

    def log_distribution(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """(..., D) -> fp32 log-probs (..., V) at `temperature`, over the ids a completion may hold."""
        logits = self.head(hidden).float().masked_fill(self.banned, float("-inf"))
        return F.log_softmax(logits / temperature, dim=-1)

    def completion_logps(self, prompts: list[Prompt], features: list[dict[str, Tensor]], completions: list[list[list[int]]],
                         temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probs of each prompt's completions (completions[b] = list of token-id lists, EOS included).

        Returns logp (N, R) fp32, 0 on padding, and mask (N, R) bool, rows in the order of the prompts and their completions.
        An empty completion gives an all-False row. Gradients flow to whatever requires them.
        """
        owner = torch.tensor([b for b, group in enumerate(completions) for _ in group], device=self.device)         # (N,)
        rows = [torch.tensor(c, dtype=torch.long) for group in completions for c in group]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)                                   # (N, R)
        lengths = torch.tensor([len(r) for r in rows], device=self.device)
        mask = torch.arange(tokens.shape[1], device=self.device) < lengths[:, None]                                  # (N, R)
        if not mask.any():
            return torch.zeros(mask.shape, device=self.device), mask
        cache, last, prompt_mask, start = self.prefill(prompts, features)
        hidden = last[owner][:, None]                        # (N, 1, D): the prompt's last state predicts every first token
        if tokens.shape[1] > 1:
            cache.batch_select_indices(owner)
            positions = start[owner][:, None] + torch.arange(tokens.shape[1] - 1, device=self.device)                # (N, R - 1)
            after = self.step(tokens[:, :-1], positions, cache, torch.cat([prompt_mask[owner], mask[:, :-1]], dim=1))
            hidden = torch.cat([hidden, after], dim=1)                                                               # (N, R, D)
        states, targets = hidden[mask], tokens[mask]                                                                 # (n, D), (n,)
        picked = torch.cat([checkpoint(self._pick, s, t, temperature, use_reentrant=False)
                            for s, t in zip(states.split(LOGIT_CHUNK), targets.split(LOGIT_CHUNK), strict=True)])
        return torch.zeros(mask.shape, device=self.device).masked_scatter(mask, picked), mask

    def _pick(self, states: Tensor, targets: Tensor, temperature: float) -> Tensor:
        return self.log_distribution(states, temperature).gather(-1, targets[:, None]).squeeze(-1)

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors), config, tokenizer and the preprocessors' settings: transformers loads the folder as it is."""
        from transformers import WhisperFeatureExtractor
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        audio = WhisperFeatureExtractor(feature_size=self.config.audio_config.num_mel_bins, sampling_rate=SAMPLE_RATE, return_attention_mask=True)
        settings = audio.to_dict() | {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": PATCH, "merge_size": MERGE,
                                      "temporal_patch_size": TEMPORAL_PATCH, "image_mean": list(MEAN), "image_std": list(STD)}
        settings.pop("mel_filters", None)
        (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


# ---------------------------------------------------------------------------------------------- the tiny model
MEDIA_TOKENS = {"image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>", "vision_bos_token": "<|vision_bos|>",
                "vision_eos_token": "<|vision_eos|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
CHAT_TEMPLATE = (  # Qwen2.5-Omni's form; newlines are written out because templates swallow those beside a block
    "{%- for message in messages -%}"
    "{%- if loop.first and message.role != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif -%}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{ message.content }}{% else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{%- elif part.type == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{%- elif part.type == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{%- else %}{{ part.text }}{% endif -%}"
    "{%- endfor -%}{%- endif %}{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}")


def make_tiny_tokenizer(corpus: Iterable[str], vocab_size: int = 640):
    """A byte-level BPE tokenizer of Qwen's kind, learned from `corpus`, with Qwen2.5-Omni's special tokens and chat form."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                  pre_tokenizers.ByteLevel(add_prefix_space=False)])
    core.decoder = decoders.ByteLevel()
    chat = ["user", "assistant", "system\nYou are a helpful assistant."] * 100
    core.train_from_iterator([*chat, *corpus], trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False,
                                                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                        clean_up_tokenization_spaces=False, chat_template=CHAT_TEMPLATE,
                                        extra_special_tokens={"im_start_token": "<|im_start|>", **MEDIA_TOKENS})
    tokenizer.add_tokens(["<think>", "</think>", "<answer>", "</answer>"])
    return tokenizer


def make_tiny_policy(corpus: Iterable[str], seed: int = 0, device: torch.device | str = "cpu") -> Policy:
    """A 1.6 M-parameter Qwen2.5-Omni thinker with random weights: 4 decoder layers of width 128, two 2-layer towers of width 96."""
    from transformers import Qwen2_5OmniThinkerConfig
    tokenizer = make_tiny_tokenizer(corpus)
    media = {name: tokenizer.convert_tokens_to_ids(token) for name, token in MEDIA_TOKENS.items()}
    wide = {"initializer_range": 0.06}  # about 1 / sqrt(width): with the 0.02 of large models so small a one starts out nearly mute
    text = {"vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [8, 4, 4]},
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, **wide}
    vision = {"depth": 2, "hidden_size": 96, "intermediate_size": 192, "num_heads": 4, "out_hidden_size": 128, "fullatt_block_indexes": [1],
              **wide}
    audio = {"num_mel_bins": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 192, "d_model": 96, "output_dim": 128,
             "n_window": 200, **wide}  # one window holds the clip, so a sound knows its time
    config = Qwen2_5OmniThinkerConfig(
        **wide, text_config=text, vision_config=vision, audio_config=audio, image_token_index=media["image_token"],
        video_token_index=media["video_token"], audio_token_index=media["audio_token"], audio_start_token_id=media["audio_bos_token"],
        audio_end_token_id=media["audio_eos_token"], vision_start_token_id=media["vision_bos_token"],
        vision_end_token_id=media["vision_eos_token"], user_token_id=tokenizer.convert_tokens_to_ids("user"))
    torch.manual_seed(seed)
    return Policy(Qwen2_5OmniThinkerForConditionalGeneration(config).to(device), tokenizer)
