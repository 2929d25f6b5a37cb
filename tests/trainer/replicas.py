"""One process of a group of replicas: every case of arithmetic.py and phased.py under one strategy.

Writes the weights of each of the process's replicas to FOLDER. Names of cases behind the rest choose some.

    python -m tests.trainer.replicas FOLDER mirrored 4
    TF_CONFIG=... python -m tests.trainer.replicas FOLDER workers 2
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tests.trainer import masks, rising
from tests.trainer.arithmetic import APPLICATIONS, by_convoy, cases_of, strategy_of, weights_of
from tests.trainer.phased import AVERAGED_STATISTICS, PHASED, by_phases
from trainer.agreement import Agreement
from trainer.batch_norm import batch_norms


def main() -> None:
    folder, kind, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    strategy = strategy_of(kind, number)
    local = number if kind == "mirrored" else 1
    rank = 0 if kind == "mirrored" else tf.distribute.cluster_resolver.TFConfigClusterResolver().task_id
    found: list[dict[str, np.ndarray]] = [{} for _ in range(local)]

    def keep(name: str, model: keras.Model) -> None:
        for replica in range(local):
            found[replica] |= {f"{name}:{path}": value for path, value in weights_of(model, replica).items()}

    agreement = Agreement(strategy, number if kind == "workers" else 1)
    found[0] |= {
        "agreement:anywhere": np.array([agreement.anywhere(False), agreement.anywhere(rank == number - 1)]),
        "agreement:everywhere": np.array([agreement.everywhere(float(rank)), agreement.everywhere(24.0)]),
    }
    of_two = (*PHASED, "averaged-statistics", "range-test") if number == 2 else ()
    chosen = sys.argv[4:] or [*cases_of(number), *of_two]
    cases = cases_of(number) | APPLICATIONS
    for name, case in ((name, case) for name, case in cases.items() if name in chosen):
        model = by_convoy(case, strategy, rank * local, local)
        assert len(batch_norms(model)) == (0 if case.batch_norm is None else 52 if case.family else 2)
        keep(name, model)
    for name, phased in ((name, phased) for name, phased in PHASED.items() if name in chosen):
        keep(name, by_phases(phased, strategy, rank * local, local))
    if "averaged-statistics" in chosen:
        keep("averaged-statistics", by_phases(AVERAGED_STATISTICS, strategy, rank * local, local))
    if "range-test" in chosen:
        model, tried = rising.by_convoy(strategy, rank * local, local)
        keep("range-test", model)
        found[0] |= {f"range-test:{name}": values for name, values in tried.items()}
    for kind in masks.KINDS if number == 2 and not sys.argv[4:] else ():
        kernels = masks.kernels(kind, strategy, rank * local, local)
        found[0] |= {f"{kind}:{number}": kernel for number, kernel in enumerate(kernels)}
    for replica in range(local):
        np.savez(folder / f"{rank * local + replica}.npz", **found[replica])


if __name__ == "__main__":
    main()
