"""Parameter sets for encrypted scoring.

A query is a pair of ring elements modulo q, the product of the data primes, and nothing is ever
published modulo more. SEAL requires a key prime beside two data primes, for rotations, which are
not used here: it gets the fewest bits possible.
"""

import functools
import math
from dataclasses import dataclass

from linalign_lite.errors import FormatError, InputError

# log2 of the largest modulus at 128 bits of security, ternary secret, against quantum computers:
# the smaller of the two limits of the homomorphic encryption standard (2018) ...
MODULUS_BITS = {1024: 25, 2048: 51, 4096: 101, 8192: 202, 16384: 411}
# ... and the larger, classical one, which SEAL requires of all primes together
SEAL_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438}


@dataclass(frozen=True)
class Parameters:
    """One profile: ring degree N, primes, and the bits that an encoded query may take.

    ``data_primes`` carry ciphertexts; ``key_primes`` only make SEAL accept two of them.
    ``query_bits`` is log2 of the largest norm of an encoded query. ``private``: responses are
    masked and flooded, so that they hide the head. ``id`` stands in files. Raises InputError when
    the primes do not suit the degree or the modulus is too wide for 128 bits of security.
    """

    name: str
    id: int
    degree: int
    data_primes: tuple[int, ...]
    key_primes: tuple[int, ...]
    query_bits: int
    private: bool

    def __post_init__(self) -> None:
        if self.degree not in MODULUS_BITS:
            raise InputError("ring degree is not supported", got=str(self.degree))
        if len(self.data_primes) > 2:  # modular.modulus_fractions takes two
            raise InputError("at most two data primes", got=str(len(self.data_primes)))
        if not self.data_primes or any(p % (2 * self.degree) != 1 for p in self.primes):
            raise InputError("primes must be 1 modulo twice the ring degree", got=self.name)
        bits = math.ceil(self.data_bits), sum(p.bit_length() for p in self.primes)
        most = MODULUS_BITS[self.degree], SEAL_BITS[self.degree]
        if bits[0] > most[0] or bits[1] > most[1]:
            what = "the coefficient modulus is too wide for 128 bits of security"
            got = f"{bits[0]} bits, {bits[1]} with the key's, at ring degree {self.degree}"
            raise InputError(what, got=got, expected=f"at most {most[0]} and {most[1]}")

    @property
    def primes(self) -> tuple[int, ...]:
        """Data primes, then key primes."""
        return self.data_primes + self.key_primes

    @functools.cached_property
    def modulus(self) -> int:
        """q, the modulus of a query."""
        return math.prod(self.data_primes)

    @functools.cached_property
    def data_bits(self) -> float:
        """log2 q."""
        return math.log2(self.modulus)


# The primes are those that SEAL's CoeffModulus.Create gives for 45, 45, 16 and for 51 bits.
# 90 bits of data: 70 for a query, so that 40 bits of flooding cost little; 19 for the head.
PRIVATE = Parameters(
    "private", 5, 4096, (35184371703809, 35184371884033), (40961,), query_bits=70, private=True
)
TRUSTED = Parameters("trusted", 6, 2048, (2251799813640193,), (), query_bits=31, private=False)
PROFILES = {p.name: p for p in (PRIVATE, TRUSTED)}
_BY_ID = {p.id: p for p in PROFILES.values()}


def by_id(number: int) -> Parameters:
    """Return the profile that a file names by number. Raises FormatError for an unknown one."""
    if number not in _BY_ID:
        expected = " or ".join(f"{p.id} ({p.name})" for p in PROFILES.values())
        raise FormatError("unknown parameter set", got=str(number), expected=expected)
    return _BY_ID[number]


def by_name(name: str) -> Parameters:
    """Return a secure profile by name. Raises InputError for an unknown one."""
    if name not in PROFILES:
        raise InputError("unknown profile", got=repr(name[:40]), expected=" or ".join(PROFILES))
    return PROFILES[name]
