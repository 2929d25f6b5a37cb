"""The help lists what there is."""

from pathlib import Path

import pytest

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize("group", ["trainer", "data", "cluster", "storage", "submit"])
def test_every_option_of_every_group_is_in_the_help(group):
    listed = next(
        line
        for line in (CONF / "config.yaml").read_text().splitlines()
        if (line.strip().startswith(f"{group}:") and "," in line) or line.strip() == f"{group}:  here"
    )
    options = {word.strip() for word in listed.partition(":")[2].split(",")}
    assert options == {path.stem for path in (CONF / group).glob("*.yaml")}
