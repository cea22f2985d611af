"""What invertible residual layers are made of: log-determinants, fixed points, gradients."""
