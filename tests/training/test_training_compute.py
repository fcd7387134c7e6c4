"""The variants of a step that the benchmark of training compute puts into the model."""

import pytest
import torch
from conftest import TOWER

from benchmarks.training_compute import Rounded, Variant, put_in, some_of
from utils.models.clip import Classifier

CONFIG = {**TOWER, "image_size": 32, "projection_dim": 8}


def test_patch_dropout_keeps_the_class_token_and_a_share_of_the_patches():
    tokens = torch.arange(5 * 17 * 3.0).reshape(5, 17, 3)
    kept = some_of(tokens, 0.25)
    assert kept.shape == (5, 13, 3)
    assert torch.equal(kept[:, 0], tokens[:, 0])
    for some, every in zip(kept[:, 1:, 0].tolist(), tokens[:, 1:, 0].tolist(), strict=True):
        assert len(set(some)) == 12
        assert set(some) <= set(every)


def test_a_variant_changes_training_alone_and_ends_with_its_block():
    torch.manual_seed(0)
    model, pixels, embed = Classifier(CONFIG, 18), torch.randn(3, 3, 32, 32), Classifier.embed
    whole = model.eval().embed(pixels)
    for variant in (Variant(dropped=0.5), Variant(sizes=((16, 1.0),))):
        with put_in(variant):
            assert torch.equal(model.eval().embed(pixels), whole)
            assert not torch.allclose(model.train().embed(pixels), whole, atol=1e-3)
    with put_in(Variant()):
        assert torch.allclose(model.train().embed(pixels), whole, atol=1e-6)
    assert Classifier.embed is embed


@pytest.mark.parametrize("where", ["forwards", "backwards"])
def test_products_of_bf16_are_added_up_in_float32_and_rounded_once(where):
    torch.manual_seed(0)
    weight, x = torch.randn(8, 4096).bfloat16(), torch.randn(6, 4096).bfloat16()
    layer = torch.nn.Linear(4096, 8, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    with Rounded(), torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    exact = (x.double() @ weight.double().T).bfloat16()
    if where == "backwards":
        to = torch.randn(6, 8).bfloat16()
        with Rounded():
            y.backward(to)
        y, exact = layer.weight.grad.bfloat16(), (to.double().T @ x.double()).bfloat16()
    assert y.dtype == torch.bfloat16
    assert (y == exact).float().mean() > 0.99  # float32 may add up to the other side of a rounding edge


def test_other_products_and_float32_are_left_alone():
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    with Rounded():
        assert torch.equal(a @ b, torch.mm(a, b))
        assert (a @ b).dtype == torch.float32
