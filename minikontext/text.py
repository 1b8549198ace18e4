"""Prompts to numbers: `ToyTextEncoder` for the toy world, `FluxTextEncoder` (T5 + CLIP) for FLUX.

Both give the transformer the same two things: a feature for every text token (T5's place) and
one pooled vector for the whole prompt (CLIP's place).
"""

from __future__ import annotations

import difflib
import re
import unicodedata
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from minikontext import memory, weights
from minikontext.device import attend
from minikontext.errors import (
    ConfigError,
    MissingPackageError,
    PromptError,
    PromptWarning,
    WeightsError,
)

PAD, UNKNOWN, END = "<pad>", "<unk>", "<end>"
LETTERS = tuple(f"<{letter}>" for letter in "abcdefghijklmnopqrstuvwxyz")
SPECIAL = (PAD, UNKNOWN, END, *LETTERS)
LONGEST = 50_000  # characters of a prompt; T5 takes 512 tokens


@dataclass(frozen=True)
class TextFeatures:
    """What the transformer sees of prompts: tokens (b, m, context_in_dim), pooled (b, vec_in_dim).

    FLUX fills `tokens` with T5's features and `pooled` with CLIP's pooled output.
    """

    tokens: Tensor
    pooled: Tensor

    def to(self, *args: Any, **kwargs: Any) -> TextFeatures:
        """Move or cast both tensors, as `Tensor.to` does."""
        return TextFeatures(self.tokens.to(*args, **kwargs), self.pooled.to(*args, **kwargs))


class UnknownWord(PromptWarning):
    """A word that the encoder was never taught, with the known words spelled most like it."""

    def __init__(self, word: str, suggestions: Sequence[str] = ()) -> None:
        self.word, self.suggestions = word, tuple(suggestions)
        near = f"Nearest known: {', '.join(suggestions)}." if suggestions else ""
        hint = near or "No known word is spelled like it."
        super().__init__(f"Unknown word {word!r}: the model will not understand it. {hint}")


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """Return the prompts as a list; raise PromptError for anything that is not a list of str."""
    if isinstance(prompts, str):
        prompts = [prompts]
    if not isinstance(prompts, (list, tuple)):
        raise PromptError(
            f"Got a prompt of type {type(prompts).__name__}; expected a str or a list of str."
        )
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise PromptError(f"Got {prompt!r} ({type(prompt).__name__}) as a prompt; give a str.")
        if len(prompt) > LONGEST:
            raise PromptError(f"Got a prompt of {len(prompt):,} characters; {LONGEST:,} are many.")
        if any("\ud800" <= c <= "\udfff" for c in prompt):  # half a character: nothing can store it
            raise PromptError(f"Got broken characters in the prompt {prompt!r:.80}. Type it again.")
    return list(prompts)


# --------------------------------------------------------------------------- toy tokenizer


@dataclass(frozen=True)
class ToyTextConfig:
    """Sizes of the toy text encoder; the vocabulary travels with the weights.

    `width` is the transformer's context_in_dim, `pooled` its vec_in_dim.
    """

    vocabulary: tuple[str, ...] = ()
    max_length: int = 20
    width: int = 128
    depth: int = 2
    heads: int = 4
    pooled: int = 128

    def __post_init__(self) -> None:
        # A config read back from JSON brings a list.
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} does not split into {self.heads} heads.")


@dataclass(frozen=True)
class Piece:
    """One token of a prompt and the text that it came from."""

    token: str
    source: str


QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'"})
# A quoted sign word, a word (with inner hyphens or apostrophes), or one other character.
SPLIT = re.compile(r"\"([^\"]*)\"|(?<!\w)'([^']*)'(?!\w)|(\w+(?:[-']\w+)*)|(\S)")


