"""Put a training's weights among the shipped ones: `python tools/ship.py FOLDER NAME`.

    python tools/ship.py runs/lineage/toy_many-KEY toy-any --steps 12
    python tools/ship.py runs/toy_words toy-words --with toy-max
    python tools/ship.py --share

FOLDER is a stage of the lineage, or a run with its result in `weights`. The weights, a stage's note
with its key and config, and the training's log are copied. With `--with`, parts that are the same
file as those of the shipped weights of that name are shared with them. `--steps` are the steps
that a call takes when it names none: those that the card's numbers were measured with.
`--share` alone lets all shipped weights share autoencoders that are the same file, with the first
by name.
"""

import argparse
import shutil
from pathlib import Path

from minikontext.errors import WeightsError
from minikontext.pretrained import PARTS, native
from minikontext.runtime import files
from minikontext.runtime.config import read_json, write_json

HOME = files.shipped("data", "weights")
PART = "autoencoder"


def ship(stage: Path, name: str, shared: str | None, steps: int | None = None) -> Path:
    """Copy finished weights to data/weights/NAME; what is there but its card is replaced."""
    target = HOME / name
    with files.updating_folder(target) as new:
        for source in (stage / "weights").glob("*"):
            shutil.copy(source, new / source.name)
        config = read_json(new / "config.json", WeightsError)
        called = config["defaults"] | ({"num_inference_steps": steps} if steps else {})
        write_json(new / "config.json", config | {"name": name, "defaults": called})
        (new / "training").mkdir(exist_ok=True)
        notes = (stage / "stage.json", stage / "run" / "log.jsonl", stage / "log.jsonl")
        for source in filter(Path.exists, notes):
            shutil.copy(source, new / "training" / source.name)
    for part in PARTS if shared else ():
        file = f"{part}.safetensors"
        if files.fingerprint([target / file]) == files.fingerprint([HOME / shared / file]):
            native.share(target, part, shared)
    return target


def share_all() -> None:
    """Each autoencoder's file is kept once, with the first of the weights that have it."""
    kept: dict[str, str] = {}
    for path in sorted(HOME.glob(f"*/{PART}.safetensors")):
        mark, name = files.fingerprint([path]), path.parent.name
        if mark in kept:
            native.share(path.parent, PART, kept[mark])
            print(f"{name} shares its {PART} with {kept[mark]}")
        else:
            kept[mark] = name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stage", type=Path, nargs="?")
    parser.add_argument("name", nargs="?")
    parser.add_argument("--with", dest="other", metavar="NAME", help="share parts with these")
    parser.add_argument("--steps", type=int, help="of a call that names none (default: as trained)")
    parser.add_argument("--share", action="store_true", help="keep equal autoencoders once")
    options = parser.parse_args()
    if options.share:
        share_all()
    elif options.stage and options.name:
        print(ship(options.stage, options.name, options.other, options.steps))
    else:
        parser.error("name a stage's folder and the weights' name, or --share")
