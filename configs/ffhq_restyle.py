"""ReStyle on e4e, FFHQ at 1024 x 1024 (Alaluf et al., arXiv:2104.02699): residuals in five passes.

    python -m lsap_jax.train --config configs/ffhq_restyle.py --workdir DIR

NEEDS the same files as configs/ffhq.py.

COST: not measured, about five times a step of configs/ffhq_e4e.py. RESULT: not measured here; the LSAP authors report
LPIPS-Alex 0.190, ID 0.51 on CelebA-HQ.
"""

from lsap_jax.config import Config, Data, Encoder, Loss, Train


def get_config() -> Config:
    """e4e's terms; the encoder sees the photo and its last reconstruction."""
    return Config(
        generator="weights/stylegan2-ffhq-config-f.pt",
        train=Train(
            encoder=Encoder(
                trunk="ir-se", head="e4e", input="rgb+render", levels="last", weights="weights/model_ir_se50.pth"
            ),
            data=Data(source="folder:data/FFHQ", validation="folder:data/CelebA-HQ/test", validation_count=2_824),
            loss=Loss(l2=1.0, lpips_alex=0.8, id=0.1, delta=2e-4, adversarial=0.1),
            steps=500_000,
            batch_size=8,
            iterations=5,
            progressive_start=20_000,
            progressive_every=2_000,
            id_weights="weights/model_ir_se50.pth",
        ),
    )
