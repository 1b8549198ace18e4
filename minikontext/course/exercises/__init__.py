"""What each exercise expects: one module a notebook, one function an exercise.

Beside each module lies the table of its solutions and mistakes: see `course.solutions`.
"""

import pkgutil
from importlib import import_module

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
