"""Distillation from a config file: `minikontext reproduce toy_pro`, or `minikontext distill`.

jobs         what a config may say
run          from a config or a job to weights: `main`, `run_job`
recipes      the three distillations
guidance     one pass that takes the scale, the paper's [dev]
ladd         few steps by latent adversarial diffusion distillation, the paper's [pro]
rollout      a student on the states that its own steps lead to
policy       π-Flow: a student that predicts a policy and imitates the teacher along its path
losses       all of their losses, as functions of tensors
latents      what the teacher samples, made once and stored
reproduce    a lineage of weights, made again stage by stage
"""

from minikontext import lazy

KINDS = ("guidance", "ladd", "rollout")
MODULES = (
    "guidance", "jobs", "ladd", "latents", "losses", "policy", "recipes", "reproduce", "rollout",
    "run",
)  # fmt: skip
__getattr__ = lazy(__name__, MODULES, {"build_job": "run", "main": "run", "run_job": "run"})
