"""The published inversion methods as data over one engine."""

import dataclasses

from lsap_jax.embed.optimize import Method, Stage
from lsap_jax.errors import ConfigError

ENCODER_ONLY = ("encoder", "restyle")  # nothing is optimised
ENCODER_NEEDED = (*ENCODER_ONLY, "idinvert")
# IDInvert weighs conv4_3 by 5e-5, in a VGG16 of Caffe's weights that takes 0..255; ours takes images of deviation 1.
# A photo and the mean face differ there by an MSE of 82,890 in conv3_3 (the constant that Puzer's stylegan-encoder
# divides by), and by 12 in ours; 5e-5 * 82,890 / 12:
IDINVERT_FEATURES = 0.35

_PROJECTOR = Stage(
    steps=1000,
    terms=(("lpips_vgg", 1.0), ("noise", 1e5)),
    variables=("code", "noise"),
    learning_rate=0.1,
    jitter=0.05,
)
_PIXELS_AND_FEATURES = (("l2", 1.0), ("vgg_conv4_3", IDINVERT_FEATURES))
# Preconditioned, Adam does best with a short memory and without a slow start (25 steps on six photographs).
_ALIGNED = Stage(steps=100, terms=(), learning_rate=0.1, ramp_up=0.0, b1=0.7, b2=0.8, preconditioned=True)

PRESETS: dict[str, Method] = {
    # What the encoder says, and nothing more.
    "encoder": Method("w+", ()),
    # The same of an encoder that looks at its own render and corrects itself (Alaluf et al., arXiv:2104.02699).
    "restyle": Method("w+", ()),
    # In-domain inversion (Zhu et al., arXiv:2004.00049): from the encoder's code, and held where the encoder, shown the
    # render, says the same code.
    "idinvert": Method(
        "w+",
        (Stage(100, (*_PIXELS_AND_FEATURES, ("encoder", 2.0)), learning_rate=0.01, ramp_up=0.0, ramp_down=0.0),),
    ),
    # StyleGAN2's projector (Karras et al., arXiv:1912.04958, appendix D), with the settings of rosinality's code.
    "projector-w": Method("w", (_PROJECTOR,), noise="random"),
    "projector-w+": Method("w+", (_PROJECTOR,), noise="random"),
    # Abdal et al., arXiv:1904.03189. The paper's pixel error is of images in [0, 1]: a quarter of ours.
    "image2stylegan": Method(
        "w+",
        (Stage(1000, (("l2_full", 0.25), ("vgg", 1.0)), learning_rate=0.01, ramp_up=0.0, ramp_down=0.0),),
    ),
    # Cao et al., arXiv:2209.12746, the optimisation variant: image terms and SNCD. Its weight is not published; the
    # encoder's 0.5 drives every layer to be more average than nearly all generator samples, 0.1 does not.
    "lsap": Method("w+", (dataclasses.replace(_ALIGNED, terms=(("lpips_vgg", 1.0), ("l2", 0.5), ("sncd", 0.1))),)),
    # The same with each layer's distance measured among generator samples.
    "lsap-calibrated": Method(
        "w+", (dataclasses.replace(_ALIGNED, terms=(("lpips_vgg", 1.0), ("l2", 0.5), ("sncd_calibrated", 0.05))),)
    ),
}


def preset(name: str, steps: int | None = None, noise: str | None = None) -> Method:
    """A preset by name.

    Args:
      name: a key of `PRESETS`.
      steps: in all; stages keep their proportions, and schedules stretch with them.
      noise: "const" takes the noise maps out of the optimisation, so that edits of the code are not fought by texture
        that the maps have stored.

    Raises:
      ConfigError: if the name is unknown or a number impossible.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset is named {name!r}; there are {', '.join(PRESETS)}")
    method = PRESETS[name]
    if noise == "const":
        stages = tuple(
            dataclasses.replace(
                stage,
                variables=tuple(v for v in stage.variables if v != "noise"),
                terms=tuple(t for t in stage.terms if t[0] != "noise"),
            )
            for stage in method.stages
        )
        method = dataclasses.replace(method, noise="const", stages=tuple(s for s in stages if s.variables))
    elif noise not in (None, method.noise):
        raise ConfigError(f"noise={noise!r} for preset {name!r}: leave it out, or use 'const'")
    if steps is not None and method.stages:
        if steps < len(method.stages):
            raise ConfigError(f"steps={steps}: preset {name!r} needs at least {len(method.stages)}")
        total = sum(stage.steps for stage in method.stages)
        counts = [max(1, round(stage.steps * steps / total)) for stage in method.stages[:-1]]
        counts.append(steps - sum(counts))
        method = dataclasses.replace(
            method,
            stages=tuple(dataclasses.replace(s, steps=n) for s, n in zip(method.stages, counts, strict=True)),
        )
    return method
