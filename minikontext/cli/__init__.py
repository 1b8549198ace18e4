"""The `minikontext` command.

app      the parser, and what each command calls
edit     `edit` and `draw`; notes: what they tell of a picture on stderr
lab      the course in a folder of the student's own
demo     the editing widget in a page with a kernel behind it
doctor   is everything here that the course needs?
"""

from minikontext.cli.app import main

__all__ = ["main"]
