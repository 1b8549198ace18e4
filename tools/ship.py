"""Put a training's weights among the shipped ones: `python tools/ship.py FOLDER NAME`.

    python tools/ship.py runs/lineage/toy_many-KEY toy-any --decoder runs/lineage/decoder-KEY \
        --steps 12
    python tools/ship.py runs/toy_words toy-words --with toy-max
    python tools/ship.py --share

FOLDER is a stage of the lineage, or a run with its result in `weights`. The weights, a stage's note
with its key and config, and the training's log are copied. With `--with`, parts that are the same
file as those of the shipped weights of that name are shared with them. `--decoder` names a stage
whose autoencoder is taken instead: of the same encoder, or it is refused. `--steps` are the steps
that a call takes when it names none: those that the card's numbers were measured with.
`--least-psnr` is the bound in dB below which a context is told to be unlike the world, chosen by
`python -m benchmarks.outside --weights WEIGHTS --reached`; weights that name none are not shipped,
and a new decoder needs a new one.
`--share` alone lets all shipped weights share autoencoders that are the same file, with the first
by name.
"""

import argparse
import shutil
from pathlib import Path

import torch

from minikontext.errors import WeightsError
from minikontext.pretrained import PARTS, native
from minikontext.runtime import files
from minikontext.runtime.config import read_json, write_json
from minikontext.training.models import find_autoencoder, load_autoencoder

HOME = files.shipped("data", "weights")
PART = "autoencoder"


def ship(
    stage: Path, name: str, shared: str | None = None, steps: int | None = None,
    decoder: Path | None = None, least_psnr: float | None = None,
) -> Path:  # fmt: skip
    """Copy finished weights to data/weights/NAME; what is there but its card is replaced.

    Raises WeightsError where the decoder's encoder is another one, and where nothing says what the
    autoencoder reaches: a photograph would be taken without a word.
    """
    target = HOME / name
    if decoder and len({encoder(one / "weights") for one in (stage, decoder)}) > 1:
        raise WeightsError(f"{decoder} has another encoder than {stage}: their latents differ.")
    config = read_json(stage / "weights" / "config.json", WeightsError)
    known = None if decoder else config["defaults"].get("least_psnr")
    if (least := known if least_psnr is None else least_psnr) is None:
        raise WeightsError(
            "Nothing says how well the autoencoder gives pictures of its world back: measure it "
            "with `python -m benchmarks.outside --reached`, and give --least-psnr."
        )
    with files.updating_folder(target) as new:
        for source in (stage / "weights").glob("*"):
            shutil.copy(source, new / source.name)
        if decoder:
            shutil.copy(decoder / "weights" / f"{PART}.safetensors", new)
        called = config["defaults"] | {"least_psnr": least}
        called |= {"num_inference_steps": steps} if steps else {}
        write_json(new / "config.json", config | {"name": name, "defaults": called})
        (new / "training").mkdir(exist_ok=True)
        notes = (stage / "stage.json", stage / "run" / "log.jsonl", stage / "log.jsonl")
        if decoder:
            shutil.copy(decoder / "run" / "log.jsonl", new / "training" / "decoder.jsonl")
        for source in filter(Path.exists, notes):
            shutil.copy(source, new / "training" / source.name)
    for part in PARTS if shared else ():
        file = f"{part}.safetensors"
        if files.fingerprint([target / file]) == files.fingerprint([HOME / shared / file]):
            native.share(target, part, shared)
    return target


def encoder(folder: Path) -> str:
    """The fingerprint of what latents depend on."""
    return load_autoencoder(find_autoencoder(folder), torch.device("cpu")).encoder_fingerprint()


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
    parser.add_argument("--decoder", type=Path, help="a stage with another decoder for the weights")
    parser.add_argument("--steps", type=int, help="of a call that names none (default: as trained)")
    parser.add_argument("--least-psnr", type=float, metavar="DB", help="of a picture of the world")
    parser.add_argument("--share", action="store_true", help="keep equal autoencoders once")
    options = parser.parse_args()
    if options.share:
        share_all()
    elif options.stage and options.name:
        given = (options.other, options.steps, options.decoder, options.least_psnr)
        print(ship(options.stage, options.name, *given))
    else:
        parser.error("name a stage's folder and the weights' name, or --share")
