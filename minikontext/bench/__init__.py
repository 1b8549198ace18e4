"""Measuring editors: exact scores by the toy world's oracle."""

from minikontext.bench.oracle_bench import Report, baselines, evaluate, main

__all__ = ["Report", "baselines", "evaluate", "main"]
