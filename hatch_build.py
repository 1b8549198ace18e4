"""A wheel carries what lies beside the package: weights, pictures, the course, configs."""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOMES = ("data/**/*", "notebooks/*", "configs/**/*")
KINDS = (".ipynb", ".md", ".json", ".jsonl", ".png", ".safetensors", ".toml")
# What a wheel leaves out: logs and weights that no notebook loads, the README's pictures, and what
# whoever builds it has reached in the course.
LEFT_OUT = (
    "notebooks/progress.json",
    "data/reader/training/*",
    "data/safety/*/training/*",
    "data/images/readme.png",
    "data/weights/toy-dev/*",
)


class CustomBuildHook(BuildHookInterface):
    """Puts them under minikontext/shipped, where `files.shipped` looks first."""

    def initialize(self, version: str, build_data: dict) -> None:
        """Name every file; an editable install has the repository itself."""
        if self.target_name != "wheel" or version == "editable":
            return
        root = Path(self.root)
        for path in sorted([file for where in HOMES for file in root.glob(where)]):
            name = path.relative_to(root)
            if path.suffix in KINDS and not any(map(name.match, LEFT_OUT)):
                build_data["force_include"][str(path)] = f"minikontext/shipped/{name.as_posix()}"
