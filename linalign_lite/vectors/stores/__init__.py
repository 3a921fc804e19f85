"""Vector stores: one module a store, with its source, its sink and `switch`."""
