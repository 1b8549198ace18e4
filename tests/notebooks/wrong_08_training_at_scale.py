"""Answers that a student might plausibly give to notebook 08, all wrong: `exercise__mistake`."""


def my_slice__forgets_the_rest(w, rank, size):
    rows = len(w) // size
    return w[rank * rows : (rank + 1) * rows]


def my_slice__every_nth_row(w, rank, size):
    return w[rank::size]


def my_slice__cuts_columns(w, rank, size):
    return w.chunk(size, dim=1)[min(rank, w.shape[1] - 1)]


def gib_each__forgets_the_gradients(parameters, gpus, average):
    return (12 + 4 * average) * parameters / gpus / 2**30


def gib_each__bfloat16_everywhere(parameters, gpus, average):
    return (8 + 2 * average) * parameters / gpus / 2**30


def gib_each__counts_in_powers_of_ten(parameters, gpus, average):
    return (16 + 4 * average) * parameters / gpus / 1e9


def step_seconds__one_after_the_other(flops, sent, speed, bandwidth):
    return flops / speed + sent / bandwidth


def step_seconds__the_shorter_one(flops, sent, speed, bandwidth):
    return min(flops / speed, sent / bandwidth)


def step_seconds__bits_for_bytes(flops, sent, speed, bandwidth):
    return max(flops / speed, 8 * sent / bandwidth)
