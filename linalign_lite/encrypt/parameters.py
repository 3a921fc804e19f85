"""Parameter sets for encrypted scoring.

A query is a ring element modulo q, the product of the data primes. SEAL requires a key prime beside
two data primes, for rotations, which are not used here: it gets the fewest bits possible.
"""

import functools
import math
from dataclasses import dataclass, replace

from linalign_lite.errors import FormatError, InputError

# log2 of the largest modulus at 128 bits of security, classical, ternary secret
# (homomorphic encryption standard, 2018)
MODULUS_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438}
RESPONSE_MODULUS_BITS = 32  # a response is sent modulo 2^32


@dataclass(frozen=True)
class Parameters:
    """One profile: ring degree N, primes, and the bits that an encoded query may take.

    ``data_primes`` carry ciphertexts; ``key_primes`` occur in keys only. ``query_bits`` is log2 of
    the largest norm of an encoded query. ``private``: responses are masked and flooded, so that
    they hide the head. ``id`` stands in files. Raises InputError when the primes do not suit the
    degree or the modulus is too wide for 128 bits of security.
    """

    name: str
    id: int
    degree: int
    data_primes: tuple[int, ...]
    key_primes: tuple[int, ...]
    query_bits: int
    private: bool
    scheme: str = "seal"

    def __post_init__(self) -> None:
        if self.degree not in MODULUS_BITS:
            raise InputError("ring degree is not supported", got=str(self.degree))
        if len(self.data_primes) > 2:  # modular.modulus_fractions takes two
            raise InputError("at most two data primes", got=str(len(self.data_primes)))
        if not self.data_primes or any(p % (2 * self.degree) != 1 for p in self.primes):
            raise InputError("primes must be 1 modulo twice the ring degree", got=self.name)
        bits, most = sum(self.prime_bits), MODULUS_BITS[self.degree]
        if bits > most:
            what = "the coefficient modulus is too wide for 128 bits of security"
            got = f"{bits} bits at ring degree {self.degree}"
            raise InputError(what, got=got, expected=f"at most {most}")

    @property
    def primes(self) -> tuple[int, ...]:
        """Data primes, then key primes."""
        return self.data_primes + self.key_primes

    @property
    def prime_bits(self) -> tuple[int, ...]:
        """Bits of each of ``primes``."""
        return tuple(p.bit_length() for p in self.primes)

    @functools.cached_property
    def modulus(self) -> int:
        """q, the modulus of a query."""
        return math.prod(self.data_primes)

    @functools.cached_property
    def data_bits(self) -> float:
        """log2 q."""
        return math.log2(self.modulus)


# The primes are those that SEAL's CoeffModulus.Create gives for 40, 53, 16 and for 54 bits.
# (SEAL here only saves compressed; that takes five times as long with primes below 38 bits.)
# 93 bits of data: 68 for a query, so that 40 bits of flooding cost little; 23 for the head.
PRIVATE = Parameters(
    "private", 3, 4096, (1099511480321, 9007199254429697), (40961,), query_bits=68, private=True
)
TRUSTED = Parameters("trusted", 4, 2048, (18014398509404161,), (), query_bits=29, private=False)
PROFILES = {p.name: p for p in (PRIVATE, TRUSTED)}

# The twin without encryption, for tests only. No profile name leads to it, and a provider refuses
# it unless its ``accept`` names it.
INSECURE_NOOP = replace(PRIVATE, name="insecure-noop", id=0xFFFF, scheme="insecure-noop")
_BY_ID = {p.id: p for p in (PRIVATE, TRUSTED, INSECURE_NOOP)}


def by_id(number: int) -> Parameters:
    """Return the profile that a file names by number. Raises FormatError for an unknown one."""
    if number not in _BY_ID:
        expected = "3 (private) or 4 (trusted)"
        raise FormatError("unknown parameter set", got=str(number), expected=expected)
    return _BY_ID[number]


def by_name(name: str) -> Parameters:
    """Return a secure profile by name. Raises InputError for an unknown one."""
    if name not in PROFILES:
        raise InputError("unknown profile", got=repr(name[:40]), expected=" or ".join(PROFILES))
    return PROFILES[name]
