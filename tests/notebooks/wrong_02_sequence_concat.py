"""Answers that a student might plausibly give to notebook 02, all wrong: `exercise__mistake`."""

import torch
from einops import rearrange


def unpack_by_hand__place_by_place(tokens, rows, cols):
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, w=cols, p=2, q=2)


def unpack_by_hand__column_by_column(tokens, rows, cols):
    return rearrange(tokens, "b (w h) (c p q) -> b c (h p) (w q)", h=rows, w=cols, p=2, q=2)


def unpack_by_hand__only_reshapes(tokens, rows, cols):
    return tokens.reshape(len(tokens), -1, 2 * rows, 2 * cols)


def unpack_by_hand__turned_inside_the_token(tokens, rows, cols):
    return rearrange(tokens, "b (h w) (c p q) -> b c (h q) (w p)", h=rows, w=cols, p=2, q=2)


def number_tokens__all_contexts_have_index_one(target, contexts):
    ids = [(min(i, 1), row, col) for i, (rows, cols) in enumerate([target, *contexts])
           for row in range(rows) for col in range(cols)]  # fmt: skip
    return torch.tensor(ids)


def number_tokens__target_has_index_one(target, contexts):
    ids = [(i, row, col) for i, (rows, cols) in enumerate([target, *contexts], start=1)
           for row in range(rows) for col in range(cols)]  # fmt: skip
    return torch.tensor(ids)


def number_tokens__column_first(target, contexts):
    ids = [(i, col, row) for i, (rows, cols) in enumerate([target, *contexts])
           for row in range(rows) for col in range(cols)]  # fmt: skip
    return torch.tensor(ids)


def number_tokens__forgets_the_target(target, contexts):
    ids = [(i, row, col) for i, (rows, cols) in enumerate(contexts, start=1)
           for row in range(rows) for col in range(cols)]  # fmt: skip
    return torch.tensor(ids)


def attention_share__forgets_the_mlp(n, d):
    return n / (n + 2 * d)


def attention_share__ratio_to_the_products(n, d):
    return n / (6 * d)


def attention_share__share_of_the_products(n, d):
    return 6 * d / (n + 6 * d)


def attention_share__forgets_additions_on_one_side(n, d):
    return 2 * n / (2 * n + 6 * d)


def divide_attention__columns_for_rows(weights, m, n):
    looks = weights[:, :, m : m + n].mean(dim=(0, 2))
    return [part.sum() for part in looks.split([m, n, len(looks) - m - n])]


def divide_attention__all_rows(weights, m, n):
    looks = weights.mean(dim=(0, 1))
    return [part.sum() for part in looks.split([m, n, len(looks) - m - n])]


def divide_attention__means_for_sums(weights, m, n):
    looks = weights[:, m : m + n].mean(dim=(0, 1))
    return [part.mean() if len(part) else 0 for part in looks.split([m, n, len(looks) - m - n])]


def divide_attention__first_head_only(weights, m, n):
    looks = weights[0, m : m + n].mean(dim=0)
    return [part.sum() for part in looks.split([m, n, len(looks) - m - n])]