def normalise(prompt: str) -> str:
    """Straighten quotes and strip accents: 'café' becomes 'cafe'. Other scripts stay."""
    plain = unicodedata.normalize("NFKD", prompt.translate(QUOTES))
    return "".join(c for c in plain if not unicodedata.combining(c))


def split_prompt(prompt: str, vocabulary: Sequence[str]) -> list[Piece]:
    """Split a prompt into tokens: words lower-cased, quoted and ALL CAPS words spelled out."""
    known, text = set(vocabulary), normalise(prompt)
    # "MAKE THE HAT RED" is shouting, not four sign words.
    shouting = text.isupper() and len(text.split()) > 1
    pieces: list[Piece] = []
    for double, single, word, other in SPLIT.findall(text):
        if double or single:
            pieces += spell(double or single)
        elif word and is_sign_word(word) and not shouting:
            pieces += spell(word)
        elif word:
            pieces += word_pieces(word.lower(), known)
        elif other in known or not other.isascii():
            pieces.append(Piece(other if other in known else UNKNOWN, other))
        # Any other punctuation means nothing in the toy world and is left out.
    return pieces


def is_sign_word(word: str) -> bool:
    """True for HI or OPEN; False for a lone capital such as the 'A' of 'A red hat'."""
    return len(word) > 1 and word.isalpha() and word.isupper()


def spell(word: str) -> list[Piece]:
    """One token a letter: 'HI' becomes <h>, <i>."""
    letters = (letter for letter in word.lower() if not letter.isspace())
    return [Piece(f"<{x}>" if f"<{x}>" in LETTERS else UNKNOWN, x.upper()) for x in letters]


def word_pieces(word: str, known: set[str]) -> list[Piece]:
    """A word as it is if it is known, else without 's and split at hyphens."""
    if word in known:
        return [Piece(word, word)]
    parts = [part for part in word.removesuffix("'s").split("-") if part]
    return [Piece(part if part in known else UNKNOWN, part) for part in parts]


# --------------------------------------------------------------------------- toy encoder


class TextBlock(nn.Module):
    """A pre-norm transformer block over word features (b, m, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape; every token sees every other, padding included."""
        qkv = self.qkv(self.norm1(x))
        q, k, v = rearrange(qkv, "b m (three h d) -> three b h m d", three=3, h=self.heads)
        attended = attend(q, k, v)
        x = x + self.proj(rearrange(attended, "b h m d -> b m (h d)"))
        return x + self.mlp(self.norm2(x))


