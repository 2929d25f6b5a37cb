"""Words that begin with a dash: --help, --version, and Hydra's own, such as --cfg job."""

import sys
from importlib import metadata

import hydra
from omegaconf import DictConfig

from conf.errors import BadSpec
from conf.exit_codes import BAD_SPEC, DONE
from conf.register import register
from launcher.console import show

#: Hydra's flags that say the same as job=sweep.
SWEEP = ("-m", "--multirun")
OURS = "--help -h --hydra-help --version --cfg -c --info -i --resolve --package -p"


def answer(words: list[str]) -> int:
    """Answer a command line with flags in it; the exit code. No flag starts a job."""
    known = OURS.split()
    for word in words:
        if word.startswith("-") and word.partition("=")[0] not in known:
            raise BadSpec.of("command line", word, "there is no such flag", f"known: {', '.join([*SWEEP, *known])}")
    if "--version" in words:
        show(f"convoy {_version()}")
        return DONE
    register()
    sys.argv = [sys.argv[0], *words]
    try:
        _hydra()
    except SystemExit as end:  # argparse and Hydra have said what was wrong
        return DONE if end.code in (None, 0) else BAD_SPEC
    return DONE


def _version() -> str:
    try:
        return metadata.version("convoy-training")
    except metadata.PackageNotFoundError:
        return "(not installed)"


@hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")
def _hydra(_: DictConfig) -> None:
    """Hydra answers its flags before it would come here; without one of them there is nothing to do."""
