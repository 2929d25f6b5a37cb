"""What early stopping, plateaus, averages, losses and the watch over them may be asked for."""

import math

from conf.errors import Problem
from conf.schema import EarlyStoppingSpec, PlateauSpec, TrainerSpec
from conf.words import nearest

#: What an evaluation of the validation split gives.
SCORES = ("accuracy", "loss", "balanced_accuracy", "macro_f1")
METRICS = tuple(f"validation_{score}" for score in SCORES)


def problems(trainer: TrainerSpec) -> list[Problem]:
    """Everything that is wrong with them."""
    found = []
    for key, spec in (("trainer.early_stopping", trainer.early_stopping), ("trainer.plateau", trainer.plateau)):
        found += _judge(key, spec)
    key, plateau = "trainer.plateau", trainer.plateau
    if not 0 < plateau.factor < 1:
        law = "lowers the learning rate: a factor in (0, 1)"
        found.append(Problem(f"{key}.factor", plateau.factor, law, f"{key}.factor=0.1"))
    if not 0 <= plateau.min_factor < 1:
        law = "is a share of the learning rate in [0, 1)"
        found.append(Problem(f"{key}.min_factor", plateau.min_factor, law, f"{key}.min_factor=0.01"))
    if plateau.cooldown < 0:
        law = "a number of evaluations is at least 0"
        found.append(Problem(f"{key}.cooldown", plateau.cooldown, law, f"{key}.cooldown=0"))
    if trainer.ema_decay is not None and not 0 < trainer.ema_decay < 1:
        law = "is a share in (0, 1)"
        found.append(Problem("trainer.ema_decay", trainer.ema_decay, law, "trainer.ema_decay=0.999, or null for none"))
    factor = trainer.blow_up_factor
    if factor is not None and not 1 < factor < math.inf:
        law = "a loss that explodes is larger than what it is compared with: a number above 1"
        found.append(Problem("trainer.blow_up_factor", factor, law, "trainer.blow_up_factor=10, or null for none"))
    for name in ("l2", "focal_gamma", "focal_alpha"):
        value = getattr(trainer, name)
        if not 0 <= value < math.inf or (name == "focal_alpha" and value == 0):
            law = "is a number above 0" if name == "focal_alpha" else "is a number, 0 or more"
            found.append(Problem(f"trainer.{name}", value, law, f"leave trainer.{name} out for its default"))
    return found


def _judge(key: str, spec: EarlyStoppingSpec | PlateauSpec) -> list[Problem]:
    found = []
    if spec.metric not in METRICS:
        law = "no evaluation gives this metric"
        found.append(Problem(f"{key}.metric", spec.metric, law, nearest(spec.metric, METRICS)))
    if spec.patience is not None and spec.patience < 1:
        law = "waits for at least one evaluation"
        found.append(Problem(f"{key}.patience", spec.patience, law, f"{key}.patience=3"))
    if not 0 <= spec.min_delta < math.inf:
        law = "is a number, 0 or more"
        found.append(Problem(f"{key}.min_delta", spec.min_delta, law, f"{key}.min_delta=0"))
    return found
