"""The parts of a continuous flow: what is integrated, by what solver, with which gradient."""
