"""The paper's ideas, one room each, and the services under them."""
