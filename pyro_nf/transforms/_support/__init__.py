"""The maps of real space onto supports, behind ``ToSupport``."""
