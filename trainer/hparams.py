"""Hyperparameters with results, for TensorBoard's HParams tab: a run of TensorBoard's own in tensorboard/hparams."""

import time

from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2

from conf.hyperparameters import hyperparameters
from conf.schema import JobSpec
from storage.run_dir import RunDir
from trainer.actions import curves_in

NAME = "hparams"


class HParams:
    """What one training writes of them."""

    def __init__(self, job: JobSpec, run: RunDir):
        self._job, self._run = job, run

    def begin(self, step: int) -> None:
        """The hyperparameters, when the training begins or goes on from `step`."""
        curves = curves_in(self._run, NAME, step)
        curves.write(0, summary_v2.hparams_pb(hyperparameters(self._job), trial_id=self._run.run_id))
        curves.close()

    def end(self, step: int, metrics: dict[str, float]) -> None:
        """What came of them at its last step, which no curve goes beyond."""
        curves = curves_in(self._run, NAME, step - 1)
        curves.scalars(step, metrics)
        end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
        about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
        value = summary_pb2.Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR
        )
        curves.write(step, summary_pb2.Summary(value=[value]))
        curves.close()
