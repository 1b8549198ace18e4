"""Carry an editor over to another autoencoder and another vocabulary, before it is trained on.

Two autoencoders of one architecture that learned the same pictures give latents that are nearly a
linear map of each other. So an editor need not begin anew when its autoencoder is exchanged: the
map goes into its first layer, and the map back into its last one. New words begin as the word that
means the same: "crimson" has the vector of "red" until training tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minikontext import tokens
from minikontext.autoencoder import AutoEncoder
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.text import SPECIAL, ToyTextConfig, ToyTextEncoder
from minikontext.toyworld.edits import sample_case
from minikontext.toyworld.lexicon import SPEECH, WORLD, forms, split_words
from minikontext.training.editor import Editor
from minikontext.training.pictures import pixels
from minikontext.transformer import KontextTransformer, TransformerConfig

PICTURES = 1200  # for the maps: 16 tokens each, against 64 numbers a token
RIDGE = 1e-3  # of the mean square: a map of few pictures stays tame


def carried_editor(
    name: str, sizes: TransformerConfig, autoencoder: AutoEncoder, text: ToyTextConfig
) -> Editor:
    """The editor `name`, for another autoencoder and another text encoder.

    Raises ConfigError if it is of other sizes, or if its text encoder is.
    """
    pipe = KontextPipeline.from_pretrained(name)
    old, same = pipe.text_encoder.config, ("width", "depth", "heads", "pooled")
    if pipe.transformer.config != sizes:
        raise ConfigError(f"carry={name!r}: [transformer] has to say {pipe.transformer.config}")
    if any(getattr(old, field) != getattr(text, field) for field in same):
        raise ConfigError(f"carry={name!r}: [text] has to be of the same {', '.join(same)}")
    pictures, device = training_pictures(PICTURES), next(autoencoder.parameters()).device
    carry_latents(pipe.transformer, pipe.autoencoder.to(device), autoencoder, pictures.to(device))
    return Editor(pipe.transformer.train(), carry_words(pipe.text_encoder, text).train())


def linear_map(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares: weight (d, d) and bias (d,) with `source @ weight.T + bias` near target.

    source, target (n, d).
    """
    x, y = source.double(), target.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    gram = x.T @ x
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram, x.T @ y).T
    return weight.float(), (mean_y - weight @ mean_x).float()


@torch.no_grad()
def picture_tokens(autoencoder: AutoEncoder, pictures: Tensor) -> Tensor:
    """Latent tokens (n, 4c) of pictures (b, 3, h, w), 100 at a time."""
    latents = [autoencoder.encode(some) for some in pictures.split(100)]
    return tokens.pack(torch.cat(latents)).flatten(0, 1)


def training_pictures(count: int, side: int = 64, seed: int = 5) -> Tensor:
    """Targets of the world's training split, (count, 3, side, side)."""
    scenes = [sample_case(i, 4, "train", seed, 1).target for i in range(count)]
    return pixels(scenes, (side, side))


@torch.no_grad()
def carry_latents(
    transformer: KontextTransformer, old: AutoEncoder, new: AutoEncoder, pictures: Tensor
) -> None:
    """Make a transformer of `old` latents read and predict `new` ones, in place.

    The first layer gets the map from new to old latents, the last one the map from old to new. A
    velocity is noise minus latent, so the last map's bias counts with the other sign. What noise
    becomes under the maps is left to the training that follows.
    """
    before, after = picture_tokens(old, pictures).cpu(), picture_tokens(new, pictures).cpu()
    weight, bias = linear_map(after, before)
    first = transformer.img_in
    first.bias.add_(first.weight @ bias)
    first.weight.copy_(first.weight @ weight)
    weight, bias = linear_map(before, after)
    last = transformer.final_layer.linear
    last.bias.copy_(weight @ last.bias - bias)
    last.weight.copy_(weight @ last.weight)


def synonyms(known: Sequence[str]) -> dict[str, list[str]]:
    """Words of the lexicon's forms -> the known words that they stand for, in any slot."""
    found: dict[str, list[str]] = {}
    for slot, rows in (WORLD | SPEECH).items():
        for concept in rows:
            heard = forms(slot, concept, unheard=False)
            plain = [word for word in split_words(heard[0]) if word in known]
            for form in heard if plain else ():
                for word in split_words(form):
                    found.setdefault(word, []).extend(plain)
    return found


@torch.no_grad()
def carry_words(old: ToyTextEncoder, config: ToyTextConfig) -> ToyTextEncoder:
    """A text encoder of `config`'s vocabulary and length that begins as `old`.

    Known words keep their vectors; a synonym begins as the mean of what it stands for, any other
    new word as the mean of all words. Letter groups begin without a say.
    """
    new = ToyTextEncoder(config)
    state = {name: value for name, value in old.state_dict().items() if name in new.state_dict()}
    table, index = old.embedding.weight, old.index
    mean = table[len(SPECIAL) :].mean(0)
    stands_for, rows = synonyms(old.words), []
    for word in new.words:
        near = [word] if word in index else stands_for.get(word, [])
        rows.append(table[[index[w] for w in near]].mean(0) if near else mean)
    state["embedding.weight"] = torch.stack(rows)
    grown = config.max_length - old.max_length
    last = old.position[-1:].expand(max(grown, 0), -1)
    state["position"] = torch.cat([old.position, last])[: config.max_length]
    new.load_state_dict(state, strict=False)
    if new.ngrams is not None:
        nn.init.zeros_(new.ngrams.proj.weight)
    return new
