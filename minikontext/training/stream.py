"""The lineage's data: batches drawn by step, one bucket a batch, words fresh in every batch.

A bucket is a number of context pictures and a size for the target and for each of them. Batches
hold about the same number of tokens, so a batch of small pictures has more of them. Any step can be
made again: its bucket, its cases, their words derive from its number. Nothing held out is drawn
(`split_of`), and nothing here knows a judge.

Pictures are encoded batch by batch. With a folder, encoded batches are kept there and come again
in later epochs, in another order and with other words, noise and times: encoding then costs a
fraction of what it costs when every step draws new pictures.
"""

from __future__ import annotations

import copy
import itertools
import random
import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

import torch
from annotated_types import Interval, MaxLen
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from minikontext.autoencoder import AutoEncoder
from minikontext.errors import ConfigError, TrainingError
from minikontext.runtime import files
from minikontext.runtime.bounds import Level, Often, Seed, Share, Side
from minikontext.runtime.device import mixed_precision
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import Case, Scene, grammar, several, sizes, vocabulary, wishes
from minikontext.toyworld.edits import context_count, operation_shares, sample_case
from minikontext.toyworld.lexicon import absent_words
from minikontext.toyworld.sizes import TRAINED, Size
from minikontext.training import captions
from minikontext.training.data import labelled
from minikontext.training.pictures import pixels
from minikontext.training.store import SUM, checksum, load_whole


