"""Put a stage of the lineage among the shipped weights: `python tools/ship.py STAGE NAME`.

    python tools/ship.py runs/lineage/toy-KEY toy-any --autoencoder toy
    python tools/ship.py --share

The weights, the note with the stage's key and config, and the training's log are copied. With
`--autoencoder`, the file is shared with the shipped weights of that name, if it is the same one.
`--share` alone lets all shipped weights share what is the same file, with the first by name.
"""

import argparse
import shutil
from pathlib import Path

from minikontext.pretrained import native
from minikontext.runtime import files
from minikontext.runtime.config import read_json, write_json

HOME = files.shipped("data", "weights")
PART = "autoencoder"


def ship(stage: Path, name: str, shared: str | None) -> Path:
    """Copy a finished stage to data/weights/NAME; what is there but its card is replaced."""
    target = HOME / name
    with files.updating_folder(target) as new:
        for source in (stage / "weights").glob("*"):
            shutil.copy(source, new / source.name)
        write_json(new / "config.json", read_json(new / "config.json") | {"name": name})
        (new / "training").mkdir(exist_ok=True)
        for source in (stage / "stage.json", stage / "run" / "log.jsonl"):
            shutil.copy(source, new / "training" / source.name)
    if shared:
        native.share(target, PART, shared)
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
    parser.add_argument("--autoencoder", metavar="NAME", help="shipped weights with the same one")
    parser.add_argument("--share", action="store_true", help="keep equal autoencoders once")
    options = parser.parse_args()
    if options.share:
        share_all()
    elif options.stage and options.name:
        print(ship(options.stage, options.name, options.autoencoder))
    else:
        parser.error("name a stage's folder and the weights' name, or --share")
