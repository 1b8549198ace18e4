"""Prompts to numbers: `ToyTextEncoder` for the toy world, `FluxTextEncoder` (T5 + CLIP) for FLUX.

Both give the transformer the same two things: a feature for every text token (T5's place) and
one pooled vector for the whole prompt (CLIP's place).
"""

from __future__ import annotations

import difflib
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Interval, MaxLen
from einops import rearrange
from torch import Tensor, nn

from minikontext.errors import ConfigError, PromptError, PromptWarning, warn
from minikontext.layers import attend

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
        kind = type(prompts).__name__
        raise PromptError(f"Got a prompt of type {kind}; expected a str or a list of str.")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise PromptError(f"Got {prompt!r} ({type(prompt).__name__}) as a prompt; give a str.")
        if len(prompt) > LONGEST:
            raise PromptError(f"Got a prompt of {len(prompt):,} characters; {LONGEST:,} are many.")
        if any("\ud800" <= c <= "\udfff" for c in prompt):  # half a character: nothing can store it
            raise PromptError(f"Got broken characters in the prompt {prompt!r:.80}. Type it again.")
    return list(prompts)


@dataclass(frozen=True)
class ToyTextConfig:
    """Sizes of the toy text encoder; the vocabulary travels with the weights.

    `width` is the transformer's context_in_dim, `pooled` its vec_in_dim. With `ngrams` rows in a
    hashed table of letter groups, each `ngram_width` wide, a word that is not in the vocabulary
    still has a vector of its own, near to those of words that are spelled like it. `absent` names
    what people ask for and the model cannot draw, each with the nearest that it can: (dog, cat).
    """

    vocabulary: Annotated[tuple[str, ...], MaxLen(2**20)] = ()
    max_length: Annotated[int, Interval(ge=1, le=2**14)] = 20
    width: Annotated[int, Interval(ge=1, le=2**14)] = 128
    depth: Annotated[int, Interval(ge=0, le=512)] = 2
    heads: Annotated[int, Interval(ge=1, le=2**14)] = 4
    pooled: Annotated[int, Interval(ge=1, le=2**14)] = 128
    ngrams: Annotated[int, Interval(ge=0, le=2**22)] = 0
    ngram_width: Annotated[int, Interval(ge=1, le=2**14)] = 64
    absent: Annotated[tuple[tuple[str, str], ...], MaxLen(2**20)] = ()

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} does not split into {self.heads} heads.")
        if self.ngrams < 0 or self.ngrams == 1:  # row 0 means that there is no letter group
            raise ConfigError(f"ngrams {self.ngrams}: use 0 for none, or a table of 2 rows or more")


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
    return "".join(c for c in plain if unicodedata.category(c)[0] != "M")  # of an emoji, too


def split_prompt(prompt: str, vocabulary: Sequence[str]) -> list[Piece]:
    """Split a prompt into tokens: words lower-cased, quoted and ALL CAPS words spelled out."""
    known, text = set(vocabulary), normalise(prompt)
    # "MAKE THE HAT RED" is shouting, not four sign words.
    shouting = text.isupper() and len(text.split()) > 1
    pieces: list[Piece] = []
    for double, single, word, other in SPLIT.findall(text):
        if double or single:
            pieces += spell(double or single)
        elif len(word) > 1 and word.isalpha() and word.isupper() and not shouting:  # HI, not A
            pieces += spell(word)
        elif word:
            pieces += word_pieces(word.lower(), known)
        elif other in known or not other.isascii():
            pieces.append(Piece(other if other in known else UNKNOWN, other))
        # Any other punctuation means nothing in the toy world and is left out.
    return pieces


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


NGRAMS_PER_WORD = 24  # all of a word of 8 letters; of longer ones the shortest groups


def ngram_rows(word: str, rows: int) -> list[int]:
    """The rows of a hashed table for a word's groups of 3 to 5 letters, padded with 0.

    "<" and ">" mark the word's ends: "hat" has "<ha", "hat", "at>", "<hat", "hat>", "<hat>".
    A checksum is the hash, so that rows are the same on every machine.
    """
    text = f"<{word.lower()}>" if word else ""
    groups = (text[i : i + n] for n in (3, 4, 5) for i in range(len(text) - n + 1))
    found = [zlib.crc32(group.encode()) % (rows - 1) + 1 for group in groups][:NGRAMS_PER_WORD]
    return found + [0] * (NGRAMS_PER_WORD - len(found))


