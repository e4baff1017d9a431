"""Share a job among machines
==========================

A data set can be made by many tasks of a job array: part I of N makes every Nth slice, all parts write into one folder,
and the bytes are those that one process would have written. This plays two tasks one after the other, and then asks
whether the set is whole. On a Slurm cluster the same is

.. code-block:: bash

    array=$(sbatch --parsable --array 0-1 scripts/simulate.sbatch --source phantom --slices 2 --out data/set)
    sbatch --dependency afterany:$array --wrap 'mar verify data/set'

:doc:`/how_to/cluster` has the whole story, training included.
"""

# %%
import shutil
import subprocess
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp()) / "set"


def mar(*arguments: object) -> None:
    """Run the program and show the exit code and what it says."""
    done = subprocess.run(["mar", "-q", *map(str, arguments)], capture_output=True, text=True)
    print(f"exit code {done.returncode}:", (done.stdout + done.stderr).replace(str(folder), "set").strip(), "\n")


request = ["simulate", "--source", "phantom", "--slices", 2, "--masks-per-slice", 1, "--out", folder]
mar(*request, "--part", "0/2")

# %%
# One part is there. `mar verify` says what is missing, and exit code 8 says that something is.
mar("verify", folder)

# %%
# The other task makes the rest. A task that was killed is simply started again: it makes what is missing.
mar(*request, "--part", "1/2")
mar("verify", folder)
shutil.rmtree(folder.parent)

# %%
# `mar submit` writes and submits such jobs itself; see ``mar submit --help`` and :doc:`/reference/exit_codes`.
