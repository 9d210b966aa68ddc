"""StyleGAN2 config-f against its own bare convolutions, and against a rival's PyTorch source if one is given.

    python benchmarks/stylegan2_vs_convolutions.py [--resolution 1024] [--batch 1] [--repeats 6] [--rival FOLDER]

The bare side is the generator's convolutions and nothing else: the same shapes, one after another in one program,
upsampling as transposed convolutions, in the faster of two forms (input dilation, four phases). Its gradient is to the
input alone, as inversion needs it. Rivals are timed in the same turns; FOLDER is the root of a checkout of NVIDIA's
stylegan2-ada-pytorch or of rosinality's stylegan2-pytorch, and PyTorch has to be installed. PyTorch's figures depend on
the allocator: run with and without MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456 in
the environment, which the record repeats.
"""

import argparse
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from timing import emit, interleave, machine, peak_memory

from lsap_jax.generators import stylegan2

WIDTHS = ((4, 512), (8, 512), (16, 512), (32, 512), (64, 512), (128, 256), (256, 128), (512, 64), (1024, 32))
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def plain(x, kernel, padding="SAME"):
    """A convolution as it comes."""
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=DIMENSIONS)


def dilated(x, kernel):
    """Transposed convolution of stride 2 by dilating the input."""
    pads = [(2, 1), (2, 1)]
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, lhs_dilation=(2, 2), dimension_numbers=DIMENSIONS)


def phases(x, kernel):
    """The same as four small dense convolutions whose outputs interlace."""
    taps, pads = (slice(None, None, 2), slice(1, 2)), ((1, 0), (0, 0))
    rows = []
    for a in (0, 1):
        row = [plain(x, kernel[taps[a], taps[b]], (pads[a], pads[b])) for b in (0, 1)]
        rows.append(lax.collapse(jnp.stack(row, 3), 2, 4))
    return lax.collapse(jnp.stack(rows, 2), 1, 3)


def bare(widths, upsample, batch):
    """(forward, gradient) of the convolutions alone, as calls without arguments."""
    random, kernels = np.random.RandomState(0), []
    for index, (size, width) in enumerate(widths):
        inputs = [] if size == 4 else [(upsample, widths[index - 1][1])]
        for kind, channels in [*inputs, (plain, width)]:
            kernel = random.randn(3, 3, channels, width) / np.sqrt(9 * channels)
            kernels.append((kind, jnp.asarray(kernel, jnp.float32)))
    kinds = [kind for kind, _ in kernels]

    def chain(x, arrays):
        for kind, kernel in zip(kinds, arrays, strict=True):
            x = kind(x, kernel)
        return x

    @jax.jit
    def gradient(x, arrays, cotangent):
        y, pull = jax.vjp(lambda x: chain(x, arrays), x)
        return y, pull(cotangent)

    forward, arrays = jax.jit(chain), [kernel for _, kernel in kernels]
    x = jnp.ones((batch, 4, 4, widths[0][1]))
    cotangent = jnp.ones((batch, widths[-1][0], widths[-1][0], widths[-1][1]))
    return lambda: forward(x, arrays), lambda: gradient(x, arrays, cotangent)


def ours(G, batch):
    """(forward, gradient to W+) of the whole generator, as calls without arguments."""
    ws = jnp.asarray(np.random.RandomState(1).randn(batch, G.num_ws, G.w_dim), jnp.float32)
    cotangent = jnp.ones((batch, G.resolution, G.resolution, 3))

    @jax.jit
    def gradient(G, ws, cotangent):
        image, pull = jax.vjp(lambda ws: G.synthesize(ws), ws)
        return image, pull(cotangent)

    return lambda: G.synthesize(ws), lambda: gradient(G, ws, cotangent)


def rival(folder, resolution, batch):
    """(forward, gradient to W+) of the PyTorch generator whose source lies in `folder`."""
    import torch

    sys.path.insert(0, str(folder))
    if (pathlib.Path(folder) / "training" / "networks.py").exists():
        from training.networks import Generator

        sizes = {"channel_base": 32768, "channel_max": 512}
        net = Generator(512, 0, 512, resolution, 3, mapping_kwargs={"num_layers": 8}, synthesis_kwargs=sizes).eval()

        def render(ws):
            return net.synthesis(ws, noise_mode="const")
    else:
        from model import Generator

        net = Generator(resolution, 512, 8).eval()

        def render(ws):
            return net([ws], input_is_latent=True, randomize_noise=False)[0]

    net.requires_grad_(False)
    rows = 2 * resolution.bit_length() - 4
    ws = torch.randn(batch, rows, 512, requires_grad=True)

    def forward():
        with torch.no_grad():
            render(ws)

    return forward, lambda: torch.autograd.grad(render(ws).sum(), ws)


def main():
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--rival", default="")
    flags = parser.parse_args()
    widths = tuple(entry for entry in WIDTHS if entry[0] <= flags.resolution)
    G = stylegan2.init(jax.random.key(0), stylegan2.StyleGAN2(resolution=flags.resolution, channels=widths))
    sides = {
        "ours": ours(G, flags.batch),
        "bare, dilated": bare(widths, dilated, flags.batch),
        "bare, phases": bare(widths, phases, flags.batch),
    }
    packages = []
    if flags.rival:
        sides["rival"] = rival(flags.rival, flags.resolution, flags.batch)
        packages.append("torch")
    for index, what in enumerate(("forward", "forward and gradient")):
        times = interleave({name: side[index] for name, side in sides.items()}, flags.repeats)
        fastest = {k: min(t[k] for name, t in times.items() if name.startswith("bare")) for k in ("min", "median")}
        ratio = {k: times["ours"][k] / fastest[k] for k in fastest}
        record = {"resolution": flags.resolution, "batch": flags.batch, "what": what, "times": times}
        emit({"benchmark": "stylegan2", **record, "ours_over_bare": ratio, "peak_memory_gib": peak_memory()})
    emit(machine(packages))


if __name__ == "__main__":
    main()
