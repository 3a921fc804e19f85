"""Files of vectors: one module a format, with its source and its sink."""
