"""`evaluation.json`: it is read back as it was written, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from common.run.evaluation import Evaluation, StoredEvaluation
from server.run.report import read_report, write_report
from server.run_directory.evaluation import read_evaluation, write_evaluation
from tests.common.report.evaluations import KEY, LABELS, section_of, told
from tests.common.report.sample_run import classes_plan, signed, statement
from tests.server.run_directory.sample_directory import make_run


def test_the_file_is_read_back_and_the_page_made_from_files_alone(tmp_path: Path) -> None:
    plan = classes_plan(LABELS)
    directory = make_run(
        tmp_path, [signed(statement("st-mary", plan=plan.digest()), KEY)], {"st-mary": KEY}, plan=plan
    )
    assert read_evaluation(directory) is None
    write_evaluation(directory, 20, Evaluation({"accuracy": 0.5}, None))
    assert not (tmp_path / "evaluation.json").exists()  # this task tells no classes
    write_evaluation(directory, 20, Evaluation({"accuracy": 0.5}, told()))
    assert read_evaluation(directory) == StoredEvaluation(20, told())
    opened, report = read_report(tmp_path)
    write_report(opened, report, tmp_path / "page.html", None)
    assert "2 delivery 0.500 0.500 0.500 2" in section_of((tmp_path / "page.html").read_text())


GOOD: dict[str, Any] = {"round": 20, "classes": told().to_dict()}


def changed(**values: Any) -> dict[str, Any]:
    return {**GOOD, "classes": {**GOOD["classes"], **values}}


SCORE = GOOD["classes"]["scores"][0]
BIN = GOOD["classes"]["calibration"][0]
BAD: dict[str, Any] = {
    "no object": [],
    "a key more": {**GOOD, "more": 1},
    "no round": {"classes": GOOD["classes"]},
    "a round below 0": {**GOOD, "round": -1},
    "a round that is a text": {**GOOD, "round": "20"},
    "other classes": changed(scores=[{**SCORE, "name": name} for name in ("a", "b", "c")]),
    "classes in another order": changed(scores=GOOD["classes"]["scores"][::-1]),
    "a class less": changed(scores=GOOD["classes"]["scores"][:2], matrix=[[1, 2], [3, 4]]),
    "a row less": changed(matrix=GOOD["classes"]["matrix"][:2]),
    "a ragged row": changed(matrix=[[1, 2, 3], [1, 2], [1, 2, 3]]),
    "half a text": changed(matrix=[[0.5] * 3] * 3),
    "a count below 0": changed(matrix=[[-1] * 3] * 3),
    "a count that no machine holds": changed(matrix=[[10**400] * 3] * 3),
    "a precision above 1": changed(scores=[{**SCORE, "precision": 1.5}, *GOOD["classes"]["scores"][1:]]),
    "a confusion of other classes": changed(confusions=[{"right": "billing", "told": "x", "count": 1}]),
    "many confusions": changed(confusions=[{"right": "billing", "told": "refund", "count": 1}] * 11),
    "a bin less": changed(calibration=[BIN] * 14),
    "no confidence": changed(calibration=[{**BIN, "confidence": float("nan")}] + [BIN] * 14),
    "nested deeply": json.loads("[" * 500 + "]" * 500),
    "large": {**GOOD, "x": "y" * 2**18},
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_no_run_wrote_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    directory = make_run(tmp_path, [], {}, plan=classes_plan(LABELS))
    (tmp_path / "evaluation.json").write_text(json.dumps(BAD[what]))
    with pytest.raises(InputError, match=r"evaluation\.json: ") as caught:
        read_evaluation(directory)
    assert "\n" not in str(caught.value)


def test_a_file_beside_a_plan_without_classes_or_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    directory = make_run(tmp_path, [], {})
    (tmp_path / "evaluation.json").write_text(json.dumps(GOOD))
    with pytest.raises(InputError, match=r"its classes are not those of the plan's task\.labels"):
        read_evaluation(directory)
    (tmp_path / "evaluation.json").unlink()
    (tmp_path / "evaluation.json").mkdir()
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_evaluation(directory)
