"""Builds the compiled library of native/ into the wheel, where a C compiler is there; without it the wheel has none.

An editable installation gets the library beside its sources.
"""

from __future__ import annotations

import runpy
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "freerun/runtime/greedy.so"


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's way to do something before a wheel is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library, and say of the wheel that it is for this kind of machine."""
        if self.target_name != "wheel":
            return
        library = Path(self.root) / LIBRARY
        library.unlink(missing_ok=True)
        try:
            runpy.run_path(str(Path(self.root) / "native" / "build.py"))["build"](library)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or error
            self.app.display_warning(f"freerun is built without its compiled library, so it will be slower: {said}")
            return
        build_data["artifacts"].append(f"/{LIBRARY}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
