import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import release_state
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from utils.base.errors import InputError
from utils.data import competition
from utils.data.competition import prompts
from utils.data.labels import Attribute, Labelling
from utils.models.heads import (
    CLIP_TEMPERATURE,
    FOLD_STRENGTH,
    head_family,
    head_file,
    probe_head,
    random_head,
    sweep_head,
    zeroshot_head,
)
from utils.models.weights import Weights, read_weights, save_archive


@pytest.fixture
def toy_clip(tmp_path):
    """A CLIP of one layer with a word-level tokenizer that knows the words of the prompts."""
    words = sorted(
        {word for sentences in prompts(competition.labelling()) for text in sentences for word in text.split()}
    )
    vocabulary = {"<pad>": 0, "<start>": 1, "<unknown>": 2, **{word: k + 3 for k, word in enumerate(words)}}
    vocabulary["<end>"] = len(vocabulary)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", vocabulary["<end>"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>", model_max_length=40
    )
    fast.save_pretrained(tmp_path / "toy")
    torch.manual_seed(0)
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 40, "eos_token_id": vocabulary["<end>"]}
    config = CLIPConfig(
        vision_config={**small, "image_size": 16, "patch_size": 8},
        text_config={**small, **text, "pad_token_id": 0, "bos_token_id": 1},
        projection_dim=12,
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "toy")
    return tmp_path / "toy", model, fast


