"""Use case 1 of OpenGridGym on ieee34: tables, the paper's figures 5 to 7, and what it publishes beside what we find.

    python benchmarks/opengridgym_market_power.py --out out/market_power --seeds 200
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mktopt.demo import FEW_SEEDS, SEEDS, run_use_case
from mktopt.errors import MktoptError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/market_power"), help="folder for tables and pictures")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="draws of flexible consumers per share")
    parser.add_argument("--quick", action="store_true", help="5 draws")
    chosen = parser.parse_args(arguments)
    if chosen.seeds < 1:
        parser.error("--seeds must be at least 1")
    try:
        run_use_case(chosen.out, seeds=FEW_SEEDS if chosen.quick else range(chosen.seeds))
    except MktoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"left in {chosen.out}/: {', '.join(sorted(file.name for file in chosen.out.iterdir()))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
