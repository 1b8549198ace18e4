"""The second judge: a small convolutional reader, which shares only drawings with the oracle.

The oracle reads by drawing every value and comparing pixels. The reader was trained to name what
it sees, on spoiled drawings of scenes of its own. No training and no sampler may import either.

    from minikontext.bench import reader
    reader.judge(picture, case).success

`python -m benchmarks.reader --validate` measures how far to trust it.
"""

from minikontext.bench.reader.judgement import Reader, Verdict, judge, load, read

__all__ = ["Reader", "Verdict", "judge", "load", "read"]
