"""python -m models.evaluate, in this process."""

import sys

import pytest

from models.evaluate import __main__ as evaluate


@pytest.fixture
def asked(monkeypatch):
    """asked(*argv) runs the command line with these words."""

    def run(*argv: object) -> None:
        monkeypatch.setattr(sys, "argv", ["models.evaluate", *map(str, argv)])
        evaluate.main()

    return run
