"""Training steps of GANInverter's own PyTorch code, for `training_step.py --rival FOLDER`; run by that script.

FOLDER holds its source (github.com/caopulan/GANInverter). Its own trainer does the work: `train_discriminator`,
`inverse`, `calc_loss` and its Ranger, in the order of its loop. What differs from a run of its own:

    it runs on the CPU, where its CUDA ops do not build: PyTorch's are in their place
    no file is read: images and weights are random, packages that it imports to show, log or load are empty
    the face network of the identity loss is frozen, as e4e had it; as it stands it also gets gradients, and is slower

One line a step goes in, one comes out: {"cpu": seconds, "loss": ...}.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import time
import types
from unittest import mock

import torch
import torch.nn.functional as F
from timing import peak_memory
from torch import nn

TERMS = {"l2": 1.0, "lpips": 0.8, "id": 0.1, "delta": 2e-4, "adversarial": 0.1}  # e4e's weights
EMPTY = ("cv2", "loguru", "matplotlib", "matplotlib.pyplot", "torchvision", "torchvision.transforms")


class FusedLeakyReLU(nn.Module):
    """Bias per channel, leaky ReLU, gain."""

    def __init__(self, channel, negative_slope=0.2, scale=2**0.5):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel))
        self.negative_slope, self.scale = negative_slope, scale

    def forward(self, input):
        """(B, C, ...) -> (B, C, ...)."""
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)


def fused_leaky_relu(input, bias, negative_slope=0.2, scale=2**0.5):
    bias = bias.view(1, -1, *(1,) * (input.ndim - 2))
    return F.leaky_relu(input + bias, negative_slope) * scale


def upfirdn2d(input, kernel, up=1, down=1, pad=(0, 0)):
    """(B, C, H, W): zeros between samples, padding (left and top, right and bottom), filter, every down-th sample."""
    b, c, h, w = input.shape
    if up > 1:
        spread = input.new_zeros(b, c, h, up, w, up)
        spread[:, :, :, 0, :, 0] = input
        input = spread.view(b, c, h * up, w * up)
    input = F.pad(input, (pad[0], pad[1], pad[0], pad[1]))
    return F.conv2d(input, kernel.flip(0, 1).expand(c, 1, -1, -1), stride=down, groups=c)


def alexnet(pretrained=False):
    """torchvision's, as far as LPIPS reads it."""
    widths, layers = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1)], []
    for i, (inputs, outputs, kernel, stride, padding) in enumerate([*widths, (256, 256, 3, 1, 1)]):
        layers += [nn.MaxPool2d(3, 2)] if i in (1, 2) else []
        layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU(inplace=True)]
    return types.SimpleNamespace(features=nn.Sequential(*layers))


@contextlib.contextmanager
def without_files():
    """Weights that would be loaded stay random."""
    with (
        mock.patch("torch.load"),
        mock.patch("torch.hub.load_state_dict_from_url", return_value={}),
        mock.patch.object(nn.Module, "load_state_dict"),
    ):
        yield


def trainer_of(folder, losses, resolution, batch):
    """Its `EncoderTrainer` with everything but data, as its constructor puts it together."""
    ops = types.ModuleType("models.stylegan2.op")
    ops.FusedLeakyReLU, ops.fused_leaky_relu, ops.upfirdn2d = FusedLeakyReLU, fused_leaky_relu, upfirdn2d
    sys.modules["models.stylegan2.op"] = ops
    sys.modules |= {name: mock.MagicMock() for name in EMPTY}
    sys.modules["torchvision"].models.alexnet = alexnet
    sys.path.insert(0, str(folder))
    from models.discriminator import LatentCodesDiscriminator
    from models.encoder import Encoder
    from models.latent_codes_pool import LatentCodesPool
    from models.stylegan2.model import Generator
    from training.encoder_trainer import EncoderTrainer

    weights = {name: weight * (name in losses) for name, weight in TERMS.items()}
    rows = 2 * (resolution.bit_length() - 2)
    trainer = EncoderTrainer.__new__(EncoderTrainer)
    trainer.opts = argparse.Namespace(
        resolution=resolution,
        batch_size=batch,
        n_styles=rows,
        encoder_type="Encoder4Editing",
        layers=50,
        input_nc=3,
        start_from_latent_avg=True,
        learn_in_w=False,
        l2_lambda=weights["l2"],
        lpips_lambda=weights["lpips"],
        id_lambda=weights["id"],
        delta_norm=2,
        delta_norm_lambda=weights["delta"],
        w_discriminator_lambda=weights["adversarial"],
        w_norm_lambda=0,
        moco_lambda=0,
        sncd_lambda=0,
        progressive_steps=list(range(-rows, 0)),  # all rows are open
        r1=10,
        d_reg_every=16,
        discriminator_lr=2e-5,
        use_w_pool=True,
        w_pool_size=50,
        optimizer="ranger",
        learning_rate=1e-4,
        weight_decay=0,
        optim_beta1=0.95,
        optim_beta2=0.999,
        dist=False,
    )
    trainer.device, trainer.global_step, trainer.progressive_stage = "cpu", 0, rows - 1
    with without_files():
        trainer.decoder = Generator(resolution, 512, 8)
        with torch.no_grad():
            mean = trainer.decoder.mean_latent(10_000)[0]
        trainer.encoder = Encoder(trainer.opts, None, mean, device="cpu").train()
        trainer.configure_loss()
    trainer.face_pool = nn.AdaptiveAvgPool2d((resolution, resolution))
    trainer.discriminator = LatentCodesDiscriminator(512, 4)
    trainer.real_w_pool, trainer.fake_w_pool = LatentCodesPool(50), LatentCodesPool(50)
    trainer.configure_optimizers(None)
    if trainer.id_loss:
        trainer.id_loss.requires_grad_(False)
    return trainer


def step(trainer, images):
    """One turn of its loop, without logging; returns the loss."""
    trainer.encoder.set_progressive_stage(trainer.progressive_stage)
    if trainer.is_training_discriminator():
        trainer.train_discriminator((images, images))
    renders, codes = trainer.inverse(images)
    loss, _, _ = trainer.calc_loss(images, images, renders, codes)
    trainer.optimizer.zero_grad()
    loss.backward()
    trainer.optimizer.step()
    trainer.global_step += 1
    return loss.item()


def main():
    """A step for every line of standard input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--losses", nargs="+", choices=TERMS, default=list(TERMS))
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    flags = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    torch.manual_seed(0)
    trainer = trainer_of(flags.folder, flags.losses, flags.resolution, flags.batch)
    images = torch.rand(flags.batch, 3, flags.resolution, flags.resolution) * 2 - 1
    parameters = sum(p.numel() for p in trainer.encoder.parameters())
    ready = {"versions": {"torch": torch.__version__}, "threads": torch.get_num_threads(), "parameters": parameters}
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        loss = step(trainer, images)
        done = {"cpu": time.process_time() - start, "loss": loss, "peak_memory_gib": peak_memory()}
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
