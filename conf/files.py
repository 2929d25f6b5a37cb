"""JobSpec <-> job.yaml. What is read is checked against the schema, like everything from outside."""

from typing import cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from conf.errors import BadSpec
from conf.schema import JobSpec


def dump_job(job: JobSpec) -> str:
    """The job as YAML, every value resolved."""
    return OmegaConf.to_yaml(OmegaConf.structured(job), resolve=True)


def load_job(text: str, origin: str) -> JobSpec:
    """The job that `text` describes. `origin` names the file in errors."""
    try:
        loaded = OmegaConf.merge(OmegaConf.structured(JobSpec), OmegaConf.create(text))
        return cast(JobSpec, OmegaConf.to_object(loaded))
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise BadSpec.of(
            "job", origin, f"this file is not a job: {first}", "restore it, or start a new run_id"
        ) from error
