"""Scales, steps and tables of the study of copies as smoothing, on made-up models."""

import pytest
from smoothing_table import FIELDS, FREE, ONE, compared, read, scale_for, steps_to, tables, write

THREE = "three, zero-sum"


def model(seed, noise, kappa, **numbers):
    """A row whose numbers are those of its seed, with the given ones on top."""
    same = dict.fromkeys(FIELDS[4:], 0.5 + seed / 100)
    return {"method": "NPO", "seed": float(seed), "kappa": kappa, "noise": noise, **same, **numbers}


def rows():
    """Five seeds in which three copies leak less by .1, and less surely have another 4-bit."""
    found = []
    for seed in range(5):
        found += [model(seed, FREE, 0.0), model(seed, ONE, 1.0)]
        leak, rounded = 0.4 + seed / 100 + seed / 1000, 0.5 + seed / 10
        found.append(model(seed, THREE, 1.0, **{"leak@8": leak, "4-bit": rounded}))
    return found


def line(text, noise):
    """One line of a table, cell by cell."""
    (found,) = (each for each in text.splitlines() if each.startswith(f"| {noise}"))
    return [cell.strip() for cell in found.strip("|").split("|")]


@pytest.mark.parametrize("reached", [0.4, 1.0, 3.7])
def test_an_update_is_scaled_to_equal_forgetting(reached):
    """Smaller, the same and larger."""
    scale = scale_for(lambda scale: 1 / (1 + scale), 1 / (1 + reached))
    assert 1 / (1 + scale) == pytest.approx(1 / (1 + reached), rel=0.02)


def test_what_cannot_be_reached_has_no_scale():
    """An update that forgets nothing, and one that jumps over the target."""
    assert scale_for(lambda scale: 0.9, 0.5) is None
    assert scale_for(lambda scale: 0.9 if scale < 1.5 else 0.1, 0.5) is None


def test_steps_are_read_from_the_fastest_rate():
    """Linear between points; the last step if no rate gets there."""
    curves = {"1e-5": {0: 0.2, 1: 0.2, 8: 0.9}, "1e-4": {0: 0.2, 1: 0.4, 2: 0.8, 8: 0.1}}
    assert steps_to(0.6, curves) == pytest.approx(1.5)
    assert steps_to(0.95, curves) == 8


def test_differences_are_paired_by_seed_and_corrected():
    """The seeds' own level cancels; the star needs all differences of the table together."""
    text = compared(rows(), lambda _: (0.0, FREE))
    found = dict(zip(line(text, "noise |"), line(text, THREE), strict=True))
    assert found["leak@8"] == "0.422 (-0.100, -0.096)*"
    assert found["4-bit"] == "0.700 (+0.003, +0.357)" and "5 seeds; 10 differences" in text
    assert "(" not in line(text, f"{FREE} |")[5]


def test_models_that_forgot_too_little_are_named():
    """A row without a scale is no number, and its seed's difference is left out."""
    short = rows()
    short[-1] = {key: short[-1][key] for key in FIELDS[:4]}
    found = line(compared(short, lambda _: (0.0, FREE)), THREE)
    assert found[0] == f"{THREE} (not reached in 1 of 5)" and found[-1].endswith("of 4")


def test_a_file_gives_the_same_tables(tmp_path):
    """Whatever the order in which the rows came."""
    write(tmp_path / "rows.csv", rows()[::-1])
    assert tables(read(tmp_path / "rows.csv")) == tables(rows())
