"""Change a manifest or a split and give it a checksum that fits, as no bit flip would."""

import json
from pathlib import Path
from typing import Any

from pipeline.store.checksummed_json import CHECKSUM, to_text


def rewrite(path: Path, **change: Any) -> None:
    """Give fields of a JSON file with a checksum other values, or, with `...`, remove them."""
    found = json.loads(path.read_text()) | change
    path.write_text(to_text({name: value for name, value in found.items() if name != CHECKSUM and value is not ...}))
