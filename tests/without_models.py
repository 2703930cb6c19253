"""`make test-fast`: a pytest plugin that leaves out whatever imports a model library or a server's.

An import of one of them skips the test, or the whole file where it is imported at the top. So the run can
only be fast, and no list of fast tests has to be kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

import pytest

LEFT_OUT: Final = frozenset(
    {"torch", "diffusers", "transformers", "peft", "optimum", "prefect", "mlflow", "moto"}
)


class LeaveOut(MetaPathFinder):
    """Skips the test that is the first to need one of these libraries."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Nothing is found here; of the libraries that are left out nothing is found anywhere."""
        if fullname.partition(".")[0] in LEFT_OUT:
            pytest.skip(f"needs {fullname}", allow_module_level=True)
        return None


def pytest_configure(config: pytest.Config) -> None:
    """Stand in front of all other ways of finding a module."""
    sys.meta_path.insert(0, LeaveOut())


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail where one of the libraries has come in by another way."""
    found = sorted(LEFT_OUT & sys.modules.keys())
    if found:
        raise pytest.UsageError(f"these libraries were imported: {', '.join(found)}")
