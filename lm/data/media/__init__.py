"""Pictures and sounds: where their bytes lie, and the examples that name them."""
