"""A run of seconds, for tests and for trying the trainer: every part is used, nothing is learnt.

    python -m lsap_jax.train --config configs/tiny.py --workdir DIR --config.generator=FILE

NEEDS a generator file of 32 pixels or more.

COST: 20 s on two CPU cores, nearly all compilation. RESULT: not measured.
"""

from lsap_jax.config import Config, Critic, Data, Encoder, Loss, Train


def get_config() -> Config:
    """A narrow e4e encoder with alignment, latent critic and pool, on the generator's own samples."""
    return Config(
        generator="tiny.npz",
        train=Train(
            encoder=Encoder(trunk="ir-se", stages=((16, 1), (16, 1), (16, 1)), resolution=32, width=16),
            data=Data(source="generated", mixing=0.3, validation="generated", validation_count=6),
            loss=Loss(l2=1.0, delta=2e-4, sncd=0.5, regression=1.0, adversarial=0.1),
            critic=Critic(pool=6, r1_every=2),
            steps=6,
            batch_size=4,
            working=16,
            progressive_start=2,
            progressive_every=1,
            learning_rate=1e-3,
            ema=0.9,
            log_every=1,
            eval_every=3,
            eval_batch_size=4,
            save_every=3,
        ),
    )
