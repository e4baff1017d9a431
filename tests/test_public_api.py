"""The public names: all there at the roots, and none of them paid for before it is used."""

import importlib
import subprocess
import sys

import pytest

PUBLIC = {
    "simulation": (
        "FanBeam Projector Simulator Sample ImplantLibrary metal_trace linear_interpolation nmar nmar_prior write_case "
        "read_pair verify"
    ),
    "mar_pipeline": (
        "score NETWORKS EquivarianceRegularizer equivariance_report act load_trained train evaluate correct_dicom "
        "PairDataset"
    ),
}


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names_are_at_the_root(package: str) -> None:
    root = importlib.import_module(package)
    for name in PUBLIC[package].split():
        assert name in root.__all__ and name in dir(root)
        assert getattr(root, name) is not None


@pytest.mark.parametrize("package", PUBLIC)
def test_importing_a_root_imports_no_library(package: str) -> None:
    code = f"import sys, {package}; print(*{{'numpy', 'torch', 'scipy', 'monai'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("code", ["import simulation", "import mar_pipeline.cli"])
def test_starting_costs_little(code: str) -> None:
    """CPU seconds of the process, not wall time: others may keep the machine busy."""
    measured = f"{code}; import os; print(sum(os.times()[:2]))"
    command = [sys.executable, "-c", measured]
    seconds = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    assert min(seconds) < 0.3


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_function_and_class_has_an_example(package: str) -> None:
    """The examples themselves are run as doctests of their modules."""
    root = importlib.import_module(package)
    public = {name: getattr(root, name) for name in root.__all__}
    without = [name for name, value in public.items() if callable(value) and ">>>" not in (value.__doc__ or "")]
    assert without == []


def test_a_name_that_is_not_there_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="nonsense"):
        exec("from simulation import nonsense")
