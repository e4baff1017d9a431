"""The compiled convolution equals the sum that defines it, at any size and number of channels."""

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from mar_pipeline.inference.winograd import MAX_WIDTH, WinogradConvolution

SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 3, 4, 4),
    (1, 5, 4, 7, 3),
    (2, 33, 33, 37, 53),
    (1, 32, 32, 18, 18),
    (1, 2, 7, 5, 830),
    (2, 1, 2, 13, MAX_WIDTH),
]


@pytest.mark.parametrize(("batch", "channels_in", "channels_out", "height", "width"), SHAPES)
def test_equals_the_direct_sum(batch: int, channels_in: int, channels_out: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    x = 50 + 50 * torch.randn(batch, channels_in, height, width)
    addend = 20 * torch.randn(batch, channels_out, height, width)
    with torch.no_grad():
        exact = functional.conv2d(x.double(), convolution.weight.double(), convolution.bias.double(), padding=1)
    compiled = WinogradConvolution(convolution)
    for other in (None, addend):
        out = torch.full_like(addend, torch.nan)
        compiled(x, out, other)
        expected = exact if other is None else exact + other
        assert (out - expected.relu()).abs().max() < 2e-5 * expected.abs().max()


def test_threads_share_the_strips() -> None:
    convolution = nn.Conv2d(4, 4, 3, padding=1)
    compiled, x, threads = WinogradConvolution(convolution), torch.randn(2, 4, 100, 400), torch.get_num_threads()
    results = [torch.empty_like(x) for _ in range(2)]
    try:
        for count, out in zip((1, 3), results, strict=True):
            torch.set_num_threads(count)
            compiled(x, out)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_keeps_its_own_weights() -> None:
    convolution = nn.Conv2d(2, 2, 3, padding=1)
    compiled, x = WinogradConvolution(convolution), torch.randn(1, 2, 9, 9)
    before, after = torch.empty_like(x), torch.empty_like(x)
    compiled(x, before)
    nn.init.zeros_(convolution.weight)
    nn.init.ones_(convolution.bias)
    compiled(x, after)
    assert torch.equal(before, after)
