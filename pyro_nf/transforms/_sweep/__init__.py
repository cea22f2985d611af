"""The slow direction of an autoregressive layer and its gradient."""
