"""JobSpec <-> job.yaml. What is read is checked against the schema, like everything from outside."""

from copy import deepcopy
from typing import cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from conf.errors import BadSpec
from conf.exact import read_exactly
from conf.schema import JobSpec

#: The job that was read ahead, by its text.
_ahead: dict[str, JobSpec] = {}


def dump_job(job: JobSpec) -> str:
    """The job as YAML, every value resolved."""
    return OmegaConf.to_yaml(OmegaConf.structured(job), resolve=True)


def read_ahead(text: str, origin: str) -> None:
    """Read a job that will be wanted again: here, and in forks of this process, `load_job` then has it at once."""
    job = load_job(text, origin)
    _ahead.clear()
    _ahead[text] = job


def load_job(text: str | bytes, origin: str) -> JobSpec:
    """The job that `text` (UTF-8) describes. `origin` names the file in errors."""
    try:
        text = text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError as error:
        raise _no_job(origin, error) from error
    if text in _ahead:
        return deepcopy(_ahead[text])
    return read_exactly(JobSpec, text) or _converted(text, origin)


def _converted(text: str, origin: str) -> JobSpec:
    """A job as a person may have changed it, or an older Convoy wrote it."""
    try:
        read = OmegaConf.create(text)
        if not read:
            raise ValueError("it is empty")
        loaded = OmegaConf.merge(OmegaConf.structured(JobSpec), read)
        return cast(JobSpec, OmegaConf.to_object(loaded))
    except (OmegaConfBaseException, YAMLError, ValueError, AssertionError, RecursionError) as error:
        raise _no_job(origin, error) from error


def _no_job(origin: str, error: Exception) -> BadSpec:
    first = (str(error).splitlines() or ["it is no mapping"])[0]
    return BadSpec.of("job", origin, f"this file is not a job: {first}", "restore it, or start a new run_id")
