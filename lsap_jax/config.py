"""The fields that a config file can set.

A config file is Python with `get_config() -> Config`. Commands take it by `--config FILE` and any field of it by
`--config.invert.steps=200`; a name that is not here is refused.
"""

import dataclasses


@dataclasses.dataclass
class Invert:
    """What `python -m lsap_jax.invert` does with each photo.

    Attributes:
      preset: of `lsap_jax.embed.presets`.
      steps: of the optimisation.
      noise: "const" keeps the noise maps out of the optimisation; "" leaves it to the preset.
      seed: of every random draw.
      batch_size: photos optimised together.
      steps_per_call: steps in one compiled call; 0 chooses by device (1 on CPU, 50 elsewhere).
      faces: "largest" aligns the largest face of each photo, "all" every face, "aligned" takes the photos as
        aligned already and only resizes them.
      landmarks: JSON file with landmarks by file name, instead of detection; see `lsap_jax.data.faces`.
    """

    preset: str = "lsap-calibrated"
    steps: int = 100
    noise: str = ""
    seed: int = 0
    batch_size: int = 1
    steps_per_call: int = 0
    faces: str = "largest"
    landmarks: str = ""


@dataclasses.dataclass
class Config:
    """A runnable experiment.

    Attributes:
      generator: name of a pretrained generator, or a path.
      invert: see `Invert`.
    """

    generator: str
    invert: Invert = dataclasses.field(default_factory=Invert)
