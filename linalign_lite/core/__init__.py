"""The types that all packages exchange, and their files.

A `Space` names the model and the pooling of hidden states; `hidden_states`, `affine_map` and `head`
hold arrays of a space, or map from one space to another; `serialization` reads and writes them,
`shards` does so for folders larger than memory. `metrics` are functions of arrays, `signing` has
keys that sign, `token_alignment` pairs the tokens of two models, `executor` runs tasks in order,
`choices` lists values of options, `text_tables` formats rows. Nothing here runs a model or fits
anything.
"""
