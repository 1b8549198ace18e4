"""Training the toy editor: the paper's rectified-flow loss on encoded pairs, jointly with
text-to-image (samples without a context) and with empty prompts now and then, for guidance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minikontext import flow
from minikontext.denoiser import PATCH, Denoiser
from minikontext.errors import ConfigError
from minikontext.runtime.bounds import Batch, Seed, Share, Spread
from minikontext.runtime.device import mixed_precision
from minikontext.runtime.isolated import IsolatedContext
from minikontext.text import ToyTextEncoder
from minikontext.training.data import Pairs
from minikontext.training.loop import LossFunction
from minikontext.training.parallel import WHOLE, Microbatch
from minikontext.training.stream import Inputs
from minikontext.training.watch import Metrics, losses_at_fixed_times, validation_metrics
from minikontext.training.world_editor import WorldEditorTraining, change_weights
from minikontext.transformer import KontextTransformer

TIMESTEPS = ("shifted", "logit-normal", "uniform")


@dataclass(frozen=True)
class EditorLossConfig:
    """The dials of the editor's loss.

    `empty_prompts` is the share of samples trained with the empty prompt: the unconditional
    velocity that classifier-free guidance needs. `timesteps`: "shifted" is the logit-normal with
    the sampler's mu for this number of target tokens (not published, our choice), "logit-normal"
    has mu = 0, "uniform" prefers no time. `sigma` is the width of the logit-normal. `early` is the
    share of times drawn evenly from the noisiest tenth instead, t in [0.9, 1]: at all
    others the noisy latents tell the answer, so there the model learns what to draw (notebook 10).
    """

    batch: Batch = 64
    seed: Seed = 0
    empty_prompts: Share = 0.08
    sigma: Spread = 1.0
    timesteps: str = "shifted"
    early: Share = 0.0
    bf16: bool = True

    def __post_init__(self) -> None:
        if self.timesteps not in TIMESTEPS:
            raise ConfigError(f"timesteps={self.timesteps!r}: choose one of {TIMESTEPS}")
        if not 0 <= self.early <= 1:
            raise ConfigError(f"early={self.early}: a share is between 0 and 1")

    def times(self, count: int, patches: int, generator: torch.Generator) -> Tensor:
        """Draw `count` training times for targets of `patches` tokens."""
        if self.timesteps == "uniform":
            t = torch.rand(count, generator=generator)
        else:
            mu = flow.mu_for_tokens(patches) if self.timesteps == "shifted" else 0.0
            t = flow.sample_timesteps(count, mu, self.sigma, generator)
        if self.early:
            chosen, noisy = torch.rand(2, count, generator=generator)
            t = torch.where(chosen < self.early, 1 - 0.1 * noisy, t)
        return t


class Editor(nn.Module):
    """Text encoder and transformer, trained together; contexts lie as `layout` says.

    isolated: contexts see only each other, see `runtime.isolated`.
    """

    isolated = False

    def __init__(
        self, transformer: KontextTransformer, text: ToyTextEncoder, layout: str = "index"
    ) -> None:
        super().__init__()
        self.transformer, self.text, self.layout = transformer, text, layout

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        words: Tensor,
        contexts: list[Tensor],
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Velocity of latents z (b, c, h, w) at times t (b,); words are token ids (b, m)."""
        text = self.text(words)
        net = IsolatedContext(self.transformer) if self.isolated else self.transformer
        return Denoiser(net, text, contexts, self.layout, guidance)(z, t)


class Batches:
    """Batches of equal numbers of context images, drawn by step: any step can be made again."""

    def __init__(self, pairs: Pairs, size: int, seed: int) -> None:
        self.pairs, self.size, self.seed = pairs, size, seed
        self.groups = [(pairs.count == k).nonzero().flatten() for k in range(3)]
        self.shares = torch.tensor([float(len(group)) for group in self.groups])

    def rows(self, step: int) -> tuple[Tensor, int]:
        """Which pairs make up a step, and how many contexts each has."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        count = int(torch.multinomial(self.shares, 1, generator=generator))
        group = self.groups[count]
        return group[torch.randint(len(group), (self.size,), generator=generator)], count

    def inputs(self, step: int, draw: torch.Generator) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Clean latents (b, c, h, w), token ids (b, m) in one of their wordings, contexts."""
        rows, count = self.rows(step)
        wording = torch.randint(self.pairs.tokens.shape[1], (len(rows),), generator=draw)
        x, words = self.pairs.target[rows].float(), self.pairs.tokens[rows, wording]
        return x, words, [self.pairs.contexts[rows, i].float() for i in range(count)]

    def determined(self, step: int) -> Tensor:
        """Which pairs of a step have one right answer only, (b,), bool."""
        rows, sure = self.rows(step)[0], self.pairs.determined
        return torch.ones(len(rows), dtype=torch.bool) if sure is None else sure[rows]


def editor_loss(
    model: nn.Module, source: Pairs | Inputs, null: Tensor,
    config: EditorLossConfig | WorldEditorTraining, device: torch.device,
) -> LossFunction:  # fmt: skip
    """The loss of a step; `null` (m,) are the token ids of the empty prompt.

    Every process draws the whole batch from the step and computes its own rows of it.
    """
    batches = Batches(source, config.batch, config.seed) if isinstance(source, Pairs) else source

    def loss(step: int, microbatch: Microbatch = WHOLE) -> tuple[Tensor, dict[str, float]]:
        draw = torch.Generator().manual_seed(config.seed * 7_000_003 + step)
        x, words, contexts = batches.inputs(step, draw)
        noise = torch.randn(x.shape, generator=draw)
        t = config.times(len(x), x.shape[-2] * x.shape[-1] // PATCH**2, draw)
        empty = torch.rand(len(x), 1, generator=draw) < config.empty_prompts
        words = torch.where(empty, null.to(words), words)
        x, words, noise, t, *contexts = microbatch.to(device, x, words, noise, t, *contexts)
        z = flow.interpolate(x, noise, t)
        with mixed_precision(device, config.bf16):
            v = model(z, t, words, contexts)
        each = flow.loss_per_sample(v, x, noise)
        metrics = {f"loss_{len(contexts)}": float(each.detach().mean())}
        if share := getattr(config, "changed", 0.0):
            root = change_weights(x, contexts, share).sqrt()  # a weight on squares
            each = flow.loss_per_sample(root * v, root * x, root * noise)
        return each.mean(), metrics

    return loss


def validate_editor(model: nn.Module, pairs: Pairs, bf16: bool, device: torch.device) -> Metrics:
    """The loss on held-out pairs at fixed times and noise; each process computes all of it."""
    found = []
    for count in range(3):
        some = pairs.take((pairs.count == count).nonzero().flatten())
        if not len(some):
            continue
        words = some.tokens[:, 0].to(device)
        contexts = [some.contexts[:, i].float().to(device) for i in range(count)]
        x = some.target.float().to(device)
        found.append(
            losses_at_fixed_times(
                model, lambda z, t, w=words, c=contexts: model(z, t, w, c), x, bf16, seed=count
            )
        )
    return validation_metrics(torch.cat(found))
