"""Keep the doctor's rows and write them whole after each stage: doctor.json for programs, doctor.md for people."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from models.doctor.stage import Row
from models.doctor.supervise import Ended
from pipeline.store.atomic_write import write_whole
from pipeline.text import line

JSON, PAGE = "doctor.json", "doctor.md"
HEAD = "stage", "what", "result", "figure", "what to do"
RESULTS = "ok", "slow", "wrong", "skipped"


@final
@dataclass
class Findings:
    """Rows by stage, in the order in which the stages ended, and the machine that they hold for."""

    folder: Path
    command: str
    where: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, Ended] = field(default_factory=dict)

    def add(self, name: str, ended: Ended) -> None:
        """Take a stage's rows and write both files. Raises OSError if the disk refuses."""
        self.stages[name] = ended
        self.where = self.where or ended.where
        write_whole(self.folder / JSON, json.dumps(self.as_json(), indent=2) + "\n")
        write_whole(self.folder / PAGE, self.page())

    @property
    def rows(self) -> list[tuple[str, Row]]:
        """Return every row with the name of its stage."""
        return [(name, row) for name, ended in self.stages.items() for row in ended.rows]

    @property
    def wrong(self) -> list[tuple[str, Row]]:
        """Return the rows by which a run would fail, or learn something else."""
        return [(name, row) for name, row in self.rows if row.result == "wrong"]

    def as_json(self) -> dict[str, Any]:
        """Return all as JSON types."""
        return {
            "command": self.command,
            "where": self.where,
            "wrong": len(self.wrong),
            "stages": {name: {"seconds": round(ended.seconds, 1)} for name, ended in self.stages.items()},
            "rows": [{"stage": name, **row.as_json()} for name, row in self.rows],
        }

    def page(self) -> str:
        """Return the Markdown page: the command, the machine, one table, and a sentence that sums it up."""
        return f"`{self.command}`\n\n{self.machine()}\n\n{self.table()}\n{self.verdict()}\n"

    def machine(self) -> str:
        """Describe the machine and the versions in one line."""
        return ", ".join(f"{name} {value}" for name, value in self.where.items() if value is not None)

    def table(self) -> str:
        """Return every row as a table in Markdown."""
        rows = [HEAD, ["---"] * len(HEAD)]
        rows += [(name, row.what, row.result, row.figure, row.to_do) for name, row in self.rows]
        return "".join(f"{line([' '.join(cell.split()) for cell in row])}\n" for row in rows)

    def verdict(self) -> str:
        """Sum up: how many rows of each result, in how many seconds."""
        counts = Counter(row.result for _, row in self.rows)
        said = ", ".join(f"{counts[result]} {result}" for result in RESULTS if counts[result])
        seconds = sum(ended.seconds for ended in self.stages.values())
        return f"{said or 'nothing was checked'}; {seconds:.0f} s"


def summary(name: str, ended: Ended) -> str:
    """Sum up one stage in a line for the terminal, with the rows that are neither ok nor skipped below it."""
    counts = Counter(row.result for row in ended.rows)
    said = ", ".join(f"{counts[result]} {result}" for result in RESULTS if counts[result])
    lines = [f"{name}: {said or 'nothing'} ({ended.seconds:.0f} s)"]
    for row in ended.rows:
        if row.result in ("slow", "wrong"):
            lines.append(f"  {row.result}: {row.what}: {row.figure}" + (f"; {row.to_do}" if row.to_do else ""))
    return "\n".join(lines)