class ToyTextEncoder(nn.Module):
    """Word embeddings and a small transformer, in the places that T5 and CLIP hold in FLUX.

    Like FLUX, it always uses its whole fixed length and masks nothing: padding is seen.
    """

    def __init__(self, config: ToyTextConfig) -> None:
        super().__init__()
        self.config = config
        self.words = (*SPECIAL, *config.vocabulary)
        self.index = {word: i for i, word in enumerate(self.words)}
        self.embedding = nn.Embedding(len(self.words), config.width)
        self.position = nn.Parameter(torch.zeros(config.max_length, config.width))
        self.blocks = nn.ModuleList(
            TextBlock(config.width, config.heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.pool = nn.Linear(config.width, config.pooled)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.normal_(self.position, std=0.5)

    @property
    def max_length(self) -> int:
        """Tokens a prompt may have, its <end> included."""
        return self.config.max_length

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to token ids (b, max_length), each closed by <end> and padded with <pad>."""
        rows = [self._ids(prompt) for prompt in check_prompts(prompts)]
        return torch.tensor(rows, dtype=torch.long).view(len(rows), self.max_length)

    def forward(self, token_ids: Tensor) -> TextFeatures:
        """Token ids (b, max_length) to token features and the pooled feature of <end>."""
        x = self.embedding(token_ids) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)  # (b, max_length, width)
        end = (token_ids == self.index[END]).int().argmax(dim=1)
        return TextFeatures(x, self.pool(x[torch.arange(len(x), device=x.device), end]))

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Prompts to features, with a PromptWarning for all that the encoder cannot use.

        Raises PromptError for anything but strings. The empty prompt is the null prompt of CFG.
        """
        prompts = check_prompts(prompts)
        for prompt in dict.fromkeys(prompts):
            for warning in self.report(prompt):
                warnings.warn(warning, stacklevel=2)
        return self(self.tokenize(prompts).to(self.position.device))

    def report(self, prompt: str) -> list[PromptWarning]:
        """What the encoder cannot use of a prompt: unknown words and words that do not fit."""
        pieces = split_prompt(*check_prompts([prompt]), self.config.vocabulary)
        used, dropped = pieces[: self.max_length - 1], pieces[self.max_length - 1 :]
        unknown = dict.fromkeys(p.source for p in used if p.token == UNKNOWN)
        found: list[PromptWarning] = [UnknownWord(word, self.suggest(word)) for word in unknown]
        dropped = [piece.source for piece in dropped]
        if dropped:
            found.append(PromptWarning(too_long(len(pieces) + 1, self.max_length, dropped)))
        return found

    def suggest(self, word: str) -> list[str]:
        """The known words spelled most like this one, nearest first."""
        words = [known for known in self.config.vocabulary if known.isalnum()]
        return difflib.get_close_matches(word.lower(), words, n=3, cutoff=0.5)

    def complete(self, prompt: str, count: int = 8) -> list[str]:
        """Known words that the last, unfinished word of a prompt may become; none if it is one."""
        start = prompt.rpartition(" ")[2].lower()
        if not start.isalpha() or start in self.config.vocabulary:
            return []
        return [word for word in self.config.vocabulary if word.startswith(start)][:count]

    def _ids(self, prompt: str) -> list[int]:
        tokens = [piece.token for piece in split_prompt(prompt, self.config.vocabulary)]
        tokens = [*tokens[: self.max_length - 1], END]
        tokens += [PAD] * (self.max_length - len(tokens))
        return [self.index[token] for token in tokens]


def too_long(count: int, limit: int, dropped: Sequence[str]) -> str:
    """The sentence that says what a too long prompt lost."""
    lost = " ".join(dropped)
    lost = lost if len(lost) <= 120 else lost[:117] + "..."
    return f"The prompt has {count} tokens but only {limit} fit. Dropped from its end: {lost!r}."


# --------------------------------------------------------------------------- FLUX encoder


VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")


class FluxTextEncoder(nn.Module):
    """T5 token features and CLIP's pooled output, as FLUX.1 uses them.

    T5: `max_length` tokens, padded to the full length, no attention mask. CLIP: 77 tokens. Encoded
    prompts are kept, so asking again costs nothing. Official names: `HFEmbedder`, twice.
    """

    CLIP_LENGTH = 77
    KEPT = 64

    def __init__(
        self,
        clip: nn.Module,
        clip_tokenizer: Any,
        t5: nn.Module,
        t5_tokenizer: Any,
        max_length: int = 512,
    ) -> None:
        super().__init__()
        self.clip, self.t5 = clip.eval(), t5.eval()
        self.clip_tokenizer, self.t5_tokenizer = clip_tokenizer, t5_tokenizer
        self.max_length = max_length
        self.streamed_to: torch.device | None = None
        self._cache: OrderedDict[str, TextFeatures] = OrderedDict()

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        dtype: torch.dtype | None = torch.bfloat16,
        max_length: int = 512,
        device: str | torch.device = "cpu",
    ) -> FluxTextEncoder:
        """Load from a local diffusers folder: tokenizer, tokenizer_2, text_encoder, text_encoder_2.

        Never touches the network and reads safetensors only, one tensor at a time. Raises
        WeightsError for what is missing or does not fit, and MissingPackageError without
        `transformers`.
        """
        folder = Path(folder)
        require_encoders(folder)
        hf, (clip_words, t5_words) = import_transformers(), load_tokenizers(folder)
        return cls(
            load_encoder(hf.CLIPTextModel, folder / "text_encoder", device, dtype),
            clip_words,
            load_encoder(hf.T5EncoderModel, folder / "text_encoder_2", device, dtype),
            t5_words,
            max_length,
        )

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write what `from_folder` reads, through transformers."""
        for module, name in ((self.clip, "text_encoder"), (self.t5, "text_encoder_2")):
            state = {key: value.to("cpu", dtype) for key, value in module.state_dict().items()}
            state.pop("encoder.embed_tokens.weight", None)  # the same as shared.weight
            module.save_pretrained(Path(folder) / name, state_dict=state)
        self.clip_tokenizer.save_pretrained(Path(folder) / "tokenizer")
        self.t5_tokenizer.save_pretrained(Path(folder) / "tokenizer_2")

    def stream(self, device: torch.device, dtype: torch.dtype) -> FluxTextEncoder:
        """Keep the weights on the host; each layer visits the device while it works."""
        t5 = self.t5
        layers = (self.clip, t5.shared, *t5.encoder.block, t5.encoder.final_layer_norm)
        memory.stream(layers, device, dtype)
        self.streamed_to = torch.device(device)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Prompts to T5 tokens (b, max_length, 4096) and CLIP pooled (b, 768); warns if cut."""
        found = [self._cached(prompt) for prompt in check_prompts(prompts)]
        tokens = torch.cat([features.tokens for features in found])
        return TextFeatures(tokens, torch.cat([features.pooled for features in found]))

    def report(self, prompt: str) -> list[PromptWarning]:
        """What does not fit: T5 drops the end of a very long prompt, CLIP all after 77 tokens."""
        check_prompts([prompt])
        pairs = (
            ("T5", self.t5_tokenizer, self.max_length),
            ("CLIP", self.clip_tokenizer, self.CLIP_LENGTH),
        )
        found = []
        for name, tokenizer, limit in pairs:
            ids = tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
            if len(ids) > limit:
                lost = tokenizer.decode(ids[limit - 1 : -1])
                found.append(PromptWarning(f"{name}: {too_long(len(ids), limit, [lost])}"))
        return found

    def complete(self, prompt: str, count: int = 8) -> list[str]:
        """Nothing to offer: every word is welcome."""
        return []

    def _cached(self, prompt: str) -> TextFeatures:
        if prompt not in self._cache:
            for warning in self.report(prompt):
                warnings.warn(warning, stacklevel=3)
            self._cache[prompt] = self._encode(prompt)
        features = self._cache[prompt]
        self._cache.move_to_end(prompt)
        if len(self._cache) > self.KEPT:
            self._cache.popitem(last=False)
        return features

    def _encode(self, prompt: str) -> TextFeatures:
        # No attention mask: FLUX was trained with every padding token visible.
        tokens = self.t5(input_ids=self._ids(self.t5_tokenizer, prompt, self.max_length))[0]
        clip = self.clip(input_ids=self._ids(self.clip_tokenizer, prompt, self.CLIP_LENGTH))
        return TextFeatures(tokens, clip.pooler_output)

    def _ids(self, tokenizer: Any, prompt: str, length: int) -> Tensor:
        batch = tokenizer(
            prompt, truncation=True, max_length=length, padding="max_length", return_tensors="pt"
        )
        return batch["input_ids"].to(self.streamed_to or next(self.parameters()).device)


def require_encoders(folder: Path) -> None:
    """Raise WeightsError if a folder lacks one of the four folders of FLUX's text encoders."""
    names = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    if missing := [name for name in names if not (folder / name).is_dir()]:
        raise WeightsError(
            f"{folder} lacks the folders {', '.join(missing)} of FLUX's text encoders. "
            "Copy them from a folder in the diffusers layout: the single files do not hold them."
        )


def read_local(kind: Any, folder: Path) -> Any:
    """A tokenizer or configuration of transformers from a folder, never from the network."""
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raise a bare Exception, and damaged files nearly any
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"Cannot read {kind.__name__} from {folder}: {reason}. Complete the download."
        ) from error


