"""Answers that a student might plausibly give to notebook 00, all wrong: `exercise__mistake`."""

import numpy as np


def count_tokens__forgets_the_contexts(target, contexts):
    return target[0] // 16 * (target[1] // 16)


def count_tokens__forgets_the_patches(target, contexts):
    return sum(w // 8 * (h // 8) for w, h in [target, *contexts])


def count_tokens__counts_one_side(target, contexts):
    return sum(w // 16 for w, h in [target, *contexts])


def edit_chain__always_edits_the_original(pipe, picture, prompts):
    return [pipe(prompt, image=picture) for prompt in prompts]


def edit_chain__goes_through_pixels(pipe, picture, prompts):
    outputs = []
    for prompt in prompts:
        outputs.append(pipe(prompt, image=picture))
        picture = outputs[-1].images[0]
    return outputs


def edit_chain__returns_only_the_last(pipe, picture, prompts):
    for prompt in prompts:
        picture = pipe(prompt, image=picture)
    return picture


def change_outside__wraps_around(before, after, inside):
    return np.abs(after - before)[~inside].mean()


def change_outside__looks_inside(before, after, inside):
    return np.abs(after.astype(float) - before)[inside].mean()


def change_outside__everywhere(before, after, inside):
    return np.abs(after.astype(float) - before).mean()


def change_outside__forgets_the_sign(before, after, inside):
    return (after.astype(float) - before)[~inside].mean()
