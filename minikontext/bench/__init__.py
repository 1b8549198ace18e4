"""Measuring editors: exact scores by the toy world's oracle. `minikontext bench NAME`.

compare            one statistics engine: better, worse, or not decided
oracle_bench       held-out cases beside two baselines
mini               MiniKontextBench: its cases; results: its page, every weights folder by steps
study              cases × settings × seeds, a stored row a setting; diversity: of one prompt
kontext            KontextBench proper, from a local copy; similarity: to a model on this disk
votes              pairwise votes to strengths
multiturn          eight edits in a row
safety_bench       what filters stop, and what they cost
autoencoder_bench  what the autoencoder loses
wrong_answers      whether the oracle is to be trusted; reader: the second judge
ablations          what came out of them
report             what all share: places, whole-or-nothing writes, tables, options
"""

from minikontext.bench.oracle_bench import Report, baselines, evaluate, main

__all__ = ["Report", "baselines", "evaluate", "main"]
