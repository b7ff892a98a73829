"""Builds the compiled library of native/ into the wheel if there is a C compiler; otherwise the wheel has none.

An editable installation gets the library next to its sources.
"""

from __future__ import annotations

import platform
import runpy
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "freerun/runtime/greedy.so"


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's hook that runs before a wheel is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library, and tag the wheel as specific to this kind of machine."""
        if self.target_name != "wheel":
            return
        self._folder = tempfile.TemporaryDirectory()  # the sources stay as they are, whatever is built of them
        library = Path(self._folder.name, Path(LIBRARY).name)
        if version == "editable":
            library = Path(self.root, LIBRARY)
            library.unlink(missing_ok=True)
        try:
            runpy.run_path(str(Path(self.root, "native", "build.py")))["build"](library)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or error
            self.app.display_warning(f"freerun is built without its compiled library, so it will be slower: {said}")
            return
        if version != "editable":
            build_data["force_include"][str(library)] = LIBRARY
        build_data["pure_python"] = False
        kind = sysconfig.get_platform().replace("universal2", platform.machine())  # it is built for this machine alone
        build_data["tag"] = f"py3-none-{kind.replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove temporary files."""
        if self.target_name == "wheel":
            self._folder.cleanup()