def load_tokenizers(folder: Path) -> tuple[Any, Any]:
    """CLIP's and T5's, from the folder that holds `tokenizer` and `tokenizer_2`."""
    hf = import_transformers()
    return (
        load_tokenizer(hf.CLIPTokenizer, folder / "tokenizer"),
        load_tokenizer(hf.T5TokenizerFast, folder / "tokenizer_2"),
    )


def load_tokenizer(kind: Any, folder: Path) -> Any:
    """A tokenizer from a folder; transformers would make up an empty one."""
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise WeightsError(
            f"{folder} holds no vocabulary, none of {', '.join(VOCABULARIES)}. Complete the "
            "download."
        )
    return read_local(kind, folder)


def load_encoder(
    kind: Any, folder: Path, device: str | torch.device, dtype: torch.dtype | None
) -> nn.Module:
    """Fill a text encoder of transformers, made on the meta device, one tensor at a time."""
    module = _sketch_encoder(kind, folder)
    weights.load_into(module, folder, device, dtype, rules=partial(_encoder_rules, module))
    for name, buffer in module.named_buffers():
        if buffer.is_meta and name.endswith("position_ids"):  # counted, not learned
            places = torch.arange(buffer.shape[-1], device=device)
            module.get_submodule(name.rpartition(".")[0]).position_ids = places[None]
    if hasattr(module, "shared"):
        module.set_input_embeddings(module.shared)  # one tensor in two places
    return module


