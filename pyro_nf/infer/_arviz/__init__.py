"""What the conversion to ArviZ is made of: runs of the model at many draws, and their names."""
