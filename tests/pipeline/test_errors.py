"""How a command ends: its exit code, one line, and which of several ranks says it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import errors
from pipeline.errors import InputError, command

ROOT = Path(__file__).parents[2]


def ended(raises: BaseException | None, returns: int | None = None) -> str | int | None:
    def main() -> int | None:
        if raises is not None:
            raise raises
        return returns

    with pytest.raises(SystemExit) as found:
        command(main)
    return found.value.code


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long `command` would have waited."""
    found = []
    monkeypatch.setattr(errors.time, "sleep", found.append)
    return found


def test_a_path_that_is_no_utf8_or_has_a_line_break_is_said_in_one_line():
    code = """
import sys
from pipeline.errors import InputError, command
def main():
    print("written to caf\\udce9/x")
    raise InputError("caf\\udce9/a\\nb\\rc.beton: no such file")
command(main)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"written to caf\\udce9/x\n")
    assert done.stderr == b"error: caf\\udce9/a\\nb\\rc.beton: no such file\n"


def test_exit_codes(capsys, waits):
    assert [ended(None), ended(None, 75)] == [0, 75]
    assert capsys.readouterr().err == ""
    assert [ended(InputError("wrong")), ended(KeyboardInterrupt())] == [2, 130]
    assert capsys.readouterr().err == "error: wrong\ninterrupted\n"
    assert waits == []


def test_the_first_rank_speaks_at_once_and_the_others_later(monkeypatch, capsys, waits):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert ended(InputError("wrong")) == 2
        assert capsys.readouterr().err == "error: wrong\n"
    assert waits == [errors.FIRST_RANK_S]
    assert ended(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["True", "os.environ['RANK'] == '1'"])
def test_under_torchrun_a_line_comes_once_whoever_has_the_error(tmp_path, condition):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, time\n"
        "from pipeline.errors import InputError, command\n"
        "def main():\n"
        f"    if {condition}:\n"
        "        raise InputError('wrong')\n"
        "    time.sleep(60)\n"
        "command(main)\n"
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.splitlines().count("error: wrong") == 1


def test_a_reader_that_has_enough_ends_a_command_quietly() -> None:
    code = "from pipeline.errors import command\ndef main():\n    while True: print('a line')\ncommand(main)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as writer:
        assert writer.stdout.readline() == "a line\n"
        writer.stdout.close()
        assert writer.stderr.read() == ""
        assert writer.wait(timeout=30) == 141


@pytest.mark.parametrize("argv", [["-m", "pipeline.convert", "--help"], ["train.py"]])
def test_a_reader_that_ends_before_the_last_line_is_written_ends_a_command_quietly(argv: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run([sys.executable, *argv], cwd=ROOT, stdout=write, stderr=-1, text=True, timeout=60)
    os.close(write)
    assert (ended.stderr, ended.returncode) == ("", 141)
