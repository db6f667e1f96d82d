"""Write images as a .beton:  python -m pipeline.convert SRC OUT.beton"""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from pipeline.concurrency.cores import cores
from pipeline.convert.advise import SIDES, Choice, advice
from pipeline.convert.conversion import WORTH_ADVICE_S, Options, convert
from pipeline.convert.summary import summary
from pipeline.errors import InputError, command
from pipeline.flags import later, parse
from pipeline.labels.splits import split_name
from pipeline.sources.find import find
from pipeline.sources.reading import FOUND_OUT, Reading
from pipeline.store.beton import open_beton


def main() -> None:
    """The command line of this module."""

    @later
    def door(
        source: Annotated[Path, arg(metavar="SRC")],
        out: Annotated[Path | None, arg(metavar="OUT.beton")] = None,
        /,
        options: Options = Options(),  # noqa: B008 -- frozen, and what tyro shows as the defaults
        reading: Reading = FOUND_OUT,
        unlabelled: Path | None = None,
        advise: bool = False,
    ) -> None:
        """Write images as one .beton file, with the splits that say which labels may be seen.

        Args:
            source: folder of class folders, folder of images without labels, table (CSV) of files and classes, or
                annotations (JSON) as iNaturalist's
            out: file to write; --advise needs none
            options: how images are stored, and which labels may be seen
            reading: how a folder or a table is to be read
            unlabelled: folder of images to add without labels
            advise: write nothing, but measure on some images what each store, side and quality would cost
        """
        options.check()
        asked = (
            Choice(options.side, options.quality, options.reencode, options.decoding, options.store),
            options.seed,
            options.workers or cores(),
        )
        if advise:
            print(advice(find(source, unlabelled, reading), *asked))
            return
        if out is None:
            raise InputError(f"expected the file to write: python -m pipeline.convert {source} OUT.beton")
        convert(source, out, options, reading=reading, unlabelled=unlabelled, progress=sys.stderr.isatty())
        beton = open_beton(out)
        print(summary(beton, [split_name(fraction, k, options.seed) for fraction, k in options.draws()]))
        if beton.manifest.seconds > WORTH_ADVICE_S:
            print(advice(find(source, unlabelled, reading), *asked))
        elif beton.manifest.side["max"] > min(SIDES):
            print("what another --store, --side or --quality would cost: the same command with --advise")

    parse(door, config=(OmitArgPrefixes,), prog="python -m pipeline.convert")()


if __name__ == "__main__":
    command(main)
