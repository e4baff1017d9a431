"""What `torchrun` starts in tests: runs of `mar train` one after another, or one that goes wrong in one process.

training_process.py runs FILE.json     [[options of mar train], ...]; each process leaves RUN.RANK.pt beside the run
training_process.py fails HOW [options of mar train]     HOW: error, killed, signalled, differs
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import torch

import mar_pipeline.commands.train
from mar_pipeline.cli import main
from mar_pipeline.commands.train import train
from mar_pipeline.runtime.processes import joined, processes
from mar_pipeline.tasks.catalogue import TRAININGS
from mar_pipeline.training.settings import read_train_settings
from mar_pipeline.training.state import TrainingState
from simulation.errors import InputError


def runs(file):
    end_epoch = TrainingState.end_epoch

    def kept(self, *arguments):
        end_epoch(self, *arguments)
        torch.save(self.network.state_dict(), f"{self.folder.root}.{self.processes.rank}.pt")

    TrainingState.end_epoch = kept
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
            if len(losses) == 7:
                sys.stdout.write(f"seed {torch.initial_seed()}, threads {torch.get_num_threads()}\n")
            if len(losses) == 7 and processes().rank == 1:
                if how == "error":
                    raise InputError("digits: broken")
                os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGTERM)
            return task.loss(output, batch)

        return dataclasses.replace(task, loss=loss)

    TRAININGS["classification"] = dataclasses.replace(training, make=make)
    if how == "differs":
        mar_pipeline.commands.train._data = lambda task: f"{36 + processes().rank} images"
    return main(["train", *arguments])


if __name__ == "__main__":
    sys.exit({"runs": runs, "fails": fails}[sys.argv[1]](*sys.argv[2:]))
