"""The help lists what there is."""

from pathlib import Path

import pytest
import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize("group", ["trainer", "data", "cluster", "storage", "submit", "experiment"])
def test_every_option_of_every_group_is_in_the_help(group):
    template = yaml.safe_load((CONF / "config.yaml").read_text())["hydra"]["help"]["template"]
    lines = template[template.index("Groups") :].splitlines()
    listed = next(line for line in lines if line.strip().startswith(f"{group}:"))
    options = {word.strip() for word in listed.partition(":")[2].split(",")}
    assert options == {path.stem for path in (CONF / group).glob("*.yaml")}