class WordVectors(nn.Module):
    """What a word adds to its table row: the mean vector of its letter groups, projected."""

    def __init__(self, config: ToyTextConfig) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(config.ngrams, config.ngram_width, mode="mean", padding_idx=0)
        self.proj = nn.Linear(config.ngram_width, config.width, bias=False)
        # A mean of n groups of unit variance times this weight weighs as much as a table row.
        nn.init.normal_(self.proj.weight, std=1 / config.ngram_width**0.5)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (b, m, NGRAMS_PER_WORD) to vectors (b, m, width); zero where there are no groups."""
        mean = self.table(rearrange(rows, "b m k -> (b m) k"))
        return rearrange(self.proj(mean), "(b m) d -> b m d", b=len(rows))


class TextBlock(nn.Module):
    """A pre-norm transformer block over word features (b, m, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(up, nn.GELU(approximate="tanh"), down)

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
        blocks = (TextBlock(config.width, config.heads) for _ in range(config.depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.width)
        self.pool = nn.Linear(config.width, config.pooled)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.normal_(self.position, std=0.5)
        self.ngrams = WordVectors(config) if config.ngrams else None

    @property
    def max_length(self) -> int:
        """Tokens a prompt may have, its <end> included."""
        return self.config.max_length

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to token ids (b, max_length), each closed by <end> and padded with <pad>.

        With n-grams a row goes on: after the ids come the NGRAMS_PER_WORD table rows of each token.
        """
        rows = [self._ids(prompt) for prompt in check_prompts(prompts)]
        length = self.max_length * (1 + NGRAMS_PER_WORD * (self.ngrams is not None))
        return torch.tensor(rows, dtype=torch.long).view(len(rows), length)

    def forward(self, token_ids: Tensor) -> TextFeatures:
        """Rows of `tokenize` to token features and the pooled feature of <end>."""
        token_ids, rows = token_ids[:, : self.max_length], token_ids[:, self.max_length :]
        x = self.embedding(token_ids) + self.position
        if self.ngrams is not None:
            x = x + self.ngrams(rearrange(rows, "b (m k) -> b m k", k=NGRAMS_PER_WORD))
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
                warn(warning)
        return self(self.tokenize(prompts).to(self.position.device))

    def report(self, prompt: str) -> list[PromptWarning]:
        """What the encoder cannot use of a prompt: unknown words and words that do not fit."""
        pieces = split_prompt(check_prompts([prompt])[0], self.config.vocabulary)
        used, rest = pieces[: self.max_length - 1], pieces[self.max_length - 1 :]
        words = dict.fromkeys(p.source for p in used if p.token == UNKNOWN)
        unknown = [word for word in words if not self.resembles(word)]
        found: list[PromptWarning] = [UnknownWord(word, self.suggest(word)) for word in unknown]
        if dropped := [piece.source for piece in rest]:
            found.append(PromptWarning(too_long(len(pieces) + 1, self.max_length, dropped)))
        return found

    def suggest(self, word: str) -> list[str]:
        """What stands for an absent word, or the known words spelled most like one, best first."""
        if nearest := dict(self.config.absent).get(word.lower()):
            return [nearest]
        words = filter(str.isalnum, self.config.vocabulary)
        return difflib.get_close_matches(word.lower(), list(words), n=3, cutoff=0.5)

    def resembles(self, word: str) -> bool:
        """Whether letter groups make an unknown word clear: a known one, with a slip of the finger.

        Words under four letters are too short to tell, and few slips change the first letter.
        """
        if self.ngrams is None or len(word) < 4 or word.lower() in dict(self.config.absent):
            return False
        near = difflib.get_close_matches(word.lower(), self.config.vocabulary, n=3, cutoff=0.75)
        return any(known[0] == word[0].lower() for known in near)

    def complete(self, prompt: str, count: int = 8) -> list[str]:
        """Known words that the last, unfinished word of a prompt may become; none if it is one."""
        start = prompt.rpartition(" ")[2].lower()
        if not start.isalpha() or start in self.config.vocabulary:
            return []
        return [word for word in self.config.vocabulary if word.startswith(start)][:count]

    def _ids(self, prompt: str) -> list[int]:
        pieces = split_prompt(prompt, self.config.vocabulary)[: self.max_length - 1]
        pieces += [Piece(END, ""), *[Piece(PAD, "")] * (self.max_length - len(pieces) - 1)]
        ids = [self.index[piece.token] for piece in pieces]
        return ids if self.ngrams is None else ids + [r for p in pieces for r in self._ngrams(p)]

    def _ngrams(self, piece: Piece) -> list[int]:
        """Rows for words; none for the letters of signs and for marks such as <end>."""
        special = piece.token in SPECIAL and piece.token != UNKNOWN
        return ngram_rows("" if special else piece.source, self.config.ngrams)


def too_long(count: int, limit: int, dropped: Sequence[str]) -> str:
    """The sentence that says what a too long prompt lost."""
    lost = " ".join(dropped)
    lost = lost if len(lost) <= 120 else lost[:117] + "..."
    return f"The prompt has {count} tokens but only {limit} fit. Dropped from its end: {lost!r}."
