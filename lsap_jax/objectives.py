"""The terms of an inversion loss, and their weighted sum.

A term compares one rendered image and its code with what is wanted. Each is written for ONE image and is a pair of
functions: `target` computes, once per photo, what stays fixed during the optimisation (the photo's own features), and
`value` gives the scalar to be minimised. `TERMS` lists them all; a loss is a tuple of (name, weight) pairs.

| name              | value                                                                          | source         |
| ----------------- | ------------------------------------------------------------------------------ | -------------- |
| `l2`              | mean squared error at the working resolution, images in [-1, 1]                | pSp, e4e, LSAP |
| `l2_full`         | the same at the generator's resolution                                         | Image2StyleGAN |
| `lpips_vgg`       | LPIPS v0.1 with VGG16 at the working resolution                                | StyleGAN2      |
| `lpips_alex`      | LPIPS v0.1 with AlexNet                                                        | pSp, PTI       |
| `vgg`             | sum over conv1_1, conv1_2, conv3_2, conv4_2 of the MSE of VGG16 features       | Image2StyleGAN |
| `id`              | 1 - cosine of face descriptors                                                 | pSp            |
| `moco`            | 1 - cosine of MoCo-v2 features, for what is no face                            | pSp, e4e       |
| `sncd`            | sum over layers of the cosine distance to the generator's own styles           | LSAP           |
| `sncd_calibrated` | mean over layers of relu(z_l - 1)^2, z_l the distance among generator samples  | this project   |
| `sncd_typical`    | mean over layers of relu(abs(z_l) - 1)^2: too average a code costs as well      | this project   |
| `delta`           | sum over rows of |w_l - w_0|                                                   | e4e            |
| `w_norm`          | |ws - w_avg|                                                                   | pSp            |
| `vgg_conv4_3`     | MSE of VGG16's conv4_3 at the working resolution                               | IDInvert       |
| `encoder`         | mean of (ws - E(image))^2: the encoder, shown the render, says the same code   | IDInvert       |
| `noise`           | autocorrelation of the noise maps over a pyramid down to 8 x 8                 | StyleGAN2      |
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from lsap_jax.data import resize
from lsap_jax.errors import ConfigError
from lsap_jax.generators.base import Generator
from lsap_jax.latent import alignment
from lsap_jax.latent.alignment import Alignment
from lsap_jax.networks import identity, lpips, moco
from lsap_jax.networks.moco import Moco

Terms = tuple[tuple[str, float], ...]


class Judges(flax.struct.PyTreeNode):
    """The frozen networks and statistics that terms consult; None where no term needs it."""

    lpips_vgg: lpips.Lpips | None = None
    lpips_alex: lpips.Lpips | None = None
    identity: Any = None
    moco: Moco | None = None
    alignment: Alignment | None = None
    encoder: Any = None


class Scene(NamedTuple):
    """One image under optimisation.

    Attributes:
      image: (1, H, W, 3) the render.
      small: (1, h, w, 3) the render at the working resolution.
      ws: (1, num_ws, w_dim) its code.
      noise: its noise maps.
      open_rows: (num_ws,) 1 for the rows of `ws` that are free, 0 for those that still repeat row 0 (progressive
        encoders): the alignment terms leave the layers of these out, and `delta` these rows. None where all are free.
    """

    image: jax.Array
    small: jax.Array
    ws: jax.Array
    noise: tuple[jax.Array, ...]
    open_rows: jax.Array | None = None


class Term(NamedTuple):
    """What a term needs of `Judges`, its fixed target, and its value.

    Attributes:
      judge: the attribute of `Judges` it consults, or None.
      target: (judges, image (1, H, W, 3), small (1, h, w, 3)) -> whatever `value` compares with.
      value: (judges, G, scene, target) -> scalar.
    """

    judge: str | None
    target: Callable[[Judges, jax.Array, jax.Array], Any]
    value: Callable[[Judges, Generator, Scene, Any], jax.Array]


def judges_for(G: Generator, terms: Terms, id_weights: str = "", moco_weights: str = "", encoder: Any = None) -> Judges:
    """Load what these terms consult, and nothing else.

    Args:
      G: the generator.
      terms: (name, weight) pairs.
      id_weights: path of ArcFace weights (`model_ir_se50.pth`) for the term `id`; "" for dlib's descriptor.
      moco_weights: path of MoCo-v2 weights for the term `moco`; no package ships them.
      encoder: for the term `encoder`: a pytree, images -> (B, num_ws, w_dim), such as `networks.encoders.Encoder`.

    Raises:
      CheckpointError: if one of the two files is missing, or does not hold these weights.
      ConfigError: if a term has an unknown name, or `moco` or `encoder` is wanted without its network.
      FetchError: if a network is missing and cannot be fetched.
    """
    wanted = {_term(name).judge for name, _ in terms}
    if "moco" in wanted and not moco_weights:
        raise ConfigError(
            f"the term 'moco' needs MoCo-v2's ResNet-50, which no package ships: download {moco.FILE} from the authors "
            "(facebookresearch/moco, 800 epochs) and give its path as moco_weights, in a training config as "
            "config.train.moco_weights"
        )
    if "encoder" in wanted and encoder is None:
        raise ConfigError("the term 'encoder' needs an encoder: give the name or path of one")
    return Judges(
        lpips_vgg=lpips.load("vgg") if "lpips_vgg" in wanted else None,
        lpips_alex=lpips.load("alex") if "lpips_alex" in wanted else None,
        identity=identity.identity(id_weights or "dlib-face") if "identity" in wanted else None,
        moco=moco.load(moco_weights) if "moco" in wanted else None,
        alignment=alignment.fit(G) if "alignment" in wanted else None,
        encoder=encoder if "encoder" in wanted else None,
    )


def targets(terms: Terms, judges: Judges, image: jax.Array, resolution: int) -> dict[str, Any]:
    """What stays fixed of one photo (H, W, 3) during its optimisation, by term."""
    image = image[None]
    small = resize.area(image, resolution)
    return {name: _term(name).target(judges, image, small) for name, _ in terms}


def loss(
    terms: Terms,
    judges: Judges,
    G: Generator,
    image: jax.Array,
    ws: jax.Array,
    noise: tuple[jax.Array, ...],
    target: dict[str, Any],
    resolution: int,
    open_rows: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted sum of the terms for one image, and each term before weighting.

    Args:
      terms: (name, weight) pairs.
      judges: from `judges_for`.
      G: the generator that rendered `image`.
      image: (H, W, 3) the render.
      ws: (num_ws, w_dim) its code.
      noise: its noise maps, (h, w) each.
      target: from `targets`.
      resolution: side in pixels at which images are compared.
      open_rows: see `Scene`.
    """
    scene = Scene(image[None], resize.area(image[None], resolution), ws[None], noise, open_rows)
    values = {name: _term(name).value(judges, G, scene, target[name]) for name, _ in terms}
    return jnp.stack([weight * values[name] for name, weight in terms]).sum(), values


