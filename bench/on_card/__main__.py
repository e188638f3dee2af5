"""`python -m bench.on_card OUT`: all parts, and a summary; see bench/on_card.sh. Needs nothing but Python itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import parts


def main() -> None:
    command = argparse.ArgumentParser(prog="bench/on_card.sh", description=__doc__)
    command.add_argument("out", nargs="?", type=Path, default=Path("on_card"), help="folder for results: on_card")
    command.add_argument("--seconds", type=float, default=parts.TOTAL, metavar="S", help="for everything: 480")
    command.add_argument("--small", action="store_true", help="a rehearsal: the smallest sizes")
    arguments = command.parse_args()
    out: Path = arguments.out
    if out.is_dir() and any(out.iterdir()):
        sys.exit(f"{out}: expected a folder that is empty or not there, found files in it")
    out.mkdir(parents=True, exist_ok=True)
    ended = parts.run_all(out, total=arguments.seconds, small=arguments.small)
    sys.stdout.write(_end_of(out / parts.LOG))
    for each in ended:
        print(f"{each.part}: {each.how} after {each.seconds:.1f} s of {each.limit:.1f}")
    print(f"{out}: {sum(path.stat().st_size for path in out.iterdir()):,} bytes; python -m bench.on_card_report {out}")
    sys.exit(any(each.how != "done" for each in ended))


def _end_of(log: Path, most: int = 8000) -> str:
    """What the last part said, which is the report."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return text[text.rfind("\n== ") :][-most:]


if __name__ == "__main__":
    main()
