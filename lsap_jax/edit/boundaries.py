"""InterFaceGAN: directions from scored samples (Shen et al., arXiv:2005.09635).

The codes with the highest and the lowest scores of an attribute are separated by a linear support vector machine; the
unit normal of the separating hyperplane is the direction, towards higher scores.

    codes, scores = scored_samples.measure(G, attributes, 2000)
    smile, yaw = from_measures(G, codes, scores, ("smile", "yaw"))
    pure = filters.conditional(smile, [yaw], G)        # a smile that does not turn the head

The machine has squared hinge loss (`edit.support_vectors`); the reference uses the plain hinge with C = 1. On separable
samples both tend to the same hyperplane of largest margin.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lsap_jax.edit import directions
from lsap_jax.edit.directions import Direction
from lsap_jax.edit.support_vectors import support_vector_machine
from lsap_jax.errors import ConfigError, DirectionError
from lsap_jax.generators.base import Generator


class Boundary(NamedTuple):
    """A hyperplane of W, and how well it separates.

    Attributes:
      normal: (w_dim,) float64 of unit length, towards higher scores.
      offset: signed distance of the origin; a code's distance is w . normal + offset.
      train: share of the samples trained on that lie on their own side.
      held_out: of the samples of both ends that were not trained on; NaN if there are none.
      rest: of all samples between the ends, whose class is the side of the median score; NaN if there are none.
      count: samples in each class, before they were split.
    """

    normal: np.ndarray
    offset: float
    train: float
    held_out: float
    rest: float
    count: int


def separate(
    codes: np.ndarray, scores: np.ndarray, share: float = 0.02, split: float = 0.7, C: float = 1e-3, seed: int = 0
) -> Boundary:
    """The boundary between the samples of highest and of lowest score.

    Codes are centred and divided by the root mean square of all their numbers first, so that C means the same in every
    generator's W.

    A few hundred samples in 512 dimensions can be separated in many ways, and a large C picks one that follows their
    noise: with the reference's 1 the normal of a known direction was found at cosine 0.48 from 600 samples an end, with
    1e-3 at 0.84, with equal accuracy. Far smaller ones tend to the difference of the two means, which leans to where W
    varies most.

    Args:
      codes: (N, w_dim).
      scores: (N,).
      share: of all samples in each of the two classes, above 0 and up to 0.5.
      split: part of each class that is trained on; the rest of it is held out.
      C: weight of the violations; larger ones follow the samples more closely.
      seed: of the split.

    Raises:
      ConfigError: if shapes or arguments do not fit, or a score is not finite (its row is named).
      DirectionError: if there is only one class: too few samples, or ends of the same score.
    """
    codes, scores = np.asarray(codes, np.float64), np.asarray(scores, np.float64)
    if codes.ndim != 2 or scores.shape != codes.shape[:1]:
        raise ConfigError(f"codes {codes.shape} and scores {scores.shape}: give (N, w_dim) and (N,)")
    if not (0 < share <= 0.5 and 0 < split <= 1 and C > 0):
        raise ConfigError(f"share {share}, split {split}, C {C}: 0 < share <= 0.5, 0 < split <= 1 and C > 0")
    for what, wrong in (("score", ~np.isfinite(scores)), ("code", ~np.isfinite(codes).all(1))):
        if wrong.any():
            raise ConfigError(
                f"the {what} of row {int(np.argmax(wrong))} is not a number ({int(wrong.sum())} such rows): leave the "
                "rows out of codes and scores"
            )
    order = np.argsort(scores, kind="stable")
    each = min(int(len(scores) * share), len(scores) // 2)
    trained = math.ceil(each * split)
    if trained < 1:
        raise DirectionError(f"{share:.1%} of {len(scores)} samples is none: measure more, or take a larger share")
    low, high = order[:each], order[-each:]
    if not scores[low].max() < scores[high].min():
        raise DirectionError(
            f"there is one class only: both ends of the scores hold {scores[high].min():g} ({scores.min():g} to "
            f"{scores.max():g} over all). Take a smaller share, or samples that differ in the attribute"
        )
    random = np.random.RandomState(seed)
    low, high = random.permutation(low), random.permutation(high)
    train, held_out = (
        (np.concatenate([high[part], low[part]]), np.repeat([1.0, -1.0], [len(high[part]), len(low[part])]))
        for part in (slice(trained), slice(trained, None))
    )
    centre = codes.mean(0)
    spread = float(np.sqrt(np.square(codes - centre).mean()))
    if not spread > 0:
        raise DirectionError("all codes are the same: nothing can be separated")
    scaled = (codes - centre) / spread
    w, b = support_vector_machine(scaled[train[0]], train[1], C)
    length = float(np.linalg.norm(w))
    if not length > 1e-12:
        raise DirectionError("no hyperplane tells the two ends of the scores apart: their codes are the same")
    between = order[each : len(order) - each]
    sides = np.where(scores[between] > np.median(scores), 1.0, -1.0)

    def accuracy(rows, labels):
        return float((np.where(scaled[rows] @ w + b > 0, 1.0, -1.0) == labels).mean()) if len(rows) else math.nan

    normal = w / length
    offset = b * spread / length - float(centre @ normal)
    return Boundary(normal, offset, accuracy(*train), accuracy(*held_out), accuracy(between, sides), each)


def from_measures(
    G: Generator,
    codes: np.ndarray,
    scores: np.ndarray,
    names: Sequence[str],
    *,
    share: float = 0.02,
    split: float = 0.7,
    C: float = 1e-3,
    seed: int = 0,
    layers: str | Sequence[int] | None = None,
) -> list[Direction]:
    """One direction for each attribute, strengths in sigma, towards higher scores.

    Samples on which an attribute could not be measured (NaN) are left out for that attribute.

    Args:
      G: the generator of the codes.
      codes: (N, w_dim).
      scores: (N, K), or (N,) of one attribute.
      names: K of them.
      share: as in `separate`, as are `split`, `C` and `seed`.
      split: as in `separate`.
      C: as in `separate`.
      seed: as in `separate`.
      layers: rows of W+ to edit; all by default.

    Returns:
      Directions with statistics "accuracy_train", "accuracy_held_out", "accuracy_rest" (shares of samples on their own
      side, see `Boundary`), "samples" in each class, and "left_out".

    Raises:
      ConfigError: if shapes do not fit.
      DirectionError: if there is one class only, or layers are not the generator's.
    """
    codes, scores = np.asarray(codes), np.asarray(scores, np.float64)
    scores = scores[:, None] if scores.ndim == 1 else scores
    if codes.ndim != 2 or codes.shape[1] != G.w_dim or scores.shape != (len(codes), len(names)):
        raise ConfigError(
            f"codes {codes.shape}, scores {scores.shape} and {len(names)} names: "
            f"give (N, {G.w_dim}), (N, K) and K names"
        )
    fingerprint, made = G.fingerprint, []
    for name, column in zip(names, scores.T, strict=True):
        known = ~np.isnan(column)
        try:
            found = separate(codes[known], column[known], share, split, C, seed)
        except DirectionError as error:
            raise DirectionError(f"{name}: {error}") from error
        origin = f"InterFaceGAN boundary of {name}, {share:.1%} at each end of {int(known.sum())} samples"
        d = Direction(name, jnp.asarray(found.normal, jnp.float32), None, 1.0, "w", "w", fingerprint, origin, {})
        d = directions.fitted(d if layers is None else directions.restrict(d, layers), G)
        d = directions.in_unit(d, "sigma", G)
        measured = {
            "accuracy_train": found.train,
            "accuracy_held_out": found.held_out,
            "accuracy_rest": found.rest,
            "samples": found.count,
            "left_out": int((~known).sum()),
        }
        made.append(d.replace(statistics=d.statistics | {k: jnp.float32(v) for k, v in measured.items()}))
    return made
