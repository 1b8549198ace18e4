"""Training from a config file: `minikontext train configs/toy.toml`.

jobs          a config file, checked whole, as one typed job for each kind
run           from a job to weights: `main`, `run_job`
runs          a run's folder: lock, setting aside, what it was made from, what can be said before
recipes       the trainings themselves: autoencoder, editor, folder, lora, classifier
safety        the classifier's data, loss and thresholds
models        what is trained: made or opened, averaged, gathered, written
loop          schedule, clipping, moving average, checkpoints, exact resume, log
store         checkpoints on disk
optimizer     Muon and AdamW
parallel      many processes: FSDP2, activation checkpointing, torch.compile
data          encoded pairs of the toy world; editor: batches of them
sources       triplets of your own, in the layouts that people have; shards: of packed files
folders       the same, encoded once; batches of them
reading       how those are read: columns, text, what is done to each
stream, pictures, words, world_editor    the lineage's data and losses; captions: that tell all
watch         speed and validation; tries: edits while training
plan          memory and time before a GPU is rented; workload: of a job
"""

from minikontext import lazy

MODULES = (
    "captions", "data", "editor", "folders", "jobs", "loop",
    "models", "optimizer", "parallel", "pictures", "plan", "reading", "recipes", "run",
    "runs", "safety", "shards", "sources", "store", "stream", "tries", "watch", "workload",
    "words", "world_editor",
)  # fmt: skip
HOMES = {
    "build_job": "jobs", "main": "run", "read_config": "jobs", "read_job": "jobs", "run_job": "run",
}  # fmt: skip
__getattr__ = lazy(__name__, MODULES, HOMES)
