"""A soup goes to the Hugging Face hub when it is asked to, and only with an account."""

import pytest
from conftest import in_a_copy, soup, train

from utils.base.errors import InputError


def test_the_best_soup_goes_to_the_hub(faces, trained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    sent = {}

    class Hub:
        def whoami(self):
            return {"name": "someone"}

        def create_repo(self, repo, private, exist_ok):
            assert private
            return f"https://hub/{repo}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            sent[repo_id] = {path.name: path.read_bytes() for path in folder_path.iterdir()}

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    soup(faces, "--greedy-soup", "--push-to-hub", "someone/soup")
    assert {"model.safetensors", "config.json", "README.md"} <= sent["someone/soup"].keys()
    assert b"tags: [clip, model-soup]" in sent["someone/soup"]["README.md"]
    train(faces, trained[0].parent / "none", "--model", "model/finetune_cp_seed42_i0_epoch2.pt", "--name", "again",
          "--push-to-hub", "someone/single")  # fmt: skip
    assert b"fine-tuned from finetune_cp_seed42_i0_epoch2.pt" in sent["someone/single"]["README.md"]


def test_without_an_account_nothing_is_begun(faces, trained, monkeypatch):
    in_a_copy(trained, monkeypatch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"--push-to-hub a/b: .* \(log in once with 'hf auth login'\)"):
        soup(faces, "--greedy-soup", "--push-to-hub", "a/b")
