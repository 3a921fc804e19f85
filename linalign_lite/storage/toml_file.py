"""Read TOML files of a limited size."""

import tomllib
from typing import Any

from linalign_lite.errors import FormatError
from linalign_lite.storage.atomic import PathLike, open_regular


def read_toml(path: PathLike, what: str, most: int) -> dict[str, Any]:
    """Parse a TOML file of at most ``most`` bytes; its size is checked first.

    what: the kind of file, for messages. Raises InputError when it is no file, FormatError when it
    is too large or not TOML.
    """
    with open_regular(path) as f:
        raw = f.read(most + 1)
    if len(raw) > most:
        raise FormatError(f"{path} is too large for a {what}", expected=f"at most {most} bytes")
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as e:
        raise FormatError(f"{path} is not TOML", got="bytes that are not UTF-8") from e
    except RecursionError as e:
        raise FormatError(f"{path} is not TOML", got="values nested too deeply") from e
    except ValueError as e:  # TOMLDecodeError, or a number that is too long
        raise FormatError(f"{path} is not TOML", got=str(e)[:120]) from e
