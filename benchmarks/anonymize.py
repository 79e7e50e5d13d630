"""Measure the speed of anonymization, and how often entities are detected.

    .venv/bin/python benchmarks/anonymize.py --data FILE --fields prompt,response [--records 2000] [--runs 5]

One process, one thread. The table shows records and characters per second (median of the runs, slowest and
fastest), the share of the records with a match, and the number of matches of each entity.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path

from client.vault.policy.organization import Anonymize
from client.vault.records.anonymize import Anonymizer
from common.records import Record, read_records


def seconds(anonymizer: Anonymizer, records: list[Record], fields: list[str]) -> float:
    """The time for all records."""
    begun = time.perf_counter()
    for record in records:
        anonymizer.record(record, fields)
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--fields", required=True, help="names, separated by commas")
    parser.add_argument("--records", type=int, default=2000, help="the number of records to use, from the start")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    fields = given.fields.split(",")
    records = read_records(given.data)[: given.records]
    begun = time.perf_counter()
    anonymizer = Anonymizer(Anonymize())
    opened = time.perf_counter() - begun
    seconds(anonymizer, records[:100], fields)  # libraries compile patterns on first use
    taken = sorted(seconds(anonymizer, records, fields) for _ in range(given.runs))
    size = sum(len(str(record.get(field, ""))) for record in records for field in fields)
    found: Counter[str] = Counter()
    holding = 0
    for record in records:
        every = [text for texts in anonymizer.texts(record, fields).values() for text in texts]
        spans = [span for text in every for one in text.passes for span in one.spans]
        found.update(span.kind for span in spans)
        holding += bool(spans)
    middle = statistics.median(taken)
    print(f"{len(records)} records, {size / len(records):.0f} characters each; opened in {opened:.1f} s")
    print(f"records per second     {len(records) / middle:8.0f}  ({len(records) / taken[-1]:.0f} to ", end="")
    print(f"{len(records) / taken[0]:.0f})")
    print(f"characters per second  {size / middle:8.0f}")
    print(f"records with a match   {holding / len(records):8.1%}")
    for kind, count in found.most_common():
        print(f"  {kind:18} {count:8d}")


if __name__ == "__main__":
    main()
