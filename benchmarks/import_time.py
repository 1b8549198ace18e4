"""Time to import the package against the time to import torch, both measured in one run.

    python benchmarks/import_time.py [--repeat 7]

Each import runs in a fresh interpreter; the two take turns, so that a busy machine slows both.
"""

import argparse
import statistics
import subprocess
import sys
import time

CASES = {
    "torch": "import torch",
    "minikontext": "import torch, minikontext",
    "minikontext.KontextPipeline": "import minikontext as mk; mk.KontextPipeline",
}


def seconds(code):
    """Run `code` in a fresh interpreter and measure it from start to end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=7)
    repeat = parser.parse_args().repeat
    for code in CASES.values():
        seconds(code)  # the first run reads everything from disk and writes the bytecode
    rounds = [{name: seconds(code) for name, code in CASES.items()} for _ in range(repeat)]
    medians = {name: statistics.median(times[name] for times in rounds) for name in CASES}
    for name, median in medians.items():
        print(f"{name:<28} {median:6.3f} s   {median / medians['torch']:.2f} x torch")


if __name__ == "__main__":
    main()
