"""Parts of the convex potential layer: linear solves, log-determinants, the minimisation."""
