"""Any bytes as a gin file: they are read or refused in a line, and what is read is written and read back the same."""

import tempfile

from teleflm_jax import config, foreign
from teleflm_jax.errors import UserError
from teleflm_jax.runs.config import SECTIONS

OPTIONAL = ("model", "data", "train")


def one_input(data: bytes) -> None:
    """Read a gin file; anything but a result or a `UserError` of one line is a fault."""
    with tempfile.NamedTemporaryFile(suffix=".gin") as file:
        file.write(data)
        file.flush()
        try:
            found = config.parse([file.name], [], SECTIONS, OPTIONAL)
        except UserError as error:
            foreign.printable(str(error)).encode()
            return
    with tempfile.NamedTemporaryFile("w", suffix=".gin", encoding="utf-8") as file:
        file.write(config.dump(found))
        file.flush()
        assert config.parse([file.name], [], SECTIONS, OPTIONAL, saved=file.name) == found


ENTRIES = {"gin": one_input}
