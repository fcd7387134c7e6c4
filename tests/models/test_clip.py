"""The tower's first layer: one function on a CPU and on a GPU."""

import pytest
import torch
from conftest import TOWER

from utils.models.clip import Classifier


@pytest.mark.parametrize(("image_size", "patch_size"), [(32, 8), (96, 32)])
def test_the_product_of_patches_and_kernels_is_the_convolution(image_size, patch_size):
    model = Classifier({**TOWER, "image_size": image_size, "patch_size": patch_size}, 18)
    layer, pixels = model.vision_model.embeddings.patch_embedding, torch.randn(5, 3, image_size, image_size)
    torch.testing.assert_close(layer.product(pixels), layer(pixels), atol=1e-5, rtol=1e-5)
    weigh = torch.randn_like(layer(pixels))
    gradients = []
    for outputs in (layer.product(pixels), layer(pixels)):
        layer.weight.grad = None
        (outputs * weigh).sum().backward()
        gradients.append(layer.weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer.product(pixels)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), layer(pixels), atol=0.05, rtol=0.05)


def test_a_cpu_convolves_and_a_gpu_multiplies(monkeypatch):
    model = Classifier(TOWER, 18)
    layer, called = model.vision_model.embeddings.patch_embedding, []
    monkeypatch.setattr(type(layer), "product", lambda self, pixels: called.append(pixels) or pixels)
    plain = torch.nn.functional.conv2d(pixels := torch.randn(2, 3, 32, 32), layer.weight, stride=layer.stride)
    assert torch.equal(layer(pixels), plain)
    assert not called

    class OnGpu:
        is_cuda = True

    assert isinstance(layer(OnGpu()), OnGpu)
    assert called