def noise_regularizer(noise: tuple[jax.Array, ...]) -> jax.Array:
    """Squared autocorrelation of noise maps with their neighbours (StyleGAN2, appendix D).

    For every map (h, w), at its size and at each 2 x 2 mean-pooled size down to 8:
    mean(n roll_x(n))^2 + mean(n roll_y(n))^2. Maps of 8 and 4 pixels give one pair, as in rosinality's code.
    """
    total = jnp.zeros(())
    for n in noise:
        while True:
            total += (n * jnp.roll(n, 1, axis=1)).mean() ** 2 + (n * jnp.roll(n, 1, axis=0)).mean() ** 2
            if n.shape[0] <= 8:
                break
            n = n.reshape(n.shape[0] // 2, 2, n.shape[1] // 2, 2).mean((1, 3))
    return total


def _term(name: str) -> Term:
    if name not in TERMS:
        raise ConfigError(f"no loss term is named {name!r}; there are {', '.join(TERMS)}")
    return TERMS[name]


def _nothing(judges: Judges, image: jax.Array, small: jax.Array) -> None:
    return None


def _lpips(judge: str) -> Term:
    def target(judges, image, small):
        return getattr(judges, judge).features(small)

    def value(judges, G, scene, target):
        judge_net = getattr(judges, judge)
        return judge_net.distance(judge_net.features(scene.small), target)[0]

    return Term(judge, target, value)


def _cosine(judge: str) -> Term:
    def target(judges, image, small):
        return getattr(judges, judge).embed(small)

    def value(judges, G, scene, target):
        return 1 - (getattr(judges, judge).embed(scene.small) * target).sum()

    return Term(judge, target, value)


def _image2stylegan_features(judges: Judges, small: jax.Array) -> tuple[jax.Array, ...]:
    assert judges.lpips_vgg is not None  # `judges_for` loaded it
    return judges.lpips_vgg.activations(small, ("conv1_1", "conv1_2", "conv3_2", "conv4_2"))


def _vgg(judges, G, scene, target):
    got = _image2stylegan_features(judges, scene.small)
    return jnp.stack([jnp.square(a - b).mean() for a, b in zip(got, target, strict=True)]).sum()


def _conv4_3(judges: Judges, small: jax.Array) -> jax.Array:
    assert judges.lpips_vgg is not None  # `judges_for` loaded it
    return judges.lpips_vgg.activations(small, ("conv4_3",))[0]


def _open_layers(G: Generator, scene: Scene) -> jax.Array:
    """(L,) weights of the layers: 1 where the row that a layer reads is free."""
    rows = jnp.array(G.arch.alignment_rows)
    return jnp.ones(rows.shape) if scene.open_rows is None else scene.open_rows[rows].astype(jnp.float32)


def _sncd(judges: Judges, G: Generator, scene: Scene, target: None) -> jax.Array:
    return (alignment.sncd(G, judges.alignment, scene.ws)[0] * _open_layers(G, scene)).sum()


def _beyond_one(judges: Judges, G: Generator, scene: Scene, two_sided: bool) -> jax.Array:
    z, weight = alignment.calibrated(G, judges.alignment, scene.ws)[0], _open_layers(G, scene)
    return (jnp.square(jax.nn.relu((jnp.abs(z) if two_sided else z) - 1)) * weight).sum() / weight.sum()


def _delta(scene: Scene) -> jax.Array:
    lengths = _safe_norm(scene.ws[0, 1:] - scene.ws[0, :1], -1)
    return (lengths if scene.open_rows is None else lengths * scene.open_rows[1:].astype(lengths.dtype)).sum()


def _safe_norm(x: jax.Array, axis: Any) -> jax.Array:
    # Every W+ optimisation starts where these distances are zero, and there the norm has no gradient.
    return jnp.sqrt(jnp.maximum(jnp.square(x).sum(axis), 1e-12))


TERMS: dict[str, Term] = {
    "l2": Term(None, lambda j, image, small: small, lambda j, G, s, t: jnp.square(s.small - t).mean()),
    "l2_full": Term(None, lambda j, image, small: image, lambda j, G, s, t: jnp.square(s.image - t).mean()),
    "lpips_vgg": _lpips("lpips_vgg"),
    "lpips_alex": _lpips("lpips_alex"),
    "vgg": Term("lpips_vgg", lambda j, image, small: _image2stylegan_features(j, small), _vgg),
    "id": _cosine("identity"),
    "moco": _cosine("moco"),
    "sncd": Term("alignment", _nothing, _sncd),
    "sncd_calibrated": Term("alignment", _nothing, lambda j, G, s, t: _beyond_one(j, G, s, two_sided=False)),
    "sncd_typical": Term("alignment", _nothing, lambda j, G, s, t: _beyond_one(j, G, s, two_sided=True)),
    "delta": Term(None, _nothing, lambda j, G, s, t: _delta(s)),
    "w_norm": Term(None, _nothing, lambda j, G, s, t: _safe_norm(s.ws[0] - G.w_avg[None], None)),
    "vgg_conv4_3": Term(
        "lpips_vgg",
        lambda j, image, small: _conv4_3(j, small),
        lambda j, G, s, t: jnp.square(_conv4_3(j, s.small) - t).mean(),
    ),
    "encoder": Term("encoder", _nothing, lambda j, G, s, t: jnp.square(s.ws - j.encoder(s.image)).mean()),
    "noise": Term(None, _nothing, lambda j, G, s, t: noise_regularizer(s.noise)),
}
