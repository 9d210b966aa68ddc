"""Faces at 1024 x 1024 with the embedded generator: nothing to download but packages.

    python -m lsap_jax.invert --config configs/ffhq_mobile.py --images FOLDER --out DIR

COST on two CPU cores: about 1.3 s a step, 60 steps a photo, 3 GB of memory.

    python tools/render_samples.py --generator ffhq-mobile --resolution 128 --count 20000 --out samples --previews
    python -m lsap_jax.train --config configs/ffhq_mobile.py --workdir DIR

trains the compact LSAP encoder that is shipped, on the generator's own samples: the head's linear layers by
regression of the codes first, then all of it by image terms and alignment. Its twin without alignment: the same with
--config.train.loss.sncd=0.0

COST on two CPU cores: see the metrics of the shipped encoder (`lsap_jax/networks/encoder_ffhq_mobile.npz`).
"""

from lsap_jax.config import Config, Data, Encoder, Invert, Loss, Train

# Towards photos: framing and colour for input and target, the wear of files for the input alone.
AUGMENT = {
    "shift": 0.03,
    "scale": 0.05,
    "rotation": 2.0,
    "brightness": 0.1,
    "contrast": 0.15,
    "saturation": 0.2,
    "white_balance": 0.05,
    "gamma": 0.1,
    "blur": 1.0,
    "downscale": 0.7,
    "noise": 0.04,
    "jpeg": 60.0,
}


def get_config() -> Config:
    """The embedded default."""
    return Config(
        generator="ffhq-mobile",
        invert=Invert(preset="lsap-calibrated", steps=60, encoder="ffhq-mobile-lsap"),
        train=Train(
            encoder=Encoder(
                trunk="dlib",
                stages=((32, 3), (64, 4), (128, 3)),
                head="w+",
                resolution=128,
                width=384,
                weights="dlib-face",
                fit=20_000,
            ),
            data=Data(
                source="samples:samples", flip=False, augment=AUGMENT, validation="generated", validation_count=128
            ),
            loss=Loss(l2=1.0, lpips_alex=2.0, id=0.5, regression=0.5, delta=2e-4, sncd=0.1),
            steps=240,
            batch_size=16,
            render=256,
            previews=True,
            working=128,
            noise="const",
            optimizer="adam",
            learning_rate=4e-6,
            schedule="cosine",
            warmup=20,
            clip=1.0,
            ema=0.98,
            log_every=5,
            eval_every=60,
            eval_batch_size=16,
            save_every=60,
            keep=2,
        ),
    )
