"""The backbones in PyTorch, with the names and the order of arcface_torch's state dicts; MobileFaceNet_128 with its own names.

They follow arcface/backbones and need PyTorch alone, which is never in one process with Paddle. To prove them:

    python tests/helpers/torch_nets.py check ../shared/data/known_backbones.json
"""

import argparse
import json
import sys
import zlib
from collections import OrderedDict
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn

SIZE = 112  # pixels, of a side of an image
TOLERANCE = 1e-4  # of an embedding's norm


def conv(channels_in, channels_out, kernel=1, stride=1, padding=0, groups=1):
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False)


def conv_layers(channels_in, channels_out, *how, linear=False, **more):
    """Convolution, batch norm and, unless linear, PReLU."""
    layers = [conv(channels_in, channels_out, *how, **more), nn.BatchNorm2d(channels_out)]
    return layers if linear else [*layers, nn.PReLU(channels_out)]


def depthwise_layers(channels_in, inner, channels_out, stride):
    """Layers that expand to `inner` channels 1x1, filter each 3x3, and project 1x1."""
    each = conv_layers(inner, inner, 3, stride, 1, groups=inner)
    return [conv_layers(channels_in, inner), each, conv_layers(inner, channels_out, linear=True)]


def named(**layers):
    return nn.Sequential(OrderedDict(layers))


# ---- iResNet


