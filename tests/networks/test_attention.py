"""Attention against independent forms: the quadratic map, pixel-by-pixel windows, timm's Swin block."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch.testing import assert_close

from pipeline.networks.sca.attention import (
    CrossAttention,
    WindowBlock,
    WindowSelfAttention,
    linear_attention,
    merge,
    partition,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def quadratic_attention(query, key, value):
    """The same attention with its (N x n) map written out."""
    weights = torch.einsum("bdhw,bdij->bhwij", query, key)
    weights = weights / weights.sum((3, 4), keepdim=True)
    return torch.einsum("bhwij,bcij->bchw", weights, value)


@pytest.mark.parametrize("source_size", [(6, 5), (3, 4), (1, 1)])
def test_linear_attention_is_the_quadratic_form(source_size):
    query = torch.rand(2, 8, 6, 5, dtype=torch.double) + 0.01
    key = torch.rand(2, 8, *source_size, dtype=torch.double) + 0.01
    value = torch.randn(2, 3, *source_size, dtype=torch.double)
    assert_close(linear_attention(query, key, value), quadratic_attention(query, key, value))


def test_linear_attention_has_the_gradients_of_the_quadratic_form():
    tensors = [torch.rand(1, 4, 5, 3), torch.rand(1, 4, 2, 3), torch.randn(1, 6, 2, 3)]
    gradients = []
    for form in (linear_attention, quadratic_attention):
        leaves = [x.clone().requires_grad_() for x in tensors]
        form(*leaves).square().sum().backward()
        gradients.append([x.grad for x in leaves])
    assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_linear_attention_does_not_care_about_memory_format():
    q, k, v = torch.rand(2, 8, 6, 5), torch.rand(2, 8, 3, 4), torch.randn(2, 3, 3, 4)
    last = [x.to(memory_format=torch.channels_last) for x in (q, k, v)]
    assert_close(linear_attention(*last), linear_attention(q, k, v))


def test_linear_attention_survives_vanishing_weights():
    zero = torch.zeros(1, 4, 3, 3)
    assert_close(linear_attention(zero, zero, torch.ones(1, 2, 3, 3)), torch.zeros(1, 2, 3, 3))


def test_linear_attention_averages_large_maps_in_half_precision():
    # Weights are uniform, so the answer is the mean value; a bfloat16 sum of 2**16 would stall.
    ones = torch.ones(1, 4, 256, 256)
    with torch.autocast("cpu", torch.bfloat16):
        out = linear_attention(ones[..., :2, :2], ones, 3 * ones)
    assert_close(out.float(), torch.full((1, 4, 2, 2), 3.0), rtol=1e-2, atol=0)


def test_cross_attention_is_a_weighted_mean_of_values():
    cam = CrossAttention(12).eval()
    target, source = torch.randn(2, 12, 8, 6), torch.randn(2, 12, 4, 3)
    query, key, value = cam.query(target), cam.key(source), cam.value(source)
    assert (query > 0).all() and (key > 0).all()
    out = cam(target, source)
    assert out.shape == (2, cam.out_channels, 8, 6)
    assert_close(out, quadratic_attention(query, key, value), rtol=1e-4, atol=1e-5)
    low, high = value.amin((2, 3), keepdim=True), value.amax((2, 3), keepdim=True)
    assert (out >= low - 1e-5).all() and (out <= high + 1e-5).all()


def test_partition_cuts_windows_row_by_row_and_merge_undoes_it():
    x = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    windows = partition(x, 2)
    assert windows.shape == (12, 4, 1)
    assert windows[1].flatten().tolist() == [2, 3, 8, 9]
    assert windows[3].flatten().tolist() == [12, 13, 18, 19]
    assert torch.equal(merge(windows, 2, (4, 6)), x)


@pytest.mark.parametrize("shift", [0, 3])
def test_window_block_is_timms_where_windows_fit(shift):
    block = WindowBlock(12, heads=6, shift=shift)
    swin = SwinTransformerBlock(12, (14, 21), 6, window_size=7, shift_size=shift, always_partition=True)
    swin.norm1, swin.attn = block.norm, block.attention
    x = torch.randn(2, 14, 21, 12)
    assert_close(block(x), x + swin._attn(swin.norm1(x)))


def explicit_window_attention(block, x):
    """Every pixel attends to the pixels of its window, one by one: no roll, no mask.

    Where padding is attended, a window has all its pixels: those outside the map are zeros.
    """
    attention, window = block.attention, block.window
    height, width = x.shape[1:3]
    shift = [block.shift if side > window or block.shift_small else 0 for side in (height, width)]
    heads, head_dim = attention.num_heads, attention.qkv.out_features // (3 * attention.num_heads)
    normed = block.norm(x)
    around = [(i, j) for i in range(height) for j in range(width)]
    if block.padding == "attended":
        rows, columns = (math.ceil(side / window) * window for side in (height, width))
        normed = F.pad(normed, (0, 0, 0, columns - width, 0, rows - height))
        around = [(i, j) for i in range(rows) for j in range(columns)]
    qkv = attention.qkv(normed).unflatten(-1, (3, heads, head_dim))
    table = attention.relative_position_bias_table.view(2 * window - 1, 2 * window - 1, heads)

    def cell(pixel):
        return [(p + window - s) // window for p, s in zip(pixel, shift, strict=True)]

    pixels = [(i, j) for i in range(height) for j in range(width)]
    out = torch.zeros(*x.shape[:3], heads * head_dim)
    for i, j in pixels:
        near = [p for p in around if cell(p) == cell((i, j))]
        rows, columns = zip(*near, strict=True)
        query = qkv[:, i, j, 0]
        key, value = qkv[:, rows, columns, 1], qkv[:, rows, columns, 2]
        bias = torch.stack([table[i - a + window - 1, j - b + window - 1] for a, b in near])
        logits = torch.einsum("bhd,bnhd->bnh", query, key) / math.sqrt(head_dim) + bias
        out[:, i, j] = torch.einsum("bnh,bnhd->bhd", logits.softmax(1), value).flatten(1)
    return x + attention.proj(out)


@pytest.mark.parametrize("padding", ["attended", "masked"])
@pytest.mark.parametrize(("shift", "small"), [(0, True), (1, True), (1, False)])
@pytest.mark.parametrize("size", [(6, 9), (7, 5), (2, 8), (1, 2), (3, 3)])
def test_window_block_pads_shifts_and_masks_rightly(size, shift, small, padding):
    # 8 channels don't divide by 3 heads.
    block = WindowBlock(8, heads=3, window=3, shift=shift, padding=padding, shift_small=small)
    torch.nn.init.normal_(block.attention.qkv.bias)  # all that padding has to say
    torch.nn.init.normal_(block.attention.relative_position_bias_table)
    x = torch.randn(2, *size, 8)
    assert_close(block(x), explicit_window_attention(block, x), rtol=1e-4, atol=1e-5)


def test_shifted_windows_carry_information_across_window_borders():
    x = torch.randn(1, 4, 14, 14)
    changed = x.clone()
    changed[..., 0, 0] += 1

    def reached(depth):
        torch.manual_seed(1)
        attention = WindowSelfAttention(4, heads=2, depth=depth)
        return ((attention(changed) - attention(x)).abs().sum(1)[0] > 1e-7).nonzero().amax(0).tolist()

    assert reached(1) == [6, 6]
    assert reached(2) == [9, 9]


@pytest.mark.parametrize(("channels", "heads"), [(18, 6), (16, 6), (6, 4)])
def test_window_self_attention_keeps_the_shape_for_any_width(channels, heads):
    attention = WindowSelfAttention(channels, heads, depth=2)
    assert attention(torch.randn(2, channels, 5, 11)).shape == (2, attention.out_channels, 5, 11)
