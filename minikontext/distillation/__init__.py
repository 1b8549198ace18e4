"""Distillation from a config file: `minikontext reproduce toy_pro`, or `minikontext distill`.

jobs         what a config may say
run          from a config or a job to weights: `main`, `run_job`
recipes      the three distillations
guidance     one pass that takes the scale, the paper's [dev]
ladd         few steps by latent adversarial diffusion distillation, the paper's [pro]
rollout      a student on states of its own making
losses       all of their losses, as functions of tensors
latents      what the teacher samples, made once and stored
"""

from minikontext import lazy

KINDS = ("guidance", "ladd", "rollout")
MODULES = ("guidance", "jobs", "ladd", "latents", "losses", "recipes", "rollout", "run")
__getattr__ = lazy(__name__, MODULES, {"build_job": "run", "main": "run", "run_job": "run"})
