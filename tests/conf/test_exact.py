"""A job that Convoy wrote is read without OmegaConf, as OmegaConf reads it; every other text is left to it."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from conf import files
from conf.errors import BadSpec
from conf.exact import read_exactly
from conf.files import dump_job, load_job
from conf.schema import (
    BadFile,
    DataSpec,
    GroupSpec,
    JobSpec,
    ModelSpec,
    OptimizerSpec,
    Oversample,
    PhaseSpec,
    ScheduleSpec,
    TrainerSpec,
    Verb,
)

PHASES = [
    PhaseSpec("head", epochs=1, learning_rate=1e-3),
    PhaseSpec(2, steps=5, optimizer=OptimizerSpec("sgd"), groups=[GroupSpec(3), GroupSpec("head", OptimizerSpec())]),
]
JOBS = {
    "defaults": JobSpec(),
    "small and large numbers": JobSpec(
        seed=-(2**40), trainer=TrainerSpec(optimizer=OptimizerSpec(learning_rate=1e-30, clip_norm=float("inf")))
    ),
    "phases": JobSpec(job=Verb.evaluate, trainer=TrainerSpec(phases=PHASES, schedule=ScheduleSpec("cosine", 7))),
    "of any type": JobSpec(
        trainer=TrainerSpec(
            micro_batch="auto",
            class_weights={"cat": 2, "a dog": 0.5},
            model=ModelSpec(hidden=[3, 4], options={"depth": [1, {"x": None, "y": True}], "kind": "b"}),
        )
    ),
    "words that look like others": JobSpec(
        run_id="2026-11-22",
        data=DataSpec(path="no", out="1:30", on_bad_file=BadFile.skip, oversample=Oversample.balanced),
    ),
    "quotes": JobSpec(data=DataSpec(path="/a b/'c' \"d\" ü: # \n e\t", out="~")),
}
#: Convoy never writes these; OmegaConf converts or refuses them.
OTHERWISE = {
    "a whole number": ("learning_rate: 0.001", "learning_rate: 1"),
    "a number without a dot": ("learning_rate: 0.001", "learning_rate: 1e-3"),
    "a number as a word": ("seed: 0", "seed: '7'"),
    "a word that is a number": ("run_id: null", "run_id: 1e5"),
    "a date": ("run_id: null", "run_id: 2026-11-22"),
    "a reference": ("run_id: null", "run_id: ${trainer.name}"),
    "a reference to nothing": ("run_id: null", "run_id: ${nothing}"),
    "missing": ("run_id: null", "run_id: ???"),
    "no key": ("seed: 0\n", ""),
    "an unknown key": ("seed: 0", "sead: 0"),
    "a key twice": ("seed: 0", "seed: 0\nseed: 1"),
    "no such choice": ("job: train", "job: trane"),
    "none where there must be one": ("seed: 0", "seed: null"),
    "a truth for a number": ("seed: 0", "seed: true"),
    "a list for a word": ("run_id: null", "run_id: [a]"),
    "no YAML": ("seed: 0", "seed: [0"),
    "a tag": ("run_id: null", "run_id: !!python/object/apply:os.getcwd []"),
}


@pytest.mark.parametrize("name", JOBS)
def test_what_convoy_wrote_is_read_as_omegaconf_reads_it(name: str) -> None:
    text = dump_job(JOBS[name])
    found = read_exactly(JobSpec, text)
    assert found is not None
    assert repr(found) == repr(files._converted(text, "x")) == repr(JOBS[name])


def test_words_that_are_numbers_to_omegaconf_are_left_to_it() -> None:
    for word in ("1e5", "-1_0e-3", ".5", "infinity", "nan"):
        job = JobSpec(run_id=word)
        assert read_exactly(JobSpec, dump_job(job)) is None
        assert load_job(dump_job(job), "x") == files._converted(dump_job(job), "x")


@pytest.mark.parametrize("name", OTHERWISE)
def test_every_other_text_is_left_to_omegaconf(name: str) -> None:
    before, after = OTHERWISE[name]
    text = dump_job(JobSpec())
    assert text.count(before) >= 1
    changed = text.replace(before, after, 1)
    assert read_exactly(JobSpec, changed) is None
    assert _outcome(load_job, changed) == _outcome(files._converted, changed)


def test_every_job_that_the_groups_make_is_read_exactly() -> None:
    """A key of a type that is not known here would be read slowly, and nobody would see it."""
    folder = Path(files.__file__).parent
    read = 0
    for path in sorted(folder.glob("trainer/*.yaml")):
        group = OmegaConf.create({k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "defaults"})
        job = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(JobSpec), {"trainer": group}))
        text = dump_job(job)
        assert repr(read_exactly(JobSpec, text)) == repr(files._converted(text, "x")), path.name
        read += 1
    assert read > 5


def test_two_names_of_one_list_become_two_lists() -> None:
    text = (
        dump_job(JobSpec())
        .replace("micro_batch: null", "micro_batch: &one [1]")
        .replace("class_weights: null", "class_weights: *one")
    )
    found = read_exactly(JobSpec, text)
    assert found is not None and found.trainer.micro_batch == found.trainer.class_weights == [1]
    assert found.trainer.micro_batch is not found.trainer.class_weights


def _outcome(read, text: str) -> str:
    try:
        return repr(read(text, "x"))
    except BadSpec as error:
        return f"refused: {error}"
