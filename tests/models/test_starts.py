"""What a run may start from, by its name alone."""

import pytest

from utils.models.starts import is_source


@pytest.mark.parametrize("name", ["demo/no_tower.pt", "demo/no_tower.pth", "", "no_tower"])
def test_a_file_that_is_not_there_is_no_hub_id(name):
    assert not is_source(name)


@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch16", "somebody/ViT-B-32.v2"])
def test_a_hub_id_may_be_a_source(name):
    assert is_source(name)
