"""SEAL's BFV through ``tenseal.sealapi``: the only folder that loads it.

In and out: byte strings of keys, and residues. `context` holds parameters, makes keys and grows
seeds, `serialization` saves and loads SEAL's objects, `secret_side` encrypts zeros. Importing this
package loads nothing.
"""
