"""The doctor, then the tests that need a GPU, then one table for docs/measurements.md:  python -m tests.gpu_check

Runs on a machine without most of pyproject.toml's packages (.ci/gpu_check): files with such tests are found by their
text and named to pytest, so that no other file is collected.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from models.doctor.__main__ import Options, check, examine
from models.doctor.findings import PAGE, Findings, summary
from models.doctor.stage import NO_GPU, Row
from models.doctor.supervise import Ended, end_group
from pipeline.errors import command
from pipeline.flags import parse

ROOT = Path(__file__).parents[1]
TESTS_S = 240
MARK = "mark.gpu"


@dataclass(frozen=True)
class Checks:
    """What is checked beside the doctor."""

    data: str | None = None
    """A .beton for the doctor; photographs are made when absent."""
    out: str = "runs/gpu-check"
    """Folder for doctor.json, doctor.md and the logs."""
    quick: bool = False
    """The doctor's quick form."""


def gpu_files(folder: Path = ROOT / "tests") -> list[Path]:
    """Files with a test that needs a GPU."""
    own = Path(__file__)
    return sorted(
        path for path in folder.rglob("test_*.py") if MARK in path.read_text(encoding="utf-8") and path != own
    )


def gpu_tests(out: Path) -> Ended:
    """Run them by pytest, and make a row of each file."""
    began, report, log = time.monotonic(), out / "gpu_tests.xml", out / "logs" / "gpu_tests.txt"
    report.unlink(missing_ok=True)
    words = ["-m", "pytest", "-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider", f"--junitxml={report}"]
    words += [str(path.relative_to(ROOT)) for path in gpu_files()]
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = child.wait(TESTS_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(child)
    rows = rows_of(report) if report.exists() else []
    if code is None or (code and not any(row.result == "wrong" for row in rows)):
        how = f"not over after {TESTS_S} s" if code is None else f"pytest ended with code {code}"
        rows.append(Row("tests", "wrong", how, f"read {log}"))
    return Ended(rows, {}, time.monotonic() - began)


def rows_of(report: Path) -> list[Row]:
    """A row of each file of a JUnit report: passed, or the names of what failed, or why all were skipped."""
    files: dict[str, list[ElementTree.Element]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        files.setdefault(case.get("classname", "").split(".Test")[0], []).append(case)
    rows = []
    for name, cases in sorted(files.items()):
        what = name.replace(".", "/").removeprefix("tests/")
        failed = [
            case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None
        ]
        skipped = [found for case in cases if (found := case.find("skipped")) is not None]
        if failed:
            rows.append(
                Row(what, "wrong", f"{len(failed)} of {len(cases)} failed: {', '.join(failed[:3])}", "see the log")
            )
        elif len(skipped) == len(cases):
            why = skipped[0].get("message", "").removeprefix("Skipped: ")
            rows.append(Row(what, "skipped", NO_GPU if "no CUDA device" in why else why))
        else:
            rows.append(Row(what, "ok", f"{len(cases) - len(skipped)} passed, {len(skipped)} skipped"))
    return rows


def main() -> int:
    """Run both, print one table, and return 1 if something is wrong."""
    asked = parse(Checks, prog="python -m tests.gpu_check", description=__doc__)
    options = Options(quick=asked.quick, data=asked.data, out=asked.out)
    check(options)
    findings: Findings = examine(options)
    print("gpu_tests ...", file=sys.stderr, flush=True)
    ended = gpu_tests(Path(asked.out).resolve())
    findings.command = "make gpu-check"
    findings.add("gpu_tests", ended)
    print(summary("gpu_tests", ended), file=sys.stderr, flush=True)
    print(findings.page(), end="")
    print(f"\nin {Path(asked.out) / PAGE}")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    command(main)
