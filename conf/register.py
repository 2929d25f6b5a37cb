"""The schema into Hydra's ConfigStore, so that every YAML is laid over typed fields."""

from hydra.core.config_store import ConfigStore

from conf.schema import ClusterSpec, DataSpec, JobSpec, StorageSpec, SubmitSpec, TrainerSpec


def register() -> None:
    """Make `base_job` and `<group>/base` known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="base_job", node=JobSpec)
    groups = {
        "data": DataSpec,
        "trainer": TrainerSpec,
        "cluster": ClusterSpec,
        "storage": StorageSpec,
        "submit": SubmitSpec,
    }
    for group, schema in groups.items():
        store.store(group=group, name="base", node=schema)
