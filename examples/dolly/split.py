"""Gives each organization of this example its records: `python split.py train.jsonl.gz`.

The data set is databricks-dolly-15k with a field `client` from 0 to 9. Three of these natural clients take part,
and a sample of the test file beside it becomes the coordinator's public test.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
TEST_RECORDS = 100


def main(train: Path) -> None:
    """Write `client-N/records.jsonl` for every organization here, and `public-test.jsonl`."""
    with gzip.open(train, "rt", encoding="utf-8") as file:
        lines = file.readlines()
    for folder in sorted(HERE.glob("client-*")):
        number = int(folder.name.removeprefix("client-"))
        own = [line for line in lines if json.loads(line)["client"] == number]
        (folder / "records.jsonl").write_text("".join(own), encoding="utf-8")
        sys.stdout.write(f"{folder.name}: {len(own)} records\n")
    test = (train.parent / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (HERE / "public-test.jsonl").write_text("".join(test[:TEST_RECORDS]), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python split.py TRAIN.jsonl.gz")
    main(Path(sys.argv[1]))
