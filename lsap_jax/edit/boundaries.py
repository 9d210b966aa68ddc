"""InterFaceGAN: directions from scored samples (Shen et al., arXiv:2005.09635).

The codes with the highest and the lowest scores of an attribute are separated by a linear support vector machine; the
unit normal of the separating hyperplane is the direction, towards higher scores.

    codes, scores = measure(G, attributes, 2000)
    smile, yaw = from_measures(G, codes, scores, ("smile", "yaw"))
    pure = filters.conditional(smile, [yaw], G)        # a smile that does not turn the head

The machine is the primal problem with squared hinge loss, min |w|^2 / 2 + C sum max(0, 1 - y (w.x + b))^2, which is
convex and once differentiable; Newton's method on it is finite (Keerthi and DeCoste, JMLR 2005; Chapelle, 2007). The
reference uses the plain hinge with C = 1; on separable samples both tend to the same hyperplane of largest margin.
"""

import csv
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.checkpoints import store
from lsap_jax.data import samples
from lsap_jax.edit import directions
from lsap_jax.edit.directions import Direction
from lsap_jax.errors import ConfigError, DirectionError, ResultError
from lsap_jax.generators.base import Generator

_SHARD = 256  # samples of one file
_ITERATIONS = 100  # of Newton's method; it takes 5 to 15


class Attributes(Protocol):
    """What measures images: `lsap_jax.metrics.attributes`, or anything alike."""

    @property
    def names(self) -> Sequence[str]:
        """K of them."""
        ...

    def __call__(self, images: jax.Array) -> np.ndarray:
        """(B, H, W, 3) in [-1, 1] -> (B, K), NaN where something cannot be measured."""
        ...


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


def read_scores(path: str | os.PathLike, names: Sequence[str] | None = None) -> np.ndarray:
    """Scores of a CSV file with a header: columns `index,score`, from 0, or `name,score`.

    Args:
      path: the file.
      names: of a `name,score` file, in which order the scores are wanted; the file's by default.

    Returns:
      (N,) float64: score i belongs to index i, or to name i.

    Raises:
      ConfigError: if the file cannot be read, a column is missing, a score is no finite number (its row is named, the
        header being row 1), an index or name is missing, or occurs twice.
    """
    path = pathlib.Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [title.strip().lower() for title in next(reader, [])]
            lines = [(reader.line_num, line) for line in reader if any(cell.strip() for cell in line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as CSV ({error})") from error
    key = next((title for title in ("index", "name") if title in header), None)
    if key is None or "score" not in header:
        raise ConfigError(f"{path}: its first row must name the columns, 'index,score' or 'name,score'; it is {header}")
    found: dict[str, float] = {}
    for number, line in lines:
        cells = dict(zip(header, (cell.strip() for cell in line), strict=False))
        label, text = cells.get(key, ""), cells.get("score", "")
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise ConfigError(
                f"{path}, row {number}: the score {text!r} of {label!r} is not a number: leave the row out"
            )
        if key == "index" and not label.isdecimal():
            raise ConfigError(f"{path}, row {number}: the index {label!r} is no whole number from 0")
        label = str(int(label)) if key == "index" else label
        if label in found:
            raise ConfigError(f"{path}, row {number}: {key} {label!r} occurs twice")
        found[label] = score
    if not found:
        raise ConfigError(f"{path}: no scores in it")
    wanted = [str(i) for i in range(len(found))] if key == "index" else list(found if names is None else names)
    missing = [label for label in wanted if label not in found]
    if missing:
        raise ConfigError(f"{path}: no score for {key} {missing[0]!r} ({len(missing)} of {len(wanted)} are missing)")
    return np.array([found[label] for label in wanted])


def measure(
    G: Generator,
    attributes: Attributes,
    count: int,
    seed: int = 0,
    truncation: float = 1.0,
    batch: int = 8,
    *,
    resolution: int | None = None,
    folder: str | os.PathLike | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of random samples, and what is measured on their images.

    Sample i depends on seed and i alone. With a folder every 256 samples are written there, and the same call goes on
    after the last that were; a larger count goes on too.

    Args:
      G: the generator; its stored noise is used.
      attributes: images (B, H, W, 3) -> (B, K), with `names`.
      count: of samples.
      seed: of the draw.
      truncation: psi.
      batch: images rendered together.
      resolution: side of the images that are measured, in pixels; all of the generator's by default.
      folder: where to keep shards.
      progress: called with (samples done, count).

    Returns:
      codes (count, w_dim) float32 and scores (count, K) float32.

    Raises:
      ConfigError: if the resolution cannot be rendered, or the attributes do not measure (B, K).
      ResultError: if the folder cannot be written or holds other measurements.
    """
    if count < 1 or batch < 1:
        raise ConfigError(f"{count} samples in batches of {batch}: both are at least 1")
    about = {
        "kind": "measured samples",
        "fingerprint": G.fingerprint,
        "seed": seed,
        "truncation": truncation,
        "resolution": resolution or G.resolution,
        "names": list(attributes.names),
    }
    where = None if folder is None else pathlib.Path(folder)
    parts = []
    for start in range(0, count, _SHARD):
        file = None if where is None else where / f"measured-{start // _SHARD:05d}.npz"
        stop = start + _SHARD if file else min(start + _SHARD, count)  # shards are whole, so that a longer run fits on
        if file and file.exists():
            tree, meta = store.load(file)
            if {key: meta.get(key) for key in about} != about:
                raise ResultError(f"{file}: holds other measurements ({meta}); choose another folder, or delete it")
        else:
            tree = _measured(G, attributes, range(start, stop), seed, truncation, batch, about["resolution"])
            if file:
                try:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    store.save(file, tree, about)
                except OSError as error:
                    raise ResultError(f"{file}: cannot be written ({error})") from error
        parts.append(tree)
        if progress:
            progress(min(stop, count), count)
    codes, scores = (np.concatenate([part[key] for part in parts])[:count] for key in ("w", "scores"))
    return codes, scores


def _measured(G, attributes, indices, seed, truncation, batch, resolution):
    """{"w": (n, w_dim), "scores": (n, K)} of some samples."""
    settings, codes, scores = samples.Settings((truncation, truncation), 0.0), [], []
    for at in range(indices.start, indices.stop, batch):
        here = min(batch, indices.stop - at)
        ws = samples.numbered(G, jax.random.key(seed), jnp.arange(at, at + batch), settings)
        found = np.asarray(attributes(samples.render(G, ws, resolution, exact=resolution == G.resolution)), np.float32)
        if found.shape != (batch, len(attributes.names)):
            raise ConfigError(f"the attributes gave {found.shape} for {batch} images and {len(attributes.names)} names")
        codes.append(np.asarray(ws[:here, 0]))
        scores.append(found[:here])
    return {"w": np.concatenate(codes), "scores": np.concatenate(scores)}


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
