"""A measure taken on several images, samples or seeds, in two numbers."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Spread(NamedTuple):
    """Mean and standard deviation of what could be measured.

    Attributes:
      mean: NaN if nothing could be.
      deviation: standard deviation of the values (n - 1 in the denominator), NaN of fewer than two.
      count: values that it is of.
      left_out: values that were NaN or infinite.
    """

    mean: float
    deviation: float
    count: int
    left_out: int


def spread(values: npt.ArrayLike) -> Spread:
    """Of any number of values in any shape."""
    values = np.asarray(values, np.float64).reshape(-1)
    known = values[np.isfinite(values)]
    return Spread(
        float(known.mean()) if len(known) else float("nan"),
        float(known.std(ddof=1)) if len(known) > 1 else float("nan"),
        len(known),
        len(values) - len(known),
    )
