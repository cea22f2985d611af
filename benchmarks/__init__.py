"""Scripts that measure; every number in the docs comes from one of them."""
