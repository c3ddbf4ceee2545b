"""How a person types a command: with make in a checkout, with `genstudy` where it is installed.

    spell("study", NAME="cae")                 make study NAME=cae
    spell("trials", NAME="cae", CSV="FILE")    genstudy trials cae CSV=FILE

Every message that tells a person what to type next is made here, so that it can be typed where the
person is. Workers inherit the environment, and with it the spelling.
"""

from __future__ import annotations

import os
import shlex

CALLED_AS = "GENSTUDY_CALLED_AS"  # the environment variable that the command `genstudy` sets
GENSTUDY = "genstudy"


def is_installed_command() -> bool:
    """Return whether this process was started with the command `genstudy`, and not by make."""
    return os.environ.get(CALLED_AS) == GENSTUDY


def spell(command: str, **variables: object) -> str:
    """Return the line that runs ``command``, ready to be pasted into a shell.

    variables: by the names that make gives them; NAME comes first
    """
    if is_installed_command():
        words = [GENSTUDY, command]
        if "NAME" in variables:
            words.append(shlex.quote(str(variables.pop("NAME"))))
        return " ".join(words + [f"{name}={shlex.quote(str(v))}" for name, v in variables.items()])
    written = [f"{name}={shlex.quote(str(v).replace('$', '$$'))}" for name, v in variables.items()]
    return " ".join(["make", command, *written])
