"""make gpu-check: the tests that need a GPU are found by their text, and their results become rows."""

import subprocess
import sys
from pathlib import Path

import pytest

from models.doctor.stage import Row
from tests import gpu_check
from tests.test_layout import ROOT

REPORT = """<testsuites><testsuite>
<testcase classname="tests.a.test_one" name="test_x"/>
<testcase classname="tests.a.test_one" name="test_y"><skipped message="nothing"/></testcase>
<testcase classname="tests.b.test_two" name="test_x"><failure message="no"/></testcase>
<testcase classname="tests.b.test_two" name="test_y"/>
<testcase classname="tests.c.test_three" name="test_x"><skipped message="no CUDA device here"/></testcase>
<testcase classname="tests.d.test_four" name="test_x"><skipped message="Skipped: DALI is not installed"/></testcase>
</testsuite></testsuites>"""


def test_each_file_is_a_row(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    assert gpu_check.rows_of(tmp_path / "report.xml") == [
        Row("a/test_one", "ok", "1 passed, 1 skipped"),
        Row("b/test_two", "wrong", "1 of 2 failed: test_x", "see the log"),
        Row("c/test_three", "skipped", "no GPU"),
        Row("d/test_four", "skipped", "DALI is not installed"),
    ]


def test_files_with_a_test_for_a_gpu_are_found():
    found = {path.relative_to(ROOT).as_posix() for path in gpu_check.gpu_files()}
    assert {"tests/models/encoder/test_packed.py", "tests/pipeline/executors/test_agreement.py"} <= found
    assert not {"tests/test_layout.py", "tests/test_gpu_check.py"} & found


def test_what_pytest_cannot_begin_is_a_row(tmp_path, monkeypatch):
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr(gpu_check, "gpu_files", lambda: [ROOT / "tests" / "nothing_here.py"])
    (row,) = gpu_check.gpu_tests(tmp_path).rows
    assert row.result == "wrong"
    assert "logs/gpu_tests.txt" in row.to_do


@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="the bundle is made from .venv")
def test_a_bundle_that_is_there_is_not_written_over(tmp_path):
    done = subprocess.run(
        [ROOT / ".ci/gpu_bundle", sys.executable, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path} is there")
    assert list(Path(tmp_path).iterdir()) == []