def check_encoder(folder: Path, reader: weights.Reader) -> None:
    """Check that a folder holds every tensor of its CLIP or T5. Raises WeightsError."""
    hf = import_transformers()
    clip = any("token_embedding" in name for name in reader.header)
    module = _sketch_encoder(hf.CLIPTextModel if clip else hf.T5EncoderModel, folder)
    weights.check(module, reader, partial(_encoder_rules, module))


def _sketch_encoder(kind: Any, folder: Path) -> nn.Module:
    config = read_local(kind.config_class, folder)
    if odd := {k: v for k, v in config.to_dict().items() if type(v) is int and abs(v) > 2**18}:
        raise WeightsError(f"{folder}/config.json has {odd}, more than any text encoder has.")
    layers = max(getattr(config, name, 0) or 0 for name in ("num_hidden_layers", "num_layers"))
    if layers > 128:
        raise WeightsError(f"{folder}/config.json has {layers} layers. Complete the download.")
    try:
        with torch.device("meta"):
            return kind(config)
    except Exception as error:  # whatever sizes of no sense lead to in transformers
        raise WeightsError(
            f"{folder}/config.json describes no {kind.__name__}: {error!r:.200}."
        ) from error


def _encoder_rules(module: nn.Module, state: dict[str, Tensor]) -> list[weights.Rule]:
    """Match a file's names with those of this version of transformers; others stay as they are."""
    stored = {_plain(name): name for name in state}
    wanted = [name for name in module.state_dict() if _plain(name) in stored]
    rules = [weights.Rule(name, (stored[_plain(name)],)) for name in wanted]
    used = {rule.diffusers[0] for rule in rules}
    return rules + [weights.Rule(key, (key,)) for key in stored.values() if key not in used]


def _plain(name: str) -> str:
    """CLIP's tensors once had a prefix; T5's embedding is stored under one of two names."""
    tied = name == "encoder.embed_tokens.weight"
    return "shared.weight" if tied else name.removeprefix("text_model.")


def import_transformers() -> Any:
    """Import `transformers` only when FLUX's text encoders are asked for."""
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError(
            "FLUX's text encoders need transformers: pip install 'minikontext[flux]'"
        ) from error
    return transformers
