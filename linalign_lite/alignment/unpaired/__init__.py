"""Maps from a few pairs, or none, and many texts that only one side has."""