def test_zeroshot_head_is_the_mean_text_feature_of_each_class(toy_clip):
    folder, model, tokenizer = toy_clip
    weight, bias = zeroshot_head(str(folder), prompts(competition.labelling()))
    assert weight.shape == (18, 12)
    assert not bias.any()
    torch.testing.assert_close(weight.norm(dim=-1), model.logit_scale.exp().expand(18))
    for class_id in (0, 8, 17):
        rows = []
        for sentence in prompts(competition.labelling())[class_id]:
            tokens = tokenizer([sentence], return_tensors="pt")
            features = model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            features = getattr(features, "pooler_output", features)
            rows.append(normalize(features, dim=-1)[0])
        expected = normalize(torch.stack(rows).mean(0), dim=-1)
        torch.testing.assert_close(normalize(weight[class_id], dim=-1), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(weight[0], weight[17])


def test_zeroshot_is_the_default_with_a_text_tower_and_an_error_without(toy_clip):
    anchor = read_weights(toy_clip[0])
    labels = np.arange(3)
    assert head_family(anchor, competition.labelling(), None, "split", labels, "images")["head_init"] == "zeroshot"
    bare = Weights("bare.pt", anchor.state_dict, anchor.config)
    assert head_family(bare, competition.labelling(), None, "split", labels, "images")["head_init"] == "probe"
    with pytest.raises(InputError, match=r"bare\.pt has no text tower"):
        head_family(bare, competition.labelling(), "zeroshot", "split", labels, "images")


def test_prompts_count_for_a_family_only_where_they_are_other_than_the_competitions(toy_clip):
    anchor, labelling, labels = read_weights(toy_clip[0]), competition.labelling(), np.arange(6)

    def family(labelling, *more, kind="zeroshot"):
        return head_family(anchor, labelling, kind, "split", labels, "images", *more)

    own, others = prompts(labelling), [["a"]] * 18
    assert family(labelling) == family(labelling, None, own)  # as it was before there were others
    assert family(labelling)["inputs"] != family(labelling, None, others)["inputs"]
    folds = ["partition", "labels"]
    assert family(labelling, folds)["folds"] == family(labelling, folds, own)["folds"]
    assert family(labelling, folds)["folds"] != family(labelling, folds, others)["folds"]
    assert family(labelling, None, others, kind="probe") == family(labelling, kind="probe")


def test_a_head_is_made_of_the_prompts_that_are_given(toy_clip):
    folder, *_ = toy_clip
    flowers = Labelling((Attribute("label", ("rose", "daisy")),))
    anchor, sentences = read_weights(folder), [["a photo of a man."], ["a photo of a woman."]]
    family = head_family(anchor, flowers, None, "split", np.arange(2), "images", None, sentences)
    head = sweep_head(Accelerator(), anchor, family, flowers, None, sentences)
    expected, _ = zeroshot_head(str(folder), sentences)
    torch.testing.assert_close(head["classification_head.weight"], expected)


def test_a_family_changes_with_anchor_labels_split_and_kind():
    anchor = Weights("a", {"x": torch.zeros(2)}, {})
    labels = np.arange(6)
    reference = head_family(anchor, competition.labelling(), "probe", "split", labels, "images")
    assert reference == head_family(
        Weights("b", {"x": torch.zeros(2)}, {}), competition.labelling(), "probe", "split", labels, "images"
    )
    for other in (
        head_family(
            Weights("a", {"x": torch.ones(2)}, {}), competition.labelling(), "probe", "split", labels, "images"
        ),
        head_family(anchor, competition.labelling(age_limits=(29, 60)), "probe", "split", labels, "images"),
        head_family(anchor, competition.labelling(), "random", "split", labels, "images"),
        head_family(anchor, competition.labelling(), "probe", "other split", labels, "images"),
        head_family(anchor, competition.labelling(), "probe", "split", labels, "other images"),
        head_family(anchor, competition.labelling(), "probe", "split", labels[::-1].copy(), "images"),
    ):
        assert other["inputs"] != reference["inputs"]


def test_random_head_has_unit_rows_at_clips_temperature():
    weight, bias = random_head(18, 32)
    torch.testing.assert_close(weight.norm(dim=-1), torch.full((18,), CLIP_TEMPERATURE))
    assert torch.equal(weight, random_head(18, 32)[0])
    assert not bias.any()


def separable_features(labels: np.ndarray, noise: float = 0.1) -> np.ndarray:
    """Unit features in which mask, gender and age each have directions of their own."""
    parts = [
        np.eye(n)[values] for n, values in zip((3, 2, 3), competition.labelling().decode(labels).values(), strict=True)
    ]
    rows = np.concatenate(parts, 1)
    rows = rows + np.random.default_rng(0).normal(0, noise, rows.shape)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_probe_separates_the_classes_also_one_without_examples():
    labels = np.tile(np.arange(18), 20)
    persons = np.repeat(np.arange(60), 6)
    seen = labels != 11  # incorrect, female, old
    weight, bias = probe_head(separable_features(labels)[seen], labels[seen], persons[seen], competition.labelling())
    every = np.arange(18)
    logits = separable_features(every, noise=0) @ weight.numpy().T + bias.numpy()
    np.testing.assert_array_equal(logits.argmax(1), every)


def test_the_probes_of_all_folds_have_one_strength_which_no_labels_choose():
    labelling, labels, persons = competition.labelling(("age",)), np.tile(np.arange(3), 40), np.arange(120)
    features = separable_features(labels, noise=0.01)
    anchor = Weights("a", {"x": torch.zeros(2)}, {"projection_dim": features.shape[1]})
    expected = LogisticRegression(C=FOLD_STRENGTH, max_iter=1000).fit(features, labels).coef_
    heads = []
    for folds in (None, ["partition", "everybody's labels"]):
        family = head_family(anchor, labelling, "probe", "split", labels, "images", folds)
        head = sweep_head(Accelerator(), anchor, family, labelling, lambda: (features, labels, persons))
        heads.append(head["classification_head.weight"].numpy())
    np.testing.assert_allclose(heads[1], expected, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(heads[0]) > 2 * np.linalg.norm(heads[1])  # what cross-validation chooses on clean features


def test_probe_fills_in_a_value_that_nobody_has():
    labels = np.array([k for k in np.tile(np.arange(18), 20) if k % 3 != 2])  # nobody is old
    persons = np.repeat(np.arange(60), 4)
    weight, bias = probe_head(separable_features(labels), labels, persons, competition.labelling())
    assert torch.isfinite(weight).all()
    logits = separable_features(labels, noise=0) @ weight.numpy().T + bias.numpy()
    np.testing.assert_array_equal(logits.argmax(1), labels)  # the absent value wins nowhere


def test_probe_of_one_class_only():
    labels = np.zeros(12, int)
    weight, bias = probe_head(separable_features(labels), labels, np.arange(12), competition.labelling(("age",)))
    assert weight.shape == (3, 8)
    assert bias.argmax() == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:500],
        lambda content: content[: len(content) // 2] + b"\1" + content[len(content) // 2 + 1 :],
        lambda content: bytes(len(content)),
    ],
)
def test_a_damaged_head_is_made_anew(damage, caplog):
    torch.save(release_state(0), "release.pt")
    anchor, accelerator = read_weights("release.pt"), Accelerator(cpu=True)
    family = head_family(anchor, competition.labelling(), "random", "split", np.arange(18), "photographs")
    made = sweep_head(accelerator, anchor, family, competition.labelling(), training_features=None)
    head = {name: tensor.clone() for name, tensor in made.items()}  # those made are mapped from the file
    whole = head_file(family).read_bytes()
    head_file(family).write_bytes(damage(whole))
    with caplog.at_level("INFO"):
        again = sweep_head(accelerator, anchor, family, competition.labelling(), training_features=None)
    assert f"{head_file(family)} is damaged" in caplog.text
    assert all(torch.equal(again[name], head[name]) for name in head)
    assert head_file(family).read_bytes() == whole


def test_a_head_of_other_classes_is_made_anew():
    torch.save(release_state(0), "release.pt")
    anchor, accelerator = read_weights("release.pt"), Accelerator(cpu=True)
    family = head_family(anchor, competition.labelling(), "random", "split", np.arange(18), "photographs")
    save_archive(head_file(family), {"classification_head.weight": torch.zeros(3, 16)})
    head = sweep_head(accelerator, anchor, family, competition.labelling(), training_features=None)
    assert head["classification_head.weight"].shape == (18, 16)