@dataclass(frozen=True)
class StreamConfig:
    """What the batches are drawn from.

    tokens: of a batch: prompts, targets and contexts together. batches: how many different
    ones there are, after which they come again in another order; 0: every step has its own.
    other_size: the share of batches whose contexts have sizes of their own, not the target's.
    sizes: (width, height), all trained ones unless given; one comes as often as it is named.
    contexts: numbers of context pictures; all that the level's operations take unless given; (0,)
    is text-to-image alone. text_to_image: the share of batches without one, of the level's own
    unless given: there all of a picture is drawn, in an edit a small part of it. told: the share of
    those batches whose captions tell all of the picture (`captions`), not the level's own. several:
    the share of the batches with pictures that have more than one, of the level's own unless given.
    words: "grammar", with two wishes in some of the sentences; "plain", one wish in the first
    edition's templates, read by the grammar's encoder; "templates", read by the first edition's.
    """

    level: Level = 4
    seed: Seed = 0
    tokens: Annotated[int, Interval(ge=1, le=2**32)] = 3072
    batches: Often = 0
    other_size: Share = 0.25
    sizes: Annotated[tuple[tuple[Side, Side], ...], MaxLen(1024)] = field(default=TRAINED)
    contexts: Annotated[tuple[Annotated[int, Interval(ge=0, le=4)], ...], MaxLen(5)] = ()
    words: str = "grammar"
    text_to_image: Share | None = field(default=None, repr=False)
    told: Share = field(default=0.0, repr=False)
    several: Share | None = field(default=None, repr=False)
    # how they are drawn, not what: no part of what tells one stream from another
    workers: Annotated[int, Interval(ge=0, le=1024)] = field(default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(map(tuple, self.sizes)))  # TOML gives lists
        object.__setattr__(self, "contexts", tuple(self.contexts))
        if not self.sizes or not all(map(sizes.inside, self.sizes)):
            raise ConfigError(
                f"[stream] sizes={self.sizes}: give (width, height) in multiples of 16, "
                f"{sizes.SHORTEST} to {sizes.LONGEST} pixels a side"
            )
        if self.words not in WORDS:
            raise ConfigError(f"[stream] words={self.words!r}: choose one of {', '.join(WORDS)}")
        for name in ("other_size", "text_to_image", "told", "several"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ConfigError(f"[stream] {name}={getattr(self, name)}: a share is from 0 to 1")


@dataclass(frozen=True)
class Words:
    """How cases are drawn and asked for, and the text encoder that reads it."""

    case: Callable[[int, int, str, int, int], Case]
    ask: Callable[[Case, random.Random], str]
    encoder: Callable[[], ToyTextConfig]


def grammar_encoder() -> ToyTextConfig:
    """The text encoder that knows every word of the grammar, and letter groups of all others."""
    return ToyTextConfig(grammar.vocabulary(), max_length=32, ngrams=2048, absent=absent_words())


WORDS = {
    "grammar": Words(wishes.sample_wishes, wishes.ask, grammar_encoder),
    "plain": Words(sample_case, Case.phrased, grammar_encoder),
    "templates": Words(
        sample_case,
        Case.phrased,
        lambda: ToyTextConfig(tuple(sorted({*vocabulary(), *several.words()}))),
    ),
}


class Bucket(NamedTuple):
    """The sizes (width, height) of a batch's pictures."""

    target: Size
    contexts: tuple[Size, ...]

    @property
    def tokens(self) -> int:
        """Image tokens of one sample."""
        return sum(map(sizes.tokens, (self.target, *self.contexts)))


class Batch(NamedTuple):
    """Clean latents of the targets (b, c, h, w) and of each context, and the prompts."""

    target: Tensor
    contexts: list[Tensor]
    prompts: list[str]


class Stream:
    """Batches by step; encoded ones are kept in `folder`, if there is one.

    Raises TrainingError where the folder holds batches of another stream or autoencoder.
    """

    def __init__(
        self, config: StreamConfig, autoencoder: AutoEncoder, folder: Path | None = None,
        bf16: bool = False,
    ) -> None:  # fmt: skip
        self.config, self.autoencoder, self.bf16 = config, autoencoder, bf16
        self.folder, self.words = folder, WORDS[config.words]
        self.text_tokens = self.words.encoder().max_length
        self.counts = self.context_counts(config.level, config.contexts)
        self.facts = f"{config} {autoencoder.encoder_fingerprint()[:12]}"
        for name in ("text_to_image", "several"):
            if (share := getattr(config, name)) is not None:
                self.counts = with_share(self.counts, name, share)
                self.facts += f" {name}={share}"
        if config.told:
            self.facts += f" told={config.told}"
        self._ahead: tuple[int, Iterator[Batch]] | None = None  # the next step, and what draws it
        if folder:
            labelled(folder, self.facts, name="stream.txt")

    @staticmethod
    def context_counts(level: int, only: Collection[int] = ()) -> dict[int, float]:
        """How often a level's operations are given how many pictures; `only` these, if any.

        Raises ConfigError if the level has no such operation.
        """
        counts: Counter[int] = Counter()
        for name, weight in operation_shares(level).items():
            counts[context_count(name)] += weight
        found = {n: w for n, w in sorted(counts.items()) if not only or n in only}
        if not found:
            raise ConfigError(f"[stream] contexts={only}: level {level} takes {sorted(counts)}.")
        return found

    def number(self, step: int) -> int:
        """Which batch a step sees: each comes once an epoch, in an order of the epoch's own."""
        if not self.config.batches:
            return step
        epoch, place = divmod(step, self.config.batches)
        draw = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        return int(torch.randperm(self.config.batches, generator=draw)[place])

    def bucket(self, number: int) -> Bucket:
        """The bucket of a batch."""
        rng = random.Random(f"bucket/{self.config.seed}/{number}")
        count = rng.choices(tuple(self.counts), tuple(self.counts.values()))[0]
        target = rng.choice(self.config.sizes)
        own = rng.random() < self.config.other_size
        return Bucket(target, tuple(rng.choice(self.config.sizes) if own else target
                                    for _ in range(count)))  # fmt: skip

    def cases(self, number: int) -> list[Case]:
        """The cases of a batch, as many as its tokens allow."""
        bucket, config = self.bucket(number), self.config
        size = max(1, config.tokens // (self.text_tokens + bucket.tokens))
        first, count = number * 10_000, len(bucket.contexts)
        numbers = range(first, first + size)
        if not count and random.Random(f"told/{config.seed}/{number}").random() < config.told:
            return [captions.sample_told(i, config.level, "train", config.seed) for i in numbers]
        return [self.words.case(i, config.level, "train", config.seed, count) for i in numbers]

    def batch(self, step: int) -> Batch:
        """Latents and words of a step."""
        if not self.config.workers:
            return self.numbered(self.number(step), f"{step}")
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = (step, drawn_ahead(self, step))
        coming = self._ahead[1]
        self._ahead = (step + 1, coming)
        return next(coming)

    def numbered(self, number: int, said: str = "first") -> Batch:
        """The batch of a number; `said` decides its words, with the number if it is "first"."""
        cases = self.cases(number)
        target, *contexts = self._encoded(number, cases)
        said = f"first/{number}" if said == "first" else said
        rng = random.Random(f"words/{self.config.seed}/{said}")
        return Batch(target, contexts, [self._ask(case, rng) for case in cases])

    def _ask(self, case: Case, rng: random.Random) -> str:
        told = case.operation == captions.NAME
        return captions.tell(case, rng) if told else self.words.ask(case, rng)

    def determined(self, step: int) -> Tensor:
        """Which cases of a step have one right answer only, (b,), bool."""
        return torch.tensor([not case.free for case in self.cases(self.number(step))])

    def _encoded(self, number: int, cases: list[Case]) -> list[Tensor]:
        if not self.folder:
            return self._encode(number, cases)
        return kept(self.folder, number, lambda: self._encode(number, cases))

    def _encode(self, number: int, cases: list[Case]) -> list[Tensor]:
        """Latents of the targets, then of each context; rounded as they are stored."""
        bucket = self.bucket(number)
        slots = [[case.target for case in cases], *zip(*(case.contexts for case in cases))]
        pairs = zip(slots, (bucket.target, *bucket.contexts), strict=True)
        return [self._latents(list(scenes), size) for scenes, size in pairs]

    @torch.no_grad()
    def _latents(self, scenes: list[Scene], size: Size) -> Tensor:
        device = next(self.autoencoder.parameters()).device
        with mixed_precision(device, self.bf16):
            latents = self.autoencoder.encode(pixels(scenes, size).to(device))
        return latents.bfloat16().float().cpu().contiguous()


# name: the numbers of pictures that it is a share of, and those whose share it is
SHARES = {"text_to_image": ((0, 1, 2, 3, 4), (0,)), "several": ((1, 2, 3, 4), (2, 3, 4))}


def with_share(counts: Mapping[int, float], name: str, share: float) -> dict[int, float]:
    """Weights of numbers of pictures in which the share called `name` is what is wanted.

    Raises ConfigError where there are none of those that it is of, or no others.
    """
    of, numbers = SHARES[name]
    among = {n: weight for n, weight in counts.items() if n in of}
    chosen = sum(weight for n, weight in among.items() if n in numbers)
    others = sum(weight for n, weight in among.items() if n not in numbers)
    if not chosen or not others:
        raise ConfigError(f"[stream] {name}={share}: pictures come in {sorted(counts)}")
    more, less = share * (chosen + others) / chosen, (1 - share) * (chosen + others) / others
    changed = {n: weight * (more if n in numbers else less) for n, weight in among.items()}
    return {**counts, **changed}


class _Steps(Dataset):
    """The batches of a stream by step, for processes that draw them."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __getitem__(self, step: int) -> Batch:
        return self.stream.batch(step)


def drawn_ahead(stream: Stream, step: int) -> Iterator[Batch]:
    """The batches of a stream from a step on, drawn by its `workers` on other processes.

    They encode on the CPU, with a copy of the autoencoder.
    """
    autoencoder = copy.deepcopy(stream.autoencoder).cpu()
    alone = replace(stream.config, workers=0)
    steps = _Steps(Stream(alone, autoencoder, stream.folder, stream.bf16))
    loader = DataLoader(
        steps, batch_size=None, sampler=itertools.count(step), num_workers=stream.config.workers,
        prefetch_factor=4, worker_init_fn=_leave_ctrl_c, multiprocessing_context="spawn",
    )  # fmt: skip
    return iter(loader)


def _leave_ctrl_c(_: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the training ends its step, then these end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def kept(folder: Path, number: int, make: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Latents of a batch as a folder keeps them, in bfloat16; made if they are not there.

    Raises TrainingError for a file that cannot be read.
    """
    path = folder / f"batch-{number:06d}.safetensors"
    if not path.exists():
        latents = {f"{i}": z.bfloat16().contiguous() for i, z in enumerate(make())}
        with files.replacing(path) as temporary:
            save_file(latents, temporary, {SUM: checksum({}, latents)})
    try:
        stored, _ = load_whole(path)
        return [stored[f"{i}"].float() for i in range(len(stored))]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise TrainingError(f"{path} is damaged: {error}. Remove it, it is made anew") from error


class Source(Protocol):
    """A `Stream`, or one whose targets are a teacher's answers (`distillation.latents`)."""

    def batch(self, step: int) -> Batch:
        """What a step learns from."""

    def determined(self, step: int) -> Tensor:
        """Which cases of a step have one right answer only, (b,), bool."""


@dataclass(frozen=True)
class Inputs:
    """What a loss is given of each step of a stream; `source` gives a `Batch` by step."""

    source: Source
    text: ToyTextEncoder

    def inputs(self, step: int, draw: torch.Generator) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Clean latents (b, c, h, w), token ids (b, m), contexts; `draw` is for other sources."""
        x, contexts, prompts = self.source.batch(step)
        return x, self.text.tokenize(prompts), contexts

    def determined(self, step: int) -> Tensor:
        """Which samples of a step have one right answer only, (b,), bool."""
        return self.source.determined(step)
