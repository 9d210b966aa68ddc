"""LSAP's encoder on FFHQ at 1024 x 1024 (Cao et al., arXiv:2209.12746), by the recipe of its reference code.

    python -m lsap_jax.train --config configs/ffhq.py --workdir DIR

NEEDS, by paths that can be overridden:
  weights/stylegan2-ffhq-config-f.pt    the generator (rosinality or NVIDIA .pkl, told apart by content)
  weights/model_ir_se50.pth             the face recogniser: start of the trunk, and the identity term
  data/FFHQ                             70,000 aligned photos
  data/CelebA-HQ/test                   2,824 aligned photos for evaluation

COST: not measured. RESULT: not measured here; the reference reports LPIPS-Alex 0.177, ID 0.53 on CelebA-HQ.
"""

from lsap_jax.config import Config, Data, Encoder, Loss, Train


def get_config() -> Config:
    """LSAP: image terms, delta regularisation and SNCD; all rows open from step 21,600."""
    return Config(
        generator="weights/stylegan2-ffhq-config-f.pt",
        train=Train(
            encoder=Encoder(trunk="ir-se", head="e4e", weights="weights/model_ir_se50.pth"),
            data=Data(source="folder:data/FFHQ", validation="folder:data/CelebA-HQ/test", validation_count=2_824),
            loss=Loss(l2=1.0, lpips_alex=0.8, id=0.1, delta=2e-4, sncd=0.5),
            steps=500_000,
            batch_size=8,
            progressive_start=20_000,
            progressive_every=100,
            id_weights="weights/model_ir_se50.pth",
        ),
    )
