"""What `torchrun` starts in tests: runs of `mar train` one after another, or one that goes wrong in one process.

training_process.py runs FILE.json     [[options of mar train], ...]
training_process.py fails HOW [options of mar train]
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

from mar_pipeline.cli import main
from mar_pipeline.runtime import joined, processes
from mar_pipeline.tasks.catalogue import TRAININGS
from mar_pipeline.train import train
from mar_pipeline.training.settings import read_train_settings
from simulation.errors import InputError


def runs(file):
    with joined():
        for arguments in json.loads(Path(file).read_text()):
            train(read_train_settings(arguments))


def fails(how, *arguments):
    training = TRAININGS["classification"]
    losses = []

    def make(*parts):
        task = training.make(*parts)

        def loss(output, batch):
            losses.append(1)
            if len(losses) == 7 and processes().rank == 1:
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise InputError("digits: broken")
            return task.loss(output, batch)

        return dataclasses.replace(task, loss=loss)

    TRAININGS["classification"] = dataclasses.replace(training, make=make)
    return main(["train", *arguments])


if __name__ == "__main__":
    sys.exit({"runs": runs, "fails": fails}[sys.argv[1]](*sys.argv[2:]))
