"""Numbers that several configs have, each with its bounds: `build_config` holds files to them."""

import numbers
import sys
from typing import Annotated

from annotated_types import Interval

Share = Annotated[float, Interval(ge=0, le=1)]  # a part of a whole, a probability
Weight = Annotated[float, Interval(ge=0, le=1e6)]  # of a loss
Rate = Annotated[float, Interval(ge=0, le=10)]  # of learning
Spread = Annotated[float, Interval(gt=0, le=100)]  # of a normal distribution
Mean = Annotated[float, Interval(ge=-100, le=100)]
Scale = Annotated[float, Interval(ge=0, le=10_000)]  # of guidance
Minutes = Annotated[float, Interval(ge=0, le=1_000_000)]  # about two years
Count = Annotated[int, Interval(ge=1, le=2**40)]
Often = Annotated[int, Interval(ge=0, le=2**40)]  # every so many steps; 0: never
Batch = Annotated[int, Interval(ge=1, le=2**24)]
Steps = Annotated[int, Interval(ge=1, le=10_000)]  # of sampling
Seed = Annotated[int, Interval(ge=-(2**40), le=2**40)]
Level = Annotated[int, Interval(ge=1, le=4)]  # of the toy world
Side = Annotated[int, Interval(ge=1, le=2**14)]  # pixels


def is_number(value: object) -> bool:
    """True for an int or float that a float can hold, numpy's included; a bool is none here."""
    # numpy's bool is no number for Python; a whole number of 400 digits is, and no float.
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and bool(abs(value) <= sys.float_info.max)
    )


def shown(value: object) -> str:
    """A value for a message, in 80 characters at most, whatever it is."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python refuses to print more than 4300 digits
        return "a number of many digits"
