"""Labels that mean other classes than the outputs of a network are refused, or told where nobody can know."""

import pytest

from qsdt_jax.data.classes import Classes, class_difference, named, require_same_classes
from qsdt_jax.errors import UserError

TWELVE = tuple(str(number) for number in range(12))
AS_TEXT = tuple(sorted(TWELVE))  # 0, 1, 10, 11, 2, ..., as folders are.
PADDED = tuple(f"{number:02}" for number in range(12))
IDS = ("n01440764", "n01443537", "n01484850")  # WordNet's, in order.


def unknown(outputs: int) -> Classes:
    return Classes(where="the network", outputs=outputs, names=None)


def refused(data, network) -> str:
    with pytest.raises(UserError) as caught:
        require_same_classes(data, network, what="the test split")
    told = str(caught.value)
    assert told.startswith("the test split has ") and "\n" not in told
    return told


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (IDS, IDS),
        (AS_TEXT, AS_TEXT),  # Trained with these folders, whose order is as good as any.
        (PADDED, TWELVE),
        (TWELVE, PADDED),
        (("cafe\u0301", "tea"), ("caf\xe9", "tea")),  # The same word in two Unicode forms.
        (("0" + "1" * 5000, "2"), ("1" * 5000, "2")),  # More digits than Python takes for a number.
    ],
)
def test_the_same_classes(data, names, capsys):
    require_same_classes(data, named("the network", names), what="the test split")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("data", "names", "told"),
    [
        (
            AS_TEXT,
            TWELVE,
            "in another order: '10' where the network has '2' (class 2); folders are sorted as",
        ),
        (
            AS_TEXT,
            PADDED,
            "in another order: '10' where the network has '02' (class 2); folders are sorted as",
        ),
        (TWELVE, AS_TEXT, "in another order: '2' where the network has '10' (class 2)"),
        (("dog", "cat"), ("cat", "dog"), "the classes of the network in another order: 'dog' where"),
        (("01", "1"), ("1", "01"), "in another order: '01' where the network has '1' (class 0)"),
        (("cat", "cow"), ("cat", "dog"), "other classes than the network: 'cow' where the network has 'dog'"),
        (TWELVE, tuple("abcdefghijkl"), "other classes than the network: '0' where the network has 'a'"),
        (("cat",), ("cat", "dog"), "1 classes, but the network has 2: only the network has 'dog'"),
        (("cat", "dog"), ("cat",), "2 classes, but the network has 1: only the test split has 'dog'"),
        ((), ("cat",), "0 classes, but the network has 1"),
    ],
)
def test_other_classes(data, names, told):
    assert told in refused(data, named("the network", names))


@pytest.mark.parametrize(
    "data", [IDS, ("goldfish", "shark", "tench"), ("000", "001", "002"), ("a_9", "a_10")]
)
def test_classes_that_are_not_known_are_taken_on_trust_in_a_line(data, capsys):
    require_same_classes(data, unknown(len(data)), what="the test split")
    told = capsys.readouterr().err
    assert "on trust" in told and ", ".join(data) in told and told.count("\n") == 1


@pytest.mark.parametrize(
    "data", [AS_TEXT, tuple(f"class_{n}" for n in AS_TEXT), tuple(f"{n}. place" for n in AS_TEXT)]
)
def test_numbers_out_of_order_are_no_trust(data, capsys):
    told = refused(data, unknown(12))
    assert "do not stand in the order of their numbers" in told and "leading zeros (01, 02, 10)" in told
    assert "import it with these names" in told and capsys.readouterr().err == ""
    assert refused(data[:5], unknown(12)) == "the test split has 5 classes, but the network has 12"


def test_names_with_numbers_of_several_kinds_have_no_order_of_their_own():
    for names in (("b2 stealth", "a10 warthog", "f16"), ("9" * 5000, "1" * 5000)):
        assert class_difference(names, unknown(len(names)), what="the test split") is None
