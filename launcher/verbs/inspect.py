"""job=inspect: a table of a prepared set and its images as contact sheets. No Ray: one child process."""

import dataclasses

from conf.data_url import PREPARED, data_url
from conf.errors import BadSpec
from conf.schema import DataSpec, JobSpec
from launcher.compose import Asked
from launcher.console import Console, refuse, show
from launcher.errand import Failed, run_errand
from launcher.saved import amended, existing_run
from storage.data_dir import is_prepared
from storage.store import StoreError

MODULE = "data_pipeline.inspect"
_SHOWN = 20


def run(asked: Asked) -> int:
    """Show it, or say what is missing."""
    job = readable(asked)
    if job.dry_run:
        show(f"would read {data_url(job)} and write contact sheets to {job.inspect.out or job.storage.root}")
        return 0
    return _show(job)


def readable(asked: Asked) -> JobSpec:
    """The job whose prepared set is there; refused with the next thing to type where it is not.

    `data.path=URL` of a prepared set is enough: where no other `data` was asked for, it is read as data=tfrecord.
    """
    job = _of_run(asked) if asked.job.run_id is not None else asked.job
    data = job.data
    if data.name != PREPARED and data.path is not None and _holds_set(data.path):
        if "data" in asked.typed or asked.job.run_id is not None:
            law = f"data={data.name} reads a source, and there is a prepared set here"
            raise BadSpec.of("data.path", data.path, law, f"data={PREPARED} data.path={data.path}")
        channels = data.channels if "data.channels" in asked.typed else DataSpec().channels
        job = dataclasses.replace(job, data=dataclasses.replace(data, name=PREPARED, channels=channels))
    url = data_url(job)
    if not _holds_set(url):
        cure = "prepare it first: the same words with job=prepare; or show another one: data=tfrecord data.path=URL"
        if job.data.name == PREPARED:
            cure = "give the folder that job=prepare wrote (it says which)"
        raise BadSpec.of("data", job.data.name, f"there is no prepared set in {url}", cure)
    return job


def _of_run(asked: Asked) -> JobSpec:
    """The job of a run, with what was typed: to look at another augmentation changes nothing of the run."""
    _, saved = existing_run(dataclasses.replace(asked, touched=frozenset(), typed=frozenset()))
    return amended(saved, asked)


def _holds_set(url: str) -> bool:
    try:
        return is_prepared(url)
    except StoreError:
        if "://" in url:
            raise  # a bucket that does not answer is no missing set
        return False


def _show(job: JobSpec) -> int:
    console = Console()
    try:
        found = run_errand(MODULE, job, console, "drawing classes")
    except Failed as error:
        refuse(error)
        return error.exit_code
    console.say("\n".join([*found["lines"], "", *_places(found["sheets"])]))
    return 0


def _places(sheets: list[str]) -> list[str]:
    """Where the sheets are: the folder, and those of them that have names of their own."""
    folder = sheets[0].rpartition("/")[0]
    names = [sheet.rpartition("/")[2] for sheet in sheets]
    lines = [f"contact sheets in {folder}/"]
    return [
        *lines,
        *(f"  {name}" for name in (names if len(names) <= _SHOWN else [*names[: _SHOWN - 1], "...", names[-1]])),
    ]
