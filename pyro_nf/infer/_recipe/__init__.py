"""How a flow is fitted to a posterior: to its bulk, then in its own frame."""
