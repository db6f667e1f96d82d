"""What tyro refuses is one line, whatever its box looks like; what it takes passes."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest

from pipeline import split
from pipeline.errors import InputError
from pipeline.flags import later, parse


@dataclass
class Flags:
    """Some flags."""

    batch: int = 1
    """Images, so many that this help needs more than a line of the terminal: it must not end up in the message."""
    view: Literal["weak", "strong"] = "weak"
    size: int | tuple[int, int] = 224
    quick: bool = False


REFUSED = {
    "a word for a number": (["--batch", "many"], ["--batch", "'many'", "; expected --batch INT;"]),
    "neither one number nor two": (["--size", "1", "2", "3"], ["--size is 1 2 3; expected --size INT|{INT INT};"]),
    "no such choice": (["--view", "wek"], ["--view", "'wek'", "('weak', 'strong')"]),
    "a slip": (["--bach", "3"], ["--bach", "did you mean --batch?"]),
    "a slip in a switch": (["--quik"], ["--quik", "did you mean --quick?"]),
    "a word too many": (["3"], ["Unrecognized options: 3;"]),
    "no value": (["--batch"], ["Missing value for argument '--batch'"]),
}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_flag_is_said_in_one_line(case, encoding, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout.__class__, "encoding", encoding, raising=False)  # tyro draws boxes of other lines
    flags, says = REFUSED[case]
    with pytest.raises(InputError) as refused:
        parse(Flags, args=flags)
    assert "".join(capsys.readouterr()) == ""
    line = str(refused.value)
    assert line.endswith("; --help shows every flag")
    assert all(said in line for said in says), line
    assert not set(line) & set("\n│╭─")
    assert "terminal" not in line
    assert "errors" not in line


def test_where_the_help_is_found_is_no_suggestion():
    def door(name: str, /) -> None:
        """A door."""

    with pytest.raises(InputError, match=r"^Missing from a b c d e: STR name \(required\); --help shows every flag$"):
        parse(later(door), args=[], prog="a b c d e")


@pytest.mark.parametrize(("words", "says"), {("x", "--fraction", "1"): True, ("make",): False}.items())
def test_a_subcommand_that_is_left_out_is_named(words, says, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["split", *words])
    with pytest.raises(InputError) as refused:
        split.main()
    assert ("the first word is one of: make, import; " in str(refused.value)) is says, refused.value
    assert "python?" not in str(refused.value)


def test_flags_that_are_right_and_help_pass(capsys):
    assert parse(Flags, args=["--batch", "3"]).batch == 3
    with pytest.raises(SystemExit) as ended:
        parse(Flags, args=["--help"])
    assert ended.value.code == 0
    assert "--batch" in capsys.readouterr().out


def test_a_door_is_entered_when_its_flags_are_known(capsys):
    entered = []

    def door(name: str, /, batch: int = 2) -> None:
        """A door.

        Args:
            batch: how many
        """
        entered.append((name, batch))

    asked = parse(later(door), args=["digits", "--batch", "3"])
    assert entered == []
    asked()
    assert entered == [("digits", 3)]
    with pytest.raises(InputError, match="'three'"):
        parse(later(door), args=["digits", "--batch", "three"])
    with pytest.raises(SystemExit):
        parse(later(door), args=["--help"])
    assert "how many" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["pipeline.convert", "pipeline.split", "pipeline.bench.simulate", "models.predict"])
def test_every_door_says_it_in_a_line(module):
    flags = ["make"] if module == "pipeline.split" else []
    ran = subprocess.run(
        [sys.executable, "-m", module, *flags, "a", "b", "--no-such-flag"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert "--no-such-flag" in ran.stderr
