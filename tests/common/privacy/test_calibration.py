"""Calibration: the figures against dp_accounting and against drawn noise, never against the code itself."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from common.model.model import trained_coordinates
from common.privacy import accounting
from common.privacy.calibration import PublicNumbers, calibrate, noise_to_signal
from tests.conftest import MakePlan
from tests.reference import pld_epsilon

SMALL = PublicNumbers("clinic", 80)
LARGE = PublicNumbers("bank", 160)


def test_noise_and_cost_are_those_of_another_library(make_plan: MakePlan) -> None:
    plan = make_plan()  # 2 rounds of 2 steps, batches of 8, ε = 8, δ = 1e-3
    values = calibrate(plan, [SMALL, LARGE])
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    for row, size in zip(values["organizations"], (80, 160), strict=True):
        assert (row["sample_rate"], row["steps"], row["delta"]) == (8 / size, 4, 1e-3)
        sigma = row["noise_multiplier"]
        reference = pld_epsilon(8 / size, sigma, 4, 1e-3)
        assert reference - 0.001 <= row["epsilon"] <= reference + 0.02
        assert row["epsilon"] <= 8.0 < pld_epsilon(8 / size, sigma - 0.002, 4, 1e-3) + 0.02
        assert row["epsilon_rdp"] >= reference


def test_other_settings_need_what_another_library_says(make_plan: MakePlan) -> None:
    values = calibrate(make_plan(), [SMALL])
    seen = {}
    for item in values["alternatives"]:
        rounds, batch, epsilon = 2, 8, 8.0
        if item["change"] == "rounds":
            rounds = item["value"]
        elif item["change"] == "batch_size":
            batch = item["value"]
        else:
            epsilon = item["value"]
        sigma = item["noise_multiplier"]["clinic"]
        reference = pld_epsilon(batch / 80, sigma, rounds * 2, 1e-3)
        assert reference <= epsilon <= pld_epsilon(batch / 80, sigma - 0.003, rounds * 2, 1e-3) + 0.02
        before = values["organizations"][0]["noise_multiplier"]
        assert item["relative_noise"]["clinic"] == pytest.approx(sigma / batch / (before / 8))
        seen[item["change"], item["value"]] = sigma
    assert list(seen) == [
        ("rounds", 1),
        ("rounds", 4),
        ("batch_size", 4),
        ("batch_size", 16),
        ("epsilon", 4.0),
        ("epsilon", 16.0),
    ]


def test_the_policys_least_noise_is_kept_and_costs_less(make_plan: MakePlan) -> None:
    (row,) = calibrate(make_plan(), [PublicNumbers("clinic", 80, 2.0)])["organizations"]
    assert row["noise_multiplier"] == 2.0
    assert row["epsilon"] == pytest.approx(pld_epsilon(0.1, 2.0, 4, 1e-3), abs=0.005)


def test_the_ratio_is_that_of_drawn_noise() -> None:
    """Three organizations whose records all want the same step: the mean of their gradients has the norm C."""
    rng = np.random.default_rng(0)
    sigmas, sizes, coordinates, batch, clipping = [0.7, 1.1, 2.0], [100, 300, 50], 4000, 16, 0.5
    for weights in ([1.0, 1.0, 1.0], [float(size) for size in sizes]):
        signal = np.zeros(coordinates)
        signal[0] = clipping
        share = np.array(weights) / sum(weights)
        ratios = []
        for _ in range(40):
            noise = sum(
                part * rng.normal(0, sigma * clipping, coordinates) / batch
                for part, sigma in zip(share, sigmas, strict=True)
            )
            ratios.append(np.linalg.norm(noise) / np.linalg.norm(signal))
        assert noise_to_signal(sigmas, weights, coordinates, batch) == pytest.approx(np.mean(ratios), rel=0.01)


def test_over_steps_in_one_direction_the_ratio_falls_by_their_root() -> None:
    rng = np.random.default_rng(1)
    total = rng.normal(0, 1.5 / 8, (25, 5000)).sum(axis=0)
    assert noise_to_signal([1.5], [1.0], 5000, 8, 25) == pytest.approx(np.linalg.norm(total) / 25, rel=0.03)


def test_the_ratio_of_a_plan(make_plan: MakePlan) -> None:
    values = calibrate(make_plan(aggregation={"weights": "public-size"}), [SMALL, LARGE], 900)
    small, large = (row["noise_multiplier"] for row in values["organizations"])
    expected = math.sqrt(900) / 8 * math.sqrt((small / 3) ** 2 + (2 * large / 3) ** 2)
    assert values["noise_to_signal"]["step"] == pytest.approx(expected)
    assert values["noise_to_signal"]["run"] == pytest.approx(expected / 2)  # 4 steps
    assert values["noise_to_signal"]["alone"] == pytest.approx({"clinic": small * 30 / 8, "bank": large * 30 / 8})
    assert calibrate(make_plan(), [SMALL])["noise_to_signal"] is None


def test_trained_coordinates_are_counted_in_the_base_model(make_plan: MakePlan) -> None:
    """Two layers of q, k, v, o, gate, up and down; with ffa B alone is trained, which has rank 2 × outputs."""
    outputs = 32 + 16 + 16 + 32 + 48 + 48 + 32
    inputs = 32 + 32 + 32 + 32 + 32 + 32 + 48
    assert trained_coordinates(make_plan()) == 2 * 2 * outputs
    assert trained_coordinates(make_plan(aggregation={"method": "fedavg"})) == 2 * 2 * (outputs + inputs)
    assert trained_coordinates(make_plan(model={"base": "nowhere/model"})) is None


def test_a_base_folder_that_is_no_model_is_named(make_plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.base"):
        trained_coordinates(make_plan(model={"base": str(tmp_path)}))


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (PublicNumbers("clinic", 7), "batch_size = 8; it should be at most public_size = 7"),
        (PublicNumbers("clinic", 1000), "below 1 / public_size = 0.001"),
        (PublicNumbers("clinic", 0), "public_size = 0"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(make_plan: MakePlan, numbers: PublicNumbers, said: str) -> None:
    with pytest.raises(InputError) as caught:
        calibrate(make_plan(), [numbers])
    assert said in str(caught.value)


def test_settings_that_cannot_be_have_no_noise(make_plan: MakePlan) -> None:
    plan = make_plan(training={"rounds": 1, "local_steps": 1, "batch_size": 8}, privacy={"epsilon": 0.015})
    values = calibrate(plan, [PublicNumbers("clinic", 10)])
    needed = {
        (item["change"], item["value"]): item["noise_multiplier"]["clinic"] for item in values["alternatives"]
    }
    assert ("rounds", 1) not in needed  # half of one round is one round
    assert needed["batch_size", 16] is None
    assert needed["epsilon", 0.0075] is None
    with pytest.raises(InputError, match=r"epsilon = 0\.005: it should be at least 0\.01"):
        calibrate(make_plan(privacy={"epsilon": 0.005}), [SMALL])


def test_a_run_that_the_looser_accountant_would_charge_beyond_its_epsilon_is_refused(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a vault: where PRV would take too much memory, a run is charged by RDP."""
    monkeypatch.setattr(accounting, "_PRV_POINTS", 0)
    plan = make_plan(training={"batch_size": 37}, privacy={"epsilon": 3.9, "delta": 1e-5})
    with pytest.raises(InputError, match=r"bank: privacy.epsilon = 3.9: a run with it would be charged ε = [4-9]"):
        calibrate(plan, [LARGE])
