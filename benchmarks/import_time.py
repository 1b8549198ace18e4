"""Time to import the package against the time to import torch, both measured in one run.

    python benchmarks/import_time.py [--repeat 7]

Each import runs in a fresh interpreter, and they take turns. What counts is the processor time of
the interpreter (user + system), which other work on the machine changes least.
"""

import argparse
import os
import statistics
import subprocess
import sys

CASES = {
    "torch": "import torch",
    "minikontext": "import torch, minikontext",
    "minikontext.KontextPipeline": "import minikontext as mk; mk.KontextPipeline",
}


def seconds(code):
    """Run `code` in a fresh interpreter and give the processor time that it took."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


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
