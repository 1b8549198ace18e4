"""Answers that a student might plausibly give to notebook 01, all wrong: `exercise__mistake`."""

import torch


def compression__counts_one_side(channels, factor):
    return 3 * factor / channels


def compression__forgets_the_colours(channels, factor):
    return factor**2 / channels


def compression__upside_down(channels, factor):
    return channels / (3 * factor**2)


def psnr__peak_of_one(a, b):
    return 10 * torch.log10(1 / (a - b).square().flatten(1).mean(1))


def psnr__natural_logarithm(a, b):
    return 10 * torch.log(4 / (a - b).square().flatten(1).mean(1))


def psnr__mean_before_the_squares(a, b):
    return 10 * torch.log10(4 / (a - b).flatten(1).mean(1).square())


def psnr__one_for_the_whole_batch(a, b):
    return 10 * torch.log10(4 / (a - b).square().mean())


def psnr__one_for_each_colour(a, b):
    return 10 * torch.log10(4 / (a - b).square().mean(dim=(2, 3)))


def measure_normalisation__std_not_inverted(latents):
    return latents.std(), latents.mean()


def measure_normalisation__variance(latents):
    return 1 / latents.var(), latents.mean()


def measure_normalisation__scaled_shift(latents):
    return 1 / latents.std(), latents.mean() / latents.std()


def kl__logvar_taken_for_std(mean, logvar):
    return 0.5 * (mean**2 + logvar**2 - 1 - 2 * logvar.abs().clamp_min(1e-9).log()).mean()


def kl__sum_in_place_of_mean(mean, logvar):
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum()


def kl__half_missing(mean, logvar):
    return (mean**2 + logvar.exp() - 1 - logvar).mean()


def kl__without_the_variance(mean, logvar):
    return 0.5 * (mean**2).mean()
