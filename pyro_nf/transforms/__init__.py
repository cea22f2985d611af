"""Being assembled: the exports follow when every module exists."""
