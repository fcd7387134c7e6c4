"""What a text tower is told of each class: of any classes, and as a file says."""

from pathlib import Path

import pytest

from utils.base.errors import InputError
from utils.data import competition
from utils.data.labels import Attribute, Labelling, number, own_class
from utils.data.prompts import TEMPLATES, default_prompts, read_prompts

FLOWERS = Labelling((Attribute("label", ("oxeye_daisy", "rose")),))
BIRDS = Labelling((Attribute("species", ("gull", "tern")), Attribute("ringed", ("yes", "no")), number("wing", (20,))))
WHOLE = Labelling((Attribute("colour", ("red", "blue")), Attribute("size", ("big", "small"))))


def prompts_file(*rows: str, header: str = "class,prompt") -> Path:
    path = Path("prompts.csv")
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_class_is_told_by_its_name_in_several_sentences():
    daisy, rose = default_prompts(FLOWERS)
    assert len(set(daisy)) == len(TEMPLATES) > 3
    assert daisy[0] == "a photo of a oxeye daisy."
    assert all("rose" in sentence for sentence in rose)


def test_attributes_are_told_together_and_those_that_say_nothing_alone_with_their_names():
    every = default_prompts(BIRDS)
    assert every[0][0] == "a photo of a gull, ringed yes, wing under 20."
    assert every[-1][0] == "a photo of a tern, ringed no, wing 20 and over."
    assert len({tuple(sentences) for sentences in every}) == 8


def test_the_competition_keeps_its_own_whoever_tells_its_attributes():
    assert default_prompts(competition.labelling()) == competition.prompts(competition.labelling())
    assert "man" in default_prompts(competition.labelling(("gender",)))[0][0]
    for other in (
        Labelling((Attribute("mask", ("on", "off")),)),
        Labelling((Attribute("age", ("young", "old")),)),
        Labelling((number("age", (30, 40, 60)),)),
    ):
        assert competition.prompts(other) is None
        assert len(default_prompts(other)) == other.num_classes


def test_a_file_tells_several_sentences_of_a_class():
    path = prompts_file("rose,a rose in bloom.", "oxeye_daisy,a daisy.", 'rose,"a bunch of roses, tied."')
    assert read_prompts(path, FLOWERS, FLOWERS) == [["a daisy."], ["a rose in bloom.", "a bunch of roses, tied."]]


def test_a_specialist_takes_its_own_classes_or_what_falls_under_them():
    path = prompts_file('"red, big",1', '"red, small",2', '"blue, big",3', '"blue, small",4')
    assert read_prompts(path, WHOLE.only(("size",)), WHOLE) == [["1", "3"], ["2", "4"]]
    assert own_class(WHOLE, WHOLE.only(("size",))).tolist() == [0, 1, 0, 1]
    assert read_prompts(prompts_file("big,b", "small,s"), WHOLE.only(("size",)), WHOLE) == [["b"], ["s"]]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["rose,a"], "class,prompt", "has no prompt for 'oxeye_daisy': add a row for each class"),
        (["rose,a", "tulip,b"], "class,prompt", "line 3: there is no class 'tulip', only oxeye_daisy; rose"),
        (["rose,a", "oxeye_daisy, "], "class,prompt", "line 3: oxeye_daisy has a blank prompt"),
        (["rose,a"], "label,prompt", "has the columns label,prompt, expected class,prompt"),
        ([], "class,prompt", "has no prompt for 'oxeye_daisy' and 1 other classes"),
    ],
)
def test_a_file_that_tells_other_classes_is_an_error(rows, header, message):
    with pytest.raises(InputError, match=message):
        read_prompts(prompts_file(*rows, header=header), FLOWERS, FLOWERS)
