"""pSp on FFHQ at 1024 x 1024 (Richardson et al., arXiv:2008.00951), by the recipe of its reference code.

    python -m lsap_jax.train --config configs/ffhq_psp.py --workdir DIR

NEEDS the same files as configs/ffhq.py.

COST: not measured. RESULT: not measured here; the LSAP authors report LPIPS-Alex 0.159, ID 0.56 on CelebA-HQ.
"""

from lsap_jax.config import Config, Data, Encoder, Loss, Train


def get_config() -> Config:
    """Image terms alone; every row by itself."""
    return Config(
        generator="weights/stylegan2-ffhq-config-f.pt",
        train=Train(
            encoder=Encoder(trunk="ir-se", head="psp", weights="weights/model_ir_se50.pth"),
            data=Data(source="folder:data/FFHQ", validation="folder:data/CelebA-HQ/test", validation_count=2_824),
            loss=Loss(l2=1.0, lpips_alex=0.8, id=0.1),
            steps=500_000,
            batch_size=8,
            id_weights="weights/model_ir_se50.pth",
        ),
    )
