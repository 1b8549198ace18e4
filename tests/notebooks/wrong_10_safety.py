"""Answers that a student might plausibly give to notebook 10, all wrong: `exercise__mistake`."""

import hashlib

import torch

from minikontext.toyworld import Scene


def rates__above_the_threshold(scores, forbidden, threshold):
    flagged = scores > threshold
    return flagged[forbidden].float().mean().item(), flagged[~forbidden].float().mean().item()


def rates__precision(scores, forbidden, threshold):
    flagged = scores >= threshold
    right = (flagged & forbidden).sum() / flagged.sum().clamp(min=1)
    return right.item(), flagged[~forbidden].float().mean().item()


def rates__false_alarms_of_all(scores, forbidden, threshold):
    flagged = scores >= threshold
    alarms = (flagged & ~forbidden).float().mean().item()
    return flagged[forbidden].float().mean().item(), alarms


def choose_threshold__quantile_of_all(scores, forbidden, allowed):
    return scores.quantile(1 - allowed).item()


def choose_threshold__the_middle(scores, forbidden, allowed):
    return 0.5


def choose_threshold__far_too_strict(scores, forbidden, allowed):
    return scores[~forbidden].max().item() + 1e-6


def choose_threshold__allowed_share_at_the_score(scores, forbidden, allowed):
    harmless = scores[~forbidden].sort(descending=True).values
    return harmless[min(int(allowed * len(harmless)), len(harmless) - 1)].item()


def slip_through__names_it():
    return Scene(species="star", colour="yellow"), "make the star purple"


def slip_through__already_in_the_picture():
    return Scene(species="star", colour="purple"), "make it night"


def slip_through__harmless():
    return Scene(species="cat", colour="blue"), "turn the cat into a star"


def slip_through__the_wrong_way_round():
    return "turn the cat into a star", Scene(species="cat", colour="purple")


def tile_checksums__column_by_column(pixels, count):
    h, w = pixels.shape[0] // count, pixels.shape[1] // count
    return [
        hashlib.sha256(pixels[i * h : (i + 1) * h, j * w : (j + 1) * w].tobytes()).hexdigest()[:8]
        for j in range(count)
        for i in range(count)
    ]


def tile_checksums__of_floats(pixels, count):
    tiles = torch.from_numpy(pixels).float().numpy()
    h, w = pixels.shape[0] // count, pixels.shape[1] // count
    return [
        hashlib.sha256(tiles[i * h : (i + 1) * h, j * w : (j + 1) * w].tobytes()).hexdigest()[:8]
        for i in range(count)
        for j in range(count)
    ]


def tile_checksums__square_tiles(pixels, count):
    side = pixels.shape[0] // count
    return [
        hashlib.sha256(pixels[i * side :, j * side :][:side, :side].tobytes()).hexdigest()[:8]
        for i in range(count)
        for j in range(count)
    ]
