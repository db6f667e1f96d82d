"""Draw the figure that a chain is in its paper: ours beside the paper's points, on the same axes.

    python -m models.evaluate.chain_figure mae_ablations:digits_ratio
    python -m models.evaluate.chain_figure runs/mae_ablations-digits_ratio --png

At any time, into the sweep's folder: figure.svg, and a page with the picture and the table. What is missing is not
drawn, and named. Points are means over the seeds whose run is over, with their sample standard deviation. `slurm` draws
the same where jobs end. Torch is imported only where nothing was submitted yet.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from models.config.figure import FILE, Figure
from models.evaluate.chain_figure_points import Drawing, drawing, read_figure
from models.evaluate.chain_table import States, filled, read_facts
from pipeline.errors import InputError, command
from pipeline.store.atomic_write import write_whole

PAGE = "table.html"
"""The picture and the table on one page, in the sweep's folder."""
NOT_INSTALLED = "no figure is drawn: matplotlib is not installed; `make setup` installs it"


def write(root: Path, known: Mapping, figure: Figure, states: States | None = None, *, png: bool = False) -> Drawing:
    """Draw a chain into its folder: FILE, PAGE, and with `png` the picture as PNG, too.

    Raises InputError for facts that are damaged, and where matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise InputError(NOT_INSTALLED)
    from models.evaluate.chain_figure_axes import draw  # takes a second
    from models.reporting.render import Picture, Section, Table, Text, html

    made, table = drawing(root, known, figure, states), filled(root, known, states)
    svg, pixels = draw(made)
    root.mkdir(parents=True, exist_ok=True)
    write_whole(root / FILE, svg)
    if png:
        write_whole(root / Path(FILE).with_suffix(".png"), pixels)
    picture = Picture(known["source"], f"{made.count()}.", pixels)
    notes = [Text(note) for note in table.notes]
    blocks = [picture, Table(table.lines[0], table.lines[1:]), *notes]
    write_whole(root / PAGE, html(table.title, [Section("", blocks)]))
    return made


def main() -> None:
    """Draw the chain that the command line names, and print what is there."""
    from tyro.conf import Positional

    from pipeline.flags import later, parse

    @later
    def door(sweep: Annotated[str, Positional], png: bool = False) -> None:
        """Draw the figure of a chain into its folder.

        Args:
            sweep: its name, or the folder in which it was run
            png: write it as PNG, too
        """
        root, known = read_facts(sweep)
        name = known.get("sweep")
        figure = read_figure(known) or _declared(name)
        if figure is None:
            raise InputError(f"{name} is no figure in its paper; python -m models.evaluate.chain_table {sweep}")
        made = write(root, known, figure, png=png)
        missing = made.missing()
        print(f"figure: {root / FILE}\npage: {root / PAGE}\n{made.count()}{f', without {missing}' if missing else ''}")

    parse(door, prog="python -m models.evaluate.chain_figure")()


def _declared(sweep: object) -> Figure | None:
    """Return the figure that a sweep declares now; facts of earlier submissions have none."""
    from models.config.catalogue import sweeps
    from models.config.chain import chain_of  # the method's file brings in torch

    chain = next((chain_of(name) for name, _ in sweeps() if name == sweep), None)
    return chain and chain.figure


if __name__ == "__main__":
    command(main)
