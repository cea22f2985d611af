"""What the constant affine layers share."""
