"""The model in a page, to be taken apart there."""
