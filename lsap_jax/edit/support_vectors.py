"""A linear support vector machine with squared hinge loss, in the primal.

min |w|^2 / 2 + C sum max(0, 1 - y (w.x + b))^2 is convex and once differentiable; Newton's method on it is finite
(Keerthi and DeCoste, JMLR 2005; Chapelle, Neural Computation 2007).
"""

import numpy as np

from lsap_jax.errors import DirectionError

_ITERATIONS = 100  # of Newton's method; it takes 5 to 15


def support_vector_machine(x: np.ndarray, y: np.ndarray, C: float = 1.0) -> tuple[np.ndarray, float]:
    """(w, b) of min |w|^2 / 2 + C sum max(0, 1 - y (w.x + b))^2 in float64, by Newton's method; b is not penalised.

    A step solves the quadratic problem of the samples inside the margin; a line search to the minimum (the objective is
    convex and piecewise quadratic) makes it converge from anywhere, and C that grows by threes in a few steps.

    Args:
      x: (n, d).
      y: (n,) of 1 and -1, both present.
      C: weight of the violations.

    Raises:
      DirectionError: if y holds one class only.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if set(np.unique(y)) != {-1.0, 1.0}:
        raise DirectionError(f"a boundary is between two classes, 1 and -1; given: {np.unique(y)[:5].tolist()}")
    basis, small = np.linalg.qr(x.T) if len(x) < x.shape[1] else (None, x.T)  # w lies in the span of the samples
    wide = np.concatenate([small.T, np.ones((len(x), 1))], axis=1)
    found, weight = np.zeros(wide.shape[1]), min(C, 1.0)
    while True:
        found = _newton(found, wide, y, weight)
        if weight >= C:
            break
        weight = min(C, 3 * weight)
    return (found[:-1] if basis is None else basis @ found[:-1]), float(found[-1])


def _newton(found, wide, y, C):
    """The minimum for one C, from a start."""
    penalty = np.append(np.ones(wide.shape[1] - 1), 0.0)
    small = 1e-10 * C * np.linalg.norm(np.abs(wide).sum(0))
    for _ in range(_ITERATIONS):
        slack = 1 - y * (wide @ found)
        active = slack > 0
        gradient = penalty * found - 2 * C * wide[active].T @ (y * slack)[active]
        if np.linalg.norm(gradient) <= small:
            break
        hessian = np.diag(penalty) + 2 * C * wide[active].T @ wide[active]
        hessian[-1, -1] += 1e-12 * max(1.0, hessian[-1, -1])  # b has no penalty of its own, and no sample may be active
        step = -np.linalg.solve(hessian, gradient)
        found = found + _line_search(found, step, y * (wide @ step), slack, penalty, C) * step
    return found


def _line_search(found, step, slope, slack, penalty, C):
    """The t > 0 that minimises the objective at found + t step: where its derivative, which only rises, is 0.

    Args:
      found: (d + 1,).
      step: (d + 1,) of descent.
      slope: (n,) by which y (w.x + b) grows per unit of t.
      slack: (n,) 1 - y (w.x + b) at t = 0.
      penalty: (d + 1,) of the squares.
      C: weight of the violations.
    """

    def derivative(t):
        left = np.maximum(slack - t * slope, 0)
        return (penalty * (found + t * step)) @ step - 2 * C * (left @ slope)

    if derivative(1.0) <= 0:
        low, high = 1.0, 2.0
        while derivative(high) < 0 and high < 1e6:
            low, high = high, 2 * high
    else:
        low, high = 0.0, 1.0
    if abs(derivative(1.0)) <= 1e-9 * abs(derivative(0.0)):
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if derivative(middle) < 0 else (low, middle)
    return (low + high) / 2
