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
      encoder: what gives the start: name or path of an encoder; "" starts from the mean of W. The presets "encoder" and
        "restyle" need one.
      iterations: passes of a ReStyle encoder; other encoders make one.
      store: "folders" writes one folder for each photo and a page to look at; "shards" is for big sets, see
        `lsap_jax.data.shards`.
      shard_size: photos of one shard.
      metrics: "full" (`lsap_jax.metrics.reconstruction`), "pixels" (MSE, PSNR and SSIM), "none"; "" for "full" in
        folders and "none" in shards, where they would cost more than an encoder and its rendering.
      renders: "png" also writes what the codes of shards render, "none" does not. Folders always have it.
    """

    preset: str = "lsap-calibrated"
    steps: int = 100
    noise: str = ""
    seed: int = 0
    batch_size: int = 1
    steps_per_call: int = 0
    faces: str = "largest"
    landmarks: str = ""
    encoder: str = ""
    iterations: int = 5
    store: str = "folders"
    shard_size: int = 256
    metrics: str = ""
    renders: str = "none"


@dataclasses.dataclass
class Encoder:
    """The network to be trained; the fields of `lsap_jax.networks.encoders.EncoderArch` that are free to choose.

    Attributes:
      trunk: "ir-se", "dlib", "resnet" or "idinvert".
      stages: (width, units) of each stage of the trunk; () for those of the literature.
      head: "psp", "e4e", "w", "w+", "pooled" or "dense".
      levels: "pyramid", or "last" (ReStyle) where all rows read the last map.
      input: "rgb", "rgb+render" (ReStyle) or "rgb+mask" (latent-composition).
      resolution: side of the input in pixels.
      width: channels of the nets that map features to rows.
      delta_width: of those of rows 1 and up; 0 for the same.
      start: "w_avg" adds the output to the mean of W, "zero" takes it as the code.
      weights: what the training starts from: "" for random weights, "dlib-face" (trunk "dlib"), or a path: an encoder
        of the same description, or the face recogniser that the trunk is to be taken from (`model_ir_se50.pth`).
      fit: samples of known code that the linear layers of a head "w+" are first fitted to in closed form, see
        `lsap_jax.training.ridge`; 0 for random layers.
    """

    trunk: str = "ir-se"
    stages: tuple[tuple[int, int], ...] = ()
    head: str = "e4e"
    levels: str = "pyramid"
    input: str = "rgb"
    resolution: int = 256
    width: int = 512
    delta_width: int = 0
    start: str = "w_avg"
    weights: str = ""
    fit: int = 0


@dataclasses.dataclass
class Data:
    """Where training images come from.

    Attributes:
      source: "generated" (the generator's own samples, drawn afresh in every step), "samples:FOLDER" (the same rendered
        beforehand by tools/render_samples.py), "folder:PATH" or "tfds:NAME[:SPLIT]" with aligned photos.
      generated: share of each batch that is drawn afresh all the same, 0 to 1.
      flip: mirror images at random; never those whose codes are known.
      truncation: range of the psi of fresh samples.
      mixing: share of fresh samples whose later rows come from a second w.
      augment: strengths, as keyword arguments of `lsap_jax.data.augment.Augment`; {} for none.
      validation: source of the images that evaluation looks at; "" for none.
      validation_count: how many of them, from the first.
    """

    source: str = "generated"
    generated: float = 0.0
    flip: bool = True
    truncation: tuple[float, float] = (0.7, 1.0)
    mixing: float = 0.0
    augment: dict[str, float] = dataclasses.field(default_factory=dict)
    validation: str = ""
    validation_count: int = 100


@dataclasses.dataclass
class Loss:
    """Weights of the terms; 0 leaves a term, and the network it needs, out. See `lsap_jax.objectives`.

    Attributes:
      l2: at the working resolution.
      lpips_alex: likewise.
      lpips_vgg: likewise.
      id: 1 - cosine of face descriptors.
      moco: 1 - cosine of MoCo-v2 features, for what is no face.
      delta: distance of every row to row 0.
      w_norm: distance to the mean of W.
      sncd: alignment, summed over the layers of open rows (the reference's form, weight 0.5).
      sncd_calibrated: alignment as z-scores, beyond one standard deviation.
      sncd_typical: the same on both sides.
      regression: mean squared error of the code in units of the variance of W, where the true code is known.
      adversarial: the latent critic's opinion (e4e).
      critic: the image critic's opinion (IDInvert).
    """

    l2: float = 0.0
    lpips_alex: float = 0.0
    lpips_vgg: float = 0.0
    id: float = 0.0
    moco: float = 0.0
    delta: float = 0.0
    w_norm: float = 0.0
    sncd: float = 0.0
    sncd_calibrated: float = 0.0
    sncd_typical: float = 0.0
    regression: float = 0.0
    adversarial: float = 0.0
    critic: float = 0.0


@dataclasses.dataclass
class Critic:
    """Of the latent and the image critic, where their terms are used.

    Attributes:
      learning_rate: of Adam, for both.
      r1: weight of the penalty on the gradient at real codes or images.
      r1_every: steps between penalties (lazy regularisation: each counts so many times).
      pool: codes that the latent critic's pools of real and found codes hold; 0 for no pools.
      open_rows: the encoder is judged by its open rows, as in e4e; False judges all, as GANInverter does.
      channels: of the image critic at its finest resolution; doubled at each coarser one up to 512.
    """

    learning_rate: float = 2e-5
    r1: float = 10.0
    r1_every: int = 16
    pool: int = 50
    open_rows: bool = True
    channels: int = 64


@dataclasses.dataclass
class Train:
    """What `python -m lsap_jax.train` does.

    Attributes:
      encoder: see `Encoder`.
      data: see `Data`.
      loss: see `Loss`.
      critic: see `Critic`.
      steps: updates of the encoder.
      batch_size: images of one update, over all devices and hosts.
      microbatches: parts that a batch is split into to save memory; gradients are averaged.
      image_start: step before which only terms of the code count and nothing is rendered.
      render: side in pixels at which codes are rendered for the image terms, one of the generator's `resolutions`; 0
        for all of it.
      previews: give the generator the preview heads that ship for it (`lsap_jax.generators.previews`), so that it can
        be rendered small; only an approximation of its full render.
      working: side in pixels at which images are compared.
      noise: "random" (fresh, as the reference trains) or "const".
      iterations: passes of a ReStyle encoder over each image.
      progressive_start: step at which row 1 opens (e4e heads); 0 with `progressive_every` 0 opens all at once.
      progressive_every: steps between the rows after it.
      optimizer: "ranger", "adam", "adamw" or "sgd".
      learning_rate: at its peak.
      schedule: "constant", or "cosine" down to 0.
      warmup: steps over which the rate rises from 0.
      weight_decay: decoupled.
      clip: largest norm of the gradient; 0 does not clip.
      ema: decay of the running mean of the weights that evaluation and export use; 0 for the weights themselves.
      dtype: "float32", or "bfloat16" for the encoder's convolutions.
      seed: of every random draw.
      id_weights: path of ArcFace weights for the term `id`; "" for the descriptor that packages ship.
      moco_weights: path of MoCo-v2 weights for the term `moco`.
      log_every: steps between lines of metrics.
      eval_every: steps between evaluations, which also make pictures; 0 for none.
      eval_batch_size: images evaluated together.
      save_every: steps between checkpoints.
      keep: checkpoints kept, besides the best.
      best: metric of evaluation whose smallest value marks the best checkpoint.
    """

    encoder: Encoder = dataclasses.field(default_factory=Encoder)
    data: Data = dataclasses.field(default_factory=Data)
    loss: Loss = dataclasses.field(default_factory=Loss)
    critic: Critic = dataclasses.field(default_factory=Critic)
    steps: int = 500_000
    batch_size: int = 8
    microbatches: int = 1
    image_start: int = 0
    render: int = 0
    previews: bool = False
    working: int = 256
    noise: str = "random"
    iterations: int = 5
    progressive_start: int = 0
    progressive_every: int = 0
    optimizer: str = "ranger"
    learning_rate: float = 1e-4
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    clip: float = 0.0
    ema: float = 0.0
    dtype: str = "float32"
    seed: int = 0
    id_weights: str = ""
    moco_weights: str = ""
    log_every: int = 50
    eval_every: int = 5_000
    eval_batch_size: int = 8
    save_every: int = 10_000
    keep: int = 3
    best: str = "loss"


@dataclasses.dataclass
class Config:
    """A runnable experiment.

    Attributes:
      generator: name of a pretrained generator, or a path.
      invert: see `Invert`.
      train: see `Train`.
    """

    generator: str
    invert: Invert = dataclasses.field(default_factory=Invert)
    train: Train = dataclasses.field(default_factory=Train)
