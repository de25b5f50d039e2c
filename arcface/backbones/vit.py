"""Vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) for faces, as InsightFace's arcface_torch defines it.

Patches of 9x9 pixels, no class token; the embedding is a projection of all patches, and MLPs use ReLU6. Sub-layers have
arcface_torch's names in its order. Evaluation is the same; training leaves out what is random there: stochastic depth and the
replacement of a tenth of the patches by `mask_token`. A step here is a function of its images and weights, so that a resumed
run equals the uninterrupted one bit for bit.
"""

from functools import partial

import paddle
from paddle import nn
from paddle.nn.initializer import Constant, Normal, Uniform

from arcface.backbones.batch_norm import batch_norm_layer
from arcface.backbones.layers import Add, Product, batch_norm_rows, keep_float32
from arcface.backbones.recompute import RecomputableLayer
from arcface.io.images import SIZE

PATCH = 9  # pixels; the last 4 rows and columns of an image are in no patch
PATCHES = (SIZE // PATCH) ** 2
HEADS = 8
STAGES = 4  # of as many blocks each
MLP_RATIO = 4
FEATURE_EPSILON = 2e-5  # of the batch norms behind the patches
INITIAL_STD = 0.02


def attribute(initializer, trainable: bool = True) -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=initializer, trainable=trainable)


def linear(values_in: int, values_out: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer whose weight starts from normal values, and whose bias from 0."""
    bias_attr = attribute(Constant(0.0)) if bias else False
    return nn.Linear(values_in, values_out, weight_attr=attribute(Normal(0.0, INITIAL_STD)), bias_attr=bias_attr)


class PatchEmbedding(nn.Layer):
    """Projects each patch: images [N, 3, 112, 112] to [N, PATCHES, dim]. Initial values are PyTorch's default."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim
        bound = (3 * PATCH * PATCH) ** -0.5
        initial = attribute(Uniform(-bound, bound))
        self.proj = nn.Conv2D(3, dim, PATCH, PATCH, weight_attr=initial, bias_attr=attribute(Uniform(-bound, bound)))

    def forward(self, images):
        return self.proj(images).reshape([-1, self.dim, PATCHES]).transpose([0, 2, 1])


class Attention(nn.Layer):
    """Self-attention over the patches [N, PATCHES, dim], in HEADS heads; query, key and value have no bias."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim
        self.qkv = linear(dim, 3 * dim, bias=False)
        self.similarity = Product((dim // HEADS) ** -0.5, transpose=True)
        self.softmax = nn.Softmax()
        self.mix = Product()
        self.proj = linear(dim, dim)

    def forward(self, x):
        size = self.dim // HEADS
        query, key, value = self.qkv(x).reshape([-1, PATCHES, 3, HEADS, size]).transpose([2, 0, 3, 1, 4]).unbind(0)
        weights = self.softmax(self.similarity(query, key))  # [N, HEADS, PATCHES, PATCHES]
        return self.proj(self.mix(weights, value).transpose([0, 2, 1, 3]).reshape([-1, PATCHES, self.dim]))


class MLP(nn.Layer):
    """Two linear layers with ReLU6 between them, on each patch."""

    def __init__(self, dim):
        super().__init__()
        self.fc1 = linear(dim, MLP_RATIO * dim)
        self.act = nn.ReLU6()
        self.fc2 = linear(MLP_RATIO * dim, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(RecomputableLayer):
    """Attention and MLP, each of normalised input, each added to its input, which is float32 in every precision."""

    def __init__(self, dim):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn = Attention(dim)
        self.mlp = MLP(dim)
        self.add = keep_float32(Add())

    def forward(self, x):
        x = self.add(x, self.attn(self.norm1(x)))
        return self.add(x, self.mlp(self.norm2(x)))


class VisionTransformer(nn.Layer):
    """Maps normalised RGB images, float32 [N, 3, 112, 112], to embeddings, float32 [N, embedding_size].

    `dim` values a patch, `depth` blocks. `batch_norm` creates a batch norm layer for a number of channels and an epsilon (see
    batch_norm.py). `mask_token` is not trained or used: it is there for arcface_torch's weights.
    """

    def __init__(self, dim, depth, embedding_size=512, batch_norm=None):
        super().__init__()
        batch_norm = batch_norm or batch_norm_layer("local")
        self.values = PATCHES * dim
        in_a_stage = depth // STAGES
        self.stages = {
            "stem": ["patch_embed", "pos_embed", "mask_token"],
            **{
                f"stage{stage + 1}": [f"blocks.{block}" for block in range(stage * in_a_stage, (stage + 1) * in_a_stage)]
                for stage in range(STAGES)
            },
            "embedding": ["norm", "feature"],
        }
        self.pos_embed = self.create_parameter([1, PATCHES, dim], attribute(Normal(0.0, INITIAL_STD)))
        self.mask_token = self.create_parameter([1, 1, dim], attribute(Normal(0.0, INITIAL_STD), trainable=False))
        self.patch_embed = PatchEmbedding(dim)
        self.add = keep_float32(Add())
        self.blocks = nn.LayerList(Block(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.feature = keep_float32(
            nn.Sequential(
                linear(self.values, dim, bias=False),
                batch_norm(dim, FEATURE_EPSILON),
                linear(dim, embedding_size, bias=False),
                batch_norm(embedding_size, FEATURE_EPSILON),
            )
        )

    def forward(self, images):
        x = self.add(self.patch_embed(images), self.pos_embed)
        for block in self.blocks:
            x = block(x)
        reduce, reduce_norm, embed, embed_norm = self.feature.children()
        x = batch_norm_rows(reduce_norm, reduce(self.norm(x).reshape([-1, self.values])))
        return batch_norm_rows(embed_norm, embed(x))


vit_t = partial(VisionTransformer, 256, 12)
vit_s = partial(VisionTransformer, 512, 12)
vit_b = partial(VisionTransformer, 512, 24)
