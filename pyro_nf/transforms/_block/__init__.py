"""The slow direction of a block autoregressive layer and its gradient."""
