"""CKKS through ``tenseal.sealapi``: the only folder that loads it.

``objects`` moves SEAL's objects in and out of memory, ``scheme`` knows keys and what goes on the
wire, ``client`` and ``server`` are the two sides. Importing this package loads nothing.
"""
