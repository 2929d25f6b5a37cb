"""Which prepared set job=inspect shows, and what it says where there is none."""

import pytest

from conf.errors import BadSpec
from launcher.compose import compose
from launcher.saved import freeze
from launcher.verbs.inspect import readable
from storage.run_dir import RunDir, checkpoint_name


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.json").write_text("{}")
    return str(tmp_path / "set")


def test_the_path_of_a_prepared_set_is_enough(prepared):
    for words in (["data=tfrecord", f"data.path={prepared}"], [f"data.path={prepared}"]):
        job = readable(compose(["job=inspect", *words]))
        assert (job.data.name, job.data.path, job.data.channels) == ("tfrecord", prepared, 3)
    assert readable(compose(["job=inspect", f"data.path={prepared}", "data.channels=1"])).data.channels == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=folder", "data.path={set}"], "data=tfrecord data.path={set}"),
        (["data=digits"], "the same words with job=prepare"),
        (["data=csv", "data.path={set}/manifest.json"], "the same words with job=prepare"),
        (["data=tfrecord", "data.path={set}/gone"], "give the folder that job=prepare wrote"),
        (["run_id=gone"], "there is no such run"),
    ],
)
def test_what_is_missing_is_refused_with_what_to_type(prepared, tmp_path, words, said):
    words = [word.format(set=prepared) for word in words]
    with pytest.raises(BadSpec) as refused:
        readable(compose(["job=inspect", f"storage.root={tmp_path}/runs", *words]))
    assert said.format(set=prepared) in str(refused.value)


def test_the_data_of_a_run_may_be_looked_at_with_another_augmentation(prepared, tmp_path):
    words = [f"storage.root={tmp_path}/runs", "run_id=x"]
    run_dir = RunDir(f"{tmp_path}/runs", "x")
    freeze(run_dir, compose([*words, "data=tfrecord", f"data.path={prepared}", "data.image_size=9"]).job)
    run_dir.write_json(f"{checkpoint_name(20)}/manifest.json", {})
    data = readable(compose(["job=inspect", *words, "data.augment.flip=true"])).data
    assert (data.name, data.path, data.image_size, data.augment.flip) == ("tfrecord", prepared, 9, True)
