"""Time the packed Semi-MAE step against the same step in separate forward passes:  python -m models.bench --help"""

from models.bench.packed_step import main
from pipeline.errors import command

if __name__ == "__main__":
    command(main)
