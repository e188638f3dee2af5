"""`python -m bench.on_card_report OUT`: what a card did beside what was predicted, over cuBLAS and cuSPARSE."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from .on_card import results
from .on_card.cards import H200, Card, like
from .on_card.cases import Case
from .on_card.floors import floor, predicted
from .tables import fastest, markdown, number, pick, ratio, wires
from .timing import Row

PEERS = ("cublas", "cupyx", "torch-eager", "torch-graph")
_FURTHEST = 10


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python -m bench.on_card_report OUT, a folder that bench/on_card.sh wrote")
    print("\n".join(report(Path(sys.argv[1]))))


def report(out: Path) -> Iterator[str]:
    """Lines of the report, part by part; what a part did not come to is left out."""
    about = next((row for row in results.read(out, "about") if row.get("what") == "card"), {})
    known = like(about.get("name", ""))
    versions = ", ".join(f"{name} {about.get(name.lower())}" for name in ("cupy", "NVRTC", "driver"))
    yield f"{about.get('name', 'no card')}; {versions}"
    for row in results.read(out, "parts"):
        yield f"{row['part']}: {row['how']} after {row['seconds']} s of {row['limit']}"
    yield from _libraries(out)
    yield from _tests(out)
    rows = [row for row in results.read(out, "times") if "engine" in row or row.get("bench") == "ceiling"]
    card = measured_card(known or H200, rows)
    if known is None:
        yield f"\nThis card is none of those known: predicted is an {card.name}, with what was measured in its place."
    yield from _ceilings(known or H200, card)
    if timed := [row for row in rows if "ms" in row]:
        yield "\n" + table(timed, card)
        yield from furthest(timed, card)
    for row in rows:
        if "failed" in row:
            yield f"failed: {_name(row)}, {row['engine']}: {row['failed'].splitlines()[-1]}"
    yield from _training(out)
    yield from (f"{row.pop('tool')}: {row}" for row in results.read(out, "tools"))


def measured_card(card: Card, rows: Sequence[Row]) -> Card:
    """A card with the ceilings that were measured."""
    found = {row["what"]: row for row in rows if row["bench"] == "ceiling"}
    rates = {"memory": "memory", "cache": "cache", "float32": "flops"}
    known = {field: found[what]["rate"] for what, field in rates.items() if what in found}
    if "launch" in found:
        known["launch"] = found["launch"]["seconds"]
    return card._replace(**known)


def table(rows: Sequence[Row], card: Card) -> str:
    """One line a case: microseconds measured, predicted from the card's measured ceilings, and the floor."""
    body = []
    for case in _cases(rows):
        these = _of(case, rows)
        ours = fastest(pick(these, "sparsecore"))
        dense = [fastest(pick(_of(case._replace(topology="dense", sparsity=0.0), rows), peer)) for peer in PEERS]
        sparse = fastest(pick(these, "cupyx"))
        torch = min((ms for ms in dense[2:] if ms is not None), default=None)
        times = [number(None if ms is None else 1e3 * ms) for ms in (ours, dense[0], sparse, torch)]
        planned = [1e6 * seconds(case, card) for seconds in (predicted, floor)]
        over = ratio(ours, planned[0] / 1e3), ratio(ours, planned[1] / 1e3)
        body.append([_name(case._asdict()), times[0], *map(number, planned), *over, *times[1:],
                     ratio(dense[0], ours), ratio(sparse, ours)])  # fmt: skip
    head = [
        "what, wiring, batch", "sparsecore", "predicted", "floor", "of predicted", "of floor", "cublas dense", "cupyx",
        "torch dense", "over cublas", "over cupyx",
    ]  # fmt: skip
    return markdown("Measured, µs:", head, body)


def furthest(rows: Sequence[Row], card: Card) -> Iterator[str]:
    """The cases that take longest beside their floor and an empty launch."""
    found = []
    for case in _cases(rows):
        if (ours := fastest(pick(_of(case, rows), "sparsecore"))) is not None:
            found.append((ours / 1e3 / (floor(case, card) + card.launch), case))
    yield f"Furthest from the floor, with one empty launch added to it ({len(found)} cases):"
    for times, case in sorted(found, key=lambda each: each[0], reverse=True)[:_FURTHEST]:
        yield f"  {times:.1f}×: {_name(case._asdict())}"


def _cases(rows: Sequence[Row]) -> list[Case]:
    return list(dict.fromkeys(Case(*(row[name] for name in Case._fields)) for row in rows if "engine" in row))


def _of(case: Case, rows: Sequence[Row]) -> list[Row]:
    return pick([row for row in rows if "ms" in row], **case._asdict())


def _name(row: Row) -> str:
    return f"{row['bench']} {row['model']}, {wires(row['topology'], row['sparsity'])}, {row['batch']}"


def _libraries(out: Path) -> Iterator[str]:
    for row in results.read(out, "about"):
        if row.get("missing"):
            yield f"missing: {row['what']}" + (f" (from {row['least']} on)" if row["least"] else "")
        elif row.get("old"):
            yield f"too old: {row['what']} {row['version']}, asked for {row['least']}"
        elif str(row["what"]).startswith(("NVRTC", "a step", "import")):
            yield f"{row['what']}: {row['seconds']} s"


def _tests(out: Path) -> Iterator[str]:
    ended = [row for row in results.read(out, "tests") if "outcome" in row]
    if ended:
        counts = Counter(row["outcome"] for row in ended)
        yield "tests: " + ", ".join(f"{counts[outcome]} {outcome}" for outcome in sorted(counts))
    for row in ended:
        if row["outcome"] not in ("passed", "skipped"):
            error = str(row.get("error", "")).strip().splitlines()
            yield f"  {row['outcome']}: {row['test']}" + (f": {error[-1][:200]}" if error else "")


def _ceilings(published: Card, measured: Card) -> Iterator[str]:
    yield "\nceilings, measured and as assumed:"
    units = {"memory": ("TB/s", 1e12), "cache": ("TB/s", 1e12), "flops": ("TFLOP/s", 1e12), "launch": ("µs", 1e-6)}
    for name, (unit, scale) in units.items():
        here, there = (getattr(card, name) / scale for card in (measured, published))
        yield f"  {name}: {'not measured' if here == there else f'{here:.3g}'}, {there:.3g} {unit}"


def _training(out: Path) -> Iterator[str]:
    for row in results.read(out, "train"):
        if row.get("event") == "result":
            yield (f"training on {row['on']}: {row['epochs']} epochs, test accuracy {row['test_accuracy']:.2%}, "
                   f"{row['train_seconds']:.2f} s, {1e3 * row['step_ms']:.0f} µs a step")  # fmt: skip


if __name__ == "__main__":
    main()
