"""Attention rollout against loops over tokens and timm's own unfused attention."""

import pytest
import torch
from torch import Tensor, nn

from cifar.models.pretrained import Pretrained, build_timm
from cifar.models.vit import VisionTransformer, vit_tiny
from cifar.serving.attention import attention_maps, is_plain_transformer, rollout, rollout_map


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def random_maps(num: int, *, heads: int, tokens: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [(3 * torch.randn(heads, tokens, tokens, generator=generator)).softmax(-1) for _ in range(num)]


def sharpen(network: nn.Module) -> nn.Module:
    """Larger weights, so that attention is far from uniform."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "qkv" in name:
                parameter.normal_(std=0.3)
    return network.eval()


def slow_attention(tokens: Tensor, weight: Tensor, bias: Tensor, *, num_heads: int) -> Tensor:
    """Attention [heads, T, T] of tokens [T, D], one head, row and column at a time."""
    num, width = tokens.shape
    size = width // num_heads
    attention = torch.zeros(num_heads, num, num)
    for head in range(num_heads):
        rows = slice(head * size, (head + 1) * size)
        query = tokens @ weight[:width][rows].T + bias[:width][rows]
        key = tokens @ weight[width : 2 * width][rows].T + bias[width : 2 * width][rows]
        for i in range(num):
            scores = torch.stack([query[i].dot(key[j]) / size**0.5 for j in range(num)])
            attention[head, i] = scores.exp() / scores.exp().sum()
    return attention


def test_attention_maps_of_our_transformer_equal_a_slow_loop(pixels: Tensor) -> None:
    network = sharpen(vit_tiny())
    assert isinstance(network, VisionTransformer)
    maps = attention_maps(network, pixels)
    assert [tuple(attention.shape) for attention in maps] == 4 * [(2, 64, 64)]
    with torch.no_grad():
        tokens = network.patches(network.normalise(pixels)).flatten(2).transpose(1, 2) + network.positions
        for block, fast in zip(network.blocks[:2], maps, strict=False):
            attention = block.attention
            normal = block.norm1(tokens)[0]
            slow = slow_attention(normal, attention.qkv.weight, attention.qkv.bias, num_heads=2)
            assert torch.allclose(fast, slow, atol=1e-5)
            assert slow.std() > 0.005  # not uniform
            value = (normal @ attention.qkv.weight[128:].T + attention.qkv.bias[128:]).view(64, 2, 32)
            mixed = torch.einsum("hij,jhd->ihd", slow, value).reshape(64, 64)
            assert torch.allclose(attention.out(mixed), attention(normal[None])[0], atol=1e-5)
            tokens = block(tokens)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_attention_maps_of_timm_equal_its_unfused_path(name: str, pixels: Tensor) -> None:
    network = sharpen(build_timm(name, pretrained=False, size_of_weights=False)).double()
    assert isinstance(network, Pretrained)
    pixels = pixels.double()
    maps = attention_maps(network, pixels)
    heat = rollout_map(network, pixels)
    caught: list[Tensor] = []
    for block in network.network.blocks:  # type: ignore[union-attr]
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _layer, _inputs, output: caught.append(output[0]))
    with torch.no_grad():
        network(pixels)
    assert len(caught) == len(maps) > 1
    for ours, theirs in zip(maps, caught, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)
        assert theirs.std() > 0.003
    assert heat.shape == (10, 10)  # 160 pixels in patches of 16
    flow = rollout(caught)
    first = 0 if network.network.pool_include_prefix else 1
    pooled = flow[0] if network.network.global_pool == "token" else flow[first:].mean(0)
    assert torch.allclose(heat.flatten(), pooled[1:], atol=1e-9)


def test_rollout_is_the_sum_over_all_paths() -> None:
    """Three blocks of four tokens: how much of j is in i is the sum over all paths, half attention, half residual."""
    maps = random_maps(3, heads=2, tokens=4)
    steps = [(attention.mean(0) + torch.eye(4)) / 2 for attention in maps]
    slow = torch.zeros(4, 4)
    for i in range(4):
        for a in range(4):
            for b in range(4):
                for j in range(4):
                    slow[i, j] += steps[2][i, a] * steps[1][a, b] * steps[0][b, j]
    assert torch.allclose(rollout(maps), slow, atol=1e-6)


def test_rows_of_a_rollout_sum_to_one(pixels: Tensor) -> None:
    for maps in (random_maps(12, heads=3, tokens=50), attention_maps(sharpen(vit_tiny()), pixels)):
        flow = rollout(maps)
        assert (flow >= 0).all()
        assert torch.allclose(flow.sum(1), torch.ones(len(flow)), atol=1e-5)


def test_attention_of_each_token_to_itself_is_the_identity() -> None:
    assert torch.equal(rollout(5 * [torch.eye(6).expand(2, 6, 6)]), torch.eye(6))


def test_the_rollout_of_a_mean_head_sums_to_one() -> None:
    heat = rollout_map(vit_tiny().eval(), torch.zeros(1, 3, 32, 32))
    assert torch.isclose(heat.sum(), torch.tensor(1.0), atol=1e-5)


def test_only_plain_transformers_are_recognised_as_plain() -> None:
    plain = {name: is_plain_transformer(build_timm(name, pretrained=False, size_of_weights=False).network) for name in
             ("test_vit", "test_vit3", "test_resnet")}  # fmt: skip
    assert plain == {"test_vit": True, "test_vit3": False, "test_resnet": False}  # the third pools by attention
