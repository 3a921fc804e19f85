"""Parts that a service and its client share: names of heads, and errors with their HTTP status."""

from linalign_lite.errors import (
    BudgetError,
    FormatError,
    InputError,
    LinalignError,
    MismatchError,
    PrecisionError,
    SignatureError,
)
from linalign_lite.storage.schema import Text

HEAD_NAME = Text(64, 1, "[A-Za-z0-9][A-Za-z0-9._-]*")  # one part of a URL's path
# of errors that a client raises again
STATUS: dict[type[LinalignError], int] = {  # the first that an error is an instance of
    SignatureError: 403,
    BudgetError: 403,
    MismatchError: 422,
    PrecisionError: 422,
    FormatError: 400,
    InputError: 400,
}