class ResidualBlock(nn.Module):
    def __init__(self, channels_in, channels_out, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = conv(channels_in, channels_out, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.prelu = nn.PReLU(channels_out)
        self.conv2 = conv(channels_out, channels_out, 3, stride, padding=1)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(*conv_layers(channels_in, channels_out, 1, stride, linear=True))

    def forward(self, x):
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    def __init__(self, blocks, embedding_size=512):
        super().__init__()
        self.conv1 = conv(3, 64, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        channels = 64
        for stage, (repeats, channels_out) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 1):
            inputs = [(channels, 2)] + [(channels_out, 1)] * (repeats - 1)
            self.add_module(f"layer{stage}", nn.Sequential(*(ResidualBlock(c, channels_out, stride) for c, stride in inputs)))
            channels = channels_out
        self.bn2 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels * (SIZE // 16) ** 2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)

    def forward(self, images):
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.bn2(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return self.features(self.fc(x.flatten(1)))


# ---- arcface_torch's MobileFaceNet


class Layers(nn.Module):
    """Layers one after the other; `residual` adds their input."""

    def __init__(self, *layers, residual=False):
        super().__init__()
        self.residual = residual
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


def conv_block(*how, **more):
    return Layers(*conv_layers(*how, **more))


def depthwise(channels_in, inner, channels_out, stride=2, residual=False):
    return Layers(*(Layers(*layers) for layers in depthwise_layers(channels_in, inner, channels_out, stride)), residual=residual)


def residuals(channels, inner, repeats):
    return Layers(*(depthwise(channels, inner, channels, 1, True) for _ in range(repeats)))


class Mbf(nn.Module):
    def __init__(self, repeats, width, embedding_size=512):
        super().__init__()
        first, *others = repeats
        self.layers = nn.Sequential(
            conv_block(3, width, 3, 2, 1),
            conv_block(width, width, 3, 1, 1, groups=64) if first == 1 else residuals(width, 128, first),
            depthwise(width, 128, width),
            residuals(width, 128, others[0]),
            depthwise(width, 256, 2 * width),
            residuals(2 * width, 256, others[1]),
            depthwise(2 * width, 512, 2 * width),
            residuals(2 * width, 256, others[2]),
        )
        self.conv_sep = conv_block(2 * width, 512)
        self.features = Layers(
            conv_block(512, 512, 7, groups=512, linear=True),
            nn.Flatten(),
            nn.Linear(512, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )

    def forward(self, images):
        return self.features(self.conv_sep(self.layers(images)))


# ---- MobileFaceNet_128


STAGES = (2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)  # expansion, channels, repeats, stride


def named_block(*how, **more):
    return named(**dict(zip(("conv", "bn", "prelu"), conv_layers(*how, **more), strict=False)))


class Bottleneck(nn.Module):
    def __init__(self, channels_in, channels_out, stride, expansion):
        super().__init__()
        self.residual = stride == 1 and channels_in == channels_out
        self.conv = nn.Sequential(*chain(*depthwise_layers(channels_in, channels_in * expansion, channels_out, stride)))

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileFaceNet(nn.Module):
    def __init__(self, embedding_size=128):
        super().__init__()
        self.conv1 = named_block(3, 64, 3, 2, 1)
        self.dw_conv1 = named_block(64, 64, 3, 1, 1, groups=64)
        self.blocks, channels = nn.Sequential(), 64
        for expansion, channels_out, repeats, stride in STAGES:
            for repeat in range(repeats):
                self.blocks.append(Bottleneck(channels, channels_out, 1 if repeat else stride, expansion))
                channels = channels_out
        self.conv2 = named_block(128, 512)
        self.linear7 = named_block(512, 512, 7, groups=512, linear=True)
        self.linear1 = named_block(512, embedding_size, linear=True)

    def forward(self, images):
        return self.linear1(self.linear7(self.conv2(self.blocks(self.dw_conv1(self.conv1(images)))))).flatten(1)


# ---- vision transformers


class Attention(nn.Module):
    def __init__(self, dim, heads=8):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        images, patches, dim = x.shape
        query, key, value = self.qkv(x).reshape(images, patches, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (query * (dim // self.heads) ** -0.5 @ key.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(images, patches, dim))


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn = Attention(dim)
        self.mlp = named(fc1=nn.Linear(dim, 4 * dim), act=nn.ReLU6(), fc2=nn.Linear(4 * dim, dim))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self, dim, depth, embedding_size=512):
        super().__init__()
        patches = (SIZE // 9) ** 2
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, patches, dim))
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, dim), requires_grad=False)  # not used, as in ours
        self.patch_embed = named(proj=nn.Conv2d(3, dim, 9, 9))
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.feature = nn.Sequential(
            nn.Linear(patches * dim, dim, bias=False),
            nn.BatchNorm1d(dim, eps=2e-5),
            nn.Linear(dim, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        )

    def forward(self, images):
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.feature(self.norm(x).flatten(1))


NETS = {
    "MobileFaceNet_128": MobileFaceNet,
    "iresnet18": partial(IResNet, (2, 2, 2, 2)),
    "iresnet34": partial(IResNet, (3, 4, 6, 3)),
    "iresnet50": partial(IResNet, (3, 4, 14, 3)),
    "iresnet100": partial(IResNet, (3, 13, 30, 3)),
    "iresnet200": partial(IResNet, (6, 26, 60, 6)),
    "mbf": partial(Mbf, (1, 4, 6, 2), 128),
    "mbf_large": partial(Mbf, (2, 8, 12, 4), 256),
    "vit_t": partial(VisionTransformer, 256, 12),
    "vit_s": partial(VisionTransformer, 512, 12),
    "vit_b": partial(VisionTransformer, 512, 24),
}


def create_net(name: str, embedding_size: int = 512) -> nn.Module:
    """Return a net with PyTorch's random weights, in evaluation mode; arcface_torch's names r18 to r200 are known too."""
    if name[0] == "r" and name[1:].isdecimal():
        name = f"iresnet{name[1:]}"
    return NETS[name](embedding_size=embedding_size).eval()


# ---- known answers


def rule(name: str, shape: tuple[int, ...], factor: float) -> np.ndarray:
    """A tensor of a state dict, float32, by the rule of known_backbones.json; `factor` is its f."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return np.exp(0.2 * drawn)
    if len(shape) > 1:
        return factor * drawn * np.sqrt(1 / np.prod(shape[1:]), dtype=np.float32)
    return 0.1 * drawn if name.endswith(("running_mean", "bias")) else 1 + 0.1 * drawn


def ruled_net(name: str, embedding_size: int = 512) -> nn.Module:
    """Return a net with the weights of the rule, in evaluation mode."""
    net, factor = create_net(name, embedding_size), 1 if name.startswith("mbf") else 0.5
    state = {
        key: tensor if key.endswith("num_batches_tracked") else torch.from_numpy(rule(key, tuple(tensor.shape), factor))
        for key, tensor in net.state_dict().items()
    }
    net.load_state_dict(state)
    return net


@torch.no_grad()
def known_embeddings(net: nn.Module) -> np.ndarray:
    """Return the embeddings of the two images of known_backbones.json, float32 [2, D]."""
    images = np.random.default_rng(7).integers(0, 256, (2, 3, SIZE, SIZE), dtype=np.uint8)
    return net(torch.from_numpy(((images - 127.5) / 127.5).astype(np.float32))).numpy()


def check(file: Path) -> None:
    """Compare every net of known_backbones.json with what it knows of it and print the differences; exits with 1 if one fails."""
    failed = False
    for name, known in json.loads(file.read_text()).items():
        net = ruled_net(name)
        shapes = {key: list(value.shape) for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
        same_names = list(shapes.items()) == list(known["names"].items())
        parameters = sum(parameter.numel() for parameter in net.parameters())
        embeddings, norm = known_embeddings(net).astype(np.float64), np.array(known["norm"])
        differences = [
            np.abs(embeddings[:, :16] - known["embedding_first16"]).max(axis=1) / norm,
            np.abs(np.linalg.norm(embeddings, axis=1) - norm) / norm,
            np.abs(embeddings.sum(axis=1) - known["sum"]) / norm,
        ]
        fits = same_names and parameters == known["parameters"] and np.max(differences) <= TOLERANCE
        failed |= not fits
        print(
            f"{name:10} {'equal' if fits else 'DIFFERENT'}: names, order and shapes {'equal' if same_names else 'differ'},"
            f" {parameters:,} parameters ({known['parameters']:,}), embeddings within {np.max(differences):.1e} of the norm",
            flush=True,
        )
    sys.exit(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["check"])
    parser.add_argument("file", type=Path, help="known_backbones.json")
    check(parser.parse_args().file)
