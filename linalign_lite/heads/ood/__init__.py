"""Out-of-distribution detection: how unlike the states that a detector was fitted on a state is.

scores (functions of a head's scores, decrypted ones too), rules (one class per detector), detector
(a rule with its space and threshold), fitting, report, files. Higher always means more outlying.
"""
